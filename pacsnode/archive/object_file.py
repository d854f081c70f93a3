"""An object file open in a worker thread: parts of it, by position. Blocking."""

import os
import zlib
from dataclasses import dataclass
from typing import Final, Protocol

from pacsnode.archive.locate import Located
from pacsnode.dicom.part10 import data_offset_of
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES
from pacsnode.errors import CannotUnderstand

HEAD: Final = 1024  # bytes that hold the File Meta Information of most files; ours have about 350
INFLATE_LIMIT: Final = (
    2**28
)  # bytes; deflate makes 1 GB out of 1 MB, no real object of that syntax is as long


class Readable(Protocol):
    """The bytes of an object in a file, or of its data set alone."""

    @property
    def located(self) -> Located: ...
    @property
    def size(self) -> int: ...

    def read(self, position: int, length: int) -> bytes: ...

    def data_offset(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """`descriptor` is open as long as the job runs that was given this."""

    located: Located
    descriptor: int
    size: int

    def read(self, position: int, length: int) -> bytes:
        """The bytes at a position; fewer at the end of the file. Raises OSError."""
        return os.pread(self.descriptor, length, position)

    def data_offset(self) -> int:
        """Where the data set begins. Raises CannotUnderstand."""
        head = self.read(0, HEAD)
        offset = data_offset_of(head)
        return offset if offset <= len(head) else data_offset_of(self.read(0, 2**20))


@dataclass(frozen=True, slots=True)
class InflatedFile:
    """The data set of an object that is one deflate stream (PS3.5 A.5), in memory."""

    located: Located
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, position: int, length: int) -> bytes:
        return self.data[position : position + length]

    def data_offset(self) -> int:
        return 0


def readable(file: ObjectFile) -> Readable:
    """The file, or its data set inflated. Raises OSError, CannotUnderstand."""
    if file.located.transfer_syntax not in DEFLATED_TRANSFER_SYNTAXES:
        return file
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(file.read(file.data_offset(), file.size), INFLATE_LIMIT)
    except zlib.error as error:
        raise CannotUnderstand("the deflated data set is damaged") from error
    if not inflater.eof:
        raise CannotUnderstand(f"the deflated data set is cut off, or longer than {INFLATE_LIMIT} bytes")
    return InflatedFile(file.located, data)
