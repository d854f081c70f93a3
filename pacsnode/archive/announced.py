"""Places where files are about to be written that neither the journal nor the index may know of yet.

    <root>/journal/announced    made by a start, removed by a stop that left nothing undone

A small object's file and row do not wait for the journal (early.py). After a kill between file and row no
start would ever find that file: so the writer names it here first, in one of a few slots that take turns.
That goes to the page cache only, which outlives the process; what a power cut takes of it, it takes of those
files as well. That this file is there tells a start that the last run did not stop by itself.
"""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from pacsnode.archive.files import Layout
from pacsnode.archive.rows import InstanceRow

FILE_NAME: Final = "announced"
SLOTS: Final = 64  # groups; more are not under way at once
MOST: Final = 64  # files of a group
_SLOT: Final = 24 * 2**10  # bytes; a line has 265 at most
_LINE: Final = re.compile(r"(\d{1,19}) (\d{1,19}) ([0-9a-f]{32}) (objects/[0-9.]+/[0-9.]+/[0-9.]+\.dcm)")


@dataclass(frozen=True, slots=True)
class Announcement:
    """A file that may be there. `size` is the file's, `digest` that of its data set."""

    token: int
    size: int
    digest: bytes
    path: str

    @classmethod
    def of(cls, token: int, row: InstanceRow) -> Self:
        return cls(token, row.size, row.digest, row.path)

    def line(self) -> str:
        return f"{self.token} {self.size} {self.digest.hex()} {self.path}"


class Announced:
    """The open file; belongs to the writer."""

    def __init__(self, layout: Layout) -> None:
        """Raises OSError."""
        self._layout = layout
        self._path = layout.journal / FILE_NAME
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        layout.sync_folder(layout.journal)
        self._next = 0

    def note(self, announcements: Iterable[Announcement]) -> None:
        """Name the files of a group, MOST at most. Raises OSError."""
        lines = "\n".join(announcement.line() for announcement in announcements)
        os.pwrite(self._descriptor, f"{lines}\n\0".encode("ascii"), self._next * _SLOT)
        self._next = (self._next + 1) % SLOTS

    def close(self, *, done: bool) -> None:
        """Let go of it; `done`: every object that was named is stored, or is gone.

        A disk that does not even remove it has the next start look again, where all is well.
        """
        os.close(self._descriptor)
        if done:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._layout.sync_folder(self._layout.journal)


def read_announced(layout: Layout) -> Sequence[Announcement] | None:
    """What the last run named, and perhaps runs before it; None when it has stopped by itself."""
    try:
        content = (layout.journal / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return None
    slots = (content[start : start + _SLOT] for start in range(0, len(content), _SLOT))
    lines = (line for slot in slots for line in slot.partition(b"\0")[0].decode("latin_1").split("\n"))
    found = filter(None, map(_LINE.fullmatch, lines))
    return [Announcement(int(m[1]), int(m[2]), bytes.fromhex(m[3]), m[4]) for m in found]
