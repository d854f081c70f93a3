"""Small objects written to the journal, while the writer checks them and puts them into the index.

So the disk works when the processor does. What is journaled is not yet checked: what the writer then does
not keep is revoked, and until that is written a start would check it again. What the writer keeps may have
row and file before the journal has it; then it is answered from here. A segment goes to the settler when all
its objects have become what they are to be.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from pacsnode.archive.durability import Durability
from pacsnode.archive.files import out_of_resources
from pacsnode.archive.instance import SmallObject
from pacsnode.archive.journal import SEGMENT, Journal, Segment
from pacsnode.archive.journal_frames import Record
from pacsnode.archive.settling import SETTLE_AFTER, SETTLE_AT_LEAST, Settler

MAX_GROUP: Final = 256  # objects

log = structlog.get_logger()


class _Revocation:
    """An object that was not kept."""

    __slots__ = ("durable", "token")

    def __init__(self, token: int) -> None:
        self.token = token
        self.durable = Durability()


_Entry = SmallObject | _Revocation


class Scribe:
    """One thread; its methods may be called from any."""

    def __init__(self, journal: Journal, settler: Settler) -> None:
        self._journal = journal
        self._settler = settler
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._began_at = 0.0  # the present segment
        self._counting = threading.Lock()  # by who changes what a segment says of its objects
        self._segments: dict[int, Segment] = {}  # of objects that are not finished, by their tokens
        self._awaited: deque[tuple[Durability, Callable[[], None]]] = deque()
        self._calling = threading.Lock()  # by who sees to what was awaited
        self._thread = threading.Thread(target=self._run, name="archive-scribe", daemon=True)
        self._thread.start()

    def submit(self, small: SmallObject) -> None:
        """Have an object journaled; its `durable` is told."""
        self._queue.put(small)

    @property
    def awaited(self) -> int:
        """How many groups wait for the journal."""
        return len(self._awaited)

    def after(self, objects: Sequence[SmallObject], then: Callable[[], None]) -> None:
        """Call `then`, in this thread or in the scribe's, when all of a group are told.

        Objects are told in the order in which they were submitted, which is that of the groups.
        """
        if not objects:
            then()
            return
        self._awaited.append((objects[-1].durable, then))
        self._call_due()

    def _call_due(self) -> None:
        while self._awaited:
            with self._calling:
                if not self._awaited or not self._awaited[0][0].is_told:
                    return
                _, then = self._awaited.popleft()
                then()

    def catch_up(self) -> None:
        """Wait until every group that waited for the journal has been seen to."""
        while self._awaited:
            with suppress(IndexError):  # the scribe has just begun with the last
                self._awaited[-1][0].has_come()
            self._call_due()
        with self._calling:  # and has ended
            pass

    def revoke(self, objects: Iterable[SmallObject]) -> list[Durability]:
        """Have it noted that they were not kept."""
        revocations = [_Revocation(small.token) for small in objects if small.durable.has_come()]
        for revocation in revocations:
            self._queue.put(revocation)
        return [revocation.durable for revocation in revocations]

    def finish(self, objects: Iterable[SmallObject]) -> None:
        """They are stored, file and row, or are not to be."""
        for small in objects:
            if small.durable.has_come():
                with self._counting:
                    segment = self._segments.pop(small.token)
                    segment.unfinished -= 1
                    done = segment.is_retired and not segment.unfinished
                if done:
                    self._settler.settle(segment)

    def close(self) -> None:
        """Hand over what is journaled; everything is finished."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._deal_with(self._take()):
            pass

    def _deal_with(self, entries: Sequence[_Entry | None]) -> bool:
        """Journal what came; False when nothing more will.

        What it was is let go of before more is waited for: an object knows its association.
        """
        group = [entry for entry in entries if entry is not None]
        is_last = len(group) < len(entries)
        if group:
            self._write(group)
        self._retire(now=is_last or not group)
        return not is_last

    def _take(self) -> list[_Entry | None]:
        """Wait for an entry, then take what came with it; nothing when nothing comes for a while."""
        entries: list[_Entry | None] = []
        try:
            entries.append(self._queue.get(timeout=SETTLE_AFTER if self._journal.size else None))
            while len(entries) < MAX_GROUP:
                entries.append(self._queue.get_nowait())
        except Empty:
            pass
        return entries

    def _write(self, group: Sequence[_Entry]) -> None:
        """Journal a group and tell; whatever happens, somebody waits for each."""
        failure: Exception | None = None
        if not self._journal.size:
            self._began_at = time.monotonic()
        try:
            segment = self._journal.append([_record(entry) for entry in group])
            self._count(group, segment)
        except OSError as error:
            failure = out_of_resources(error)
        except Exception as error:
            log.exception("archive.job_failed")
            failure = error
        for entry in group:
            entry.durable.tell(failure)
        self._call_due()

    def _count(self, group: Sequence[_Entry], segment: Segment) -> None:
        objects = dict.fromkeys((entry.token for entry in group if isinstance(entry, SmallObject)), segment)
        with self._counting:
            self._segments |= objects
            segment.unfinished += len(objects)

    def _retire(self, *, now: bool) -> None:
        """End the present segment when it is time, or `now`; it is settled with its last object."""
        overdue = self._settler.is_idle and time.monotonic() - self._began_at > SETTLE_AT_LEAST
        if not (now or overdue or self._journal.size > SEGMENT):
            return
        with self._counting:
            segment = self._journal.retire()
            done = segment is not None and not segment.unfinished
        if segment is not None and done:
            self._settler.settle(segment)


def _record(entry: _Entry) -> Record:
    if isinstance(entry, SmallObject):
        return Record(entry.token, time.time(), "", entry.content)
    return Record(entry.token, time.time(), "", b"")
