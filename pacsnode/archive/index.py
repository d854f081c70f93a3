"""The index as its one writer changes it: transactions, instances, what is kept aside (PS3.4 C.6).

Blocking sqlite3 with one connection; no thread but the writer's (or a rebuild's) comes here. parents.py keeps
what is above the instances. Instances are inserted into a view of this connection, whose trigger writes rows
and counts: sqlite3 lets go of the interpreter lock for every step, and getting it back among busy threads
costs more than a row. So a group of instances of known series costs two steps in all, a lookup of their UIDs
and an insert that is a transaction by itself; what needs more begins one first.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pacsnode.archive.aliases import Alias
from pacsnode.archive.answers import Answers
from pacsnode.archive.changes import NUMBERS
from pacsnode.archive.parents import ParentRows, StudyConflict, insert, recount_patient, recount_study
from pacsnode.archive.patients import change_aliases
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


@dataclass(slots=True)
class Existing:
    """The current instance under a SOP Instance UID."""

    id: int
    sop_class: str
    transfer_syntax: str
    digest: bytes
    path: str
    size: int


_FILE_COLUMNS: Final = ("transfer_syntax", "path", "size", "digest", "source_ae", "stored_at")
_INSTANCE_COLUMNS: Final = ("id", "series_fk", *column_names(Level.IMAGE), *_FILE_COLUMNS)
_ARRIVAL_COLUMNS: Final = (*_INSTANCE_COLUMNS, "encoding", "kept", "added")
_INSERT_ARRIVALS: Final = {rows: insert("arrival", _ARRIVAL_COLUMNS, rows) for rows in GROUP_SIZES}
# `added`: what table `change` is to have, with the last one of a transaction.
_ARRIVAL_VIEW: Final = f"""
    CREATE TEMP VIEW arrival AS SELECT {", ".join(f"NULL AS {name}" for name in _ARRIVAL_COLUMNS)};
    CREATE TEMP TRIGGER arrival_inserted INSTEAD OF INSERT ON arrival BEGIN
        INSERT INTO instance ({", ".join(_INSTANCE_COLUMNS)})
            VALUES ({", ".join(f"NEW.{name}" for name in _INSTANCE_COLUMNS)});
        INSERT INTO header (instance_id, encoding, kept) VALUES (NEW.id, NEW.encoding, NEW.kept);
        UPDATE series SET n_instances = n_instances + 1 WHERE id = NEW.series_fk;
        INSERT INTO change (instances) SELECT NEW.added WHERE NEW.added IS NOT NULL;
    END;
