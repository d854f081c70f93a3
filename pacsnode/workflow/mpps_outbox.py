"""What peers are still to be told of performed procedure steps, step by step in the order it happened.

Every entry has a job. A job sends all that waits for its peer and step, the oldest first, so it does not
matter which job runs first or is tried again: an N-SET never overtakes its N-CREATE. Events go apart, since
they go by another SOP class.
"""

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pacsnode.dicom.uid import UID
from pacsnode.workflow.database import Database, Transaction
from pacsnode.workflow.jobs import Jobs

KIND: Final = "mpps"  # of the jobs

_ADD = """
    INSERT INTO mpps_outgoing (peer, sop_instance, command, event, transfer_syntax, data, added_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""


class Command(StrEnum):
    """What is to be sent."""

    N_CREATE = "N-CREATE"
    N_SET = "N-SET"
    N_EVENT_REPORT = "N-EVENT-REPORT"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request. `event`: the Event Type ID; `data`: the data set, encoded in `transfer_syntax`."""

    sop_instance: UID
    command: Command
    event: int
    transfer_syntax: UID
    data: bytes
    number: int = 0


class Outbox:
    """The requests that have not been taken."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        self._jobs = jobs

    async def add(self, transaction: Transaction, peer: str, outgoing: Outgoing) -> None:
        """Put a request behind those for the same peer and step."""
        one = outgoing
        values = (peer, one.sop_instance, one.command, one.event, one.transfer_syntax, one.data, time.time())
        await transaction.insert(_ADD, values)
        reports = one.command is Command.N_EVENT_REPORT
        await self._jobs.add(transaction, KIND, peer, {"step": one.sop_instance, "reports": reports})

    async def waiting(self, peer: str, sop_instance: str, *, reports: bool) -> list[Outgoing]:
        """The requests for a peer about a step, event reports or all others, the oldest first."""
        rows = await self._database.fetch(
            "SELECT * FROM mpps_outgoing WHERE peer = ? AND sop_instance = ?"
            " AND (command = 'N-EVENT-REPORT') = ? ORDER BY id",
            (peer, sop_instance, reports),
        )
        return [
            Outgoing(
                UID(row["sop_instance"]),
                Command(row["command"]),
                row["event"],
                UID(row["transfer_syntax"]),
                row["data"],
                row["id"],
            )
            for row in rows
        ]

    async def taken(self, number: int) -> None:
        """The peer has answered; whatever it said, it is not asked again."""
        async with self._database.transaction() as transaction:
            await transaction.execute("DELETE FROM mpps_outgoing WHERE id = ?", (number,))
