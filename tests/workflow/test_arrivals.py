"""Arrivals: each acted on once, series and studies when they are quiet, whatever restarts or is lost."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from pacsnode.archive.archive import Archive, ArchiveOptions
from pacsnode.archive.changes import Arrived, Grown
from pacsnode.config import Workflow as WorkflowSettings
from pacsnode.dicom.uid import UID
from pacsnode.workflow import arrivals as module
from pacsnode.workflow.arrivals import Arrivals
from pacsnode.workflow.database import FILE_NAME, Database, Transaction
from tests.archive.conftest import store
from tests.support.objects import made
from tests.support.waiting import PATIENCE, eventually, running

SETTINGS = WorkflowSettings(series_complete_after=0.2, study_stable_after=0.5)


class Consumers:
    """Remembers what it was told, in memory and in the database: the two may differ after a failure."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.stored: list[str] = []
        self.events: list[tuple[str, ...]] = []
        self.fails_with: list[Exception] = []
        arrivals.on_stored(self.take)
        arrivals.on_series_complete(self.series)
        arrivals.on_study_stable(self.study)

    async def take(self, transaction: Transaction, arrived: Sequence[Arrived]) -> None:
        await transaction.execute_many(
            "INSERT INTO taken (sop) VALUES (?)", [(one.sop_instance,) for one in arrived]
        )
        if self.fails_with:
            raise self.fails_with.pop()
        self.stored += [one.sop_instance for one in arrived]

    async def series(self, transaction: Transaction, study: UID, series: UID) -> None:
        self.events.append((study, series))

    async def study(self, transaction: Transaction, study: UID) -> None:
        self.events.append((study,))


@pytest.fixture(autouse=True)
def at_a_quick_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACE", 0.02)


@asynccontextmanager
async def quiet_scene(
    root: Path, settings: WorkflowSettings = SETTINGS
) -> AsyncIterator[tuple[Archive, Consumers, Database, Arrivals]]:
    """An archive and consumers of its arrivals, which nobody reads yet."""
    archive = await Archive.open(root, ArchiveOptions(reserve=0, workers=1, readers=2))
    database = await Database.open(root)
    async with database.transaction() as transaction:
        await transaction.execute("CREATE TABLE IF NOT EXISTS taken (sop TEXT)")
    arrivals = Arrivals(database, archive, settings)
    consumers = Consumers(arrivals)
    try:
        yield archive, consumers, database, arrivals
    finally:
        await database.close()
        await archive.close()


@asynccontextmanager
async def scene(
    root: Path, settings: WorkflowSettings = SETTINGS
) -> AsyncIterator[tuple[Archive, Consumers, Database]]:
    """The same, running."""
    async with (
        quiet_scene(root, settings) as (archive, consumers, database, arrivals),
        running(arrivals.run()),
    ):
        yield archive, consumers, database


async def taken(database: Database) -> list[str]:
    return [row["sop"] for row in await database.fetch("SELECT sop FROM taken ORDER BY rowid")]


async def test_each_object_is_told_once_across_restarts(root: Path) -> None:
    items = [made(number) for number in range(1, 7)]
    for life in range(3):
        async with scene(root) as (archive, consumers, database):
            batch = items[2 * life : 2 * life + 2]
            for item in batch:
                await store(archive, item)
            wanted = [item.sop for item in batch]
            await eventually(lambda c=consumers, w=wanted: c.stored == w, "they are told")  # type: ignore[misc]
            assert await taken(database) == [item.sop for item in items[: 2 * life + 2]]


async def test_what_came_while_nobody_listened_is_told_at_the_start(root: Path) -> None:
    archive = await Archive.open(root, ArchiveOptions(reserve=0, workers=1, readers=2))
    await store(archive, made(1))
    await archive.close()
    async with scene(root) as (_, consumers, _):
        await eventually(lambda: consumers.stored == [made(1).sop], "it is told")


async def test_quiet_series_and_studies_are_told_once_and_again_after_more(root: Path) -> None:
    one, two = made(1, series=1), made(1, series=2)
    async with scene(root) as (archive, consumers, _):
        await store(archive, one)
        await store(archive, two)
        first = [(one.study, one.series), (two.study, two.series), (one.study,)]
        await eventually(lambda: len(consumers.events) >= 3, "all are told")
        assert sorted(consumers.events[:2]) == sorted(first[:2])
        assert consumers.events[2:] == first[2:]
        await store(archive, made(2, series=2))
        await eventually(lambda: len(consumers.events) >= 5, "those with more are told again")
        assert consumers.events[3:] == [(two.study, two.series), (two.study,)]


async def test_a_series_that_was_coming_is_complete_after_a_restart(root: Path) -> None:
    slow = WorkflowSettings(series_complete_after=60, study_stable_after=60)
    async with scene(root, slow) as (archive, consumers, _):
        await store(archive, made(1))
        await eventually(lambda: consumers.stored, "it is told")
    async with scene(root) as (_, consumers, _):
        await eventually(lambda: len(consumers.events) == 2, "series and study are told")
    async with scene(root) as (archive, consumers, _):
        await store(archive, made(2))
        await eventually(lambda: len(consumers.events) == 2, "once more for the new object only")


