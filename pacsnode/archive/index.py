"""The index as its one writer changes it: transactions, instances, what is kept aside (PS3.4 C.6).

Blocking sqlite3 with one connection; no thread but the writer's (or a rebuild's) comes here. An instance of a
series seen before costs a lookup of its UID and two inserts; parents.py keeps what is above it.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

from pacsnode.archive.parents import ParentRows, StudyConflict, insert, recount_patient, recount_study
from pacsnode.archive.rows import InstanceRow, column_names
from pacsnode.dicom.header import Encoding
from pacsnode.dicom.information_model import Level
from pacsnode.dicom.uid import UID

SYNCHRONOUS: Final = {
    "full": "FULL",
    "file": "NORMAL",
    "none": "NORMAL",
}  # storage.sync -> PRAGMA synchronous
CACHE_SIZE: Final = 64 * 2**10  # KiB of pages; the upper levels of every index stay in memory
CHECKPOINT_PAGES: Final = 4000  # 16 MB of log; SQLite's 1000 would sync the index every 150 objects

GROUP_SIZES: Final = (32, 16, 8, 4, 2, 1)  # rows of one statement; few sizes, so that all stay prepared
Column = str | int | float | bytes | None
Item = TypeVar("Item")

ENCODING_CODE: Final = {Encoding(False, True): 0, Encoding(True, True): 1, Encoding(False, False): 2}


def connect(path: Path, sync: str = "full") -> sqlite3.Connection:
    """Open the index for its writer; transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[sync]}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_SIZE}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


@dataclass(frozen=True, slots=True)
class Existing:
    """The current instance under a SOP Instance UID."""

    id: int
    sop_class: str
    transfer_syntax: str
    digest: bytes
    path: str


_FILE_COLUMNS: Final = ("transfer_syntax", "path", "size", "digest", "source_ae", "stored_at")
_INSTANCE_COLUMNS: Final = ("id", "series_fk", *column_names(Level.IMAGE), *_FILE_COLUMNS)
_INSERT_INSTANCES: Final = {rows: insert("instance", _INSTANCE_COLUMNS, rows) for rows in GROUP_SIZES}
_HEADER_COLUMNS: Final = ("instance_id", "encoding", "kept")
_INSERT_HEADERS: Final = {rows: insert("header", _HEADER_COLUMNS, rows) for rows in GROUP_SIZES}
_CONFLICT_COLUMNS: Final = (
    "id",
    "sop_instance_uid",
    "sop_class_uid",
    "study_instance_uid",
    "series_instance_uid",
    *_FILE_COLUMNS,
    "reason",
)
_INSERT_CONFLICT: Final = insert("conflict", _CONFLICT_COLUMNS)
_LINE: Final = "instance i JOIN series s ON s.id = i.series_fk JOIN study t ON t.id = s.study_fk"
_SELECT_EXISTING: Final = {
    uids: "SELECT sop_instance_uid, id, sop_class_uid, transfer_syntax, digest, path FROM instance"
    f" WHERE sop_instance_uid IN ({', '.join('?' * uids)})"
    for uids in GROUP_SIZES
}


