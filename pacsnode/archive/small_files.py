"""The files of small objects: in the journal first, then at their places, a group at once (see journal.py).

Belongs to the writer: begin() with a transaction, keep() in it, take_back() when it is rolled back.
"""

import time
from collections.abc import Sequence
from typing import Final

import structlog

from pacsnode.archive.files import IncomingFile, Layout
from pacsnode.archive.journal import SEGMENT, Journal, Mark
from pacsnode.archive.journal_frames import Record
from pacsnode.archive.judge import Verdict
from pacsnode.archive.settling import Settler

SETTLE_AT_LEAST: Final = 2.0  # seconds; what a power cut leaves to be written again stays little

log = structlog.get_logger()


class SmallFiles:
    """Journals and writes what is small, and has it settled now and then."""

    def __init__(self, layout: Layout, journal: Journal, settler: Settler, *, sync: bool) -> None:
        self._layout = layout
        self._journal = journal
        self._settler = settler
        self._sync = sync
        self._mark: Mark | None = None
        self._written: list[str] = []  # in this transaction
        self._began_at = 0.0  # the present segment

    def begin(self) -> None:
        """A transaction begins: nothing of it is written yet."""
        self._mark = None
        self._written.clear()

    def keep(self, verdicts: Sequence[Verdict]) -> None:
        """Make durable what is small and kept, then write the files. Raises OSError and OutOfResources."""
        records = []
        for verdict in verdicts:
            arrival = verdict.arrival
            if arrival.content is None or verdict.place is None:
                continue
            if verdict.displaces:
                self._keep_in_incoming(arrival.token, arrival.content)
            else:
                records.append(Record(arrival.token, arrival.row.stored_at, verdict.place, arrival.content))
        if not records:
            return
        if not self._journal.size:
            self._began_at = time.monotonic()
        self._mark = self._journal.mark()
        self._journal.append(records)
        for record in records:
            self._layout.write(record.path, record.content)
            self._written.append(record.path)

    def _keep_in_incoming(self, token: int, content: bytes) -> None:
        """What takes another's place waits there until that has moved, as a large object does."""
        file = IncomingFile(self._layout, token, content)
        self._written.append(self._layout.incoming_path(token, len(content)))
        file.append((), sync=False, last=True)
        file.finish(self._sync)

    def take_back(self) -> None:
        """Undo what this transaction has kept."""
        try:
            for path in self._written:
                self._layout.remove(path)
            if self._mark is not None:
                self._journal.rewind(self._mark)
        except OSError as error:
            log.error("journal.failed", error=error.strerror)

    @property
    def is_waiting(self) -> bool:
        """Something is not settled, nor being settled."""
        return self._journal.size > 0

    def settle(self, *, now: bool) -> None:
        """Hand the journal's segment to the settler when it is time, or `now`. Only between transactions."""
        overdue = self._settler.is_idle and time.monotonic() - self._began_at > SETTLE_AT_LEAST
        if now or overdue or self._journal.size > SEGMENT:
            segment = self._journal.retire()
            if segment is not None:
                self._settler.settle(segment)
