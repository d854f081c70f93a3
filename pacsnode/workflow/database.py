"""workflow.sqlite: opened, brought up to date, written in transactions, read.

One aiosqlite connection, so what this process writes is in order; commands of other processes (`pacsnode
worklist add` beside a running node) write to the same file. A transaction that has ended is on the disk.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import aiosqlite

from pacsnode.archive.schema import revision_of
from pacsnode.errors import ArchiveError, OutOfResources
from pacsnode.workflow import migrations
from pacsnode.workflow.schema import REVISION

FILE_NAME: Final = "workflow.sqlite"
# What may go well another time; all else is a bug, or a file that is damaged.
_WANT: Final = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    }
)
BUSY_TIMEOUT: Final = 10.0  # seconds; another process holds the file for one transaction at a time

Value = str | int | float | bytes | None
Parameters = Sequence[Value] | Mapping[str, Value]
Row = sqlite3.Row


class Transaction:
    """Statements that become durable together, or not at all."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self.committed: list[Callable[[], None]] = []
        """Called once all this is durable, never when it is rolled back."""

    async def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement; returns the number of rows it changed."""
        return (await self._connection.execute(sql, parameters)).rowcount

    async def execute_many(self, sql: str, rows: Iterable[Parameters]) -> int:
        """Run one statement for each row of parameters; returns the number of rows all changed."""
        return (await self._connection.executemany(sql, rows)).rowcount

    async def insert(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one INSERT; returns the number of the new row."""
        number = (await self._connection.execute(sql, parameters)).lastrowid
        assert number is not None
        return number

    async def fetch(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        return list(await self._connection.execute_fetchall(sql, parameters))


class Database:
    """The open file. Build it with open()."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._writing: asyncio.Task[object] | None = None  # the task whose transaction is open

    @classmethod
    async def open(cls, root: Path) -> Self:
        """Make or migrate the file in a data root, and open it. Raises ArchiveError."""
        path = root / FILE_NAME
        try:
            await asyncio.to_thread(_migrate, path)
            connection = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT)
            connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                await connection.execute_fetchall(f"PRAGMA {pragma}")
        except sqlite3.Error as error:
            raise ArchiveError(f"{path.name}: {error}") from error
        return cls(connection)

    async def close(self) -> None:
        async with self._turn:
            await self._connection.close()

    @asynccontextmanager
    async def transaction(self, *, synced: bool = True) -> AsyncIterator[Transaction]:
        """One transaction at a time; committed at the end of the block, rolled back when it raises.

        Raises OutOfResources when the disk is full or the file cannot be written for another reason.
        `synced=False`: it outlives the process, but a power cut may take it back.
        """
        self._refuse_within_a_transaction()
        async with self._turn:
            transaction = Transaction(self._connection)
            self._writing = asyncio.current_task()
            try:
                if not synced:
                    await self._connection.execute("PRAGMA synchronous = NORMAL")
                await self._connection.execute("BEGIN IMMEDIATE")
                yield transaction
                await self._connection.execute("COMMIT")
            except BaseException as error:
                await asyncio.shield(self._roll_back())
                if _is_want(error):
                    raise OutOfResources(f"{FILE_NAME}: {error}") from error
                raise
            finally:
                self._writing = None
                if not synced:
                    await asyncio.shield(self._sync_again())
        for callback in transaction.committed:
            callback()

    async def fetch(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Rows of the last committed state, changes of other processes included.

        Inside a transaction it is Transaction.fetch that is meant: this one would wait for its end.
        Raises OutOfResources when the file cannot be read.
        """
        self._refuse_within_a_transaction()
        async with self._turn:
            try:
                return list(await self._connection.execute_fetchall(sql, parameters))
            except sqlite3.OperationalError as error:
                if _is_want(error):
                    raise OutOfResources(f"{FILE_NAME}: {error}") from error
                raise

    async def version(self) -> int:
        """A number that differs when another process has changed the file since it was last asked for."""
        return int((await self.fetch("PRAGMA data_version"))[0][0])

    def _refuse_within_a_transaction(self) -> None:
        """Raise RuntimeError where waiting would be for ever."""
        if self._writing is not None and self._writing is asyncio.current_task():
            raise RuntimeError("inside a transaction, its own methods are to be used")

    async def _sync_again(self) -> None:
        await self._connection.execute("PRAGMA synchronous = FULL")

    async def _roll_back(self) -> None:
        await self._connection.execute_fetchall("SELECT 1")  # behind the statement that was cancelled
        if self._connection.in_transaction:
            await self._connection.execute("ROLLBACK")


def _is_want(error: BaseException) -> bool:
    """Whether a statement failed for want of something, not because it is wrong."""
    code = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.OperationalError) else 0
    return code & 0xFF in _WANT  # the primary code of an extended one


def _migrate(path: Path) -> None:
    if revision_of(path) == REVISION:
        return
    from pacsnode.archive.migrations import upgrade  # Alembic takes 0.3 s to import, and is seldom needed

    upgrade(path, scripts=Path(migrations.__file__).parent)
