"""Runs the jobs of the queue: so many at once for each peer, again when they fail, until the limit.

What has ended and what begins is written in one transaction, so that many short jobs share it. A peer that
cannot be reached has all its jobs held back, for as long as the failed one waits, and is then tried with one:
ten thousand jobs for a peer that is down cost no more than one. Jobs that another process has retried or
cancelled are noticed within a second.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pacsnode.config import Jobs as JobSettings
from pacsnode.errors import (
    AssociationRejected,
    JobRefused,
    OperationError,
    PeerTimeout,
    PeerUnreachable,
    RemoteError,
    UnknownDestination,
)
from pacsnode.log import get_logger
from pacsnode.workflow.database import Database
from pacsnode.workflow.jobs import SELECT, Job, Jobs, State, job_of

log = get_logger()

POLL: Final = 1.0  # seconds; how soon is seen what other processes change
CLEANING: Final = 600.0  # seconds between removals of what has been kept long enough
CLEANED: Final = 5000  # jobs removed in one transaction
JITTER: Final = 0.25  # of a wait, more or less: jobs that failed together shall not come together again
HOLDING: Final = (PeerUnreachable, PeerTimeout, AssociationRejected, UnknownDestination)

_CRASHED = "UPDATE job SET state = 'queued' WHERE state = 'running'"
_STOPPED = "UPDATE job SET state = 'queued', attempts = attempts - 1 WHERE state = 'running'"
# The peers one after the other, each found by the index: as many steps as there are peers, not jobs.
_PEERS = """
    WITH RECURSIVE due (peer) AS (
        SELECT min(peer) FROM job WHERE state IN ('queued', 'waiting')
        UNION ALL
        SELECT (SELECT min(peer) FROM job WHERE state IN ('queued', 'waiting') AND job.peer > due.peer)
        FROM due WHERE due.peer IS NOT NULL
    )
    SELECT peer FROM due WHERE peer IS NOT NULL
"""
_DUE = """
    SELECT id FROM job WHERE peer = ? AND state IN ('queued', 'waiting') AND due <= ?
    ORDER BY priority, due, id LIMIT ?
"""
# One that gathers lets go of its key: what comes from now on is for another job.
_TAKE = """
    UPDATE job SET state = 'running', attempts = attempts + 1, started_at = ?,
                   key = CASE WHEN gathers THEN NULL ELSE key END
    WHERE id = ? AND state IN ('queued', 'waiting')
"""
_SETTLE = "UPDATE job SET state = ?, error = ?, due = ?, ended_at = ? WHERE id = ? AND state = 'running'"
_OLD = """
    DELETE FROM job WHERE id IN (
        SELECT id FROM job WHERE state IN ('done', 'cancelled') AND ended_at < ? LIMIT ?
    )
