"""What others have this node commit to (PS3.4 J, as SCP).

A request is durable before it is answered, each instance is read back, the result is kept until the peer has
taken it.
"""

import time
from collections.abc import Sequence
from typing import Final

from pacsnode.archive.archive import Archive
from pacsnode.archive.integrity import Condition, Reference
from pacsnode.dicom.uid import UID
from pacsnode.workflow.commitment_records import (
    COMMITTED,
    Commitment,
    Records,
    Role,
    State,
    insert,
    move,
    references_of,
)
from pacsnode.workflow.database import Database, Transaction
from pacsnode.workflow.jobs import Jobs

INSPECT: Final = "commitment.inspect"  # kinds of jobs: read back here
REPORT: Final = "commitment.report"  # tell the peer that asked
FORGOTTEN: Final = 10  # reported requests removed with each one reported

# Failure Reason (0008,1197), PS3.3 C.14.1.1
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
DUPLICATE_TRANSACTION: Final = 0x0131
RESOURCE_LIMITATION: Final = 0x0213
REASON_OF: Final = {
    Condition.SOUND: COMMITTED,
    Condition.ABSENT: NO_SUCH_INSTANCE,
    Condition.OTHER_CLASS: CLASS_INSTANCE_CONFLICT,
    Condition.DAMAGED: PROCESSING_FAILURE,
    Condition.UNREAD: RESOURCE_LIMITATION,
}


_FORGET = """
    DELETE FROM commitment WHERE id IN (
        SELECT id FROM commitment WHERE state = 'reported' AND changed_at < ? ORDER BY changed_at LIMIT ?
    )
"""


class Commitments:
    """The requests made to this node."""

    def __init__(self, database: Database, jobs: Jobs, archive: Archive, own_title: str, keep: float) -> None:
        """`keep`: seconds for which a reported result can be looked at."""
        self._database = database
        self.records = Records(database)
        self._jobs = jobs
        self._archive = archive
        self._own_title = own_title
        self._keep = keep

    async def accept(
        self, peer: str, local_ae: str, transaction_uid: UID, references: Sequence[Reference]
    ) -> int:
        """Take a request; returns its number when it is durable.

        The same request again is the same one: its response was lost, or its result. Another one under a
        Transaction UID in use fails as a whole (0131H).
        """
        async with self._database.transaction() as transaction:
            earlier = await transaction.fetch(
                "SELECT id FROM commitment WHERE role = 'provider' AND peer = ? AND transaction_uid = ?"
                " ORDER BY id",
                (peer, transaction_uid),
            )
            reason = None
            if earlier:
                number = int(earlier[0]["id"])
                if await references_of(transaction, number) == set(references):
                    await self._inspect_again(transaction, number)
                    return number
                reason = DUPLICATE_TRANSACTION
            number = await insert(
                transaction, Role.PROVIDER, peer, local_ae, transaction_uid, references, reason
            )
            await self._to_inspect(transaction, number)
        return number

    async def inspect(self, commitment: Commitment) -> Commitment:
        """Read the instances back. Raises OutOfResources and MatchesNotCounted for the index."""
        unknown = [one.reference for one in commitment.results if one.reason is None]
        found = {ref: condition async for ref, condition in self._archive.inspect(unknown)}
        async with self._database.transaction() as transaction:
            await transaction.execute_many(
                "UPDATE commitment_instance SET reason = ? WHERE commitment = ? AND sop_instance = ?",
                [(REASON_OF[found[ref]], commitment.id, ref.sop_instance) for ref in unknown],
            )
            await move(transaction, commitment.id, State.CHECKED)
        return await self.records.get(commitment.id)

    async def report_later(self, commitment: Commitment) -> None:
        """Have the result reported on an association of its own."""
        async with self._database.transaction() as transaction:
            await self._jobs.add(
                transaction,
                REPORT,
                commitment.peer,
                {"commitment": commitment.id, "transaction": commitment.transaction_uid},
                key=f"{REPORT}:{commitment.id}",
            )

    async def reported(self, number: int) -> None:
        """The peer has taken the result. Of old ones, whose Transaction UIDs are long out of use, some go."""
        async with self._database.transaction() as transaction:
            await move(transaction, number, State.REPORTED)
            await transaction.execute(_FORGET, (time.time() - self._keep, FORGOTTEN))

    async def resume(self) -> None:
        """Go on with what a crash interrupted between two jobs."""
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch(
                "SELECT id FROM commitment WHERE role = 'provider' AND state = 'requested'"
            )
            for row in rows:
                await self._to_inspect(transaction, row["id"])

    async def _inspect_again(self, transaction: Transaction, number: int) -> None:
        """A finished request is looked at anew: since its result, objects may have come."""
        if await transaction.execute(
            "UPDATE commitment SET state = 'requested' WHERE id = ? AND state = 'reported'", (number,)
        ):
            await transaction.execute(
                "UPDATE commitment_instance SET reason = NULL WHERE commitment = ?", (number,)
            )
            # Without a key: the job that has just reported may not have ended yet.
            await self._jobs.add(transaction, INSPECT, self._own_title, {"commitment": number})

    async def _to_inspect(self, transaction: Transaction, number: int) -> None:
        await self._jobs.add(
            transaction, INSPECT, self._own_title, {"commitment": number}, key=f"{INSPECT}:{number}"
        )
