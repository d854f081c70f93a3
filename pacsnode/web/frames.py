"""Frames, and all pixel data of an instance, a series or a study (PS3.18 10.4.1.1.6)."""

import re
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pacsnode.archive.lookup import Held
from pacsnode.errors import RequestRefused
from pacsnode.web.answer import OBJECT_AGE, Answer, Endpoint, not_modified, single
from pacsnode.web.facade import Facade
from pacsnode.web.media import Acceptable, acceptable
from pacsnode.web.multipart import Writer
from pacsnode.web.pixels import Form, each, form_of, frames_of, pixel_data_of
from pacsnode.web.representations import Provided, answer_representations
from pacsnode.web.sources import Buffer, Memory
from pacsnode.web.target import INSTANCE, METHODS, SERIES, STUDY, etag_of, instance_of, location_of

LIST_LIMIT: Final = 10_000  # frames of one request; the head of a request has room for little more

_NUMBERS: Final = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*")


def routes(facade: Facade) -> list[BaseRoute]:
    async def retrieve_frames(request: Request) -> Response | Answer:
        numbers = frame_numbers(request.path_params["frames"])
        held = await instance_of(facade, request)
        form = _form(acceptable(request), held, alone=len(numbers) == 1)
        etag = etag_of((held,), form, numbers, weak=form.offer.multipart)
        if (unchanged := not_modified(request, etag, OBJECT_AGE)) is not None:
            return unchanged
        frames = await frames_of(facade, held, form, numbers)
        location = location_of(facade, request, held) + "/frames"
        if not form.offer.multipart:
            (frame,) = [frame async for frame in each(frames)]
            fields = [("content-type", form.content_type), ("content-location", f"{location}/{numbers[0]}")]
            return single(request, Memory(frame), fields, etag)
        return await _multipart(request, form, numbers, frames, location, etag)

    async def retrieve_pixel_data(request: Request) -> Answer:
        return await answer_pixel_data(facade, request, acceptable(request))

    pixel_data = [
        Route(f"{path}/pixeldata", Endpoint(retrieve_pixel_data), methods=METHODS) for path in _LEVELS
    ]
    return [Route(INSTANCE + "/frames/{frames}", Endpoint(retrieve_frames), methods=METHODS), *pixel_data]


async def answer_pixel_data(facade: Facade, request: Request, accepted: Acceptable) -> Answer:
    """All pixel data of what the path names, as parts, or alone. Raises RequestRefused (404, 406)."""
    alone = "instance" in request.path_params

    def provide(held: Held) -> Provided:
        form = _form(accepted, held, alone=alone)
        return form.offer, pixel_data_of(facade, held, form)

    return await answer_representations(facade, request, provide)


_LEVELS: Final = (STUDY, SERIES, INSTANCE)


@lru_cache(maxsize=4096)
def frame_numbers(text: str) -> tuple[int, ...]:
    """The frames in a path, in the order they are asked for. Raises RequestRefused (400)."""
    if _NUMBERS.fullmatch(text) is None:
        raise RequestRefused(400, "frames are numbers from 1 on, separated by commas")
    numbers = tuple(map(int, text.split(",")))
    if 0 in numbers:
        raise RequestRefused(400, "frames are counted from 1 on")
    if len(numbers) > LIST_LIMIT:
        raise RequestRefused(400, f"more than {LIST_LIMIT} frames are asked for at once")
    return numbers


def _form(accepted: Acceptable, held: Held, *, alone: bool) -> Form:
    return form_of(accepted, held.located.transfer_syntax, alone=alone)


async def _multipart(
    request: Request,
    form: Form,
    numbers: Sequence[int],
    frames: list[Buffer] | AsyncIterator[Buffer],
    location: str,
    etag: str,
) -> Answer:
    """A part a frame, in the order they were asked for (PS3.18 8.6.1.2)."""
    writer = Writer(form.content_type.partition(";")[0], f"{request.scope['path']} {etag}")

    async def parts() -> AsyncIterator[Buffer]:
        index = 0
        async for frame in each(frames):
            place = f"{location}/{numbers[index]}"
            yield writer.head(form.content_type, place, len(frame), first=index == 0)
            yield frame
            index += 1
        yield writer.end

    fields = [
        ("content-type", f"{writer.content_type}; transfer-syntax={form.syntax}"),
        ("etag", etag),
        ("cache-control", OBJECT_AGE),
        ("vary", "Accept"),
    ]
    if isinstance(frames, list):
        body = [part async for part in parts()]
        return Answer(200, fields, body, sum(map(len, body)))
    return Answer(200, fields, parts())
