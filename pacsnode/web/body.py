"""Bodies that are whole in memory: conditional requests and content codings (RFC 9110 8.4, 8.8.3, 13)."""

import asyncio
import zlib
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from xxhash import xxh3_128_hexdigest

COMPRESS_FROM: Final = 1024  # bytes; less is not worth the header
IN_THREAD_FROM: Final = 64 * 1024  # bytes; zlib needs a millisecond for that
_GZIP: Final = zlib.MAX_WBITS | 16
_FAST: Final = 1


async def conditional(request: Request, body: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """An answer with an ETag of its content, 304 when the client has it, compressed when it may be."""
    return await tagged(request, xxh3_128_hexdigest(body)[:24], body, media_type, headers)


async def tagged(
    request: Request, tag: str, body: bytes, media_type: str, headers: dict[str, str]
) -> Response:
    """As `conditional`, for a body whose tag is known."""
    compressed = len(body) >= COMPRESS_FROM and accepts_gzip(request)
    etag = etag_of(tag, gzipped=compressed)
    headers = {**headers, "ETag": etag}
    if is_known(request, tag):
        return Response(status_code=304, headers=headers)
    if compressed:
        headers["Content-Encoding"] = "gzip"
        body = await asyncio.to_thread(gzipped, body) if len(body) >= IN_THREAD_FROM else gzipped(body)
    return Response(body, headers=headers, media_type=media_type)


def etag_of(tag: str, *, gzipped: bool) -> str:
    """A strong validator: each coding of a representation has its own (RFC 9110 8.8.3.3)."""
    return f'"{tag}-gz"' if gzipped else f'"{tag}"'


def is_known(request: Request, tag: str) -> bool:
    """Whether If-None-Match names the content, in any coding."""
    given = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    return "*" in given or f'"{tag}"' in given or f'"{tag}-gz"' in given


def accepts_gzip(request: Request) -> bool:
    for coding in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "").rstrip("0.") not in ("q=", "q")
    return False


def gzipped(body: bytes) -> bytes:
    compressor = zlib.compressobj(_FAST, zlib.DEFLATED, _GZIP)
    return compressor.compress(body) + compressor.flush()
