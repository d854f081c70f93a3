"""Data sets of stored objects on their way out: read ahead, never parsed (PS3.10 7.1).

Objects are given out in order. While one is being sent, a worker thread reads those after it: as many small
ones in one hop as make a batch, of a large one a piece at a time. Two batches are in memory at most, whatever
the number and size of the objects.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from pacsnode.archive.files import Layout
from pacsnode.archive.locate import Located
from pacsnode.archive.object_file import ObjectFile
from pacsnode.archive.workers import Workers
from pacsnode.dicom.part10 import data_offset_of
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES, EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

BATCH: Final = 2**19  # bytes read in one hop: a CT slice, 56 of 9 KB. With more the heap is trimmed each time
BATCH_OBJECTS: Final = 64  # a cancelled retrieval shall not have waited for more files than this
PIECE: Final = 2**20  # bytes of a large object read in one hop
LARGE: Final = 4 * PIECE  # bytes; from here on an object is read in pieces
_TO_READ: Final = os.O_RDONLY | os.O_CLOEXEC
HEAD: Final = 64 * 1024  # bytes that hold any File Meta Information of ours

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Outgoing:
    """An object and its data set: whole, or of a large object in pieces. None: it cannot be read."""

    located: Located
    data: memoryview | AsyncGenerator[memoryview, None] | None
    failure: str = ""


class ReadAhead:
    """Gives out `objects` in order; several tasks may ask."""

    def __init__(
        self, workers: Workers, layout: Layout, objects: Sequence[Located], *, whole_files: bool = False
    ) -> None:
        """`whole_files`: with their File Meta Information."""
        self._workers = workers
        self._whole_files = whole_files
        self._layout = layout
        self._waiting = deque(objects)
        self._ready: deque[Outgoing] = deque()
        self._ahead: _Ahead | None = None

    async def next(self) -> Outgoing | None:
        """The next object, None after the last."""
        while (outgoing := self.at_hand()) is None:
            ahead = self._ahead or self._read_on()
            if ahead is None:
                return None
            await ahead.read()
        return outgoing

    def at_hand(self) -> Outgoing | None:
        """The next object, if it has been read."""
        if not self._ready and (ahead := self._ahead) is not None and ahead.is_read:
            self._read_on()
            self._ready.extend(ahead.batch())
        return self._ready.popleft() if self._ready else None

    def _read_on(self) -> "_Ahead | None":
        """Have the next batch read; None when all have been."""
        batch: list[Located] = []
        size = 0
        while self._waiting and size < BATCH and len(batch) < BATCH_OBJECTS:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        self._ahead = _Ahead(self._workers, lambda: [self._read(one) for one in batch]) if batch else None
        return self._ahead

    def _read(self, located: Located) -> Outgoing:
        """In a worker thread: the file, or its head when it is large."""
        large = located.size >= LARGE
        try:
            descriptor = open_object(self._layout, located)
            try:
                # One byte more than there should be, so that a file that has grown is noticed.
                start = os.read(descriptor, HEAD if large else located.size + 1)
                size = os.fstat(descriptor).st_size if large else len(start)
            finally:
                os.close(descriptor)
            if size != located.size:
                return Outgoing(located, None, "its file has another size than the index says")
            offset = 0 if self._whole_files else data_offset_of(start)
        except OSError as error:
            return Outgoing(located, None, f"its file cannot be read: {error.strerror}")
        except CannotUnderstand as error:
            return Outgoing(located, None, str(error))
        # A file is sent as long as it is, a data set with an even length
        transfer_syntax = EXPLICIT_VR_LE if self._whole_files else located.transfer_syntax
        if not large:
            return Outgoing(located, _even(transfer_syntax, memoryview(start)[offset:]))
        pieces = Pieces(self._workers, transfer_syntax, offset, size)
        return Outgoing(located, pieces.read(lambda: open_object(self._layout, located)))


class _Ahead:
    """A batch being read in a worker thread, which wakes the event loop only if somebody waits."""

    def __init__(self, workers: Workers, job: Callable[[], list[Outgoing]]) -> None:
        self.is_read = False
        self._loop = asyncio.get_running_loop()
        self._job = job
        self._batch: list[Outgoing] = []
        self._error: Exception | None = None
        self._waited_for: asyncio.Future[None] | None = None
        workers.submit(self._run)

    async def read(self) -> None:
        """Wait until it has been."""
        if self._waited_for is None:
            self._waited_for = self._loop.create_future()
        if not self.is_read:  # looked at behind what the thread looks at last, so that neither is missed
            await asyncio.shield(self._waited_for)

    def batch(self) -> list[Outgoing]:
        """What has been read. Raises what reading raised that is not the objects' fault."""
        if self._error is not None:
            raise self._error
        return self._batch

    def _run(self) -> None:
        try:
            self._batch = self._job()
        except Exception as error:
            self._error = error
        self.is_read = True
        if self._waited_for is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._waited_for is not None and not self._waited_for.done():
            self._waited_for.set_result(None)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A large data set: the bytes of a file from `start` to `end`."""

    workers: Workers
    transfer_syntax: UID
    start: int
    end: int

    async def read(self, open_file: Callable[[], int]) -> AsyncGenerator[memoryview, None]:
        """Give the pieces out, the next one being read while the last one is sent. Raises OSError."""
        opening = _in_thread(self.workers, open_file)
        try:
            descriptor = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)  # whoever asked has gone, the thread has not
            raise
        positions = range(self.start, self.end, PIECE)

        def read(position: int) -> bytes:
            return os.pread(descriptor, min(PIECE, self.end - position), position)

        ahead = _in_thread(self.workers, partial(read, self.start))
        try:
            for position in positions[1:]:
                piece = await ahead
                ahead = _in_thread(self.workers, partial(read, position))
                yield memoryview(piece)
            yield _even(self.transfer_syntax, memoryview(await ahead))
        finally:
            await asyncio.wait({ahead})  # even if sending broke off: the descriptor is in use
            os.close(descriptor)


def _close_opened(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


async def missing(workers: Workers, layout: Layout, objects: Sequence[Located]) -> set[int]:
    """The tokens of the objects whose file is not there, or not as long as the index says."""

    def look() -> set[int]:
        return {located.token for located in objects if _size(layout, located) != located.size}

    return await _in_thread(workers, look)


def _size(layout: Layout, located: Located) -> int | None:
    for path in paths_of(layout, located):
        with suppress(OSError):
            return os.stat(path).st_size
    return None


async def in_file(
    workers: Workers, layout: Layout, located: Located, job: Callable[[ObjectFile], _Result]
) -> _Result:
    """What `job` makes of the open file of an instance, in one hop. Raises OSError and what `job` raises."""

    def run() -> _Result:
        descriptor = open_object(layout, located)
        try:
            return job(ObjectFile(located, descriptor, os.fstat(descriptor).st_size))
        finally:
            os.close(descriptor)

    return await _in_thread(workers, run)


def open_object(layout: Layout, located: Located) -> int:
    """A descriptor of the file of an instance. Raises OSError."""
    try:
        return os.open(layout.absolute(located.path), _TO_READ)
    except FileNotFoundError:
        return _found(layout, located)[0]


async def file_of(workers: Workers, layout: Layout, located: Located) -> tuple[Path, int]:
    """Where the file of an instance is, and where in it the data set begins.

    Raises OSError and CannotUnderstand.
    """

    def look() -> tuple[Path, bytes]:
        descriptor, path = _found(layout, located)
        try:
            return path, os.read(descriptor, HEAD)
        finally:
            os.close(descriptor)

    path, start = await _in_thread(workers, look)
    return path, data_offset_of(start)


def _found(layout: Layout, located: Located) -> tuple[int, Path]:
    """Open the file of an instance wherever it is. Raises OSError."""
    *places, last = map(Path, paths_of(layout, located))
    for path in places:
        with suppress(FileNotFoundError):
            return _opened(path)
    return _opened(last)


def paths_of(layout: Layout, located: Located) -> tuple[str, ...]:
    """Where to look for the file of an instance, in this order.

    Between the commit of its row and its move it lies in incoming/; it may move while it is looked for.
    """
    path = layout.absolute(located.path)
    return path, layout.absolute(layout.incoming_path(located.token, located.size)), path


def _opened(path: Path) -> tuple[int, Path]:
    return os.open(path, _TO_READ), path


def _even(transfer_syntax: UID, data: memoryview) -> memoryview:
    """The end of a data set. A deflate stream may come with an odd length; PS3.5 A.5 has it padded."""
    if len(data) & 1 and transfer_syntax in DEFLATED_TRANSFER_SYNTAXES:
        return memoryview(bytes(data) + b"\0")
    return data


def _in_thread(workers: Workers, job: Callable[[], _Result]) -> "asyncio.Future[_Result]":
    """The result of a job, or the error it raises."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def run() -> None:
        try:
            result = job()
        except Exception as error:
            loop.call_soon_threadsafe(_fail, future, error)
        else:
            loop.call_soon_threadsafe(_resolve, future, result)

    workers.submit(run)
    return future


def _resolve(future: "asyncio.Future[_Result]", result: _Result) -> None:
    if not future.cancelled():  # else nobody waits any more
        future.set_result(result)


def _fail(future: "asyncio.Future[_Result]", error: Exception) -> None:
    if not future.cancelled():
        future.set_exception(error)
