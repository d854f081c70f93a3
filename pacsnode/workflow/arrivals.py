"""What arrives in the archive, acted on exactly once: objects, complete series, stable studies.

The one reader of Archive.changes. Consumers write in the transaction that moves the cursor on, so what has
been read and what was done about it agree whatever crashes. Arrivals are taken some hundred at a time, a few
times a second: a C-STORE waits for none of this. Where nobody asks for single objects, the series that have
grown are read once a second instead, a row each: that is the usual node, and objects come by the thousand.

A power cut may take the last commits from the index; the objects are there, and are committed again under
the same tokens. The cursor then goes back with the index, and what was acted on before is left out; those
who are told of series only, and said that this does no harm, are told again.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from pacsnode.archive.archive import Archive
from pacsnode.archive.changes import Arrived, Grown
from pacsnode.config import Workflow as WorkflowSettings
from pacsnode.dicom.uid import UID
from pacsnode.log import get_logger
from pacsnode.workflow.database import Database, Transaction

log = get_logger()

StoredConsumer = Callable[[Transaction, Sequence[Arrived]], Awaitable[None]]
GrowthConsumer = Callable[[Transaction, Sequence[Grown]], Awaitable[None]]
SeriesConsumer = Callable[[Transaction, UID, UID], Awaitable[None]]
StudyConsumer = Callable[[Transaction, UID], Awaitable[None]]

PACE: Final = 0.25  # seconds at least between two rounds of transactions
SERIES_PACE: Final = 1.0  # seconds, while series are read only
IDLE_PACE: Final = 5.0  # seconds, while nobody wants to know
QUIET_AT_ONCE: Final = 200  # series and studies told of in one transaction
FORGET_AFTER: Final = 5000  # commits the index has to note for us
REMEMBERED: Final = 50_000  # tokens; the index makes its commits durable every few seconds

_NOTE = "INSERT OR REPLACE INTO arriving (study, series, last_at) VALUES (?, ?, ?)"
_QUIET = """
    SELECT study, series FROM arriving
    WHERE last_at <= CASE WHEN series = '' THEN ? ELSE ? END
    ORDER BY series = '', last_at LIMIT ?
