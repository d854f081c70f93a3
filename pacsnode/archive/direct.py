"""Writing past the page cache (open(2), O_DIRECT), for objects too long for memory on their way in.

An object of hundreds of MB through the page cache costs the processor a copy into pages that the kernel must
first find and clear, and leaves all of it to the last sync; past it the disk takes the bytes from one buffer
that is used again and again. What fits in one write is better off with the page cache: see incoming_file.py.
Direct writes want memory,
offset and length in whole blocks, so what is left of a block waits for the next write, and the last one is
padded and the file cut to its length.
"""

import errno
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

Buffer = bytes | bytearray | memoryview

BLOCK: Final = 4096  # bytes; a multiple of every disk's logical block
CAPACITY: Final = 2**20  # bytes of the buffer each worker thread has
# A full disk must not keep the node from starting: it still answers, and takes objects when there is room.
_NO_DIRECT: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSPC, errno.EDQUOT})

_of_thread = threading.local()


def is_supported(folder: Path) -> bool:
    """Whether files in `folder` can be written past the page cache; tmpfs and some network disks say no."""
    if not hasattr(os, "O_DIRECT"):
        return False
    probe = folder / f"direct-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NO_DIRECT:
            return False
        raise
    try:
        os.write(descriptor, _buffer()[:BLOCK])
    except OSError as error:
        if error.errno in _NO_DIRECT:
            return False
        raise
    finally:
        os.close(descriptor)
        probe.unlink()
    return True


class DirectWriter:
    """Appends to one file opened with O_DIRECT. Raises OSError, and then the file is of no use."""

    __slots__ = ("_descriptor", "_length", "_rest")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""  # less than a block
        self._length = 0  # bytes taken

    def append(self, buffers: Sequence[Buffer], last: bool) -> None:
        """Write `buffers` but for what is left of a block, that too when they are the `last`."""
        block = _buffer()
        filled = len(self._rest)
        block[:filled] = self._rest
        self._length -= filled
        for buffer in buffers:
            filled = self._gather(block, filled, memoryview(buffer))
        self._length += filled
        whole = filled - filled % BLOCK
        self._rest = bytes(block[whole:filled])
        if last and self._rest:
            block[filled : whole + BLOCK] = bytes(whole + BLOCK - filled)  # not what another object left here
            self._write(block[: whole + BLOCK])
            os.ftruncate(self._descriptor, self._length)
            self._rest = b""
        else:
            self._write(block[:whole])

    def _gather(self, block: memoryview, filled: int, data: memoryview) -> int:
        """Copy `data` behind what the block holds, writing whenever it is full; how much it holds then."""
        while len(data) >= CAPACITY - filled:
            room = CAPACITY - filled
            block[filled:] = data[:room]
            self._write(block)
            self._length += CAPACITY
            data, filled = data[room:], 0
        block[filled : filled + len(data)] = data
        return filled + len(data)

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]


def _buffer() -> memoryview:
    """The buffer of this thread: whole pages, so aligned as the disk wants it."""
    buffer: memoryview | None = getattr(_of_thread, "buffer", None)
    if buffer is None:
        buffer = _of_thread.buffer = memoryview(mmap.mmap(-1, CAPACITY))
    return buffer
