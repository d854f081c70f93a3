"""multipart/related bodies, written part by part, read as they come (PS3.18 8.6.1.2, RFC 2046 5.1, 2387).

Pure: bytes in, events out; bytes out. The reader never holds more than a delimiter and the headers of a part,
whatever the length of the parts, so a hostile body costs the sender more than it costs us.
"""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from enum import Enum, auto
from hashlib import blake2b
from typing import Final

from pacsnode.errors import InvalidMultipart

HEADERS_LIMIT: Final = 16 * 1024  # bytes of headers in one part; uvicorn takes 64 KiB of a whole request
HEADER_COUNT_LIMIT: Final = 64
PREAMBLE_LIMIT: Final = 64 * 1024  # bytes before the first part; they are of no use (RFC 2046 5.1.1)
PADDING_LIMIT: Final = 256  # spaces and tabs behind a delimiter, which gateways may add
_SECRET: Final = secrets.token_bytes(16)  # nobody can store an object that holds a boundary to come

# RFC 2046 5.1.1, and the underscore, which PS3.18 8.6.1.2.1 allows too
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Writer:
    """Makes what stands around the parts of one body."""

    __slots__ = ("_boundary", "_delimiter", "content_type", "end")

    def __init__(self, root_type: str, resource: str) -> None:
        """`resource`: what is sent; the same one has the same boundary as long as the process runs.

        That keeps a Range over the whole body valid from one request to the next (8.6.1.2 note 2).
        """
        self._boundary = blake2b(resource.encode(), key=_SECRET, digest_size=16).hexdigest()
        self._delimiter = f"\r\n--{self._boundary}\r\n".encode()
        self.content_type = f'multipart/related; type="{root_type}"; boundary={self._boundary}'
        self.end = f"\r\n--{self._boundary}--\r\n".encode()

    def head(self, content_type: str, location: str, length: int | None, *, first: bool) -> bytes:
        """The delimiter and the headers of a part (Table 8.6.1-1); `length` None: not known yet.

        `location`: the URL of what the part represents, "" where that is no resource.
        """
        fields = f"Content-Type: {content_type}\r\n"
        if location:
            fields += f"Content-Location: {location}\r\n"
        if length is not None:
            fields += f"Content-Length: {length}\r\n"
        return (self._delimiter[2:] if first else self._delimiter) + f"{fields}\r\n".encode("latin-1")


@dataclass(frozen=True, slots=True)
class ContentType:
    """The Content-Type of a multipart request: the type of its parts, in lower case, and the boundary."""

    root_type: str
    boundary: str


def content_type_of(header: str) -> ContentType:
    """Read a Content-Type that is multipart/related, quoted or not (8.7.1).

    Raises InvalidMultipart when it is another one, or its boundary is missing or none.
    """
    message = Message()
    message["Content-Type"] = header
    if message.get_content_type() != "multipart/related":
        raise InvalidMultipart(f"Content-Type is no multipart/related: {header[:80]!r}")
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or _BOUNDARY.fullmatch(boundary) is None:
        raise InvalidMultipart("Content-Type has no boundary of 1 to 70 allowed characters (RFC 2046 5.1.1)")
    root_type = message.get_param("type", "")
    return ContentType(root_type.strip().lower() if isinstance(root_type, str) else "", boundary)


@dataclass(frozen=True, slots=True)
class PartBegins:
    """The headers of a part, their names in lower case; a repeated one keeps its first value."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """Some bytes of the content of a part, valid until the next call."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class PartEnds:
    pass


@dataclass(frozen=True, slots=True)
class BodyEnds:
    """The closing delimiter has been read; what comes behind it is ignored."""


Event = PartBegins | PartData | PartEnds | BodyEnds


class _Expects(Enum):
    PREAMBLE = auto()
    AFTER_DELIMITER = auto()
    HEADERS = auto()
    CONTENT = auto()
    EPILOGUE = auto()


