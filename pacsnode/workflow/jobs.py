"""The durable queue of everything outbound: what waits, what runs, what became of it.

A job is added in the transaction of whatever causes it, and stays in workflow.sqlite until its handler has
done it. One that gathers takes items (SOP Instance UIDs) until it is taken itself, so that a thousand objects
for one destination are one job; an item that has been acknowledged is crossed out at once (receipts.py), and
a job that runs again goes on with what is open. runner.py runs them.
"""

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, TypeAlias

from pacsnode.log import get_logger
from pacsnode.workflow.database import Database, Row, Transaction
from pacsnode.workflow.ledger import Ledger
from pacsnode.workflow.receipts import Receipts, recover

log = get_logger()

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

HIGH: Final = 0  # priorities: of the jobs of a peer that are due, the lowest number is taken first
MEDIUM: Final = 1
LOW: Final = 2
PRIORITIES: Final = {"high": HIGH, "medium": MEDIUM, "low": LOW}  # as the configuration has them


class State(StrEnum):
    """Where a job is."""

    GATHERING = "gathering"  # until what it is for is complete: a series, a study
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # it failed, and will be tried again
    DONE = "done"
    DEAD = "dead"  # it failed for the last time: the dead letters
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stood when it was read; times in seconds since the epoch.

    `items` is how many it carries, `items_open` how many of them have not been acknowledged.
    """

    id: int
    kind: str
    peer: str
    key: str | None
    priority: int
    payload: Mapping[str, JSON]
    state: State
    items: int
    items_open: int
    attempts: int
    error: str
    due: float
    added_at: float
    started_at: float | None
    ended_at: float | None


Handler = Callable[[Job], Awaitable[None]]
Awaited = Callable[[Job], bool]

SELECT: Final = "SELECT *, (SELECT count(*) FROM job_item WHERE job = job.id) AS items_open FROM job"
_ADD = """
    INSERT INTO job (
        kind, peer, key, priority, payload, state, gathers, due, added_at, items, attempts, error
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, '')
"""
_UNFINISHED = "state IN ('gathering', 'queued', 'running', 'waiting')"
_RETRY = """
    UPDATE OR IGNORE job SET state = 'queued', attempts = 0, due = 0, ended_at = NULL
    WHERE id = ? AND state IN ('waiting', 'dead', 'cancelled', 'gathering')
