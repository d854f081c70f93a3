"""One object on its way to the disk, in incoming/ (scheme: files.py). Blocking; for worker threads."""

import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pacsnode.archive.direct import Buffer, DirectWriter
from pacsnode.archive.files import Layout, digest, out_of_resources, write_all

PASSING_FROM: Final = 128 * 2**10  # bytes; what is longer does not stay in the page cache
SYNC_STRIDE: Final = 64 * 2**20  # bytes; a 2 GB object must not leave 2 GB of dirty pages to its last sync


class IncomingFile:
    """The part of one object that is on disk. Used by one worker thread at a time."""

    __slots__ = ("_descriptor", "_digest", "_direct", "_layout", "_synced", "meta", "path", "size", "token")

    def __init__(self, layout: Layout, token: int, meta: bytes) -> None:
        self._layout = layout
        self.meta = meta
        self._descriptor = -1
        self._direct: DirectWriter | None = None
        self._digest = digest()
        self._synced = 0
        self.token = token
        self.path = layout.incoming_path(token)
        self.size = 0  # bytes of data set taken, File Meta excluded

    @property
    def is_open(self) -> bool:
        return self._descriptor >= 0

    def append(self, buffers: Sequence[Buffer], sync: bool, last: bool = False) -> None:
        """Append data set bytes; the first call puts preamble and File Meta before them (PS3.10 7.1).

        `last`: they complete the object. Raises OutOfResources, and then nothing of the file is left.
        """
        length = sum(map(len, buffers))
        try:
            if last:
                self._name_by_size(length)
            if self._descriptor < 0:
                self._open(direct=self._layout.writes_direct and not last)
                buffers = [self.meta, *buffers]
            if self._direct is not None:
                self._direct.append(buffers, last)
            else:
                write_all(self._descriptor, buffers)
                if sync and last:
                    self._let_pass(length)
            self.size += length
            if sync and self.size - self._synced > SYNC_STRIDE:
                os.fdatasync(self._descriptor)
                self._synced = self.size
        except OSError as error:
            self.remove()
            raise out_of_resources(error) from error

    def _open(self, direct: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
        self._descriptor = os.open(self._layout.absolute(self.path), flags, 0o644)
        if direct:
            self._direct = DirectWriter(self._descriptor)

    def _name_by_size(self, remaining: int) -> None:
        """Take the name that tells the size, before the sync that keeps both."""
        path = self._layout.incoming_path(self.token, self.file_size + remaining)
        if self._descriptor >= 0:
            os.rename(self._layout.absolute(self.path), self._layout.absolute(path))
        self.path = path

    def digest_of(self, buffers: Sequence[Buffer]) -> None:
        """Take data set bytes into the digest."""
        for buffer in buffers:
            self._digest.update(buffer)

    def digest(self) -> bytes:
        """The digest of the data set bytes so far."""
        return self._digest.digest()

    @property
    def file_size(self) -> int:
        """Length of the whole file in bytes."""
        return len(self.meta) + self.size

    def map(self) -> mmap.mmap:
        """The file so far, for a header that did not fit in what memory still holds."""
        return mmap.mmap(self._descriptor, self.file_size, prot=mmap.PROT_READ)

    @property
    def data_offset(self) -> int:
        return len(self.meta)

    def finish(self, sync: bool) -> None:
        """Make the content durable when asked, and close. Raises OutOfResources and leaves nothing."""
        try:
            if sync:
                os.fdatasync(self._descriptor)
                self._let_pass(self.file_size)
        except OSError as error:
            self.remove()
            raise out_of_resources(error) from error
        self._close()

    def _let_pass(self, length: int) -> None:
        """Start writing what the page cache has of a long object, and free what is written.

        So the disk is busy while the object is checked; and the next one gets pages the kernel need not first
        find and clear: 10,000 slices do not push out what people are looking at.
        """
        if length >= PASSING_FROM and self._direct is None:
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def remove(self) -> None:
        """Forget the object; nothing of it stays. May be called again.

        A disk that does not even remove a file any more leaves that to the next start.
        """
        if self._descriptor >= 0:
            self._close()
            with suppress(OSError):
                self._layout.remove(self.path)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
