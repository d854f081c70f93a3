"""A small pool of threads for blocking work on object files.

queue.SimpleQueue is written in C and its get() waits outside the interpreter lock; a hop through it costs a
third of one through concurrent.futures, which makes a lock, a condition and a future for every job.
"""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import structlog

log = structlog.get_logger()


class Workers:
    """Runs jobs in threads; a job answers by itself, through the event loop or the writer's queue."""

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.asked_at = 0.0  # when the last job came, on the monotonic clock
        self._threads = [
            threading.Thread(target=self._run, name=f"archive-worker-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        self.asked_at = time.monotonic()
        self._jobs.put(job)

    def close(self) -> None:
        """Wait until everything submitted has run and the threads are gone."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("archive.job_failed")  # a bug of ours: the pool must outlive it
            del job  # an idle thread would keep the last object's data and its association in memory
