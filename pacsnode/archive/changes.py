"""What has arrived, in the order of the commits, for those who act on it (workflow)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pacsnode.archive.readers import Readers
from pacsnode.dicom.uid import UID

MOST: Final = 64  # commits read at once; each has 256 instances at most
MOST_BY_SERIES: Final = 4096  # where a row a series is wanted only

# The instances of commits `c`, as `number`.
NUMBERS: Final = "json_each('[' || replace(c.instances, ' ', ',') || ']') number"

_NEWEST: Final = "SELECT coalesce(max(sequence), 0) FROM change"
_ARRIVED: Final = f"""
    SELECT c.sequence, i.id, i.sop_class_uid, i.sop_instance_uid, s.series_instance_uid, t.study_instance_uid,
           s.modality, i.source_ae, i.transfer_syntax, i.stored_at
    FROM (SELECT * FROM change WHERE sequence > ? ORDER BY sequence LIMIT ?) c
    JOIN {NUMBERS}
    JOIN instance i ON i.id = number.value
    JOIN series s ON s.id = i.series_fk
    JOIN study t ON t.id = s.study_fk
    ORDER BY c.sequence, number.key
"""

_GROWN: Final = f"""
    SELECT s.series_instance_uid, t.study_instance_uid, s.modality
    FROM (
        SELECT DISTINCT i.series_fk FROM change c
        JOIN {NUMBERS}
        JOIN instance i ON i.id = number.value
        WHERE c.sequence > ? AND c.sequence <= ?
    ) touched
    JOIN series s ON s.id = touched.series_fk
    JOIN study t ON t.id = s.study_fk
"""
_LAST_OF: Final = (
    "SELECT max(sequence) FROM (SELECT sequence FROM change WHERE sequence > ? ORDER BY 1 LIMIT ?)"
)


@dataclass(frozen=True, slots=True)
class Arrived:
    """An instance that was committed; `sequence` numbers the commits, `token` the instances."""

    sequence: int
    token: int
    sop_class: UID
    sop_instance: UID
    series: UID
    study: UID
    modality: str
    source_ae: str
    transfer_syntax: UID
    stored_at: float


@dataclass(frozen=True, slots=True)
class Grown:
    """A series to which instances were committed."""

    series: UID
    study: UID
    modality: str


class Changes:
    """Reads the table `change`; the writer writes it."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self.at_open = 0
        """The number of the last commit when the archive was opened, before what a crash took came again."""

    async def newest(self) -> int:
        """The number of the last commit, 0 when there is none."""
        return int((await self._fetch(_NEWEST, ()))[0][0])

    async def after(self, sequence: int) -> tuple[list[Arrived], int]:
        """What arrived after a commit, oldest first, some at a time, and the number of the last commit read.

        What has been replaced since is left out, so the list can be empty though there was a commit.
        """
        last = (await self._fetch(_LAST_OF, (sequence, MOST)))[0][0]
        if last is None:
            return [], sequence
        rows = await self._fetch(_ARRIVED, (sequence, MOST))
        return [Arrived(*row) for row in rows if row[0] <= last], int(last)

    async def grown_after(self, sequence: int) -> tuple[list[Grown], int]:
        """As `after`, but the series only, in no order: it costs next to nothing for an instance."""
        last = (await self._fetch(_LAST_OF, (sequence, MOST_BY_SERIES)))[0][0]
        if last is None:
            return [], sequence
        return [Grown(*row) for row in await self._fetch(_GROWN, (sequence, last))], int(last)

    async def _fetch(self, sql: str, parameters: Sequence[int]) -> list[tuple[Any, ...]]:
        connection = await self._readers.acquire()
        usable = False
        try:
            rows = await connection.execute_fetchall(sql, parameters)
            usable = True
            return [tuple(row) for row in rows]
        finally:
            self._readers.release(connection, usable=usable)
