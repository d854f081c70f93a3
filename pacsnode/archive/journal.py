"""Small objects on their way in: one synced log for many, before each is safe in a file of its own.

    <root>/journal/<number>.log    segments, written over again and again; their bytes: journal_frames.py

The sync of a new file costs a commit of the file system's journal. A segment has its blocks already, so a
group of objects is durable after one write past the page cache, with nothing for the file system to do. The
objects' files are written to their places as well, but not synced: settling.py does that for thousands at
once, and then the segment is free. After a power cut recovery.py takes from the segments what the files or
the index lack; what was in no complete frame has not been acknowledged.

Blocking. One thread appends and retires, another recycles.
"""

import mmap
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from pacsnode.archive.journal_frames import (
    BLOCK,
    FRAME_HEADER,
    Place,
    Record,
    first_place,
    put_record,
    seal,
    segments,
)

CAPACITY: Final = 2**20  # bytes of one frame at most
SEGMENT: Final = 32 * 2**20  # bytes; some 3,000 objects, one or two seconds under load
GROWTH: Final = 2 * 2**20  # bytes of zeros a segment grows by: what lies in blocks it has changes no metadata


class Segment:
    """One file of the journal. `position` is where the next frame goes.

    `unfinished`: objects in it neither stored nor refused yet; `is_retired`: nothing more goes there.
    """

    __slots__ = ("_descriptor", "_length", "is_retired", "path", "position", "unfinished")

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.position = 0
        self.unfinished = 0
        self.is_retired = False
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o644)
        self._length = os.fstat(self._descriptor).st_size // BLOCK * BLOCK

    def append(self, frame: memoryview) -> None:
        """Write whole blocks. Raises OSError; the next frame goes to the same place then."""
        while self.position + len(frame) > self._length:
            self._write(memoryview(mmap.mmap(-1, GROWTH)), self._length)
            self._length += GROWTH
        self._write(frame, self.position)
        self.position += len(frame)

    def rewind(self, position: int = 0) -> None:
        """Make what is behind `position` invalid, and go on there. Raises OSError."""
        self.position = position
        if self._length:
            self._write(memoryview(mmap.mmap(-1, BLOCK)), position)

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, data: memoryview, position: int) -> None:
        while data:
            written = os.pwrite(self._descriptor, data, position)
            data, position = data[written:], position + written


class Journal:
    """The journal of a data root in use."""

    def __init__(self, folder: Path, *, sync: bool, direct: bool) -> None:
        """`sync`: records are durable when append() returns. `direct`: past the page cache, where it can be.

        Raises OSError.
        """
        self._folder = folder
        self._flags = (os.O_DSYNC if sync else 0) | (os.O_DIRECT if direct else 0)
        self._frame = memoryview(mmap.mmap(-1, CAPACITY))  # whole pages: the disk wants it aligned
        starts = {path: first_place(path) for path in segments(folder)}
        sessions = [place.session for place in starts.values() if place is not None]
        self._session = max([time.time_ns(), *(session + 1 for session in sessions)])
        self._sequence = 0
        self._numbers = count(max((int(path.stem) for path in starts), default=0) + 1)
        self._free = deque(Segment(path, self._flags) for path, place in starts.items() if place is None)
        self._current: Segment | None = None
        self._former = [Segment(path, self._flags) for path, place in starts.items() if place is not None]

    @property
    def size(self) -> int:
        """Bytes in the present segment."""
        return 0 if self._current is None else self._current.position

    def append(self, records: Sequence[Record]) -> Segment:
        """Write records, all or none; the segment they are in. Raises OSError."""
        segment = self._current = self._current or self._next_segment()
        start = segment.position
        try:
            self._append(segment, records)
        except OSError:
            with suppress(OSError):  # a disk that fails may have all of them nevertheless
                segment.rewind(start)
            raise
        return segment

    def _append(self, segment: Segment, records: Sequence[Record]) -> None:
        """Write at one go what fits in a frame."""
        frame, end = self._frame, FRAME_HEADER
        for record in records:
            if end + record.length > CAPACITY:
                self._write(segment, end)
                end = FRAME_HEADER
            end = put_record(frame, end, record)
        self._write(segment, end)

    def _write(self, segment: Segment, end: int) -> None:
        self._sequence += 1  # even if it fails: no two frames of a session have the same
        segment.append(seal(self._frame, end, Place(self._session, self._sequence)))

    def retire(self) -> Segment | None:
        """End the present segment, to be settled and then recycled; None: there is nothing in it."""
        segment = self._current
        if segment is None or not segment.position:
            return None
        self._current = None
        segment.is_retired = True
        return segment

    def take_former(self) -> list[Segment]:
        """The segments of earlier sessions, to be settled and recycled when their records are recovered."""
        former, self._former = self._former, []
        return former

    def recycle(self, segment: Segment) -> None:
        """Free a segment whose objects are safe in their own files. Raises OSError."""
        segment.rewind()
        if self._free:  # one is enough; there are more when the disk has been slow for a while
            segment.path.unlink(missing_ok=True)
            segment.close()  # last: a failure has all of this tried again
        else:
            segment.is_retired = False
            self._free.append(segment)

    def close(self) -> None:
        """Let go of the files, once nothing is being settled."""
        for segment in (*self._free, *self._former, *filter(None, [self._current])):
            segment.close()
        self._free.clear()
        self._former.clear()
        self._current = None

    def _next_segment(self) -> Segment:
        if self._free:
            return self._free.popleft()
        segment = Segment(self._folder / f"{next(self._numbers)}.log", self._flags)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # its name; what it holds is synced by each write
        finally:
            os.close(folder)
        return segment
