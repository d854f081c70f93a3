"""Waiting for a state, with a deadline instead of a guess."""

import asyncio
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass

PATIENCE = 10.0  # seconds


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
    """What a leak would make grow."""

    descriptors: int
    tasks: int
    associations: int

    @classmethod
    def now(cls) -> "Holdings":
        gc.collect()
        return cls(
            len(os.listdir("/proc/self/fd")),
            len(asyncio.all_tasks()),
            sum(type(o).__name__ == "Association" for o in gc.get_objects()),
        )

    def covers(self, other: "Holdings") -> bool:
        return (
            other.descriptors <= self.descriptors
            and other.tasks <= self.tasks
            and other.associations <= self.associations
        )
