"""A pool of connections that only read the index.

Each is an aiosqlite connection with a thread of its own; in WAL mode a reader sees the state of the last
commit before its statement began and never waits for the writer.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import aiosqlite

from pacsnode.errors import ArchiveError, OutOfResources

SPARE: Final = 28  # connections beyond the pool's size: a peer that reads its answers slowly keeps one busy
WAIT: Final = 10.0  # seconds for a connection to become free
# Seconds before one beyond the pool's size is taken. Short statements in many threads at once wait for the
# interpreter's lock most of the time: 8 clients by key got 620 to 710 answers/s, in turns 760 to 810.
PATIENCE: Final = 0.02
CACHE: Final = 16 * 2**20  # bytes of pages per connection; the by-key indexes of 100,000 studies fit
MMAP: Final = 1 << 30  # bytes of the index mapped instead of read
BUSY_TIMEOUT: Final = 5.0  # seconds; a reader only ever waits for a checkpoint that restarts the log

Parameters = Mapping[str, object]
_Result = TypeVar("_Result")
Step = Callable[[sqlite3.Cursor], _Result]


class Reader(aiosqlite.Connection):
    """A connection whose thread does more at one go than aiosqlite's would.

    A hop to it and back costs more than the rows of a query by key; what is made of rows is made there too.
    """

    async def begin(
        self, sql: str, parameters: Parameters, step: Step[_Result], *, in_transaction: bool = False
    ) -> tuple[sqlite3.Cursor, _Result]:
        """The cursor of a statement, and what the first step makes of it.

        `in_transaction`: whatever else the steps read is of the same commit, until end().
        """

        def begin() -> tuple[sqlite3.Cursor, _Result]:
            if in_transaction:
                self._conn.execute("BEGIN")
            try:
                cursor = self._conn.execute(sql, parameters)
                return cursor, step(cursor)
            except BaseException:
                self._conn.rollback()
                raise

        return cast("tuple[sqlite3.Cursor, _Result]", await self._execute(begin))  # type: ignore[no-untyped-call]

    async def go_on(self, cursor: sqlite3.Cursor, step: Step[_Result]) -> _Result:
        """What the next step makes of a cursor."""
        return cast(_Result, await self._execute(step, cursor))  # type: ignore[no-untyped-call]


def end(cursor: sqlite3.Cursor) -> None:
    """End a statement that was begun, and its transaction; harmless when that was done."""
    cursor.close()
    cursor.connection.rollback()


class Readers:
    """Hands out connections; keeps `size` of them open, opens some more when all are busy for long."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._idle: list[Reader] = []
        self._slots = asyncio.Semaphore(size + SPARE)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._stopping: set[asyncio.Future[object]] = set()
        self._closed = False
        self._taken_at: dict[Reader, float] = {}  # those in use, on the monotonic clock

    async def open(self) -> None:
        """Open the first connection. Raises ArchiveError when the index cannot be read."""
        if not self._path.is_file():
            raise ArchiveError(f"{self._path.name}: there is no such index")
        try:
            self._idle.append(await self._connect())
        except sqlite3.Error as error:
            raise ArchiveError(f"{self._path.name}: {error}") from error

    async def close(self) -> None:
        """Close the idle connections; one in use closes when it comes back."""
        self._closed = True
        while self._idle:
            self._stop(self._idle.pop())
        await asyncio.gather(*self._stopping, return_exceptions=True)

    async def acquire(self) -> Reader:
        """A connection for one statement, to be given back. Raises OutOfResources when none becomes free."""
        await self._take_slot()
        try:
            if self._has_a_crowd():
                await self._wait_for_others()
            connection = self._idle.pop() if self._idle else await self._connect()
        except BaseException:
            self._slots.release()
            raise
        self._taken_at[connection] = time.monotonic()
        return connection

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once: a clock for it would cost more
            return
        try:
            async with asyncio.timeout(WAIT):
                await self._slots.acquire()
        except TimeoutError:
            raise OutOfResources("too many queries at once") from None

    def release(self, connection: Reader, *, usable: bool = True) -> None:
        """Take a connection back; its statement has ended, or it is not to be used again."""
        if self._closed or not usable or len(self._idle) >= self._size:
            self._stop(connection)
        else:
            self._idle.append(connection)
        self._slots.release()
        self._taken_at.pop(connection, None)
        while self._waiting and not _wake(self._waiting.popleft()):
            pass

    @property
    def in_use(self) -> int:
        return len(self._taken_at)

    def _has_a_crowd(self) -> bool:
        """Whether many have begun just now; who has had one for long waits for a peer, and will go on to."""
        if self.in_use < self._size:
            return False
        lately = time.monotonic() - PATIENCE
        return sum(taken > lately for taken in self._taken_at.values()) >= self._size

    async def _wait_for_others(self) -> None:
        """Until one has given its connection back, or nobody has for a while."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(PATIENCE, _wake, turn)
        try:
            await turn
        finally:
            timer.cancel()
            if turn in self._waiting:
                self._waiting.remove(turn)

    async def fetch(self, sql: str, parameters: Sequence[str | int] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement. Raises OutOfResources."""
        connection = await self.acquire()
        usable = False
        try:
            rows = await connection.execute_fetchall(sql, parameters)
            usable = True
            return cast("list[tuple[Any, ...]]", rows)
        except sqlite3.Error as error:
            raise OutOfResources(f"the index cannot be read: {error}") from error
        finally:
            self.release(connection, usable=usable)

    async def newest(self) -> int:
        """The number of the instance that was indexed last, 0 for none. Raises OutOfResources."""
        return int((await self.fetch("SELECT coalesce(max(id), 0) FROM instance"))[0][0])

    def _stop(self, connection: Reader) -> None:
        """Close a connection when its thread gets to it; close() waits for that, nobody else."""
        stopped = connection.stop()
        if stopped is not None:
            self._stopping.add(stopped)
            stopped.add_done_callback(self._stopping.discard)

    async def _connect(self) -> Reader:
        connect = partial(
            sqlite3.connect,
            f"file:{_quoted(self._path)}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=BUSY_TIMEOUT,
            cached_statements=256,
        )
        connection = Reader(connect, 0)
        await connection
        try:
            for pragma in (f"cache_size = -{CACHE // 1024}", f"mmap_size = {MMAP}", "query_only = 1"):
                await connection.execute_fetchall(f"PRAGMA {pragma}")
        except BaseException:
            connection.stop()  # its thread would keep the process alive
            raise
        return connection


def _wake(turn: asyncio.Future[None]) -> bool:
    """Whether it was still waiting."""
    if turn.done():
        return False
    turn.set_result(None)
    return True


def _quoted(path: Path) -> str:
    """A path inside a SQLite URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
