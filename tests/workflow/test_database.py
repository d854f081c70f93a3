"""workflow.sqlite: migrations, transactions, what other processes write."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pacsnode.archive.migrations import engine_for
from pacsnode.archive.schema import revision_of
from pacsnode.errors import ArchiveError
from pacsnode.workflow import migrations
from pacsnode.workflow.database import FILE_NAME, Database
from pacsnode.workflow.schema import REVISION, metadata


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path)
    async with opened.transaction() as transaction:
        await transaction.execute("CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT)")
    yield opened
    await opened.close()


async def test_migrations_make_the_tables_the_code_describes(tmp_path: Path) -> None:
    await (await Database.open(tmp_path)).close()
    engine = engine_for(tmp_path / FILE_NAME)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_revision_is_the_newest_migration(tmp_path: Path) -> None:
    await (await Database.open(tmp_path)).close()
    versions = Path(migrations.__file__).parent / "versions"
    assert max(path.stem for path in versions.glob("v*.py"))[1:5] == REVISION
    assert revision_of(tmp_path / FILE_NAME) == REVISION


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all, but long enough to look at" * 100)
    with pytest.raises(ArchiveError, match=FILE_NAME):
        await Database.open(tmp_path)


async def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as transaction:
            await transaction.insert("INSERT INTO thing (name) VALUES (?)", ("lost",))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await database.fetch("SELECT * FROM thing") == []


async def test_transactions_wait_for_each_other(database: Database) -> None:
    async def count_up() -> None:
        async with database.transaction() as transaction:
            (row,) = await transaction.fetch("SELECT count(*) AS n FROM thing")
            await asyncio.sleep(0)
            await transaction.insert("INSERT INTO thing (name) VALUES (?)", (str(row["n"]),))

    await asyncio.gather(*(count_up() for _ in range(10)))
    rows = await database.fetch("SELECT name FROM thing ORDER BY id")
    assert [row["name"] for row in rows] == [str(number) for number in range(10)]


async def test_what_another_process_writes_is_seen(database: Database, tmp_path: Path) -> None:
    before = await database.version()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other, other:
        other.execute("INSERT INTO thing (name) VALUES ('theirs')")
    assert [row["name"] for row in await database.fetch("SELECT name FROM thing")] == ["theirs"]
    assert await database.version() != before


async def test_what_would_wait_for_its_own_transaction_fails_at_once(database: Database) -> None:
    async def nested() -> None:
        async with database.transaction():
            pass

    async with database.transaction() as transaction:
        await transaction.execute("INSERT INTO thing (name) VALUES ('here')")
        for wrong in (database.fetch("SELECT 1"), nested()):
            with pytest.raises(RuntimeError, match="inside a transaction"):
                await wrong
        other = asyncio.create_task(database.fetch("SELECT name FROM thing"))  # may wait: it is no part of it
        await asyncio.sleep(0)
    assert [row["name"] for row in await other] == ["here"]