"""
_CANCEL = (
    f"UPDATE job SET state = 'cancelled', ended_at = ? WHERE id = ? AND ({_UNFINISHED} OR state = 'dead')"
)


class Jobs:
    """The queue, and the handlers of what stands in it."""

    def __init__(self, database: Database, ledger: Ledger | None = None) -> None:
        """`ledger`: None in a process that runs no jobs."""
        self._database = database
        self._ledger = ledger
        self.handlers: dict[str, Handler] = {}
        self.has_new_rules = True  # some that gather may wait for what nobody will tell
        self._awaited: dict[str, Awaited] = {}
        self._listeners: list[Callable[[], None]] = []
        self._on_retry: list[Callable[[], None]] = []

    def register(self, kind: str, handler: Handler, is_awaited: Awaited | None = None) -> None:
        """Have the jobs of a kind done by `handler`.

        It returns when the job is done. RemoteError and OperationError have it tried again until the limit,
        JobRefused ends it at once; both make it a dead letter in the end. `is_awaited`: whether somebody
        will still release() one that gathers.
        """
        self.handlers[kind] = handler
        if is_awaited is not None:
            self._awaited[kind] = is_awaited

    def rules_changed(self) -> None:
        """Have release_abandoned() called."""
        self.has_new_rules = True
        self._tell()

    async def release_abandoned(self) -> None:
        """Make due what gathers and nobody would release: its rule has gone, or is another one by now."""
        self.has_new_rules = False
        for job in await self.all([State.GATHERING], limit=-1):
            is_awaited = self._awaited.get(job.kind)
            if is_awaited is None or is_awaited(job):
                continue
            log.warning("job.released", job=job.id, kind=job.kind, peer=job.peer)
            async with self._database.transaction() as transaction:
                await transaction.execute(
                    "UPDATE job SET state = 'queued' WHERE id = ? AND state = 'gathering'", (job.id,)
                )
                self._tell_when_committed(transaction)

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after each commit that makes a job due or withdraws one."""
        self._listeners.append(listener)

    def on_retry(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when somebody wants jobs done now."""
        self._on_retry.append(listener)

    def try_peers(self) -> None:
        """Have the peers called again that could not be reached."""
        for listener in self._on_retry:
            listener()
        self._tell()

    async def add(
        self,
        transaction: Transaction,
        kind: str,
        peer: str,
        payload: Mapping[str, JSON],
        *,
        key: str | None = None,
        not_before: float | None = None,
        priority: int = MEDIUM,
        once: bool = False,
        until_released: bool = False,
    ) -> int:
        """Add a job; returns its number.

        While one of the same `key` is unfinished nothing changes: the number is that one's; with `once`, as
        long as it is kept at all. `not_before` is in seconds since the epoch. `until_released`: not due
        before release().
        """
        if key is not None:
            which = "" if once else f" AND {_UNFINISHED}"
            found = await transaction.fetch(f"SELECT id FROM job WHERE key = ?{which}", (key,))
            if found:
                return int(found[0]["id"])
        state = State.GATHERING if until_released else State.QUEUED
        return await self._insert(
            transaction,
            kind,
            peer,
            key,
            priority,
            payload,
            state,
            gathers=False,
            due=not_before or 0.0,
        )

    async def gather(
        self,
        transaction: Transaction,
        kind: str,
        peer: str,
        payload: Mapping[str, JSON],
        items: Iterable[str],
        *,
        key: str,
        priority: int = MEDIUM,
        until_released: bool = False,
    ) -> None:
        """Give items to the job of `key` that nobody has taken yet, or to a new one.

        `until_released`: a new one is not due before release().
        """
        found = await transaction.fetch(
            "SELECT id FROM job WHERE key = ? AND state IN ('gathering', 'queued')", (key,)
        )
        if found:
            number = int(found[0]["id"])
        else:
            state = State.GATHERING if until_released else State.QUEUED
            number = await self._insert(
                transaction, kind, peer, key, priority, payload, state, gathers=True, due=0.0
            )
        added = await transaction.execute_many(
            "INSERT OR IGNORE INTO job_item (job, item) VALUES (?, ?)", [(number, item) for item in items]
        )
        await transaction.execute("UPDATE job SET items = items + ? WHERE id = ?", (added, number))

    async def release(self, transaction: Transaction, key: str) -> None:
        """What a job was gathering for is complete: it is due."""
        changed = await transaction.execute(
            "UPDATE job SET state = 'queued' WHERE key = ? AND state = 'gathering'", (key,)
        )
        if changed:
            self._tell_when_committed(transaction)

    async def withdraw(self, transaction: Transaction, key: str) -> None:
        """Take a job back that nobody has taken yet: there is no more reason for it."""
        await transaction.execute(
            "DELETE FROM job WHERE key = ? AND state IN ('gathering', 'queued')", (key,)
        )

    async def open_items(self, job: Job, limit: int, after: str = "") -> list[str]:
        """Some items of a job that have not been acknowledged, in the order of their names."""
        rows = await self._database.fetch(
            "SELECT item FROM job_item WHERE job = ? AND item > ? ORDER BY item LIMIT ?",
            (job.id, after, limit),
        )
        return [row["item"] for row in rows]

    async def recover(self) -> None:
        """Cross out what a process that was killed had heard of, before anything runs."""
        if self._ledger is not None:
            await recover(self._database, self._ledger)

    def receipts(self, job: Job) -> Receipts:
        """Where the items of a job are crossed out as they are acknowledged."""
        return Receipts(self._database, job.id, self._ledger)

    async def all(
        self, states: Iterable[State] = (), peer: str | None = None, limit: int = 1000
    ) -> list[Job]:
        """Jobs in these states, or in any, the newest first."""
        wanted = [state.value for state in states or State]
        rows = await self._database.fetch(
            f"{SELECT} WHERE state IN (SELECT value FROM json_each(?)) AND peer = coalesce(?, peer) "
            "ORDER BY id DESC LIMIT ?",
            (json.dumps(wanted), peer, limit),
        )
        return [job_of(row) for row in rows]

    async def get(self, number: int) -> Job | None:
        """The job of a number."""
        rows = await self._database.fetch(f"{SELECT} WHERE id = ?", (number,))
        return job_of(rows[0]) if rows else None

    async def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        rows = await self._database.fetch("SELECT state, count(*) AS n FROM job GROUP BY state")
        return {State(row["state"]): row["n"] for row in rows}

    async def retry(self, number: int) -> bool:
        """Have a job done now that waits, gathers, is dead or was cancelled; whether it was one of those.

        Not when another one of its key has been added since.
        """
        retried = await self._change(_RETRY, (number,))
        for listener in self._on_retry:
            listener()
        return retried

    async def cancel(self, number: int) -> bool:
        """Withdraw a job that is not done; a running one is broken off. Whether it was one."""
        return await self._change(_CANCEL, (time.time(), number))

    async def _change(self, sql: str, parameters: Sequence[str | int | float]) -> bool:
        async with self._database.transaction() as transaction:
            changed = await transaction.execute(sql, parameters)
            self._tell_when_committed(transaction)
        return changed > 0

    async def _insert(
        self,
        transaction: Transaction,
        kind: str,
        peer: str,
        key: str | None,
        priority: int,
        payload: Mapping[str, JSON],
        state: State,
        *,
        gathers: bool,
        due: float,
    ) -> int:
        number = await transaction.insert(
            _ADD, (kind, peer, key, priority, json.dumps(payload), state, gathers, due, time.time())
        )
        self._tell_when_committed(transaction)
        log.debug("job.queued", job=number, kind=kind, peer=peer, state=state.value)
        return number

    def _tell_when_committed(self, transaction: Transaction) -> None:
        if self._tell not in transaction.committed:
            transaction.committed.append(self._tell)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def job_of(row: Row) -> Job:
    """A job from a row of SELECT."""
    values = {field.name: row[field.name] for field in fields(Job)}
    return Job(**{**values, "payload": json.loads(row["payload"]), "state": State(row["state"])})
