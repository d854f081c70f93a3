"""Content codings of request bodies (RFC 9110 8.4, 15.5.16): undone as they come, a piece at a time.

A few KB can stand for gigabytes of zeros, so what comes out of a body is held against what went in.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import brotli
from starlette.requests import Request

from pacsnode.errors import RequestRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE: Final = 2**20  # bytes decoded at once
ROOM: Final = 2**30  # bytes that any body may become
RATIO: Final = 100  # times its length, beyond that; deflate makes 1,032 of zeros, images rarely 10
WINDOW_LOG: Final = 23  # 8 MiB of memory, which RFC 9659 has for content codings


class _Decoder(Protocol):
    """What undoes a coding."""

    def decode(self, data: bytes) -> bytes:
        """Up to about a PIECE, of `data` and what is left of earlier calls; b"" when that is all."""
        ...

    @property
    def is_finished(self) -> bool: ...


class _Zlib:
    """gzip (RFC 1952), of several members too, and deflate, which is zlib's format (RFC 1950)."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decompressor = zlib.decompressobj(window_bits)
        self._left = b""

    def decode(self, data: bytes) -> bytes:
        data = self._left + data
        if self._decompressor.eof and data:
            self._decompressor = zlib.decompressobj(self._window_bits)
        made = self._decompressor.decompress(data, PIECE)
        self._left = self._decompressor.unconsumed_tail or self._decompressor.unused_data
        return made

    @property
    def is_finished(self) -> bool:
        return self._decompressor.eof and not self._left


class _Zstandard:
    """RFC 8878, of several frames too."""

    def __init__(self) -> None:
        self._decompressor = _new_zstandard()

    def decode(self, data: bytes) -> bytes:
        if self._decompressor.eof:
            data = self._decompressor.unused_data + data
            if not data:
                return b""
            self._decompressor = _new_zstandard()
        return bytes(self._decompressor.decompress(data, PIECE))

    @property
    def is_finished(self) -> bool:
        return self._decompressor.eof and not self._decompressor.unused_data


def _new_zstandard() -> zstd.ZstdDecompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


class _Brotli:
    """RFC 7932."""

    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self._left = b""

    def decode(self, data: bytes) -> bytes:
        self._left += data
        taken, self._left = (
            (self._left, b"") if self._decompressor.can_accept_more_data() else (b"", self._left)
        )
        return bytes(self._decompressor.process(taken, output_buffer_limit=PIECE))

    @property
    def is_finished(self) -> bool:
        return bool(self._decompressor.is_finished()) and not self._left


DECODERS: Final[dict[str, Callable[[], _Decoder]]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "zstd": _Zstandard,
    "br": _Brotli,
}


def body_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it was before its content coding was applied, in pieces.

    Raises RequestRefused: 415 for a coding that is unknown here, 400 for data that is none, 413 for a body
    that becomes far longer than it is; ClientDisconnect.
    """
    named = [part.strip().lower() for part in request.headers.get("content-encoding", "").split(",")]
    codings = [name.removeprefix("x-") for name in named if name not in ("", "identity")]
    if not codings:
        return request.stream()
    if len(codings) > 1 or codings[0] not in DECODERS:
        able = ", ".join(DECODERS)
        reason = f"a body may be in one of the content codings {able}, and not in {', '.join(codings)[:80]}"
        raise RequestRefused(415, reason, {"Accept-Encoding": able})
    return _decoded(request, DECODERS[codings[0]](), codings[0])


async def _decoded(request: Request, decoder: _Decoder, coding: str) -> AsyncIterator[bytes]:
    taken = given = 0
    try:
        async for chunk in request.stream():
            taken += len(chunk)
            data = chunk
            while made := await asyncio.to_thread(decoder.decode, data):
                data = b""
                given += len(made)
                if given > ROOM + RATIO * taken:
                    raise RequestRefused(413, f"the body becomes more than {RATIO} times as long")
                yield made
    except (zlib.error, zstd.ZstdError, brotli.error, EOFError) as error:
        raise RequestRefused(400, f"the body is no {coding}: {error}") from error
    if taken and not decoder.is_finished:
        raise RequestRefused(400, f"the body ends within its {coding}")
