"""What an answer sends: bytes at hand, a part of an object's file, or a file that was made for it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pacsnode.archive.archive import Archive
from pacsnode.archive.locate import Located
from pacsnode.archive.lookup import Held
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.pool import Transcoded

Buffer = bytes | memoryview

ONE_HOP: Final = 4 * 2**20  # bytes; up to here one read, beyond it pieces with read-ahead


class Source(Protocol):
    """Bytes whose number is known before any is read."""

    @property
    def length(self) -> int: ...

    def read(self, start: int, end: int) -> AsyncIterator[Buffer]:
        """The bytes from `start` up to `end`, in pieces. Raises OSError, CannotUnderstand."""
        ...


@dataclass(frozen=True, slots=True)
class Ready:
    """An instance on its way out, as a file in a transfer syntax. `length` in bytes."""

    held: Held
    syntax: UID
    body: Buffer | AsyncIterator[Buffer]
    length: int

    async def pieces(self) -> AsyncIterator[Buffer]:
        """Its bytes. Raises OSError, CannotUnderstand."""
        if isinstance(self.body, (bytes, memoryview)):
            yield self.body
        else:
            async for piece in self.body:
                yield piece


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at hand."""

    data: Buffer

    @property
    def length(self) -> int:
        return len(self.data)

    async def read(self, start: int, end: int) -> AsyncIterator[Buffer]:
        yield memoryview(self.data)[start:end]


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of the file of an object."""

    archive: Archive
    located: Located
    offset: int
    length: int

    async def read(self, start: int, end: int) -> AsyncIterator[Buffer]:
        first, last = self.offset + start, self.offset + end
        if end - start > ONE_HOP:
            left = end - start
            async for piece in self.archive.read_part(self.located, first, last):
                left -= len(piece)
                yield piece
            if left > 0:
                raise CannotUnderstand("the file is shorter than it was")
            return
        data = await self.archive.in_file(self.located, lambda file: file.read(first, last - first))
        if len(data) != end - start:
            raise CannotUnderstand("the file is shorter than it was")
        yield data


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file of worker processes from `offset` on, behind `head`."""

    archive: Archive
    made: Transcoded
    head: bytes = b""
    offset: int = 0
    limit: int | None = None  # bytes of the file to send; None: all

    @property
    def length(self) -> int:
        return len(self.head) + (self.made.size - self.offset if self.limit is None else self.limit)

    async def read(self, start: int, end: int) -> AsyncIterator[Buffer]:
        if start < len(self.head):
            yield self.head[start:end]
        begin, stop = (max(position - len(self.head), 0) + self.offset for position in (start, end))
        if stop > begin:
            async for piece in self.archive.read_file(self.made.path, EXPLICIT_VR_LE, stop, begin):
                yield piece


@dataclass(frozen=True, slots=True)
class Joined:
    """Sources one behind the other."""

    sources: tuple[Source, ...]

    @property
    def length(self) -> int:
        return sum(source.length for source in self.sources)

    async def read(self, start: int, end: int) -> AsyncIterator[Buffer]:
        for source in self.sources:
            length = source.length
            if start < length and end > 0:
                async for piece in source.read(max(start, 0), min(end, length)):
                    yield piece
            start, end = start - length, end - length


@dataclass(frozen=True, slots=True)
class Converted:
    """The bytes of another source, turned into others of the same number as a whole."""

    source: Source
    convert: Callable[[bytes], bytes]

    @property
    def length(self) -> int:
        return self.source.length

    async def read(self, start: int, end: int) -> AsyncIterator[Buffer]:
        whole = b"".join([bytes(piece) async for piece in self.source.read(0, self.length)])
        yield memoryview(self.convert(whole))[start:end]
