"""An object file open in a worker thread: parts of it, by position. Blocking."""

import os
from dataclasses import dataclass

from pacsnode.archive.locate import Located
from pacsnode.dicom.part10 import data_offset_of

_HEAD = 1024  # bytes that hold the File Meta Information of most files; ours have about 350


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
        head = self.read(0, _HEAD)
        offset = data_offset_of(head)
        return offset if offset <= len(head) else data_offset_of(self.read(0, 2**20))