"""
_NEXT = "SELECT min(last_at + CASE WHEN series = '' THEN ? ELSE ? END) AS due FROM arriving"


class Arrivals:
    """Consumers that register while run() runs hear of what comes from then on."""

    def __init__(self, database: Database, archive: Archive, settings: WorkflowSettings) -> None:
        self._database = database
        self._archive = archive
        self._settings = settings
        self._stored: list[StoredConsumer] = []
        self._growth: list[GrowthConsumer] = []
        self._series: list[SeriesConsumer] = []
        self._study: list[StudyConsumer] = []
        self._exactly_once = False
        self._news = asyncio.Event()
        self._cursor = 0
        self._forgotten = 0
        self._newest_token = 0
        self._acted_on: dict[int, str] = {}  # what comes again after a power cut
        archive.listen(self._news.set)

    def on_stored(self, consumer: StoredConsumer) -> None:
        """Have `consumer` called with instances in the order of their commits."""
        self._stored.append(consumer)
        self._exactly_once = True

    def on_series_grown(self, consumer: GrowthConsumer) -> None:
        """Have `consumer` called with series that got instances; it may hear of the same ones twice."""
        self._growth.append(consumer)

    def on_series_complete(self, consumer: SeriesConsumer) -> None:
        """Have `consumer` called when no object has come to a series for a while; again after later ones."""
        self._series.append(consumer)
        self._exactly_once = True

    def on_study_stable(self, consumer: StudyConsumer, *, once: bool = True) -> None:
        """Have `consumer` called when no object has come to a study for a while; again after later ones.

        `once`: objects that come again after a power cut are no later ones.
        """
        self._study.append(consumer)
        self._exactly_once |= once

    async def run(self) -> None:
        """Act on what arrives until cancelled, beginning with what nobody has acted on yet."""
        await self._begin()
        while True:
            self._news.clear()
            await self._catch_up()
            await self._tell_quiet()
            await self._forget()
            await asyncio.sleep(self._pace)
            await self._pause()

    async def _begin(self) -> None:
        rows = await self._database.fetch("SELECT sequence FROM cursor")
        done = rows[0]["sequence"] if rows else 0
        self._cursor = self._forgotten = min(done, self._archive.changes.at_open)
        if self._cursor < done:
            remembered = await self._database.fetch("SELECT token, sop_instance FROM acted_on")
            self._acted_on = {row["token"]: row["sop_instance"] for row in remembered}
        async with self._database.transaction() as transaction:
            await self._move(transaction, self._cursor)
            # Quiet is what is heard: a modality that found nobody here goes on when the node is up again.
            await transaction.execute("UPDATE arriving SET last_at = ?", (time.time(),))

    @property
    def _pace(self) -> float:
        return PACE if self._exactly_once else SERIES_PACE if self._listens else IDLE_PACE

    @property
    def _listens(self) -> bool:
        return self._exactly_once or bool(self._growth or self._study)

    async def _catch_up(self) -> None:
        """Act on what has arrived by now; what comes meanwhile is for the next round, or none ends."""
        changes = self._archive.changes
        newest = await changes.newest()
        if not self._listens and newest != self._cursor:
            await self._act([], newest)
        while self._cursor < newest:
            if self._exactly_once:
                await self._act(*await changes.after(self._cursor))
            else:
                await self._act_on_series(*await changes.grown_after(self._cursor))

    async def _act(self, arrived: Sequence[Arrived], last: int) -> None:
        """Tell the consumers, and move on, together."""
        new = [one for one in arrived if self._acted_on.get(one.token) != one.sop_instance]
        async with self._database.transaction() as transaction:
            if new:
                for consumer in self._stored:
                    await _tell(transaction, partial(consumer, transaction, new))
                await self._note_tokens(transaction, new)
                await self._note(transaction, {Grown(one.series, one.study, one.modality) for one in new})
            await self._move(transaction, last)
        self._cursor = last

    async def _act_on_series(self, grown: Sequence[Grown], last: int) -> None:
        """Tell of series only. Unsynced: what a power cut takes back is read again."""
        async with self._database.transaction(synced=False) as transaction:
            await self._note(transaction, grown)
            await self._move(transaction, last)
        self._cursor = last

    async def _move(self, transaction: Transaction, cursor: int) -> None:
        await transaction.execute("INSERT OR REPLACE INTO cursor (id, sequence) VALUES (1, ?)", (cursor,))

    async def _note(self, transaction: Transaction, grown: Collection[Grown]) -> None:
        """Tell of series that have grown, and note that they are not quiet, nor their studies."""
        for consumer in self._growth if grown else ():
            await _tell(transaction, partial(consumer, transaction, list(grown)))
        now = time.time()
        entities: set[tuple[str, str]] = set()
        if self._series:
            entities |= {(one.study, one.series) for one in grown}
        if self._study:
            entities |= {(one.study, "") for one in grown}
        await transaction.execute_many(_NOTE, [(*entity, now) for entity in entities])

    async def _note_tokens(self, transaction: Transaction, arrived: Sequence[Arrived]) -> None:
        await transaction.execute_many(
            "INSERT OR REPLACE INTO acted_on (token, sop_instance) VALUES (?, ?)",
            [(one.token, one.sop_instance) for one in arrived],
        )
        self._newest_token = max(self._newest_token, *(one.token for one in arrived))

    async def _tell_quiet(self) -> None:
        """Series that are complete, then studies that are stable."""
        now = time.time()
        study_before = now - self._settings.study_stable_after
        series_before = now - self._settings.series_complete_after
        while quiet := await self._database.fetch(_QUIET, (study_before, series_before, QUIET_AT_ONCE)):
            async with self._database.transaction() as transaction:
                for study, series in quiet:
                    await transaction.execute(
                        "DELETE FROM arriving WHERE study = ? AND series = ?", (study, series)
                    )
                    await self._tell_of(transaction, UID(study), UID(series))

    async def _tell_of(self, transaction: Transaction, study: UID, series: UID) -> None:
        if series:
            log.debug("series.completed", study=study, series=series)
            for of_series in self._series:
                await _tell(transaction, partial(of_series, transaction, study, series))
        else:
            log.debug("study.stabilized", study=study)
            for of_study in self._study:
                await _tell(transaction, partial(of_study, transaction, study))

    async def _forget(self) -> None:
        """Let the index forget what has been acted on."""
        if self._cursor - self._forgotten < FORGET_AFTER:
            return
        await self._archive.forget_changes(self._cursor)
        self._forgotten = self._cursor
        async with self._database.transaction() as transaction:
            oldest = self._newest_token - REMEMBERED
            await transaction.execute("DELETE FROM acted_on WHERE token < ?", (oldest,))

    async def _pause(self) -> None:
        """Until something arrives, or has been quiet for long enough."""
        settings = self._settings
        rows = await self._database.fetch(
            _NEXT, (settings.study_stable_after, settings.series_complete_after)
        )
        due = rows[0]["due"]
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - time.time())):
                await self._news.wait()


async def _tell(transaction: Transaction, tell: Callable[[], Awaitable[None]]) -> None:
    """A consumer that fails over what came leaves no trace, and keeps it from nobody else.

    When the database fails, all fail and are told again.
    """
    await transaction.execute("SAVEPOINT consumer")
    try:
        await tell()
    except (sqlite3.Error, OSError):
        raise
    except Exception:
        await transaction.execute("ROLLBACK TO consumer")
        log.exception("arrival.failed")
    await transaction.execute("RELEASE consumer")
