"""Storage Commitment (PS3.4 J): what others have this node commit to, and what it has others commit to.

As provider: a request is durable before it is answered, each instance is read back, the result is kept until
the peer has taken it. As user: after forwarding, the peer is asked, and its answer is kept per instance; only
`Records.committed_at` tells where else an object is safe.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from pacsnode.archive.archive import Archive
from pacsnode.archive.integrity import Condition, Reference
from pacsnode.dicom.uid import UID, new_uid
from pacsnode.errors import InvalidArgumentValue
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
ASK: Final = "commitment.ask"  # ask a peer
MOST: Final = 1000  # instances asked for with one request
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
_SENT = """
    SELECT sop_instance, sop_class FROM commitment_wanted WHERE peer = ?1 AND sop_instance NOT IN (
        SELECT item FROM job_item JOIN job ON job.id = job_item.job
        WHERE job.peer = ?1 AND job.state NOT IN ('done', 'cancelled')
    )
"""


class Commitments:
    """All requests, in both roles."""

    def __init__(self, database: Database, jobs: Jobs, archive: Archive, own_title: str, keep: float) -> None:
        """`keep`: seconds for which a reported result can be looked at."""
        self._database = database
        self.records = Records(database)
        self._jobs = jobs
        self._archive = archive
        self._own_title = own_title
        self._keep = keep

    # As provider

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

    # As user

    async def want(self, transaction: Transaction, peer: str, references: Sequence[Reference]) -> None:
        """Have `peer` asked for these once they have been sent to it."""
        await transaction.execute_many(
            "INSERT OR REPLACE INTO commitment_wanted (peer, sop_instance, sop_class) VALUES (?, ?, ?)",
            [(peer, one.sop_instance, one.sop_class) for one in references],
        )

    async def ask_for_sent(self, peer: str) -> None:
        """Ask for what is wanted of a peer and waits in no job for it any more."""
        if not await self._database.fetch("SELECT 1 FROM commitment_wanted WHERE peer = ? LIMIT 1", (peer,)):
            return
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch(_SENT, (peer,))
            sent = [Reference(UID(row["sop_class"]), UID(row["sop_instance"])) for row in rows]
            await self.ask(transaction, peer, sent)
            await transaction.execute_many(
                "DELETE FROM commitment_wanted WHERE peer = ? AND sop_instance = ?",
                [(peer, one.sop_instance) for one in sent],
            )

    async def ask(self, transaction: Transaction, peer: str, references: Sequence[Reference]) -> list[int]:
        """Ask a peer to commit; the numbers of the requests."""
        numbers = []
        for start in range(0, len(references), MOST):
            chunk = references[start : start + MOST]
            number = await insert(transaction, Role.USER, peer, self._own_title, new_uid(), chunk, None)
            await self._jobs.add(transaction, ASK, peer, {"commitment": number}, key=f"{ASK}:{number}")
            numbers.append(number)
        return numbers

    async def accepted(self, number: int) -> None:
        """The peer has taken a request; its answer may have come before."""
        async with self._database.transaction() as transaction:
            await transaction.execute(
                "UPDATE commitment SET state = 'accepted', changed_at = ?"
                " WHERE id = ? AND state = 'requested'",
                (time.time(), number),
            )

    async def refused(self, number: int, comment: str) -> None:
        """The peer has refused a request, and will again."""
        await self._note(number, State.REFUSED, comment)

    async def renew(self, number: int) -> None:
        """Give a request another Transaction UID: after a failure status it must not be used (J.3.2.1.2)."""
        async with self._database.transaction() as transaction:
            await transaction.execute(
                "UPDATE commitment SET transaction_uid = ? WHERE id = ?", (new_uid(), number)
            )

    async def answer(self, transaction_uid: UID, reasons: Mapping[Reference, int]) -> Commitment:
        """Keep the result of a request of ours. Raises InvalidArgumentValue for a UID that is none of them.

        Instances that were not asked for are left out; those that the result does not name stay unknown.
        """
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch(
                "SELECT id FROM commitment WHERE role = 'user' AND transaction_uid = ?", (transaction_uid,)
            )
            if not rows:
                raise InvalidArgumentValue(f"no request has the Transaction UID {transaction_uid}")
            number = int(rows[0]["id"])
            await transaction.execute_many(
                "UPDATE commitment_instance SET reason = ?"
                " WHERE commitment = ? AND sop_instance = ? AND sop_class = ?",
                [(reason, number, one.sop_instance, one.sop_class) for one, reason in reasons.items()],
            )
            await move(transaction, number, State.ANSWERED)
        return await self.records.get(number)

    # Both

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

    async def _note(self, number: int, state: State, comment: str = "") -> None:
        async with self._database.transaction() as transaction:
            await move(transaction, number, state, comment)