def _split(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Cut into groups for which there is a statement."""
    start = 0
    for size in GROUP_SIZES:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size


class Index:
    """One transaction at a time: begin(), any number of changes, then commit() or rollback()."""

    def __init__(self, connection: sqlite3.Connection, *, notes_changes: bool = True) -> None:
        """`notes_changes`: commits note what they add in table `change`; in a rebuild nothing arrives."""
        self._connection = connection
        self._notes_changes = notes_changes
        self._execute = connection.execute
        self._parents = ParentRows(connection)
        self._current: dict[UID, Existing] = {}
        self._instances: list[tuple[Column, ...]] = []  # added, not yet written
        self._headers: list[tuple[Column, ...]] = []
        self._added: list[int] = []  # by this transaction

    def begin(self, sop_instances: Sequence[UID]) -> None:
        """Start a transaction and look up the SOP Instance UIDs it will ask for."""
        self._parents.trim()
        self._parents.conflicts = []
        self._instances.clear()
        self._headers.clear()
        self._added.clear()
        self._execute("BEGIN IMMEDIATE")
        self._current = {
            sop_instance: Existing(*rest)
            for group in _split(sop_instances)
            for sop_instance, *rest in self._execute(_SELECT_EXISTING[len(group)], group)
        }

    def commit(self) -> list[StudyConflict]:
        """Commit; returns the conflicts between objects and their studies that were met."""
        self._write()
        if self._added and self._notes_changes:
            self._execute("INSERT INTO change (instances) VALUES (?)", (" ".join(map(str, self._added)),))
        self._execute("COMMIT")
        return self._parents.conflicts

    def forget_changes(self, last: int) -> None:
        """Remove what every reader of changes has seen."""
        self._execute("DELETE FROM change WHERE sequence <= ?", (last,))

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
        self._parents.forget()

    def sync_log(self) -> None:
        """Make every commit so far durable; with synchronous = NORMAL only checkpoints do by themselves."""
        path = self._execute("PRAGMA database_list").fetchone()[2] + "-wal"
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._connection.close()

    def next_token(self) -> int:
        """The first number that no row has, neither current nor in conflict."""
        row = self._execute(
            "SELECT max((SELECT coalesce(max(id), 0) FROM instance),"
            " (SELECT coalesce(max(id), 0) FROM conflict))"
        ).fetchone()
        return int(row[0]) + 1

    def find(self, sop_instance: UID) -> Existing | None:
        """The current instance with this UID, one of those begin() was told."""
        return self._current.get(sop_instance)

    def find_conflict(self, row: InstanceRow) -> str | None:
        """The path of the same object when it was kept aside before."""
        found = self._execute(
            "SELECT path FROM conflict WHERE sop_instance_uid = ? AND digest = ? AND sop_class_uid = ?"
            " AND transfer_syntax = ?",
            (row.sop_instance, row.digest, row.sop_class, row.transfer_syntax),
        ).fetchone()
        return None if found is None else str(found[0])

    def add_instance(self, token: int, row: InstanceRow) -> None:
        """Make an instance current; its parents are found, made or completed."""
        series = self._parents.count_instance(row)
        facts = (row.transfer_syntax, row.path, row.size, row.digest, row.source_ae, row.stored_at)
        self._instances.append((token, series, *row.values, *facts))
        self._headers.append((token, ENCODING_CODE[row.encoding], row.kept))
        self._added.append(token)
        self._current[row.sop_instance] = Existing(
            token, row.sop_class, row.transfer_syntax, row.digest, row.path
        )

    def add_conflict(self, token: int, row: InstanceRow, path: str, reason: str) -> None:
        """Note an object that is kept aside."""
        uids = (row.sop_instance, row.sop_class, row.parents.study_uid, row.parents.series_uid)
        facts = (row.transfer_syntax, path, row.size, row.digest, row.source_ae, row.stored_at)
        self._execute(_INSERT_CONFLICT, (token, *uids, *facts, reason))

    def displace(self, existing: Existing, path: str, reason: str) -> None:
        """Turn a current instance into one kept aside at `path`; parents left without instances go."""
        self._write()
        self._parents.forget()
        columns = ", ".join(_CONFLICT_COLUMNS)
        self._execute(
            f"INSERT INTO conflict ({columns}) SELECT i.id, i.sop_instance_uid, i.sop_class_uid,"
            " t.study_instance_uid, s.series_instance_uid, i.transfer_syntax, ?, i.size, i.digest,"
            f" i.source_ae, i.stored_at, ? FROM {_LINE} WHERE i.id = ?",
            (path, reason, existing.id),
        )
        series_id, study_id, patient_id = self._execute(
            f"SELECT s.id, t.id, t.patient_fk FROM {_LINE} WHERE i.id = ?", (existing.id,)
        ).fetchone()
        if existing.id in self._added:
            self._added.remove(existing.id)
        self._execute("DELETE FROM header WHERE instance_id = ?", (existing.id,))
        self._execute("DELETE FROM instance WHERE id = ?", (existing.id,))
        self._recount(series_id, study_id, patient_id)

    def _write(self) -> None:
        """Write what was added, several rows with one statement.

        sqlite3 lets go of the interpreter lock for each step, and getting it back among busy threads costs
        more than the row; one step for many rows leaves the lock to the others meanwhile.
        """
        for rows, statements in ((self._instances, _INSERT_INSTANCES), (self._headers, _INSERT_HEADERS)):
            for group in _split(rows):
                self._execute(statements[len(group)], tuple(chain.from_iterable(group)))
            rows.clear()
        self._parents.write_counts()

    def _recount(self, series_id: int, study_id: int, patient_id: int) -> None:
        """Bring counts and lists of one line of parents to what is left under them; the empty ones go."""
        execute = self._execute
        execute("UPDATE series SET n_instances = n_instances - 1 WHERE id = ?", (series_id,))
        execute("DELETE FROM series WHERE id = ? AND n_instances = 0", (series_id,))
        recount_study(self._connection, study_id)
        execute("DELETE FROM study WHERE id = ? AND n_instances = 0", (study_id,))
        recount_patient(self._connection, patient_id)
        execute("DELETE FROM patient WHERE id = ? AND n_instances = 0", (patient_id,))
