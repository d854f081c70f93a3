"""What has been acknowledged of a job, crossed out as the acknowledgements come.

Each is in the ledger at once, so that a node that is killed sends nothing again that it had heard of; the
rows go some at a time, without waiting for the disk: after a power cut a few objects may be sent twice.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

from pacsnode.workflow.database import Database
from pacsnode.workflow.ledger import Ledger

PACE: Final = 0.1  # seconds between two transactions, where there is a ledger
_CROSS_OUT: Final = "DELETE FROM job_item WHERE job = ? AND item = ?"


class Receipts:
    """Collects while it is entered; at its end everything is written."""

    def __init__(self, database: Database, job: int, ledger: Ledger | None) -> None:
        self._database = database
        self._job = job
        self._ledger = ledger
        self._noted: list[tuple[str, int | None]] = []
        self._news = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def note(self, item: str) -> None:
        """An item was acknowledged."""
        slot = None if self._ledger is None else self._ledger.write(self._job, item)
        self._noted.append((item, slot))
        self._news.set()

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._write_always())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writing is not None
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await self._write()

    async def _write_always(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.shield(self._write())
            if self._ledger is not None:
                await asyncio.sleep(PACE)

    async def _write(self) -> None:
        noted, self._noted = self._noted, []
        if not noted:
            return
        try:
            async with self._database.transaction(synced=False) as transaction:
                await transaction.execute_many(_CROSS_OUT, [(self._job, item) for item, _ in noted])
        except BaseException:
            self._noted = noted + self._noted  # for the last attempt, at the end
            raise
        if self._ledger is not None:
            self._ledger.clear(slot for _, slot in noted if slot is not None)


async def recover(database: Database, ledger: Ledger) -> None:
    """Cross out what the process before had heard of and did not come to write."""
    if records := list(ledger.records()):
        async with database.transaction() as transaction:
            await transaction.execute_many(_CROSS_OUT, [(job, item) for _, job, item in records])
        ledger.clear(slot for slot, _, _ in records)
