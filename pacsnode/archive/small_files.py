"""The files of small objects: written once the journal has them, a group at a time, and not synced.

Belongs to the writer: begin() with a transaction, write() in it, take_back() when it is rolled back.
"""

from collections.abc import Sequence

import structlog

from pacsnode.archive.files import Layout
from pacsnode.archive.incoming_file import IncomingFile
from pacsnode.archive.judge import Verdict

log = structlog.get_logger()


class SmallFiles:
    """Writes what is small and kept."""

    def __init__(self, layout: Layout, *, sync: bool) -> None:
        self._layout = layout
        self._sync = sync
        self._written: list[str] = []  # in this transaction

    def begin(self) -> None:
        """A transaction begins: nothing of it is written yet."""
        self._written.clear()

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """Write the files. Raises OSError and OutOfResources."""
        for verdict in verdicts:
            arrival = verdict.arrival
            if arrival.content is None or verdict.place is None:
                continue
            if verdict.displaces:
                self._keep_in_incoming(arrival.token, arrival.content)
            else:
                self._layout.write(verdict.place, arrival.content)
                self._written.append(verdict.place)

    def _keep_in_incoming(self, token: int, content: bytes) -> None:
        """What takes another's place waits there until that has moved, as a large object does."""
        file = IncomingFile(self._layout, token, content)
        self._written.append(self._layout.incoming_path(token, len(content)))
        file.append((), sync=False, last=True)
        file.finish(self._sync)

    def take_back(self) -> None:
        """Remove what this transaction has written."""
        try:
            for path in self._written:
                self._layout.remove(path)
        except OSError as error:
            log.error("journal.failed", error=error.strerror)
