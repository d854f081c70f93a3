"""The data root in use: the lock that keeps other processes out, and the space that is left."""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pacsnode.archive.files import out_of_resources
from pacsnode.errors import ArchiveError, OutOfResources

FREE_SPACE_AGE: Final = 1.0  # seconds a statvfs answer is believed; a full disk is met by ENOSPC anyway


class Lock:
    """One node per data root: flock(2) on <root>/.lock, gone with the process however it ends."""

    def __init__(self, root: Path) -> None:
        self._path = root / ".lock"
        self._descriptor = -1

    def acquire(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ArchiveError(f"data root {self._path.parent} is in use by another process") from error
            raise ArchiveError(f"{self._path} cannot be locked: {error.strerror}") from error

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FreeSpace:
    """Refuses new objects while less than `reserve` bytes are free, so that a disk never fills up fully."""

    def __init__(self, root: Path, reserve: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._reserve = reserve
        self._clock = clock
        self._checked_at = float("-inf")
        self._free = 0

    def check(self) -> None:
        """Raises OutOfResources below the reserve. Asks the file system once a second at most."""
        now = self._clock()
        if now - self._checked_at > FREE_SPACE_AGE:
            try:
                status = os.statvfs(self._root)
            except OSError as error:  # unmounted, or the disk is gone
                raise out_of_resources(error) from error
            self._free = status.f_bavail * status.f_frsize
            self._checked_at = now
        if self._free < self._reserve:
            raise OutOfResources("free space is below the reserve")
