"""The frames a picture shows, and which of them a stored presentation state names (PS3.18 8.3.5.1.6)."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from pacsnode.archive.lookup import Held
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand, RequestRefused
from pacsnode.pixels.rendering.presentation import ReferencedFrame, referenced_images
from pacsnode.web.facade import Facade

# Grayscale, Color and Pseudo-Color Softcopy Presentation State; those that blend are not rendered
STATES: Final = frozenset(UID(f"1.2.840.10008.5.1.4.1.1.11.{number}") for number in (1, 2, 3))


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame of an object, counted from 1, and the presentation state it is shown under."""

    held: Held
    frame: int = 1
    state: Held | None = None


def is_presentation_state(held: Held) -> bool:
    return held.located.sop_class in STATES


async def shown_by(facade: Facade, state: Held) -> list[Shown]:
    """What a presentation state shows of what is here, in its order; never nothing.

    Raises RequestRefused (404) when nothing of it is here, CannotUnderstand.
    """
    path, _ = await facade.archive.file_of(state.located)
    shown = []
    for image in await asyncio.to_thread(_referenced, path):
        held = await facade.archive.lookup.one((state.study, image.series, image.sop_instance))
        if held is not None:
            shown += [Shown(held, frame, state) for frame in image.frames or (1,)]
    if not shown:
        raise RequestRefused(404, "nothing the presentation state shows is here")
    return shown


async def shown_under(facade: Facade, held: Held, frame: int, state: Held) -> Shown:
    """A frame under a presentation state. Raises RequestRefused (400) when that is of other images."""
    path, _ = await facade.archive.file_of(state.located)
    for image in await asyncio.to_thread(_referenced, path):
        if image.sop_instance == held.located.sop_instance and (not image.frames or frame in image.frames):
            return Shown(held, frame, state)
    raise RequestRefused(400, "the presentation state is of other images or frames")


def _referenced(path: Path) -> list[ReferencedFrame]:
    """In a thread: presentation states are short."""
    try:
        return list(referenced_images(dcmread(path)))
    except (InvalidDicomError, ValueError, TypeError, AttributeError) as error:
        raise CannotUnderstand(f"the presentation state cannot be read: {error}") from error
