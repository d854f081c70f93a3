"""WADO-RS metadata of studies, series and instances (PS3.18 10.4.1.1.2, 10.4.4)."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from xxhash import xxh3_128_hexdigest

from pacsnode.archive.metadata import SeriesVersion
from pacsnode.dicom.xml_model import native_model
from pacsnode.errors import CannotUnderstand, RequestRefused
from pacsnode.web import media, multipart
from pacsnode.web.body import conditional, etag_of, is_known
from pacsnode.web.coding import Coding, coding_of
from pacsnode.web.facade import Facade
from pacsnode.web.origin import dicomweb_root
from pacsnode.web.target import INSTANCE, METHODS, SERIES, STUDY, instance_of, resource_url, uids_of

log = structlog.get_logger()

OFFERS: Final = (
    media.Offer(media.JSON),
    media.Offer("application/json"),
    media.Offer(media.XML, multipart=True),
)
HEADERS: Final = {"Cache-Control": "private, no-cache", "Vary": "Accept, Accept-Encoding"}
REMEMBERED: Final = 32 * 2**20  # bytes of answers
LONGEST_REMEMBERED: Final = 8 * 2**20  # bytes of one
# A key with its quotes cannot be part of a value: quotes are escaped there.
_REFERENCE: Final = b'"BulkDataURI":"'


def routes(facade: Facade) -> list[BaseRoute]:
    resources = MetadataResources(facade)
    return [
        Route(f"{STUDY}/metadata", resources.of_series, methods=METHODS),
        Route(f"{SERIES}/metadata", resources.of_series, methods=METHODS),
        Route(f"{INSTANCE}/metadata", resources.of_instance, methods=METHODS),
    ]


class MetadataResources:
    """Answers from the metadata that the archive keeps."""

    def __init__(self, facade: Facade) -> None:
        self._facade = facade
        self._metadata = facade.archive.metadata
        self._answers = _Answers()

    async def of_instance(self, request: Request) -> Response:
        offer = media.acceptable(request).select(OFFERS)
        held = await instance_of(self._facade, request)
        try:
            text = (await self._metadata.of_instance(held)).encode()
        except (OSError, CannotUnderstand) as error:
            log.error("metadata.unreadable", sop_instance=held.located.sop_instance, reason=str(error))
            raise RequestRefused(500, "the file of the instance cannot be read") from error
        root = dicomweb_root(request, self._facade.settings.web.public_url)
        headers = {**HEADERS, "Content-Location": resource_url(self._facade, request)}
        body = _with_root(text, root)
        if offer.multipart:
            writer = multipart.Writer(media.XML, request.url.path)
            return await conditional(
                request,
                _document(writer, root, json.loads(body), first=True) + writer.end,
                writer.content_type,
                headers,
            )
        return await conditional(request, b"[" + body + b"]", offer.type, headers)

    async def of_series(self, request: Request) -> Response:
        """A series, or all of a study."""
        offer = media.acceptable(request).select(OFFERS)
        uids = uids_of(request)
        versions = await self._metadata.versions(*uids[:2])
        if not versions:
            raise RequestRefused(404, f"there is no such {('study', 'series')[len(uids) - 1]}")
        root = dicomweb_root(request, self._facade.settings.web.public_url)
        tag = xxh3_128_hexdigest(repr((versions, root, offer)).encode())[:24]
        coding = coding_of(request)
        location = resource_url(self._facade, request)
        headers = {**HEADERS, "ETag": etag_of(tag, coding), "Content-Location": location}
        if is_known(request, tag):
            return Response(status_code=304, headers=headers)
        if coding is not None:
            headers["Content-Encoding"] = coding.name
        if offer.multipart:
            writer = multipart.Writer(media.XML, request.url.path)
            pieces = self._documents(versions, root, writer)
            if coding is not None:
                pieces = _compressed(pieces, coding)
            return StreamingResponse(pieces, headers=headers, media_type=writer.content_type)
        known = self._answers.get(headers["ETag"])
        if known is not None:
            return Response(known, headers=headers, media_type=offer.type)
        pieces = self._array(versions, root)
        if coding is not None:
            pieces = _compressed(pieces, coding)
        body, rest = await _begun(pieces)
        if rest is None:
            self._answers.keep(headers["ETag"], body)
            return Response(body, headers=headers, media_type=offer.type)
        return StreamingResponse(_joined(body, rest), headers=headers, media_type=offer.type)

    async def _array(self, versions: Sequence[SeriesVersion], root: str) -> AsyncIterator[bytes]:
        """One JSON array of all objects, in pieces."""
        separator = b"["
        for version in versions:
            async for part in self._metadata.parts(version):
                yield separator
                yield _with_root(part, root)
                separator = b","
        yield b"]" if separator == b"," else b"[]"

    async def _documents(
        self, versions: Sequence[SeriesVersion], root: str, writer: multipart.Writer
    ) -> AsyncIterator[bytes]:
        """One XML document an object, each a part."""
        first = True
        for version in versions:
            async for part in self._metadata.parts(version):
                objects = await asyncio.to_thread(json.loads, b"[" + _with_root(part, root) + b"]")
                for model in objects:
                    yield _document(writer, root, model, first=first)
                    first = False
        yield writer.end


class _Answers:
    """The last answers, for viewers that open a study again and for those behind one proxy."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def get(self, etag: str) -> bytes | None:
        body = self._bodies.get(etag)
        if body is not None:
            self._bodies.move_to_end(etag)
        return body

    def keep(self, etag: str, body: bytes) -> None:
        if etag in self._bodies:
            return
        self._bodies[etag] = body
        self._size += len(body)
        while self._size > REMEMBERED:
            _, oldest = self._bodies.popitem(last=False)
            self._size -= len(oldest)


def _document(writer: multipart.Writer, root: str, model: dict[str, Any], *, first: bool) -> bytes:
    """The XML document of an object as a part, which tells whose metadata it is (8.6.1.2)."""
    study, series, instance = (model[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    location = f"{root}/studies/{study}/series/{series}/instances/{instance}/metadata"
    document = native_model(model)
    return writer.head(media.XML, location, len(document), first=first) + document


def _with_root(text: bytes, root: str) -> bytes:
    """BulkDataURIs as the client can follow them."""
    return text.replace(_REFERENCE, _REFERENCE + root.encode())


async def _compressed(pieces: AsyncIterator[bytes], coding: Coding) -> AsyncIterator[bytes]:
    compressor = coding.begin()
    async for piece in pieces:
        yield await asyncio.to_thread(partial(compressor.compress, piece))
    yield compressor.flush()


async def _begun(pieces: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """The body when it is short enough to be remembered, else its beginning and what follows."""
    gathered: list[bytes] = []
    size = 0
    async for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size > LONGEST_REMEMBERED:
            return b"".join(gathered), pieces
    return b"".join(gathered), None


async def _joined(begin: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for piece in rest:
        yield piece
