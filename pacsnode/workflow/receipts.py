"""What has been acknowledged of a job, crossed out as the acknowledgements come.

Written without waiting for the disk: nothing that outlives the process is sent again by a node that was
killed; after a power cut a few objects may be. What comes while one transaction runs goes with the next.
"""

import asyncio
from types import TracebackType
from typing import Self

from pacsnode.workflow.database import Database


class Receipts:
    """Collects while it is entered; at its end everything is written."""

    def __init__(self, database: Database, job: int) -> None:
        self._database = database
        self._job = job
        self._noted: list[str] = []
        self._news = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def note(self, item: str) -> None:
        """An item was acknowledged."""
        self._noted.append(item)
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

    async def _write(self) -> None:
        noted, self._noted = self._noted, []
        if not noted:
            return
        try:
            async with self._database.transaction(synced=False) as transaction:
                await transaction.execute_many(
                    "DELETE FROM job_item WHERE job = ? AND item = ?", [(self._job, item) for item in noted]
                )
        except BaseException:
            self._noted = noted + self._noted  # for the last attempt, at the end
            raise
