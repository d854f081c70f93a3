"""Bulk data and pixel data as answers: one body, or parts of instances one after the other (PS3.18 8.6.1)."""

from collections.abc import AsyncIterator, Callable

from starlette.requests import Request

from pacsnode.archive.lookup import Held
from pacsnode.errors import RequestRefused
from pacsnode.web.answer import GROUP_AGE, OBJECT_AGE, Answer, described, not_modified, single
from pacsnode.web.facade import Facade
from pacsnode.web.media import Offer
from pacsnode.web.multipart import Writer
from pacsnode.web.pixels import Representation
from pacsnode.web.sources import Buffer
from pacsnode.web.target import etag_of, instances_of, location_of

Provided = tuple[Offer, AsyncIterator[Representation]]
Provide = Callable[[Held], Provided]
"""What can be had of an instance and how; raises RequestRefused (406). The iterator may raise it with 404."""

_Parts = AsyncIterator[tuple[Held, Representation]]


async def answer_representations(facade: Facade, request: Request, provide: Provide) -> Answer:
    """What `provide` has of the instances that the path names. Raises RequestRefused (404, 406)."""
    found = await instances_of(facade, request)
    is_one = "instance" in request.path_params
    chosen, refusal = _chosen(found, provide)
    if not chosen:
        raise refusal or RequestRefused(404, "there are no instances")
    offer = chosen[0][1][0]
    etag = etag_of(
        found, [provided[0] for _, provided in chosen], request.scope["path"], weak=offer.multipart
    )
    cache = OBJECT_AGE if is_one else GROUP_AGE
    if (unchanged := not_modified(request, etag, cache)) is not None:
        return unchanged
    parts = _all(chosen, is_one=is_one)
    first = await anext(parts, None)
    if first is None:
        raise RequestRefused(404, "there is nothing of that kind in it")
    if not offer.multipart:
        return await _single(facade, request, first, parts, etag, cache)
    writer = Writer(first[1].content_type.partition(";")[0], f"{request.scope['path']} {etag}")
    fields = [("content-type", writer.content_type), ("etag", etag), ("cache-control", cache)]
    fields.append(("vary", "Accept"))
    status = 200
    if refusal is not None:
        status = 206
        text = f"{len(found) - len(chosen)} of {len(found)} instances cannot be had as is acceptable"
        fields.append(("warning", f'299 pacsnode "{text}"'))

    async def pieces() -> AsyncIterator[Buffer]:
        location = location_of(facade, request, first[0])
        yield _head(writer, location, first[1], first=True)
        async for piece in _sent(first[1]):
            yield piece
        async for held, one in parts:
            yield _head(writer, location_of(facade, request, held), one, first=False)
            async for piece in _sent(one):
                yield piece
        yield writer.end

    return Answer(status, fields, pieces())


def _chosen(found: list[Held], provide: Provide) -> tuple[list[tuple[Held, Provided]], RequestRefused | None]:
    """What can be had, and why something cannot."""
    chosen = []
    refusal = None
    for held in found:
        try:
            chosen.append((held, provide(held)))
        except RequestRefused as error:
            refusal = error
    return chosen, refusal


async def _all(chosen: list[tuple[Held, Provided]], *, is_one: bool) -> _Parts:
    for held, (_, representations) in chosen:
        try:
            async for one in representations:
                yield held, one
        except RequestRefused:
            if is_one:  # of many, some have no pixel data
                raise


async def _single(
    facade: Facade,
    request: Request,
    first: tuple[Held, Representation],
    more: _Parts,
    etag: str,
    cache: str,
) -> Answer:
    """The only representation. Raises RequestRefused (406) when there are several (Table 10.4.4-1 note 3)."""
    held, one = first
    if await anext(more, None) is not None:
        raise RequestRefused(406, "there are several parts: accept multipart/related")
    location = location_of(facade, request, held) + one.place
    fields = [*described(one.content_type), ("content-location", location)]
    answer = single(request, one.source, fields, etag, cache)
    return answer if one.made is None else answer.then(one.made.discard)


def _head(writer: Writer, location: str, one: Representation, *, first: bool) -> bytes:
    return writer.head(one.content_type, location + one.place, one.source.length, first=first)


async def _sent(one: Representation) -> AsyncIterator[Buffer]:
    try:
        async for piece in one.source.read(0, one.source.length):
            yield piece
    finally:
        if one.made is not None:
            await one.made.discard()
