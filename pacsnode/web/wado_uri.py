"""The URI service, WADO-URI (PS3.18 9): one instance, as a DICOM file or in a rendered form.

Where the standard leaves a choice: a report or a document has its own form where image/jpeg would be the
default; one of `rows` and `columns` is enough (9.5.2.5); frame 1 of an image with one frame may be named.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from pacsnode.archive.lookup import Held
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.errors import RequestRefused
from pacsnode.pixels.plan import VIDEO
from pacsnode.pixels.rendering.request import Region, Rendering, Viewport
from pacsnode.web.answer import OBJECT_AGE, Answer, Endpoint, not_modified
from pacsnode.web.deidentified import answer_deidentified
from pacsnode.web.facade import Facade
from pacsnode.web.media import AS_STORED, DICOM, Acceptable, Offer, acceptable
from pacsnode.web.origin import base_url
from pacsnode.web.rendered import (
    ANIMATED,
    answer_picture,
    answer_video,
    count_frames,
    types_of,
)
from pacsnode.web.rendering import (
    ANNOTATIONS,
    LARGEST,
    annotation_words,
    decimal_of,
    quality_of,
    side_of,
    window_of,
)
from pacsnode.web.shown import Shown, is_presentation_state, shown_by, shown_under
from pacsnode.web.syntaxes import FORBIDDEN, instance_syntax
from pacsnode.web.target import METHODS, etag_of
from pacsnode.web.wado import answer_single, plan

PATH: Final = "/wado"

T = TypeVar("T")

_TEXTS: Final = ("text/html", "text/plain", "text/xml")
_UTF_8: Final = frozenset({"utf-8", "utf8", "iso_ir 192", "*"})
_OF_RENDERED: Final = ("windowCenter", "windowWidth")
_REGION_IS: Final = "region is left,top,right,bottom from 0.0 to 1.0, left < right and top < bottom"


def routes(facade: Facade) -> list[BaseRoute]:
    async def retrieve(request: Request) -> Answer:
        parameters = Parameters(request)
        if parameters.needed("requestType") != "WADO":
            raise RequestRefused(400, "requestType is WADO")
        uids = tuple(parameters.uid(name) for name in ("studyUID", "seriesUID", "objectUID"))
        accepted = _accepted(request)
        held = await _held(facade, uids, "there is no such instance")
        types = types_of(held)
        offer = accepted.select([*map(Offer, types), Offer(DICOM)])
        if offer.type == DICOM:
            return await _instance(facade, request, parameters, held)
        if "anonymize" in parameters:
            raise RequestRefused(400, f"anonymize is for contentType={DICOM}")
        if offer.type in _TEXTS:
            _check_charset(request, parameters)
        return await _rendered(facade, request, parameters, held, offer)

    return [Route(PATH, Endpoint(retrieve), methods=METHODS)]


class Parameters:
    """The query parameters, each at most once (9.4.2, 9.5.2)."""

    def __init__(self, request: Request) -> None:
        self._values = request.query_params

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> str | None:
        """A value. Raises RequestRefused (400) when there are several, or it is empty."""
        values = self._values.getlist(name)
        if len(values) > 1 or values == [""]:
            raise RequestRefused(400, f"{name} has one value")
        return values[0] if values else None

    def needed(self, name: str) -> str:
        """A value that must be there. Raises RequestRefused (400)."""
        value = self.get(name)
        if value is None:
            raise RequestRefused(400, f"{name} is missing")
        return value

    def uid(self, name: str) -> UID:
        """A UID that must be there. Raises RequestRefused (400)."""
        value = self.needed(name)
        if not is_uid(value):
            raise RequestRefused(400, f"{name} is no UID")
        return UID(value)

    def together(self, *names: str) -> bool:
        """Whether all are there. Raises RequestRefused (400) when only some are."""
        present = [name in self for name in names]
        if any(present) and not all(present):
            raise RequestRefused(400, f"{' and '.join(names)} go together")
        return all(present)

    def read(self, name: str, reader: Callable[[str], T]) -> T | None:
        """A value as `reader` takes it, which raises RequestRefused (400)."""
        value = self.get(name)
        return None if value is None else reader(value)


def _accepted(request: Request) -> Acceptable:
    """What `contentType` and the header accept (9.1.2.2.1). Raises RequestRefused (400)."""
    accepted = acceptable(request, "contentType")
    if "contentType" in request.query_params and not accepted.query:
        raise RequestRefused(400, "contentType is a list of media types")
    if DICOM in (types := {one.type for one in accepted.query}) and len(types) > 1:
        raise RequestRefused(400, f"contentType is {DICOM}, or a list of rendered media types")
    if any(one.transfer_syntax or one.charset for one in accepted.query):
        raise RequestRefused(400, "contentType has no parameters; there are transferSyntax and charset")
    return accepted


async def _held(facade: Facade, uids: tuple[UID, ...], missing: str) -> Held:
    held = await facade.archive.lookup.one(uids)
    if held is None:
        raise RequestRefused(404, missing)
    return held


async def _instance(facade: Facade, request: Request, parameters: Parameters, held: Held) -> Answer:
    """The instance as a file (9.4)."""
    if any(name in parameters for name in _OF_RENDERED):
        raise RequestRefused(400, f"there is no window in {DICOM}")
    wanted = parameters.get("transferSyntax") or ""
    if wanted not in ("", AS_STORED) and not is_uid(wanted):  # "*" is no UID, but OHIF sends it
        raise RequestRefused(400, "transferSyntax is no UID")
    stored = held.located.transfer_syntax
    if instance_syntax(stored, (wanted,)) is None:
        able = ", ".join(one for one in facade.transcoder.targets_of(stored) if one not in FORBIDDEN)
        raise RequestRefused(406, f"the instance cannot be had in {wanted}; there are: {able}")
    if parameters.get("anonymize") not in (None, "yes"):
        raise RequestRefused(400, "anonymize is yes")
    location = _location(facade, request)
    (planned,) = plan([held], (wanted,))
    if "anonymize" in parameters:
        return await answer_deidentified(facade, request, planned, location)
    etag = etag_of([held], DICOM, wanted)
    if (unchanged := not_modified(request, etag, OBJECT_AGE)) is not None:
        return unchanged
    return await answer_single(facade, request, planned, etag, location, tells_syntax=False)


async def _rendered(
    facade: Facade, request: Request, parameters: Parameters, held: Held, offer: Offer
) -> Answer:
    """A rendered form (9.5)."""
    rendering = _rendering(parameters, offer.type)
    by_state = parameters.together("presentationSeriesUID", "presentationUID")
    if rendering.window is not None and (by_state or is_presentation_state(held)):
        raise RequestRefused(400, "a presentation state has its own windows")
    if held.located.transfer_syntax in VIDEO:
        return await answer_video(facade, request, held, offer)
    if is_presentation_state(held):
        shown = (await shown_by(facade, held))[0]
        return await answer_picture(
            facade.pictures, request, shown, replace(rendering, frames=(shown.frame,))
        )
    frames = await _frames(facade, parameters, held, offer)
    shown = Shown(held, frames[0])
    if by_state:
        uids = (held.study, parameters.uid("presentationSeriesUID"), parameters.uid("presentationUID"))
        state = await _held(facade, uids, "there is no such presentation state")
        if not is_presentation_state(state):
            raise RequestRefused(400, "presentationUID is no presentation state that can be rendered")
        shown = await shown_under(facade, held, frames[0], state)
    return await answer_picture(facade.pictures, request, shown, replace(rendering, frames=frames))


async def _frames(facade: Facade, parameters: Parameters, held: Held, offer: Offer) -> tuple[int, ...]:
    """The frame that is asked for (9.5.2.1), else the first, or all where the form is an animation."""
    text = parameters.get("frameNumber")
    if text is None:
        if offer.type not in ANIMATED or "presentationUID" in parameters:
            return (1,)
        return tuple(range(1, max(await count_frames(facade, held), 1) + 1))
    count = await count_frames(facade, held)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= count):
        raise RequestRefused(400, f"frameNumber is from 1 to the number of frames, which is {count}")
    return (int(text),)


def _rendering(parameters: Parameters, media_type: str) -> Rendering:
    """What the parameters of 9.5.1.2 ask for. Raises RequestRefused (400)."""
    rendering = Rendering(media_type)
    quality = parameters.read("imageQuality", quality_of)
    if quality is not None:
        rendering = replace(rendering, quality=quality)
    words = parameters.get("imageAnnotation") or parameters.get("annotation")  # the names of 9.5 and of 9.4
    if words is not None:
        known = ANNOTATIONS.intersection(annotation_words(words))
        rendering = replace(rendering, annotation=tuple(sorted(known)))
    if parameters.together("windowCenter", "windowWidth"):
        window = window_of(f"{parameters.get('windowCenter')},{parameters.get('windowWidth')},linear")
        rendering = replace(rendering, window=window)
    region = parameters.read("region", _region)
    rows, columns = (parameters.read(name, side_of) for name in ("rows", "columns"))
    viewport = None if rows is None and columns is None else Viewport(columns or LARGEST, rows or LARGEST)
    return replace(rendering, region=region, viewport=viewport)


def _region(text: str) -> Region:
    parts = [decimal_of(part.strip()) for part in text.split(",")]
    if len(parts) != 4 or None in parts:
        raise RequestRefused(400, _REGION_IS)
    left, top, right, bottom = (part or 0.0 for part in parts)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise RequestRefused(400, _REGION_IS)
    return Region(left, top, right, bottom)


def _check_charset(request: Request, parameters: Parameters) -> None:
    """Text is UTF-8 (8.8). Raises RequestRefused (406) when that is not acceptable."""
    asked = parameters.get("charset") or request.headers.get("accept-charset")
    if asked is None:
        return
    names = {part.partition(";")[0].strip(' "').lower() for part in asked.split(",")}
    if not names & _UTF_8:
        raise RequestRefused(406, "text can be had in UTF-8")


def _location(facade: Facade, request: Request) -> str:
    root = base_url(request, facade.settings.web.public_url)
    return f"{root}{request.url.path}?{request.url.query}"
