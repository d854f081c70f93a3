"""What the journal holds made safe in the objects' own files, thousands at once, and its segments freed.

syncfs(2) writes out all that a file system still has in memory: objects, their names and folders, the log of
the index. It may take long on a busy disk, but it holds neither the interpreter lock nor the writer, which
goes on in another segment. When it fails, Linux takes what it could not write for written, and tells nobody
again: so the segments are kept for the next start, which compares them with the files.
"""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from pacsnode.archive.files import Layout
from pacsnode.archive.journal import Journal, Segment

SETTLE_AFTER: Final = 0.25  # seconds of quiet
SETTLE_AT_LEAST: Final = 2.0  # seconds under load; what a power cut leaves to be done again stays little
RETRY_AFTER: Final = 5.0  # seconds

log = structlog.get_logger()


class Settler:
    """A thread that settles segments in the order in which it gets them."""

    def __init__(self, layout: Layout, journal: Journal, *, sync: bool) -> None:
        """Without `sync` segments are freed as they are; their files are safe from our death at least."""
        self._layout = layout
        self._journal = journal
        self._syncs = sync
        self._syncfs = _system_syncfs()
        self._queue: SimpleQueue[Segment | None] = SimpleQueue()
        self._waiting: deque[Segment] = deque()
        self._thread = threading.Thread(target=self._run, name="archive-settler", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        return self._queue.empty() and not self._waiting

    def settle(self, segment: Segment) -> None:
        """Settle a retired segment: the files of its objects are written, their rows are committed."""
        self._queue.put(segment)

    def close(self) -> None:
        """Settle what can be settled; the next start sees to the rest."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            try:
                segment = self._queue.get(timeout=RETRY_AFTER if self._waiting else None)
            except Empty:
                pass
            else:
                stopping = segment is None
                if segment is not None:
                    self._waiting.append(segment)
            if self._waiting:
                self._settle_waiting()
        self._abandon_waiting()

    def _settle_waiting(self) -> None:
        try:
            if self._syncs and not self._sync():
                self._abandon_waiting()
            while self._waiting:
                self._journal.recycle(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            log.error("journal.unsettled", error=error.strerror, segments=len(self._waiting))

    def _abandon_waiting(self) -> None:
        """Leave to the next start what is not settled."""
        while self._waiting:
            self._waiting.popleft().close()

    def _sync(self) -> bool:
        """Sync all; False when a file system has lost something. Raises OSError when one cannot be asked."""
        with _file_systems(self._layout) as descriptors:
            for descriptor in descriptors:
                try:
                    self._syncfs(descriptor)
                except OSError as error:
                    log.error("journal.abandoned", error=error.strerror, segments=len(self._waiting))
                    return False
        return True


def sync_all(layout: Layout) -> None:
    """Make durable what is in the files of a data root. Raises OSError."""
    syncfs = _system_syncfs()
    with _file_systems(layout) as descriptors:
        for descriptor in descriptors:
            syncfs(descriptor)


@contextmanager
def _file_systems(layout: Layout) -> Iterator[list[int]]:
    """A descriptor of every file system with a part of a data root. Raises OSError."""
    folders = (layout.root, layout.objects, layout.conflicts)
    devices = {os.stat(folder).st_dev: folder for folder in folders}
    with ExitStack() as stack:
        descriptors = []
        for folder in devices.values():
            descriptors.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, descriptors[-1])
        yield descriptors


def _system_syncfs() -> Callable[[int], None]:
    """syncfs(2), which tells of failed writes since Linux 5.8; elsewhere sync(2), which does not."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)

    def by_syncfs(descriptor: int) -> None:
        assert function is not None
        if function(descriptor):  # ctypes lets go of the interpreter lock
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def by_sync(_descriptor: int) -> None:
        os.sync()

    return by_sync if function is None else by_syncfs
