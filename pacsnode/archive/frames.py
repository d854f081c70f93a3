"""Where the frames of stored objects are: found once, after ingest where that takes long, and kept.

Of native pixel data it is arithmetic. Of an encapsulated multi-frame object every fragment may have to be
looked at, thousands of reads of a file that lies on a slow disk; so that is done when nothing else is going
on (ahead.py), a bit at a time, and its result stands in derived.sqlite. What was not found yet when it is
asked for is found then.
"""

import asyncio
import json
import os
import sqlite3
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Final, TypeVar

import structlog

from pacsnode.archive.ahead import Ahead
from pacsnode.archive.derived import Derived, FramesRow
from pacsnode.archive.files import Layout
from pacsnode.archive.frame_index import PixelData, index_frames, read_frame
from pacsnode.archive.locate import Located
from pacsnode.archive.object_file import ObjectFile, Readable
from pacsnode.archive.outgoing import open_object
from pacsnode.archive.readers import Readers
from pacsnode.dicom.sop_class import DEFLATED, EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

log = structlog.get_logger()

OBJECTS_REMEMBERED: Final = 500
FRAMES_REMEMBERED: Final = 2_000_000  # positions, 16 MB
OVERLAP: Final = 4096  # instances; numbers are given at the first byte, and commits are in another order
READS_AT_ONCE: Final = 64  # of a file, between two looks at whether somebody is waiting
AT_ONCE: Final = 100  # instances looked up at once
PAUSE: Final = 0.01  # seconds

_NATIVE: Final = frozenset({EXPLICIT_VR_LE, IMPLICIT_VR_LE, DEFLATED, EXPLICIT_VR_BE})
_ARRIVED: Final = """
    SELECT sop_class_uid, sop_instance_uid, transfer_syntax, path, size, id FROM instance
    WHERE id > ? AND id <= ? AND CAST(number_of_frames AS INTEGER) > 1 ORDER BY id LIMIT ?
"""

_Result = TypeVar("_Result")


class Frames:
    """Finds frames, and remembers where they are. Used in worker threads, several at a time."""

    def __init__(self, derived: Derived) -> None:
        self._derived = derived
        self._remembered: OrderedDict[int, PixelData | None] = OrderedDict()
        self._lock = Lock()

    def of(self, file: Readable) -> PixelData | None:
        """As index_frames()."""
        token = file.located.token
        with self._lock:
            if token in self._remembered:
                self._remembered.move_to_end(token)
                return self._remembered[token]
        pixels = self._kept(file.located) or self.find(file)
        self._remember(token, pixels)
        return pixels

    def remembered(self, token: int) -> PixelData | None:
        """What of() gives, where that is known without a look at the file or the disk; else None."""
        return self._remembered.get(token)

    def read(self, file: Readable, number: int) -> memoryview | bytes:
        """One frame of an object that has it; see read_frame()."""
        pixels = self.of(file)
        assert pixels is not None
        try:
            return read_frame(file, pixels, number)
        except CannotUnderstand:
            if pixels.starts is None:
                raise
        pixels = self.find(file, trust_tables=False)
        assert pixels is not None
        self._remember(file.located.token, pixels)
        if number > pixels.frames:
            raise CannotUnderstand(f"there is no frame {number}")
        return read_frame(file, pixels, number)

    def find(self, file: Readable, *, trust_tables: bool = True) -> PixelData | None:
        """Look into the file, and keep what took long. Raises as index_frames()."""
        pixels = index_frames(file, trust_tables=trust_tables)
        if pixels is not None and pixels.starts is not None and pixels.frames > 1:
            located = file.located
            try:
                self._derived.keep_frames(located.token, located.sop_instance, located.size, _row_of(pixels))
            except sqlite3.Error as error:  # a full disk, for one
                log.warning("frames.not_kept", reason=str(error))
        return pixels

    def is_kept(self, located: Located) -> bool:
        return self._kept(located) is not None

    def _kept(self, located: Located) -> PixelData | None:
        try:
            row = self._derived.frames(located.token, located.sop_instance, located.size)
        except sqlite3.Error as error:  # what it holds can be found again
            log.warning("frames.not_kept", reason=str(error))
            return None
        return None if row is None else _pixels_of(row)

    def _remember(self, token: int, pixels: PixelData | None) -> None:
        with self._lock:
            self._remembered[token] = pixels
            held = sum(len(one.starts or ()) for one in self._remembered.values() if one)
            while len(self._remembered) > OBJECTS_REMEMBERED or held > FRAMES_REMEMBERED:
                _, oldest = self._remembered.popitem(last=False)
                held -= len(oldest.starts or ()) if oldest else 0


