"""Requests for Storage Commitment as they stand in workflow.sqlite (PS3.4 J), of both roles."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pacsnode.archive.integrity import Reference
from pacsnode.dicom.uid import UID
from pacsnode.workflow.database import Database, Row, Transaction

COMMITTED: Final = 0  # where others have a Failure Reason


class Role(StrEnum):
    """Of this node."""

    PROVIDER = "provider"
    USER = "user"


class State(StrEnum):
    """Where a request is. A provider's: the first three; a user's: requested, then the last three."""

    REQUESTED = "requested"
    CHECKED = "checked"
    REPORTED = "reported"
    ACCEPTED = "accepted"  # the peer has taken the request, its result is awaited
    ANSWERED = "answered"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Result:
    """An instance and what is known of it: None nothing yet, 0 committed, else the Failure Reason."""

    reference: Reference
    reason: int | None


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request with its instances. Times in seconds since the epoch."""

    id: int
    role: Role
    peer: str
    local_ae: str
    transaction_uid: UID
    state: State
    comment: str
    requested_at: float
    changed_at: float
    results: tuple[Result, ...]

    @property
    def committed(self) -> list[Result]:
        return [one for one in self.results if one.reason == COMMITTED]

    @property
    def failed(self) -> list[Result]:
        return [one for one in self.results if one.reason]


_INSERT = """
    INSERT INTO commitment
        (role, peer, local_ae, transaction_uid, state, comment, requested_at, changed_at)
    VALUES (?, ?, ?, ?, ?, '', ?, ?)
"""
_COMMITTED_AT = """
    SELECT DISTINCT c.peer FROM commitment_instance i JOIN commitment c ON c.id = i.commitment
    WHERE i.sop_instance = ? AND i.sop_class = ? AND i.reason = 0 AND c.role = 'user' AND c.state = 'answered'
"""

_INSTANCES = """
    SELECT * FROM commitment_instance WHERE commitment IN (SELECT value FROM json_each(?))
"""
_ALL = """
    SELECT * FROM commitment
    WHERE (?1 IS NULL OR role = ?1) AND (?2 IS NULL OR peer = ?2)
      AND (NOT ?3 OR state NOT IN ('reported', 'answered', 'refused'))
    ORDER BY id DESC LIMIT ?4
"""


class Records:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, number: int) -> Commitment:
        """A request that there is."""
        found = await self.find(number)
        assert found is not None
        return found

    async def find(self, number: int) -> Commitment | None:
        rows = await self._database.fetch("SELECT * FROM commitment WHERE id = ?", (number,))
        return (await self._with_instances(rows))[0] if rows else None

    async def all(
        self, role: Role | None = None, peer: str | None = None, open_only: bool = False, limit: int = 100
    ) -> list[Commitment]:
        """The newest first; `open_only` leaves out those that have ended."""
        rows = await self._database.fetch(_ALL, (role, peer, open_only, limit))
        return await self._with_instances(rows)

    async def committed_at(self, reference: Reference) -> list[str]:
        """The peers that have committed to an instance."""
        rows = await self._database.fetch(_COMMITTED_AT, (reference.sop_instance, reference.sop_class))
        return [row["peer"] for row in rows]

    async def _with_instances(self, rows: Sequence[Row]) -> list[Commitment]:
        of: defaultdict[int, list[Result]] = defaultdict(list)
        for row in await self._database.fetch(_INSTANCES, (json.dumps([row["id"] for row in rows]),)):
            reference = Reference(UID(row["sop_class"]), UID(row["sop_instance"]))
            of[row["commitment"]].append(Result(reference, row["reason"]))
        return [_commitment(row, of[row["id"]]) for row in rows]


async def insert(
    transaction: Transaction,
    role: Role,
    peer: str,
    local_ae: str,
    transaction_uid: UID,
    references: Sequence[Reference],
    reason: int | None = None,
) -> int:
    """Add a request; its number. `reason`: what is known of all its instances already."""
    now = time.time()
    values = (role, peer, local_ae, transaction_uid, State.REQUESTED, now, now)
    number = await transaction.insert(_INSERT, values)
    await transaction.execute_many(
        "INSERT INTO commitment_instance (commitment, sop_instance, sop_class, reason) VALUES (?, ?, ?, ?)",
        [(number, one.sop_instance, one.sop_class, reason) for one in references],
    )
    return number


async def move(transaction: Transaction, number: int, state: State, comment: str = "") -> None:
    """Put a request into another state."""
    await transaction.execute(
        "UPDATE commitment SET state = ?, comment = ?, changed_at = ? WHERE id = ?",
        (state, comment, time.time(), number),
    )


async def references_of(transaction: Transaction, number: int) -> set[Reference]:
    """The instances of a request."""
    rows = await transaction.fetch(
        "SELECT sop_class, sop_instance FROM commitment_instance WHERE commitment = ?", (number,)
    )
    return {Reference(UID(row["sop_class"]), UID(row["sop_instance"])) for row in rows}


def _commitment(row: Row, results: Sequence[Result]) -> Commitment:
    return Commitment(
        row["id"],
        Role(row["role"]),
        row["peer"],
        row["local_ae"],
        UID(row["transaction_uid"]),
        State(row["state"]),
        row["comment"],
        row["requested_at"],
        row["changed_at"],
        tuple(results),
    )