"""


@dataclass(frozen=True, slots=True)
class _Ended:
    """What became of a run."""

    job: int
    state: State
    error: str = ""
    due: float = 0.0
    at: float | None = None


@dataclass(slots=True)
class _Hold:
    """A peer that could not be reached: how often in a row, and when it is tried again (loop time)."""

    failures: int = 0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Run:
    peer: str
    task: asyncio.Task[None]


class Runner:
    """Runs jobs while run() does."""

    def __init__(self, database: Database, jobs: Jobs, settings: JobSettings) -> None:
        self._database = database
        self._jobs = jobs
        self._settings = settings
        self._running: dict[int, _Run] = {}
        self._ended: list[_Ended] = []
        self._holds: dict[str, _Hold] = {}
        self._awake = asyncio.Event()
        self._version = -1
        self._changed = True
        self._clean_at = 0.0
        jobs.listen(self._wake_changed)
        jobs.on_retry(self._holds.clear)

    async def run(self) -> None:
        """Begin with what a crash interrupted; go on until cancelled."""
        await self._jobs.recover()
        await self._requeue(_CRASHED)
        try:
            while True:
                self._awake.clear()
                await self._turn()
                await self._pause()
        finally:
            await self._stop()

    async def _turn(self) -> None:
        if self._jobs.has_new_rules:
            await self._jobs.release_abandoned()
        if self._changed:
            self._changed = False
            await self._break_off_withdrawn()
        due = await self._due()
        if due or self._ended:
            await self._settle_and_take(due)
        if time.time() >= self._clean_at:
            await self._clean()

    async def _pause(self) -> None:
        """Until something happens here, or might have happened in another process."""
        try:
            async with asyncio.timeout(POLL):
                await self._awake.wait()
        except TimeoutError:
            pass
        version = await self._database.version()
        if version != self._version:  # a job was retried or cancelled there, a peer has another address
            self._version = version
            self._changed = True
            self._holds.clear()

    async def _due(self) -> list[int]:
        """The jobs to begin now."""
        busy = Counter(run.peer for run in self._running.values())
        now = time.time()
        due: list[int] = []
        for row in await self._database.fetch(_PEERS):
            peer = row["peer"]
            free = self._places(peer) - busy[peer]
            if free > 0:
                rows = await self._database.fetch(_DUE, (peer, now, free))
                due += [row["id"] for row in rows if row["id"] not in self._running]
        return due

    def _places(self, peer: str) -> int:
        """How many jobs of a peer may run: one, to try it, when its time has come."""
        hold = self._holds.get(peer)
        if hold is None:
            return self._settings.per_peer
        return 1 if asyncio.get_running_loop().time() >= hold.until else 0

    async def _settle_and_take(self, due: list[int]) -> None:
        ended, self._ended = self._ended, []
        now = time.time()
        try:
            async with self._database.transaction() as transaction:
                for end in ended:
                    values = (end.state, end.error, end.due, end.at, end.job)
                    await transaction.execute(_SETTLE, values)
                taken = [number for number in due if await transaction.execute(_TAKE, (now, number))]
                jobs = [
                    job_of((await transaction.fetch(f"{SELECT} WHERE id = ?", (one,)))[0]) for one in taken
                ]
        except BaseException:
            self._ended = ended + self._ended
            raise
        for job in jobs:
            task = asyncio.create_task(self._perform(job))
            self._running[job.id] = _Run(job.peer, task)

    async def _perform(self, job: Job) -> None:
        begun = time.monotonic()
        facts = _facts(job)
        try:
            await self._handle(job)
        except JobRefused as error:
            self._end(_Ended(job.id, State.DEAD, str(error), at=time.time()))
            log.error("job.dead", **facts, reason=str(error))
        except Exception as error:
            self._failed(job, error, facts)
        else:
            self._holds.pop(job.peer, None)
            self._end(_Ended(job.id, State.DONE, at=time.time()))
            log.info("job.done", **facts, items=job.items, ms=round((time.monotonic() - begun) * 1000, 1))
        finally:
            self._running.pop(job.id, None)
            self._awake.set()

    async def _handle(self, job: Job) -> None:
        handler = self._jobs.handlers.get(job.kind)
        if handler is None:
            raise JobRefused(f"this node does nothing of the kind {job.kind}")
        await handler(job)

    def _failed(self, job: Job, error: Exception, facts: Mapping[str, str | int]) -> None:
        reason = str(error)
        if not isinstance(error, RemoteError | OperationError | OSError):
            log.exception("job.crashed", **facts)
            reason = f"internal error, {type(error).__name__}: {error}"
        self._hold(job.peer, error)
        if job.attempts >= self._settings.retry_limit:
            self._end(_Ended(job.id, State.DEAD, reason, at=time.time()))
            log.error("job.dead", **facts, reason=reason)
            return
        wait = self._wait_after(job.attempts)
        self._end(_Ended(job.id, State.WAITING, reason, due=time.time() + wait))
        self._wake_after(wait)
        log.warning("job.failed", **facts, reason=reason, retry_after=round(wait, 1))

    def _hold(self, peer: str, error: Exception) -> None:
        """Hold the other jobs of a peer back when the failure is not that of the job."""
        if not isinstance(error, HOLDING):
            self._holds.pop(peer, None)
            return
        hold = self._holds.setdefault(peer, _Hold())
        hold.failures += 1
        wait = self._wait_after(hold.failures)
        hold.until = asyncio.get_running_loop().time() + wait
        self._wake_after(wait)

    def _wait_after(self, failures: int) -> float:
        """Seconds: exponential, with jitter."""
        settings = self._settings
        wait = min(settings.retry_longest, settings.retry_after * 2.0 ** min(failures - 1, 30))
        return wait * random.uniform(1 - JITTER, 1 + JITTER)

    def _end(self, ended: _Ended) -> None:
        self._ended.append(ended)

    def _wake_after(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds + 0.001, self._awake.set)

    def _wake_changed(self) -> None:
        self._changed = True
        self._awake.set()

    async def _break_off_withdrawn(self) -> None:
        """Cancel the runs of jobs that are not running any more as the queue has it."""
        if not self._running:
            return
        rows = await self._database.fetch("SELECT id FROM job WHERE state = 'running'")
        ended = {end.job for end in self._ended}
        for number in self._running.keys() - {row["id"] for row in rows} - ended:
            log.info("job.cancelled", job=number, peer=self._running[number].peer)
            self._running[number].task.cancel()

    async def _clean(self) -> None:
        self._clean_at = time.time() + CLEANING
        before = time.time() - self._settings.keep_finished
        async with self._database.transaction() as transaction:
            removed = await transaction.execute(_OLD, (before, CLEANED))
        if removed == CLEANED:
            self._clean_at = 0.0

    async def _stop(self) -> None:
        """Break off what runs; it is queued as if it had not begun."""
        tasks = [run.task for run in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._ended:
            await self._settle_and_take([])
        await self._requeue(_STOPPED)

    async def _requeue(self, sql: str) -> None:
        async with self._database.transaction() as transaction:
            await transaction.execute(sql)


def _facts(job: Job) -> Mapping[str, str | int]:
    """What every line of the log tells of a job."""
    return {"job": job.id, "kind": job.kind, "peer": job.peer, "attempt": job.attempts}
