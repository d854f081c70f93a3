"""Work done ahead of time, while nobody is waiting for anything: once nothing has arrived for a while.

A little at a time, and next to nothing while objects arrive or are being sent, or something is searched for.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from pacsnode.errors import OutOfResources

log = structlog.get_logger()

PAUSE: Final = 0.01  # seconds
QUIET: Final = 1.5  # seconds without an arrival before what came is taken to be complete for now
PATIENCE: Final = 2.0  # seconds; where it is never quiet a bit of work is done that often all the same


class Asked(Protocol):
    """What is asked for something from time to time."""

    @property
    def asked_at(self) -> float:
        """When it last was, on the monotonic clock."""
        ...


class Ahead:
    """Says when to work ahead, and when to rest."""

    def __init__(self, *asked: Asked) -> None:
        """`asked`: those that do what somebody waits for."""
        self._asked = asked
        self._arrived = asyncio.Event()
        self._last_arrival = 0.0
        self._background: asyncio.Task[None] | None = None
        self.is_closing = False
        self.waiting = 0  # who waits for something that is being made now

    def begin(self, *jobs: Callable[[], Awaitable[None]]) -> None:
        """Do the jobs, one after the other, each time something has arrived, and when it is quiet first."""
        self.note_arrival()  # of what came before the last stop; people come back after a start
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
        """For `pause` seconds, and while somebody is waiting, but not for ever."""
        await asyncio.sleep(pause)
        until = time.monotonic() + PATIENCE
        while self.is_busy() and time.monotonic() < until:  # noqa: ASYNC110 - quiet is no event
            await asyncio.sleep(10 * pause)

    def rest_in_thread(self, pause: float) -> None:
        """While somebody is waiting, looking every `pause` seconds, but not for ever."""
        until = time.monotonic() + PATIENCE
        while self.is_busy() and time.monotonic() < until:
            time.sleep(pause)

    def is_busy(self) -> bool:
        """Whether somebody waits, or objects arrive or are sent, or there are searches; in any thread."""
        if self.is_closing:
            return False
        last = max(self._last_arrival, *(one.asked_at for one in self._asked))
        return self.waiting > 0 or time.monotonic() - last < QUIET / 3

    async def _run(self, jobs: tuple[Callable[[], Awaitable[None]], ...]) -> None:
        while True:
            await self._arrived.wait()
            await self._until_quiet()
            await self.rest(PAUSE)
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
