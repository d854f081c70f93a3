"""The durable queue of everything outbound: what waits, what runs, what became of it.

A job is added in the transaction of whatever causes it, and waits in workflow.sqlite until its handler has
done it. A gathering job takes items (SOP Instance UIDs) until it is taken itself; each item that has been
acknowledged is noted, so that a job that runs again goes on with what is open. runner.py runs them.
"""

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from pacsnode.log import get_logger
from pacsnode.workflow.database import Database, Row, Transaction

log = get_logger()

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
MOST_ITEMS: Final = 1000  # of one job; more begin another one, so that no job takes hours

HIGH, MEDIUM, LOW = 0, 1, 2  # priorities, the first taken first


class State(StrEnum):
    """Where a job is."""

    GATHERING = "gathering"  # until what it waits for is complete
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # it failed, and will be tried again
    DONE = "done"
    DEAD = "dead"  # it failed for the last time: the dead letters
    CANCELLED = "cancelled"


UNFINISHED: Final = (State.GATHERING, State.QUEUED, State.RUNNING, State.WAITING)


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stood when it was read. Times in seconds since the epoch."""

    id: int
    kind: str
    peer: str
    key: str | None
    priority: int
    payload: Mapping[str, JSON]
    state: State
    attempts: int
    error: str
    due: float
    added_at: float
    started_at: float | None
    ended_at: float | None
    items: int
    items_done: int


Handler = Callable[[Job], Awaitable[None]]

_COUNTED = """
    SELECT job.*, (SELECT count(*) FROM job_item WHERE job = job.id) AS items,
           (SELECT count(*) FROM job_item WHERE job = job.id AND done) AS items_done
    FROM job
"""
_ADD = """
    INSERT INTO job (kind, peer, key, priority, payload, state, gathers, attempts, error, due, added_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, 0, '', ?, ?)
"""
_OF_KEY = "SELECT id, state FROM job WHERE key = ? AND state IN ('gathering', 'queued', 'running', 'waiting')"


class Jobs:
    """The queue, and the handlers of what stands in it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.handlers: dict[str, Handler] = {}
        self._listeners: list[Callable[[], None]] = []

    def register(self, kind: str, handler: Handler) -> None:
        """Have jobs of a kind done by `handler`. It returns: done; RemoteError or OperationError: tried again
        until the limit; JobRefused: dead at once."""
        self.handlers[kind] = handler

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after each commit that may have made a job due, or cancelled one."""
        self._listeners.append(listener)

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
    ) -> int:
        """Add a job; its number. While one of the same `key` is unfinished nothing changes, and that one's
        number is returned. `not_before` in seconds since the epoch."""
        if key is not None and (found := await transaction.fetch(_OF_KEY, (key,))):
            return int(found[0]["id"])
        now = time.time()
        values = (kind, peer, key, priority, json.dumps(payload), State.QUEUED, 0, not_before or 0.0, now)
        number = await transaction.insert(_ADD, values)
        self._changed(transaction)
        return number

    def _changed(self, transaction: Transaction) -> None:
        if self._tell not in transaction.committed:
            transaction.committed.append(self._tell)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    async def all(self, states: Iterable[State] = (), peer: str | None = None, limit: int = 100) -> list[Job]:
        """The newest jobs first."""
        wanted = [state.value for state in states] or [state.value for state in State]
        sql = f"{_COUNTED} WHERE state IN (SELECT value FROM json_each(?)) AND (? IS NULL OR peer = ?)"
        rows = await self._database.fetch(
            f"{sql} ORDER BY id DESC LIMIT ?", (json.dumps(wanted), peer, peer, limit)
        )
        return [job_of(row) for row in rows]

    async def get(self, number: int) -> Job | None:
        rows = await self._database.fetch(f"{_COUNTED} WHERE id = ?", (number,))
        return job_of(rows[0]) if rows else None


def job_of(row: Row) -> Job:
    """A job from a row of _COUNTED."""
    values = {name: row[name] for name in Job.__dataclass_fields__}
    return Job(**{**values, "payload": json.loads(row["payload"]), "state": State(row["state"])})