"""
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
    uids: "SELECT sop_instance_uid, id, sop_class_uid, transfer_syntax, digest, path, size FROM instance"
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


def _parameters(group: Sequence[tuple[Column, ...]], added: str | None) -> list[Column]:
    """What the insert of some arrivals binds; `added` goes with the last one."""
    parameters: list[Column] = []
    for values in group:
        parameters += values
        parameters.append(None)
    parameters[-1] = added
    return parameters


class Index:
    """One transaction at a time: begin(), any number of changes, then commit() or rollback()."""

    def __init__(self, connection: sqlite3.Connection, *, notes_changes: bool = True) -> None:
        """`notes_changes`: commits note what they add in table `change`; in a rebuild nothing arrives."""
        connection.executescript(_ARRIVAL_VIEW)
        self._connection = connection
        self._notes_changes = notes_changes
        self.answers = Answers()  # what is known of studies; commits have it forgotten
        self._execute = connection.execute
        self._parents = ParentRows(connection, self._lock)
        self._current: dict[UID, Existing] = {}
        self._waiting: list[tuple[Column, ...]] = []  # added, not yet written
        self._added: list[int] = []  # by this transaction
        self._changed: set[int] = set()  # studies, by this transaction: themselves or what is in them

    def begin(self, sop_instances: Sequence[UID]) -> None:
        """Start a transaction and look up the SOP Instance UIDs it will ask for."""
        self._parents.trim()
        self._parents.conflicts = []
        self._parents.completed.clear()
        self._changed.clear()
        self._waiting.clear()
        self._added.clear()
        self._current = {
            sop_instance: Existing(*rest)
            for group in _split(sop_instances)
            for sop_instance, *rest in self._execute(_SELECT_EXISTING[len(group)], group)
        }

    def _lock(self) -> None:
        """Begin a transaction of several statements; nobody else changes the index, so not before."""
        if not self._connection.in_transaction:
            self._execute("BEGIN IMMEDIATE")

    def write(self) -> None:
        """Have in the transaction what was added: then its commit is a short step."""
        if self._waiting:
            self._lock()
            self._write_all()

    def commit(self) -> list[StudyConflict]:
        """Commit; returns the conflicts between objects and their studies that were met."""
        studies = self._studies_changed()
        if self._connection.in_transaction:
            self._write_all()
        with self.answers.changing(studies):
            self._write_all()  # what is left: one insert that is a transaction by itself, most often
            if self._connection.in_transaction:
                self._execute("COMMIT")
        return self._parents.conflicts

    def _studies_changed(self) -> set[int]:
        """The studies of which something else is answered after this transaction."""
        studies = set(self._changed)
        for patient in self._parents.completed:
            rows = self._execute("SELECT id FROM study WHERE patient_fk = ?", (patient,))
            studies.update(study for (study,) in rows)
        return studies

    def _write_all(self) -> None:
        added = " ".join(map(str, self._added)) if self._added and self._notes_changes else None
        noted = self._write(added)
        if added and not noted:
            self._lock()
            self._execute("INSERT INTO change (instances) VALUES (?)", (added,))
        self._added.clear()

    def forget_changes(self, last: int) -> None:
        """Remove what every reader of changes has seen, but for the newest: numbers are not given twice."""
        self._lock()
        self._execute(
            "DELETE FROM change WHERE sequence <= ? AND sequence < (SELECT max(sequence) FROM change)",
            (last,),
        )

    def change_aliases(self, aliases: Sequence[Alias], sequence: int, *, only: bool = False) -> None:
        """Have patients be what they are now, see patients.change_aliases."""
        self._lock()
        self._parents.forget()
        self._parents.completed |= change_aliases(self._connection, aliases, sequence, only=only)

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
        """The first number that no row has had, neither current nor in conflict."""
        row = self._execute(
            "SELECT max((SELECT coalesce(max(id), 0) FROM instance),"
            " (SELECT coalesce(max(id), 0) FROM conflict),"
            f" (SELECT coalesce(max(number.value), 0) FROM change c JOIN {NUMBERS}))"
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
        series = self._parents.series_of(row)
        self._changed.add(series.study.id)
        facts = (row.transfer_syntax, row.path, row.size, row.digest, row.source_ae, row.stored_at)
        header = (ENCODING_CODE[row.encoding], row.kept)
        self._waiting.append((token, series.id, *row.values, *facts, *header))
        self._added.append(token)
        self._current[row.sop_instance] = Existing(
            token, row.sop_class, row.transfer_syntax, row.digest, row.path, row.size
        )

    def is_new(self, existing: Existing) -> bool:
        """Whether this transaction has added it, so that its file need not be there yet."""
        return existing.id in self._added

    def renew(self, existing: Existing, row: InstanceRow) -> None:
        """Have an instance be in the file of the same object that came again."""
        self._lock()
        self._execute(
            "UPDATE instance SET size = ?, source_ae = ? WHERE id = ?", (row.size, row.source_ae, existing.id)
        )
        existing.size = row.size

    def add_conflict(self, token: int, row: InstanceRow, path: str, reason: str) -> None:
        """Note an object that is kept aside."""
        self._lock()
        uids = (row.sop_instance, row.sop_class, row.parents.study_uid, row.parents.series_uid)
        facts = (row.transfer_syntax, path, row.size, row.digest, row.source_ae, row.stored_at)
        self._execute(_INSERT_CONFLICT, (token, *uids, *facts, reason))

    def displace(self, existing: Existing, path: str, reason: str) -> None:
        """Turn a current instance into one kept aside at `path`; parents left without instances go."""
        self._lock()
        self._write(None)
        self._parents.forget()
        columns = ", ".join(_CONFLICT_COLUMNS)
        self._execute(
            f"INSERT INTO conflict ({columns}) SELECT i.id, i.sop_instance_uid, i.sop_class_uid,"
            " t.study_instance_uid, s.series_instance_uid, i.transfer_syntax, ?, i.size, i.digest,"
            f" i.source_ae, i.stored_at, ? FROM {_LINE} WHERE i.id = ?",
            (path, reason, existing.id),
        )
        if existing.id in self._added:
            self._added.remove(existing.id)
        self._delete(existing.id)

    def remove(self, token: int) -> None:
        """Take an instance back as if it had never come; harmless when it is not there."""
        self._lock()
        self._parents.forget()
        self._delete(token)

    def _delete(self, token: int) -> None:
        """Delete an instance; parents left without instances go."""
        line = self._execute(
            f"SELECT s.id, t.id, t.patient_fk FROM {_LINE} WHERE i.id = ?", (token,)
        ).fetchone()
        if line is None:
            return
        self._execute("DELETE FROM header WHERE instance_id = ?", (token,))
        self._execute("DELETE FROM instance WHERE id = ?", (token,))
        self._recount(*line)
        self._changed.add(line[1])

    def _write(self, added: str | None) -> bool:
        """Write what waits; `added` goes with the last of it, if there is one."""
        self._parents.write_growth()
        groups = list(_split(self._waiting))
        if len(groups) > 1:
            self._lock()
        for group in groups:
            note = added if group is groups[-1] else None
            self._execute(_INSERT_ARRIVALS[len(group)], _parameters(group, note))
        self._waiting.clear()
        return bool(groups)

    def _recount(self, series_id: int, study_id: int, patient_id: int) -> None:
        """Bring counts and lists of one line of parents to what is left under them; the empty ones go."""
        execute = self._execute
        execute("UPDATE series SET n_instances = n_instances - 1 WHERE id = ?", (series_id,))
        execute("DELETE FROM series WHERE id = ? AND n_instances = 0", (series_id,))
        recount_study(self._connection, study_id)
        execute("DELETE FROM study WHERE id = ? AND n_series = 0", (study_id,))
        recount_patient(self._connection, patient_id)
        execute("DELETE FROM patient WHERE id = ? AND n_studies = 0", (patient_id,))
