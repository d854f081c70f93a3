"""What has just been acknowledged, in memory that outlives the process.

A transaction for each acknowledgement would cost more than the object, and those of the last tenth of a
second would be lost with a process that is killed. So each is first a record in a small mapped file: a store
into memory, which the kernel keeps whatever becomes of the process. It goes when the database has its item.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import Final, Self

FILE_NAME: Final = "receipts"
SLOTS: Final = 8192  # records; a tenth of a second has some hundred
_RECORD: Final = Struct("<Q120s")  # the job, 0 for none; the item: a UID has 64 characters at most
_ITEM: Final = Struct("<120s")
_JOB: Final = Struct("<Q")


class Ledger:
    """The mapped file."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._free = [slot for slot in reversed(range(SLOTS)) if not self._job_of(slot)]

    @classmethod
    def open(cls, root: Path) -> Self:
        """Make or open the file in a data root. Raises OSError, on a full disk for instance."""
        size = SLOTS * _RECORD.size
        file = os.open(root / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(file, 0, size)  # a store into a hole of it would fail when the disk is full
            return cls(mmap.mmap(file, size))
        finally:
            os.close(file)

    def close(self) -> None:
        self._memory.close()

    def write(self, job: int, item: str) -> int | None:
        """Note an item of a job; returns the slot, None when there is no room for it."""
        encoded = item.encode()
        if not self._free or len(encoded) > _ITEM.size:
            return None
        slot = self._free.pop()
        start = slot * _RECORD.size
        _ITEM.pack_into(self._memory, start + _JOB.size, encoded)
        _JOB.pack_into(self._memory, start, job)  # last: a record without it is none
        return slot

    def clear(self, slots: Iterable[int]) -> None:
        """The database has what these slots hold."""
        for slot in slots:
            _JOB.pack_into(self._memory, slot * _RECORD.size, 0)
            self._free.append(slot)

    def records(self) -> Iterator[tuple[int, int, str]]:
        """Slot, job and item of every record: what a process that was killed had not written."""
        for slot in range(SLOTS):
            if job := self._job_of(slot):
                (item,) = _ITEM.unpack_from(self._memory, slot * _RECORD.size + _JOB.size)
                yield slot, job, item.rstrip(b"\0").decode(errors="replace")

    def _job_of(self, slot: int) -> int:
        (job,) = _JOB.unpack_from(self._memory, slot * _RECORD.size)
        return int(job)
