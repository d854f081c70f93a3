"""Rendered resources and thumbnails (PS3.18 10.4.1.1.3, 10.4.1.1.4, 8.3.5).

An image is rendered as one picture, its first frame, or as a part for each of its frames when a multipart
answer is wanted, or as an animation. A report is HTML, a document is itself, a video is its stream.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Route

from pacsnode.archive.frame_index import fragments_of
from pacsnode.archive.lookup import Held
from pacsnode.errors import CannotTranscode, PacsnodeError, RequestRefused
from pacsnode.pixels.plan import VIDEO
from pacsnode.pixels.rendering.request import Rendering
from pacsnode.web.answer import GROUP_AGE, OBJECT_AGE, Answer, Endpoint, described, not_modified, single
from pacsnode.web.facade import Facade
from pacsnode.web.frames import frame_numbers
from pacsnode.web.media import Offer, acceptable
from pacsnode.web.multipart import Writer
from pacsnode.web.pictures import Pictures
from pacsnode.web.rendering import ANNOTATIONS, annotation_words, rendering_of, thumbnail_of
from pacsnode.web.shown import Shown, is_presentation_state, shown_by
from pacsnode.web.sources import Buffer, FilePart, Joined
from pacsnode.web.syntaxes import media_type_of
from pacsnode.web.target import (
    INSTANCE,
    METHODS,
    SERIES,
    STUDY,
    etag_of,
    instance_of,
    instances_of,
    location_of,
)

log = structlog.get_logger()

_MP4: Final = ("video/mp4",) if find_spec("av") else ()  # PyAV is an extra of the package
IMAGE_TYPES: Final = (
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/jp2",
    "image/jxl",
    *_MP4,
)  # the default first
THUMBNAIL_TYPES: Final = ("image/jpeg", "image/png", "image/gif")
ROOM: Final = 16 * 2**20  # bytes of pictures of one answer that are made before it begins
ANIMATED: Final = frozenset({"image/gif", "video/mp4"})

_REPORTS: Final = "1.2.840.10008.5.1.4.1.1.88."  # how the SOP Classes of Structured Reports begin
TEXT_TYPES: Final = ("text/html", "text/plain", "text/xml")
_OWN_TEXTS: Final = ("text/html", "text/plain")  # XML says itself what it is in
_PDF: Final = "application/pdf"
DOCUMENT_TYPES: Final = {
    "1.2.840.10008.5.1.4.1.1.104.1": (_PDF, *IMAGE_TYPES),
    "1.2.840.10008.5.1.4.1.1.104.2": ("text/xml",),
    "1.2.840.10008.5.1.4.1.1.104.3": ("model/stl",),
    "1.2.840.10008.5.1.4.1.1.104.4": ("model/obj",),
    "1.2.840.10008.5.1.4.1.1.104.5": ("model/mtl",),
}


def routes(facade: Facade) -> list[BaseRoute]:
    pictures = facade.pictures

    async def rendered(request: Request) -> Answer:
        found = await instances_of(facade, request)
        if len(found) > 1:
            return await _group(facade, request, found)
        if is_presentation_state(found[0]):
            return await _presented(facade, request, found[0])
        return await _instance(facade, request, found[0], None)

    async def rendered_frames(request: Request) -> Answer:
        frames = frame_numbers(request.path_params["frames"])
        held = await instance_of(facade, request)
        if is_presentation_state(held):
            raise RequestRefused(400, "a presentation state has no frames of its own")
        return await _instance(facade, request, held, frames)

    async def thumbnail(request: Request) -> Answer:
        frames = frame_numbers(request.path_params.get("frames", "1"))
        if len(frames) > 1:
            raise RequestRefused(400, "a thumbnail shows one frame")
        held = representative(await instances_of(facade, request))
        offer = acceptable(request).select([Offer(one) for one in THUMBNAIL_TYPES])
        frame = frames[0] if "frames" in request.path_params else (await count_frames(facade, held) + 1) // 2
        rendering = replace(thumbnail_of(request.query_params, offer.type), frames=(max(frame, 1),))
        shown = Shown(held, rendering.frames[0])
        if is_presentation_state(held):
            shown = (await shown_by(facade, held))[0]
        return await answer_picture(pictures, request, shown, rendering)

    levels = (STUDY, SERIES, INSTANCE)
    return [
        *(Route(f"{level}/rendered", Endpoint(rendered), methods=METHODS) for level in levels),
        Route(INSTANCE + "/frames/{frames}/rendered", Endpoint(rendered_frames), methods=METHODS),
        *(Route(f"{level}/thumbnail", Endpoint(thumbnail), methods=METHODS) for level in levels),
        Route(INSTANCE + "/frames/{frames}/thumbnail", Endpoint(thumbnail), methods=METHODS),
    ]


def with_charset(media_type: str) -> str:
    """What a rendered form is called: text that is made here is UTF-8 (8.8.5)."""
    return f"{media_type}; charset=utf-8" if media_type in _OWN_TEXTS else media_type


def types_of(held: Held) -> tuple[str, ...]:
    """The Rendered Media Types of an object, the default first (Table 8.7.4-1)."""
    sop_class = held.located.sop_class
    if sop_class.startswith(_REPORTS):
        return TEXT_TYPES
    if held.located.transfer_syntax in VIDEO:
        return (media_type_of(held.located.transfer_syntax),)
    return DOCUMENT_TYPES.get(sop_class, IMAGE_TYPES)


def representative(found: Sequence[Held]) -> Held:
    """The object that stands for a series or a study: the middle one of those that have a picture."""
    pictured = [held for held in found if types_of(held) == IMAGE_TYPES and not is_presentation_state(held)]
    of_first = [held for held in pictured if held.series == pictured[0].series] or list(found)
    return of_first[len(of_first) // 2]


async def _instance(facade: Facade, request: Request, held: Held, frames: tuple[int, ...] | None) -> Answer:
    """One object, or the frames of it that are asked for."""
    types = types_of(held)
    parts = [Offer(one, multipart=True) for one in types]
    alone = [Offer(one) for one in types if frames is None or len(frames) == 1 or one in ANIMATED]
    offer = acceptable(request).select([*alone, *parts])
    if held.located.transfer_syntax in VIDEO:
        return await answer_video(facade, request, held, offer)
    rendering = rendering_of(request.query_params, offer.type)
    if types != IMAGE_TYPES or (frames is None and offer.type not in ANIMATED and not offer.multipart):
        return await _answer(facade, request, [Shown(held)], rendering, offer)
    count = await count_frames(facade, held)
    if frames is not None and max(frames) > max(count, 1):
        raise RequestRefused(404, f"there is no frame {max(frames)}: the instance has {count}")
    wanted = frames or tuple(range(1, max(count, 1) + 1))
    if offer.multipart:
        return await _answer(facade, request, [Shown(held, one) for one in wanted], rendering, offer)
    rendering = replace(rendering, frames=wanted if offer.type in ANIMATED else wanted[:1])
    return await answer_picture(facade.pictures, request, Shown(held, wanted[0]), rendering)


async def _group(facade: Facade, request: Request, found: list[Held]) -> Answer:
    """A series or a study: a part for each object, or one picture that stands for it."""
    types = tuple(dict.fromkeys(one for held in found for one in types_of(held)))
    offers = [Offer(one, multipart=True) for one in types] + [Offer(one) for one in types]
    offer = acceptable(request).select(offers)
    able = [held for held in found if offer.type in types_of(held) and not is_presentation_state(held)]
    if not able:
        raise RequestRefused(406, f"nothing in here is rendered as {offer.type}")
    if not offer.multipart:
        return await _instance(facade, request, representative(able), None)
    rendering = rendering_of(request.query_params, offer.type)
    return await _answer(facade, request, [Shown(held) for held in able], rendering, offer)


async def _presented(facade: Facade, request: Request, state: Held) -> Answer:
    """The images a presentation state shows, as it shows them (8.3.5.1.6)."""
    if "window" in request.query_params:
        raise RequestRefused(400, "a presentation state has its own windows")
    if request.query_params.get("viewport", "").count(",") > 1:
        raise RequestRefused(400, "the viewport of a presentation state is width,height")
    offers = [Offer(one, multipart) for multipart in (False, True) for one in IMAGE_TYPES]
    offer = acceptable(request).select(offers)
    rendering = rendering_of(request.query_params, offer.type)
    shown = await shown_by(facade, state)
    return await _answer(facade, request, shown if offer.multipart else shown[:1], rendering, offer)


async def _answer(
    facade: Facade, request: Request, shown: Sequence[Shown], rendering: Rendering, offer: Offer
) -> Answer:
    """Each of `shown` as a part, or the only one alone."""
    if not offer.multipart:
        rendering = replace(rendering, frames=(shown[0].frame,))
        return await answer_picture(facade.pictures, request, shown[0], rendering)
    etag = etag_of([one.held for one in shown], rendering, [one.frame for one in shown], weak=True)
    if (unchanged := not_modified(request, etag, GROUP_AGE)) is not None:
        return unchanged
    writer = Writer(offer.type, f"{request.url.path} {etag}")
    ready, waiting, refusal = await _made_before(facade.pictures, request, shown, rendering)
    if not ready:
        raise refusal or RequestRefused(404, "there is nothing to be rendered")

    def head(one: Shown, made: bytes) -> bytes:
        location = _location(facade, request, one)
        return writer.head(with_charset(offer.type), location, len(made), first=one is ready[0][0])

    async def body() -> AsyncIterator[Buffer]:
        for one, made in ready:
            yield head(one, made)
            yield made
        for one in waiting:
            made = await _picture(facade.pictures, one, rendering)
            yield head(one, made)
            yield made
        yield writer.end

    fields = [("content-type", writer.content_type), ("etag", etag), ("cache-control", GROUP_AGE)]
    fields += [*_warnings(request), ("vary", "Accept")]
    left_out = len(shown) - len(ready) - len(waiting)
    if left_out:
        fields.append(("warning", f'299 pacsnode "{left_out} of {len(shown)} pictures cannot be made"'))
    return Answer(206 if left_out else 200, fields, body())


async def _made_before(
    pictures: Pictures, request: Request, shown: Sequence[Shown], rendering: Rendering
) -> tuple[list[tuple[Shown, bytes]], Sequence[Shown], PacsnodeError | None]:
    """Pictures that are made before the answer begins, those that are left, why one cannot be made.

    All, for most; of more than there is room for the status tells nothing of those that are left.
    Raises ClientDisconnect when nobody waits for them any more.
    """
    ready: list[tuple[Shown, bytes]] = []
    refusal: PacsnodeError | None = None
    room = ROOM
    for number, one in enumerate(shown):
        if room <= 0:
            return ready, shown[number:], refusal
        if await request.is_disconnected():
            raise ClientDisconnect
        try:
            made = await _picture(pictures, one, rendering)
        except (RequestRefused, CannotTranscode) as error:
            log.warning("picture.not_made", sop_instance=one.held.located.sop_instance, reason=str(error))
            refusal = error
            continue
        ready.append((one, made))
        room -= len(made)
    return ready, (), refusal


async def answer_picture(pictures: Pictures, request: Request, shown: Shown, rendering: Rendering) -> Answer:
    """One file, not multipart. Raises RequestRefused (406)."""
    states = [shown.state] if shown.state is not None else []
    etag = etag_of([shown.held, *states], rendering)
    if (unchanged := not_modified(request, etag, OBJECT_AGE)) is not None:
        return unchanged
    state = shown.state.located if shown.state is not None else None
    made = await pictures.picture(shown.held.located, rendering, state)
    media_type = with_charset(rendering.media_type)
    fields = [*described(media_type), ("etag", etag), ("cache-control", OBJECT_AGE)]
    return Answer(200, [*fields, *_warnings(request), ("vary", "Accept")], (made,), len(made))


async def _picture(pictures: Pictures, shown: Shown, rendering: Rendering) -> bytes:
    state = shown.state.located if shown.state is not None else None
    return await pictures.picture(shown.held.located, replace(rendering, frames=(shown.frame,)), state)


async def answer_video(facade: Facade, request: Request, held: Held, offer: Offer) -> Answer:
    """The stream of a video as it is stored (8.7.4)."""
    extents = await facade.archive.in_file(held.located, fragments_of)
    stream = Joined(tuple(FilePart(facade.archive, held.located, *extent) for extent in extents))
    if not offer.multipart:
        return single(request, stream, [("content-type", offer.type)], etag_of([held], offer))
    writer = Writer(offer.type, request.url.path)

    async def body() -> AsyncIterator[Buffer]:
        location = location_of(facade, request, held)
        yield writer.head(offer.type, location, stream.length, first=True)
        async for piece in stream.read(0, stream.length):
            yield piece
        yield writer.end

    return Answer(200, [("content-type", writer.content_type), ("vary", "Accept")], body())


async def count_frames(facade: Facade, held: Held) -> int:
    """Number of Frames, 0 without pixel data."""
    if types_of(held) != IMAGE_TYPES or is_presentation_state(held):
        return 0
    frames = facade.archive.frames
    pixels = frames.remembered(held.located.token) or await facade.archive.in_file(held.located, frames.of)
    return pixels.frames if pixels is not None else 0


def _location(facade: Facade, request: Request, shown: Shown) -> str:
    """What was rendered: a frame, or an instance that has none (8.6.1.2 note 2)."""
    location = location_of(facade, request, shown.held)
    return f"{location}/frames/{shown.frame}" if types_of(shown.held) == IMAGE_TYPES else location


def _warnings(request: Request) -> list[tuple[str, str]]:
    """Annotations that are asked for and not known (8.3.5.1.1)."""
    if "annotation" not in request.query_params:
        return []
    unknown = [one for one in annotation_words(request.query_params["annotation"]) if one not in ANNOTATIONS]
    text = f'299 pacsnode "The following annotation values are not supported: {", ".join(unknown)}"'
    return [("warning", text)] if unknown else []
