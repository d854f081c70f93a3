"""Waiting for a state, with a deadline instead of a guess."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pacsnode.archive.readers import Readers

PATIENCE = 10.0  # seconds
_WAL = "descriptor of index.sqlite-wal"


async def eventually(condition: Callable[[], object], what: str, limit: float = PATIENCE) -> None:
    """Return when `condition()` is true; fail when it is not within `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            while not condition():  # noqa: ASYNC110 - states of threads and of peers set no event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {limit:g} s: {what}") from None


@dataclass(frozen=True)
class Holdings:
    """What a leak would make grow: open descriptors, tasks and associations by name."""

    held: Counter[str]

    @classmethod
    def now(cls) -> "Holdings":
        gc.collect()
        tasks = (f"task {task.get_coro()!r}".split(" at ")[0] for task in asyncio.all_tasks())
        objects = gc.get_objects()
        associations = ("association" for o in objects if type(o).__name__ == "Association")
        held = Counter([*_descriptors(), *tasks, *associations])
        # Readers of the index are opened when first needed and kept for the next query: those are no leak.
        held.subtract(_WAL for readers in objects if type(readers) is Readers for _ in readers._idle)
        return cls(held)

    async def restored(self) -> None:
        """Wait until no more is held than was held then."""
        try:
            await eventually(lambda: Holdings.now().held <= self.held, "nothing more is held than before")
        except AssertionError as error:
            now = Holdings.now().held
            now.subtract(self.held)
            raise AssertionError(f"{error}: {+now}") from None


def resident() -> int:
    """Bytes of memory the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:  # that of the folder being read
            continue
        # SQLite keeps a closed connection's descriptor for the next one while others hold locks on the file
        # (it must, with POSIX locks). A connection that leaks is seen by its -wal. A segment of the journal
        # is opened when first needed, and kept.
        if not target.endswith("/index.sqlite") and "/journal/" not in target:
            found.append(
                _WAL if target.endswith("/index.sqlite-wal") else f"descriptor of {target}".split("[")[0]
            )
    return found


async def eventually_true(
    condition: Callable[[], Awaitable[object]], what: str, limit: float = PATIENCE
) -> None:
    """As `eventually`, for a condition that has to be awaited."""
    try:
        async with asyncio.timeout(limit):
            while not await condition():  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {limit:g} s: {what}") from None


@asynccontextmanager
async def running(coroutine: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run something that does not end by itself for the time of the block; what it raises fails the test."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