async def test_a_consumer_that_fails_leaves_no_trace_and_stops_nothing(root: Path) -> None:
    async with scene(root) as (archive, consumers, database):
        consumers.fails_with = [ZeroDivisionError("a bug")]
        await store(archive, made(1))
        await eventually(lambda: not consumers.fails_with, "it has failed")
        await store(archive, made(2))
        await eventually(lambda: consumers.stored, "the next is told")
        assert consumers.stored == await taken(database) == [made(2).sop]


async def test_arrivals_are_told_again_when_the_database_failed(root: Path) -> None:
    async with quiet_scene(root) as (archive, consumers, database, arrivals):
        consumers.fails_with = [sqlite3.OperationalError("database or disk is full")]
        await store(archive, made(1))
        with pytest.raises(sqlite3.OperationalError):  # it ends by itself: cancelled, it would raise nothing
            await asyncio.wait_for(arrivals.run(), PATIENCE)
        assert not await taken(database)
    async with scene(root) as (_, consumers, database):
        await eventually(lambda: consumers.stored == [made(1).sop], "it is told again")
        assert await taken(database) == [made(1).sop]


def acted_on(root: Path) -> int:
    """How many arrivals are kept as acted on, in a transaction that has ended."""
    with closing(sqlite3.connect(root / FILE_NAME)) as database:
        return int(database.execute("SELECT count(*) FROM acted_on").fetchone()[0])


async def test_commits_a_power_cut_took_back_are_not_acted_on_again(root: Path) -> None:
    """The index goes back by its last commit; the object comes again under its token, and one after it."""
    async with scene(root) as (archive, consumers, _):
        await store(archive, made(1))
        await eventually(lambda: len(consumers.stored) == 1, "it is told")
        await store(archive, made(2))
        await eventually(lambda: len(consumers.stored) == 2, "it is told")
        await eventually(lambda: acted_on(root) == 2, "and that is kept")
    with closing(sqlite3.connect(root / "index.sqlite")) as index, index:
        index.execute("DELETE FROM change WHERE sequence > 1")
        (token,) = index.execute("SELECT id FROM instance ORDER BY id DESC LIMIT 1").fetchone()
    archive = await Archive.open(root, ArchiveOptions(reserve=0, workers=1, readers=2))
    await archive.close()
    async with scene(root) as (archive, consumers, _):
        with closing(sqlite3.connect(root / "index.sqlite")) as index, index:  # as the adoption does
            index.execute("INSERT INTO change (instances) VALUES (?)", (str(token),))
        await store(archive, made(3))
        await eventually(lambda: consumers.stored, "the new one is told")
        assert consumers.stored == [made(3).sop]


async def test_the_cursor_moves_and_the_index_forgets_without_consumers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_PACE", 0.02)
    monkeypatch.setattr(module, "FORGET_AFTER", 2)
    archive = await Archive.open(root, ArchiveOptions(reserve=0, workers=1, readers=2))
    database = await Database.open(root)

    def noted() -> int:
        with closing(sqlite3.connect(root / "index.sqlite")) as index:
            return int(index.execute("SELECT count(*) FROM change").fetchone()[0])

    try:
        async with running(Arrivals(database, archive, SETTINGS).run()):
            for number in range(1, 6):
                await store(archive, made(number))
            await eventually(lambda: noted() < 2, "the index has forgotten")
    finally:
        await database.close()
        await archive.close()


async def test_who_asks_for_series_only_is_told_of_series_only(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SERIES_PACE", 0.02)
    archive = await Archive.open(root, ArchiveOptions(reserve=0, workers=1, readers=2))
    database = await Database.open(root)
    grown: list[Grown] = []
    stable: list[str] = []

    async def grow(_: Transaction, series: Sequence[Grown]) -> None:
        grown.extend(series)

    async def settle(_: Transaction, study: UID) -> None:
        stable.append(study)

    arrivals = Arrivals(database, archive, SETTINGS)
    arrivals.on_series_grown(grow)
    arrivals.on_study_stable(settle, once=False)
    items = [*(made(number, series=1) for number in range(1, 5)), made(1, series=2)]
    try:
        for item in items:
            await store(archive, item)
        async with running(arrivals.run()):
            await eventually(lambda: grown, "it is told")
            assert sorted(one.series for one in grown) == sorted({item.series for item in items})
            assert {(one.study, one.modality) for one in grown} == {(items[0].study, "CT")}
            await eventually(lambda: stable == [items[0].study], "and when it is quiet")
            await store(archive, made(9, series=2))
            await eventually(lambda: len(grown) == 3, "of more")
            assert grown[2].series == items[-1].series
            assert not await database.fetch("SELECT * FROM acted_on"), "no object is looked at"
    finally:
        await database.close()
        await archive.close()
