"""Answers that send objects: conditional, in ranges, with constant memory (RFC 9110 8.8, 13, 14).

Plain ASGI: a frame is one message of headers and one of bytes. A body of known length goes out as it was
read; when one breaks off the connection ends, so that nobody takes a part for the whole.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, nullcontext
from typing import Final

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pacsnode.errors import CannotUnderstand, PacsnodeError, ProcessingFailure, RequestRefused
from pacsnode.web.sources import Buffer, Memory, Source

log = structlog.get_logger()

OBJECT_AGE: Final = "private, max-age=3600"  # an object changes only where another may take its place
GROUP_AGE: Final = "private, no-cache"  # a study grows: ask each time, mostly for a 304
# A document may have been written by anybody who could store one: it runs nothing and loads nothing
DOCUMENT_POLICY: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_RANGE: Final = re.compile(r"bytes=\s*(?:([0-9]+)-([0-9]*)|-([0-9]+))\s*")

Fields = list[tuple[bytes, bytes]]


class Answer:
    """One answer, sent when it is called. `length` None: chunks."""

    def __init__(
        self,
        status: int,
        fields: Sequence[tuple[str, str]],
        body: Sequence[Buffer] | AsyncIterator[Buffer] = (),
        length: int | None = None,
    ) -> None:
        self._status = status
        self._body = body
        self._finish: Callable[[], Awaitable[None]] | None = None
        self._fields: Fields = [(name.encode(), value.encode("latin-1")) for name, value in fields]
        if length is not None:
            self._fields.append((b"content-length", str(length).encode()))

    def then(self, finish: Callable[[], Awaitable[None]]) -> "Answer":
        """Have `finish` called when the answer has been sent, or will not be."""
        self._finish = finish
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._send(scope, receive, send)
        finally:
            if self._finish is not None:
                await self._finish()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self._status, "headers": self._fields})
        body = self._body
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
        elif isinstance(body, Sequence):
            for piece in body[:-1]:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": body[-1] if body else b""})
        else:
            await _until_gone(receive, self._stream(body, scope, send))

    async def _stream(self, body: AsyncIterator[Buffer], scope: Scope, send: Send) -> None:
        try:
            # Closed here when the client has gone: left to the collector, files would stay open for a while
            async with aclosing(body) if isinstance(body, AsyncGenerator) else nullcontext():
                async for piece in body:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (OSError, PacsnodeError) as error:
            # Without its last message uvicorn closes the connection
            log.warning("retrieve.broken_off", path=scope["path"], reason=str(error))
            return
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, sending: Coroutine[None, None, None]) -> None:
    """Send, until all is sent or the client has gone: nobody tells who writes to a closed connection."""
    work = asyncio.ensure_future(sending)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.wait({work, gone})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Endpoint:
    """A resource as an ASGI application. A plain function would get error handling of its own around it."""

    def __init__(self, answer: Callable[[Request], Awaitable[ASGIApp]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(Request(scope, receive))
        except CannotUnderstand as error:  # it was stored, but this part of it makes no sense
            raise RequestRefused(406, f"the object does not have it in a readable form: {error}") from error
        except OSError as error:
            raise ProcessingFailure(f"the object cannot be read: {error.strerror}") from error
        await answer(scope, receive, send)


def described(media_type: str) -> list[tuple[str, str]]:
    """The Content-Type, and for what a browser would run scripts of that it must not."""
    fields = [("content-type", media_type)]
    name = media_type.partition(";")[0]
    if name.startswith("text/") or name.endswith("xml"):  # HTML, XHTML, CDA, SVG
        fields.append(("content-security-policy", DOCUMENT_POLICY))
    return fields


def not_modified(request: Request, etag: str, cache: str) -> Answer | None:
    """304 when the client has it already (RFC 9110 13.1.2); weak comparison."""
    known = request.headers.get("if-none-match", "")
    if not known:
        return None
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    if "*" in tags or etag.removeprefix("W/") in tags:
        return Answer(304, [("etag", etag), ("cache-control", cache), ("vary", "Accept")])
    return None


def single(
    request: Request, source: Source, fields: Sequence[tuple[str, str]], etag: str, cache: str = OBJECT_AGE
) -> Answer:
    """One representation, or the range of it that is asked for (RFC 9110 14). Raises RequestRefused (416)."""
    always = [
        *fields,
        ("etag", etag),
        ("cache-control", cache),
        ("vary", "Accept"),
        ("accept-ranges", "bytes"),
    ]
    length = source.length
    wanted = _range(request, length, etag)
    start, end = wanted or (0, length)
    body: Sequence[Buffer] | AsyncIterator[Buffer]
    # What is at hand wants no task that waits for the client to go away
    body = [memoryview(source.data)[start:end]] if isinstance(source, Memory) else source.read(start, end)
    if wanted is None:
        return Answer(200, always, body, length)
    always.append(("content-range", f"bytes {start}-{end - 1}/{length}"))
    return Answer(206, always, body, end - start)


def _range(request: Request, length: int, etag: str) -> tuple[int, int] | None:
    """The one range that is asked for; None for all of it, as for anything that is no single range."""
    header = request.headers.get("range")
    if header is None or request.method != "GET":
        return None
    if request.headers.get("if-range", etag) != etag or (match := _RANGE.fullmatch(header)) is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(length - int(suffix[:20]), 0), length
    else:
        start, end = int(first[:20]), min(int(last[:20]) + 1 if last else length, length)
        if last and int(last[:20]) < start:
            return None
    if start >= end:
        told = {"Content-Range": f"bytes */{length}"}  # RFC 9110 15.5.17
        raise RequestRefused(416, f"bytes 0 to {length - 1} can be had", told)
    return start, end
