"""Work done ahead of time, while nobody is waiting for anything: once nothing has arrived for a while.

A little at a time, and nothing while objects arrive or are being sent.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from pacsnode.archive.workers import Workers
from pacsnode.errors import OutOfResources

log = structlog.get_logger()

QUIET: Final = 1.5  # seconds without an arrival before what came is taken to be complete for now


class Ahead:
    """Says when to work ahead, and when to rest."""

    def __init__(self, file_readers: Workers) -> None:
        self._file_readers = file_readers
        self._arrived = asyncio.Event()
        self._last_arrival = 0.0
        self._background: asyncio.Task[None] | None = None
        self.is_closing = False
        self.waiting = 0  # who waits for something that is being made now

    def begin(self, *jobs: Callable[[], Awaitable[None]]) -> None:
        """Do the jobs, one after the other, each time something has arrived, and now."""
        self._arrived.set()  # what came before the last stop
        self._background = asyncio.create_task(self._run(jobs))

    async def end(self) -> None:
        """Stop. What threads are at is left by whoever looks at `is_closing`."""
        self.is_closing = True
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)

    def note_arrival(self) -> None:
        """Objects have been committed; harmless when it is said too often."""
        self._last_arrival = time.monotonic()
        self._arrived.set()

    async def rest(self, pause: float) -> None:
        """For `pause` seconds, and for as long as somebody is waiting."""
        await asyncio.sleep(pause)
        while self.is_busy():  # noqa: ASYNC110 - quiet is no event
            await asyncio.sleep(10 * pause)

    def is_busy(self) -> bool:
        """Whether somebody waits, or objects arrive or are being sent; in any thread."""
        if self.is_closing:
            return False
        last = max(self._last_arrival, self._file_readers.asked_at)
        return self.waiting > 0 or time.monotonic() - last < QUIET / 3

    async def _run(self, jobs: tuple[Callable[[], Awaitable[None]], ...]) -> None:
        while True:
            await self._arrived.wait()
            await self._until_quiet()
            self._arrived.clear()
            for job in jobs:
                try:
                    await job()
                except (OutOfResources, sqlite3.Error, OSError) as error:
                    log.warning("ahead.not_made", reason=str(error))

    async def _until_quiet(self) -> None:
        left = self._last_arrival + QUIET - time.monotonic()
        while left > 0:
            await asyncio.sleep(left)
            left = self._last_arrival + QUIET - time.monotonic()
