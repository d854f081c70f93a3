"""Whole instances: of a study, of a series, or one (PS3.18 10.4.1.1.1, 8.7.3.1).

What is sent as stored goes from file to socket, read ahead by the archive, with its length told beforehand.
What has to be transcoded is made in worker processes while what is before it is being sent.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pacsnode.archive.lookup import Held
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.uid import UID
from pacsnode.errors import OperationError, ProcessingFailure, RequestRefused
from pacsnode.web.answer import GROUP_AGE, OBJECT_AGE, Answer, Endpoint, not_modified, single
from pacsnode.web.bulkdata import answer_bulkdata
from pacsnode.web.facade import Facade
from pacsnode.web.frames import answer_pixel_data
from pacsnode.web.media import DICOM, OCTETS, Offer, acceptable
from pacsnode.web.multipart import Writer
from pacsnode.web.sources import Buffer, FilePart, MadeFile, Memory, Ready, Source
from pacsnode.web.syntaxes import ENCODED_TYPES, FORBIDDEN, instance_syntax, named
from pacsnode.web.target import (
    INSTANCE,
    METHODS,
    SERIES,
    STUDY,
    etag_of,
    instances_of,
    location_of,
    resource_url,
)
from pacsnode.web.zipped import ZIP, answer_zip, wants_directory

log = structlog.get_logger()

SMALL: Final = 4 * 2**20  # bytes; read and sent as a whole
AHEAD: Final = 2  # objects transcoded before they are wanted; each is a file in the spool folder

_PARTS: Final = Offer(DICOM, multipart=True)
_ONE: Final = Offer(DICOM)
_ZIPPED: Final = Offer(ZIP)
_BULK: Final = Offer(OCTETS, multipart=True)  # Table 10.4.4-1 note 2


@dataclass(frozen=True, slots=True)
class Planned:
    """An instance and the transfer syntax it is sent in."""

    held: Held
    syntax: UID
    may_be_stored: bool  # where transcoding fails

    @property
    def is_stored(self) -> bool:
        located = self.held.located
        return self.syntax == located.transfer_syntax and not located.coerced


def routes(facade: Facade) -> list[BaseRoute]:
    async def retrieve(request: Request) -> Response | Answer:
        accepted = acceptable(request)
        is_one = "instance" in request.path_params
        offers = (_PARTS, *((_ONE,) if is_one else ()), _ZIPPED, _BULK)
        if not accepted.accepts(offers) and accepted.names(ENCODED_TYPES):
            return await answer_pixel_data(facade, request, accepted)
        offer = accepted.select(offers)
        if offer == _BULK:
            return await answer_bulkdata(facade, request)
        found = await instances_of(facade, request)
        wanted = accepted.transfer_syntaxes(offer)
        with_directory = offer == _ZIPPED and wants_directory(request)
        etag = etag_of(found, offer, wanted, with_directory, weak=offer != _ONE)
        cache = OBJECT_AGE if is_one else GROUP_AGE
        if (unchanged := not_modified(request, etag, cache)) is not None:
            return unchanged
        planned = plan(found, wanted)
        if offer == _ONE:
            location = location_of(facade, request, found[0])
            return await answer_single(facade, request, planned[0], etag, location)
        fields = [("etag", etag), ("cache-control", cache), ("vary", "Accept")]
        if offer == _ZIPPED:
            fields.append(("content-location", resource_url(facade, request)))
            planned = await _check(facade, planned)
            status = _status(planned, len(found), fields)
            return answer_zip(facade, request, status, fields, await _begun(facade, request, planned))
        return await _multipart(facade, request, planned, len(found), fields)

    return [Route(path, Endpoint(retrieve), methods=METHODS) for path in (STUDY, SERIES, INSTANCE)]


def plan(found: Sequence[Held], wanted: Sequence[str]) -> list[Planned]:
    """What can be sent, and how. Raises RequestRefused (406) when that is nothing."""
    planned = []
    for held in found:
        syntax = instance_syntax(held.located.transfer_syntax, wanted)
        if syntax is not None:
            may_be_stored = held.located.transfer_syntax not in FORBIDDEN and not {"", "*"}.isdisjoint(wanted)
            planned.append(Planned(held, syntax, may_be_stored))
    if not planned:
        stored = ", ".join(sorted({held.located.transfer_syntax for held in found}))
        raise RequestRefused(406, f"what is stored in {stored} cannot be had in {', '.join(wanted)}")
    return planned


async def answer_single(
    facade: Facade, request: Request, planned: Planned, etag: str, location: str, *, tells_syntax: bool = True
) -> Answer:
    """One instance, not multipart, with its URL. Raises OperationError, OSError.

    `tells_syntax`: the media type has its transfer syntax, which the URI service forbids (9.1.3).
    """
    located = planned.held.located

    def fields(syntax: UID) -> list[tuple[str, str]]:
        media_type = named(DICOM, syntax) if tells_syntax else DICOM
        return [("content-type", media_type), ("content-location", location)]

    if not planned.is_stored:
        made = await _transcoded(facade, planned)
        if made is not None:
            return single(request, made, fields(planned.syntax), etag).then(made.made.discard)
    await _check(facade, [planned])
    source: Source = FilePart(facade.archive, located, 0, located.size)
    if located.size <= SMALL and request.method == "GET":
        source = Memory(b"".join([piece async for piece in source.read(0, located.size)]))
    return single(request, source, fields(located.transfer_syntax), etag)


async def _multipart(
    facade: Facade, request: Request, planned: list[Planned], asked: int, fields: list[tuple[str, str]]
) -> Answer:
    """The instances as parts. Those that cannot be had are left out: 206, and a Warning tells how many."""
    writer = Writer(DICOM, f"{request.scope['path']} {fields[0]}")
    location = location_of(facade, request, planned[0].held).partition("/studies/")[0]

    def head(held: Held, syntax: UID, length: int, *, first: bool) -> bytes:
        path = f"{location}/studies/{held.study}/series/{held.series}/instances/{held.located.sop_instance}"
        return writer.head(named(DICOM, syntax), path, length, first=first)

    async def parts(ready: AsyncIterator[Ready]) -> AsyncIterator[Buffer]:
        first = True
        async for one in ready:
            yield head(one.held, one.syntax, one.length, first=first)
            first = False
            async for piece in one.pieces():
                yield piece
        yield writer.end

    fields = [("content-type", writer.content_type), *fields]
    if asked == 1 and planned[0].is_stored and planned[0].held.located.size <= SMALL:
        one = [piece async for piece in parts(_files(facade, planned))]  # the lean way for what viewers ask
        return Answer(200, fields, one, sum(map(len, one)))
    planned = await _check(facade, planned)
    length = None
    if all(one.is_stored for one in planned):
        # In a thread: the heads of 10,000 parts take 50 ms
        length = await asyncio.to_thread(_total, planned, head) + len(writer.end)
    files = await _begun(facade, request, planned)
    return Answer(_status(planned, asked, fields), fields, parts(files), length)


def _status(planned: Sequence[Planned], asked: int, fields: list[tuple[str, str]]) -> int:
    """206 when some instances cannot be sent, with a Warning that tells how many (Table 10.4.3-1)."""
    if len(planned) == asked:
        return 200
    missing = f"{asked - len(planned)} of {asked} instances cannot be had, or not in what is acceptable"
    fields.append(("warning", f'299 pacsnode "{missing}"'))
    return 206


def _total(planned: Sequence[Planned], head: Callable[..., bytes]) -> int:
    """Bytes of the parts of instances that are sent as stored."""
    total = 0
    for number, one in enumerate(planned):
        size = one.held.located.size
        total += size + len(head(one.held, one.syntax, size, first=number == 0))
    return total


async def _check(facade: Facade, planned: list[Planned]) -> list[Planned]:
    """Those whose file is there. Raises ProcessingFailure when none is."""
    missing = await facade.archive.missing([one.held.located for one in planned])
    for one in planned:
        if one.held.located.token in missing:
            log.error("instance.missing", path=one.held.located.path)
    left = [one for one in planned if one.held.located.token not in missing]
    if not left:
        raise ProcessingFailure("the archive has lost the file")
    return left


async def _begun(facade: Facade, request: Request, planned: Sequence[Planned]) -> AsyncIterator[Ready]:
    """The files, the first one made if it has to be: what is wrong with that is told as a status."""
    files = _files(facade, planned)
    if planned[0].is_stored or request.method != "GET":
        return files
    first = await anext(files)

    async def all_files() -> AsyncIterator[Ready]:
        yield first
        async for one in files:
            yield one

    return all_files()


async def _files(facade: Facade, planned: Sequence[Planned]) -> AsyncIterator[Ready]:
    """Each instance as a file, in order. Raises OSError, OperationError when one cannot be had."""
    stored = facade.archive.read([one.held.located for one in planned if one.is_stored], whole_files=True)
    waiting = deque(one for one in planned if not one.is_stored)
    made: deque[asyncio.Task[MadeFile | None]] = deque()
    try:
        for one in planned:
            if one.is_stored:
                outgoing = await stored.next()
                if outgoing is None or outgoing.data is None:
                    raise ProcessingFailure(outgoing.failure if outgoing else "an instance has gone")
                yield Ready(one.held, one.syntax, outgoing.data, one.held.located.size)
                continue
            while waiting and len(made) < AHEAD:
                made.append(asyncio.create_task(_transcoded(facade, waiting.popleft())))
            file = await made[0]
            if file is None:
                located = one.held.located
                part = FilePart(facade.archive, located, 0, located.size)
                body = part.read(0, part.length)
                yield Ready(one.held, located.transfer_syntax, body, part.length)
            else:
                yield Ready(one.held, one.syntax, file.read(0, file.length), file.length)
                await file.made.discard()
            made.popleft()
    finally:
        for task in made:
            task.cancel()
        for task in made:
            with suppress(asyncio.CancelledError, OperationError):
                if (file := await task) is not None:
                    await file.made.discard()


async def _transcoded(facade: Facade, planned: Planned) -> MadeFile | None:
    """The instance in another transfer syntax; None where it cannot be had in it and may go as stored.

    Raises OperationError, OSError.
    """
    located = planned.held.located
    try:
        path, offset = await facade.archive.file_of(located)
        coercion = await facade.archive.coercion_of(located)
        made = await facade.transcoder.transcode(
            path, offset, located.transfer_syntax, planned.syntax, coercion
        )
    except OperationError as error:
        if not planned.may_be_stored or located.coerced:
            raise
        log.warning("instance.not_transcoded", sop_instance=located.sop_instance, reason=str(error))
        return None
    ae_title = facade.settings.node.ae_title
    meta = file_meta(located.sop_class, located.sop_instance, planned.syntax, ae_title)
    return MadeFile(facade.archive, made, meta)
