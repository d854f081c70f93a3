"""Bodies that are whole in memory: conditional requests and content codings (RFC 9110 8.4, 8.8.3, 13)."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from xxhash import xxh3_128_hexdigest

from pacsnode.web.coding import CODINGS, Coding, coding_of

COMPRESS_FROM: Final = 1024  # bytes; less is not worth the header
IN_THREAD_FROM: Final = 64 * 1024  # bytes; zlib needs a millisecond for that


async def conditional(request: Request, body: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """An answer with an ETag of its content, 304 when the client has it, compressed when it may be."""
    return await tagged(request, xxh3_128_hexdigest(body)[:24], body, media_type, headers)


async def tagged(
    request: Request, tag: str, body: bytes, media_type: str, headers: dict[str, str]
) -> Response:
    """As `conditional`, for a body whose tag is known."""
    coding = coding_of(request) if len(body) >= COMPRESS_FROM else None
    headers = {**headers, "ETag": etag_of(tag, coding)}
    if is_known(request, tag):
        return Response(status_code=304, headers=headers)
    if coding is not None:
        headers["Content-Encoding"] = coding.name
        in_thread = len(body) >= IN_THREAD_FROM
        body = await asyncio.to_thread(coding.encode, body) if in_thread else coding.encode(body)
    return Response(body, headers=headers, media_type=media_type)


def etag_of(tag: str, coding: Coding | None) -> str:
    """A strong validator: each coding of a representation has its own (RFC 9110 8.8.3.3)."""
    return f'"{tag}{coding.suffix}"' if coding is not None else f'"{tag}"'


def is_known(request: Request, tag: str) -> bool:
    """Whether If-None-Match names the content, in any coding."""
    given = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    return "*" in given or any(etag_of(tag, coding) in given for coding in (None, *CODINGS))
