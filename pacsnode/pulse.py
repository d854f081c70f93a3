"""How late the event loop runs its timers: what everybody who is served waits for.

A timer goes off a hundred times a second; how much later than due it is called is the lag. One that is long
was something blocking in the loop, or a machine that had no processor time to give. Imports log.
"""

import asyncio
from collections import deque
from typing import Final

from pacsnode.log import get_logger

INTERVAL: Final = 0.01  # seconds between two beats: by so much a stall may be told too short
SLICE: Final = 5.0  # seconds of which one figure is kept
REMEMBERED: Final = 60.0  # seconds that `longest` looks back
STALL: Final = 0.5  # seconds of lag that the log tells of: C-ECHOs of monitors begin to be late

log = get_logger()


class Pulse:
    """Measures the lag of the running event loop. Use: start(), longest, stop()."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._slices: deque[tuple[float, float]] = deque()  # when each ends, and its longest lag

    @property
    def longest(self) -> float:
        """The longest lag of the last minute, in seconds."""
        self._forget(self._loop.time())
        return max((lag for _, lag in self._slices), default=0.0)

    def start(self) -> None:
        self._beat_after(self._loop.time())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat_after(self, now: float) -> None:
        self._timer = self._loop.call_at(now + INTERVAL, self._beat, now + INTERVAL)

    def _beat(self, due: float) -> None:
        now = self._loop.time()
        self._remember(now, now - due)
        if now - due > STALL:
            log.warning("node.stalled", ms=round((now - due) * 1000))
        self._beat_after(now)

    def _remember(self, now: float, lag: float) -> None:
        if not self._slices or now > self._slices[-1][0]:
            self._forget(now)
            self._slices.append((now + SLICE, lag))
        elif lag > self._slices[-1][1]:
            self._slices[-1] = (self._slices[-1][0], lag)

    def _forget(self, now: float) -> None:
        while self._slices and self._slices[0][0] < now - REMEMBERED:
            self._slices.popleft()