def _row_of(pixels: PixelData) -> FramesRow:
    assert pixels.starts is not None
    attributes = {f"{tag:08X}": value.hex() for tag, value in pixels.attributes.items()}
    lengths = None if pixels.lengths is None else pixels.lengths.tobytes()
    return FramesRow(pixels.tag, pixels.bits, pixels.starts.tobytes(), lengths, json.dumps(attributes))


def _pixels_of(row: FramesRow) -> PixelData:
    starts = array("Q", row.starts)
    lengths = None if row.lengths is None else array("Q", row.lengths)
    attributes = {int(tag, 16): bytes.fromhex(value) for tag, value in json.loads(row.attributes).items()}
    return PixelData(
        row.tag, len(starts) - 1, row.bits, None, starts=starts, lengths=lengths, attributes=attributes
    )


class FramesAhead:
    """Finds the frames of what has arrived, before they are asked for."""

    def __init__(
        self, layout: Layout, readers: Readers, derived: Derived, frames: Frames, ahead: Ahead
    ) -> None:
        self._layout = layout
        self._readers = readers
        self._derived = derived
        self._frames = frames
        self._ahead = ahead
        self._thread = ThreadPoolExecutor(1, "frames")  # apart: a walk through a file may take minutes

    def close(self) -> None:
        self._thread.shutdown()

    async def make(self) -> None:
        """Look through the multi-frame objects up to the newest. Raises sqlite3.Error, OutOfResources."""
        newest = await self._readers.newest()
        seen = await self._in_thread(lambda: self._derived.frames_seen)
        if seen == newest:
            return
        position = max(seen - OVERLAP, 0)
        while rows := await self._readers.fetch(_ARRIVED, (position, newest, AT_ONCE)):
            for row in rows:
                located = _located(row)
                position = located.token
                if located.transfer_syntax not in _NATIVE:
                    await self._in_thread(partial(self._look, located))
                    await self._ahead.rest(PAUSE)
        await self._in_thread(partial(self._derived.have_seen_frames, newest))

    async def _in_thread(self, job: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    def _look(self, located: Located) -> None:
        if self._frames.is_kept(located):
            return
        try:
            descriptor = open_object(self._layout, located)
            try:
                size = os.fstat(descriptor).st_size
                self._frames.find(_Yielding(ObjectFile(located, descriptor, size), self._ahead))
            finally:
                os.close(descriptor)
        except InterruptedError:  # the node stops; it will be looked at after its next start
            pass
        except (OSError, CannotUnderstand) as error:
            log.info("frames.not_found", sop_instance=located.sop_instance, reason=str(error))


def _located(row: Sequence[Any]) -> Located:
    sop_class, sop_instance, transfer_syntax, path, size, token = row
    return Located(UID(sop_class), UID(sop_instance), UID(transfer_syntax), path, size, token)


@dataclass(slots=True)
class _Yielding:
    """A file that is read while nobody else needs the disk."""

    file: ObjectFile
    ahead: Ahead
    reads: int = 0

    @property
    def located(self) -> Located:
        return self.file.located

    @property
    def size(self) -> int:
        return self.file.size

    def data_offset(self) -> int:
        return self.file.data_offset()

    def read(self, position: int, length: int) -> bytes:
        self.reads += 1
        if self.reads % READS_AT_ONCE == 0:
            self.ahead.rest_in_thread(PAUSE)
        if self.ahead.is_closing:
            raise InterruptedError
        return self.file.read(position, length)