class Reader:
    """Turns the bytes of a body into events. `parts_limit`: more parts are refused."""

    def __init__(self, boundary: str, parts_limit: int = 100_000) -> None:
        if _BOUNDARY.fullmatch(boundary) is None:
            raise InvalidMultipart("no boundary")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._expects = _Expects.PREAMBLE
        self._held = b"\r\n"  # so that a delimiter may be the very first line
        self._in_content = False  # a delimiter that turns out to be none is content
        self._passed = 0
        self._parts_left = parts_limit

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """The events in the next bytes of the body; take all of them before the next call.

        Raises InvalidMultipart: malformed, or over one of the limits.
        """
        buffer = self._held + data if self._held else data
        self._held = b""
        position = 0
        while True:
            step = self._step(buffer, position)
            if step is None:
                return
            event, position = step
            if event is not None:
                yield event

    def receive_eof(self) -> None:
        """The body is over. Raises InvalidMultipart when its closing delimiter has not come."""
        if self._expects is not _Expects.EPILOGUE:
            raise InvalidMultipart("the body ends before its closing delimiter")

    def _step(self, buffer: bytes, position: int) -> tuple[Event | None, int] | None:
        """One step from `position` on: an event, where it ends; None when more bytes are wanted."""
        match self._expects:
            case _Expects.PREAMBLE | _Expects.CONTENT:
                return self._until_delimiter(buffer, position)
            case _Expects.AFTER_DELIMITER:
                return self._after_delimiter(buffer, position)
            case _Expects.HEADERS:
                return self._headers(buffer, position)
        return None  # the epilogue

    def _until_delimiter(self, buffer: bytes, position: int) -> tuple[Event | None, int] | None:
        """Pass content, or the preamble, up to a delimiter or to what may become one."""
        found = buffer.find(self._delimiter, position)
        end = found if found >= 0 else self._safe_end(buffer, position)
        if self._expects is _Expects.PREAMBLE:
            self._passed += end - position
            if self._passed > PREAMBLE_LIMIT:
                raise InvalidMultipart(f"no delimiter in the first {PREAMBLE_LIMIT} bytes")
        elif end > position:
            return PartData(memoryview(buffer)[position:end]), end
        if found < 0:
            self._held = buffer[end:]
            return None
        self._in_content = self._expects is _Expects.CONTENT
        self._expects = _Expects.AFTER_DELIMITER
        return None, found

    def _safe_end(self, buffer: bytes, position: int) -> int:
        """Up to where no delimiter can have begun."""
        tail = max(position, len(buffer) - len(self._delimiter) + 1)
        while (start := buffer.find(b"\r", tail)) >= 0:
            if self._delimiter.startswith(buffer[start:]):
                return start
            tail = start + 1
        return len(buffer)

    def _after_delimiter(self, buffer: bytes, position: int) -> tuple[Event | None, int] | None:
        """At the CRLF of a delimiter: it closes the body, begins a part, or is content that looks alike."""
        behind = position + len(self._delimiter)
        closes = buffer.startswith(b"--", behind)
        line_end = behind
        while line_end < len(buffer) and buffer[line_end] in b" \t":
            line_end += 1
        rest = buffer[line_end : line_end + 2]
        if closes or (rest == b"\r\n" and line_end - behind <= PADDING_LIMIT):
            if self._in_content:
                self._in_content = False
                return PartEnds(), position  # and come back for what follows
            self._expects = _Expects.EPILOGUE if closes else _Expects.HEADERS
            # The CRLF belongs to the headers: there may be none
            return (BodyEnds(), len(buffer)) if closes else (None, line_end)
        is_cut = len(rest) < 2 and line_end - behind <= PADDING_LIMIT
        if is_cut and (b"\r\n".startswith(rest) or (line_end == behind and rest == b"-")):
            self._held = buffer[position:]
            return None
        self._expects = _Expects.CONTENT if self._in_content else _Expects.PREAMBLE
        return self._content_after_all(buffer, position, behind)

    def _content_after_all(self, buffer: bytes, position: int, behind: int) -> tuple[Event | None, int]:
        if self._in_content:
            return PartData(memoryview(buffer)[position:behind]), behind
        self._passed += behind - position
        return None, behind

    def _headers(self, buffer: bytes, position: int) -> tuple[Event | None, int] | None:
        """Read the headers of a part; `position` is at the CRLF of the line before."""
        end = buffer.find(b"\r\n\r\n", position, position + HEADERS_LIMIT + 4)
        if end < 0:
            if len(buffer) - position > HEADERS_LIMIT:
                raise InvalidMultipart(f"the headers of a part are longer than {HEADERS_LIMIT} bytes")
            self._held = buffer[position:]
            return None
        self._parts_left -= 1
        if self._parts_left < 0:
            raise InvalidMultipart("the body has too many parts")
        self._expects = _Expects.CONTENT
        return PartBegins(_fields(buffer[position + 2 : end])), end + 4


def _fields(block: bytes) -> dict[str, str]:
    """The header fields in a block of lines; folded lines are joined (RFC 5322 2.2.3)."""
    if not block:
        return {}
    lines = re.sub(rb"\r\n[ \t]+", b" ", block).split(b"\r\n")
    if len(lines) > HEADER_COUNT_LIMIT:
        raise InvalidMultipart(f"a part has more than {HEADER_COUNT_LIMIT} headers")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if not colon or _FIELD_NAME.fullmatch(name) is None:
            raise InvalidMultipart(f"no header field: {line[:60]!r}")
        fields.setdefault(name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1"))
    return fields
