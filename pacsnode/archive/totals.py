"""How much there is: what the start page of the web face and people who look after a node want to know."""

import asyncio
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacsnode.archive.files import out_of_resources
from pacsnode.archive.readers import Readers
from pacsnode.errors import OutOfResources

_AGE: Final = 10.0  # seconds; the sum of sizes reads the row of each instance: 0.5 s for a million
_SQL: Final = """
    SELECT (SELECT count(*) FROM patient WHERE n_studies > 0),
           (SELECT count(*) FROM study WHERE n_series > 0),
           (SELECT count(*) FROM series WHERE n_instances > 0),
           count(*), coalesce(sum(size), 0)
    FROM instance
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts, and sizes in bytes: of the files of all instances, and of what is free beside them."""

    patients: int
    studies: int
    series: int
    instances: int
    size: int
    free: int


class TotalsOfArchive:
    """Counts, and remembers for some seconds, so that a page that is reloaded costs nothing."""

    def __init__(self, readers: Readers, root: Path) -> None:
        self._readers = readers
        self._root = root
        self._counting = asyncio.Lock()
        self._counted_at = float("-inf")
        self._totals: Totals | None = None

    async def get(self) -> Totals:
        """The totals of the last seconds. Raises OutOfResources."""
        async with self._counting:
            if self._totals is None or time.monotonic() - self._counted_at > _AGE:
                self._totals = await self._count()
                self._counted_at = time.monotonic()
            return self._totals

    async def _count(self) -> Totals:
        try:
            disk = await asyncio.to_thread(os.statvfs, self._root)
        except OSError as error:
            raise out_of_resources(error) from error
        connection = await self._readers.acquire()
        usable = False
        try:
            rows = await connection.execute_fetchall(_SQL)
            usable = True
        except sqlite3.Error as error:
            raise OutOfResources(f"the index cannot be read: {error}") from error
        finally:
            self._readers.release(connection, usable=usable)
        patients, studies, series, instances, size = next(iter(rows))
        return Totals(patients, studies, series, instances, size, disk.f_bavail * disk.f_frsize)
