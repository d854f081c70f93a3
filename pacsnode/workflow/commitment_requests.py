"""What this node has others commit to (PS3.4 J, as SCU).

After forwarding, the peer is asked, and its answer is kept per instance; only `Records.committed_at` tells
where else an object is safe.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from pacsnode.archive.integrity import Reference
from pacsnode.dicom.uid import UID, new_uid
from pacsnode.errors import InvalidArgumentValue
from pacsnode.workflow.commitment_records import COMMITTED, Commitment, Records, Role, State, insert, move
from pacsnode.workflow.database import Database, Transaction
from pacsnode.workflow.jobs import Jobs

ASK: Final = "commitment.ask"  # kinds of jobs: ask a peer
OVERDUE: Final = "commitment.overdue"  # a peer may have taken a request and never answered
TURNS: Final = 3  # times that a peer is asked again, after waits that double
MOST: Final = 1000  # instances asked for with one request

_SENT = """
    SELECT sop_instance, sop_class FROM commitment_wanted WHERE peer = ?1 AND sop_instance NOT IN (
        SELECT item FROM job_item JOIN job ON job.id = job_item.job
        WHERE job.peer = ?1 AND job.state NOT IN ('done', 'cancelled')
    )
"""


class CommitmentRequests:
    """The requests of this node."""

    def __init__(self, database: Database, jobs: Jobs, own_title: str, answer_within: float = 0) -> None:
        """`answer_within`: seconds after which a peer that has not answered is asked again; 0: never."""
        self._answer_within = answer_within
        self._database = database
        self.records = Records(database)
        self._jobs = jobs
        self._own_title = own_title

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

    async def ask(
        self, transaction: Transaction, peer: str, references: Sequence[Reference], turn: int = 0
    ) -> list[int]:
        """Ask a peer to commit; the numbers of the requests. `turn`: so often it has not answered."""
        numbers = []
        for start in range(0, len(references), MOST):
            chunk = references[start : start + MOST]
            number = await insert(transaction, Role.USER, peer, self._own_title, new_uid(), chunk, None)
            payload = {"commitment": number, "turn": turn} if turn else {"commitment": number}
            await self._jobs.add(transaction, ASK, peer, payload, key=f"{ASK}:{number}")
            numbers.append(number)
        return numbers

    async def ask_again(self, number: int, turn: int = 0) -> list[int]:
        """Ask a peer once more for what it has not committed to; the numbers of the new requests.

        A request that has not been answered is not waited for any longer; its result is taken all the same.
        """
        earlier = await self.records.get(number)
        open_ones = [one.reference for one in earlier.results if one.reason != COMMITTED]
        async with self._database.transaction() as transaction:
            numbers = await self.ask(transaction, earlier.peer, open_ones, turn)
            comment = f"not answered, asked again by request {', '.join(map(str, numbers))}"
            await transaction.execute(
                "UPDATE commitment SET state = 'refused', comment = ?, changed_at = ?"
                " WHERE id = ? AND state = 'accepted'",
                (comment, time.time(), number),
            )
            await self._jobs.withdraw(transaction, f"{OVERDUE}:{number}")
        return numbers

    async def accepted(self, number: int, turn: int = 0) -> None:
        """The peer has taken a request; its answer may have come before."""
        async with self._database.transaction() as transaction:
            waits = await transaction.execute(
                "UPDATE commitment SET state = 'accepted', changed_at = ?"
                " WHERE id = ? AND state = 'requested'",
                (time.time(), number),
            )
            if waits and self._answer_within:
                await self._look_later(transaction, number, turn)

    async def _look_later(self, transaction: Transaction, number: int, turn: int) -> None:
        """Have it looked at whether the peer has answered by then."""
        rows = await transaction.fetch("SELECT peer FROM commitment WHERE id = ?", (number,))
        await self._jobs.add(
            transaction,
            OVERDUE,
            rows[0]["peer"],
            {"commitment": number, "turn": turn},
            key=f"{OVERDUE}:{number}",
            not_before=time.time() + self._answer_within * 2**turn,
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
            await self._jobs.withdraw(transaction, f"{OVERDUE}:{number}")
        return await self.records.get(number)

    async def _note(self, number: int, state: State, comment: str = "") -> None:
        async with self._database.transaction() as transaction:
            await move(transaction, number, state, comment)
