"""What a crash left in incoming/ and in the journal: placed, written or indexed again, or forgotten at start.

Only these two are looked at, and the objects of the last commits: a start costs the same with ten objects and
with ten million (schemes: files.py, journal.py and early.py).
"""

import os
import sqlite3
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from pacsnode.archive.announced import SLOTS, Announcement, read_announced
from pacsnode.archive.changes import NUMBERS
from pacsnode.archive.files import Layout, digest
from pacsnode.archive.instance import SMALL
from pacsnode.archive.journal_frames import Record, read_journal
from pacsnode.archive.rows import RowBuilder
from pacsnode.archive.stored_file import row_of_content
from pacsnode.dicom.part10 import data_offset_of, read_file_meta
from pacsnode.dicom.uid import UID
from pacsnode.errors import DataSetMismatch, OperationError

_MOST_META: Final = 4096  # bytes of a small object's file before its data set, at most

log = structlog.get_logger()


@dataclass(slots=True)
class Recovered:
    """What became of the files of incoming/ and of the journal's records; what is to be indexed again.

    `restored`: files of small objects that were not whole and have been written again. `unlisted`: token ->
    path in incoming/, or record of the journal. `unfounded`: tokens of rows whose objects were never
    acknowledged, and are not there. `after_crash`: the last run did not stop by itself.
    """

    finished: int = 0
    removed: int = 0
    restored: int = 0
    unlisted: dict[int, str | Record] = field(default_factory=dict)
    unfounded: list[int] = field(default_factory=list)
    after_crash: bool = False

    def next_token(self, of_index: int) -> int:
        """The first number neither the index nor what it lacks has."""
        return max([of_index, *(token + 1 for token in self.unlisted)])


def recover(connection: sqlite3.Connection, layout: Layout) -> Recovered:
    """Place every file that has a row, remove those broken off, name those that are complete without a row.

    The last kind was received to its end and may have been acknowledged: after a power cut the index can
    lack its last commits when storage.sync is "file".
    """
    recovered = Recovered()
    for name in os.listdir(layout.incoming):
        source = f"incoming/{name}"
        if not layout.is_incoming(source):
            log.warning("incoming.foreign", path=source)
            continue
        token, _ = layout.incoming_parts(name)
        if token is None or not layout.is_complete(source):
            layout.remove(source)
            recovered.removed += 1
            continue
        target = _final_path(connection, layout, token)
        if target is None:
            recovered.unlisted[token] = source
        else:
            layout.place(source, target)
            layout.remove(source)
            recovered.finished += 1
    tokens = set()
    for record in journaled(layout):
        tokens.add(record.token)
        _recover_record(connection, layout, record, recovered)
    announced = read_announced(layout)
    if announced is not None:
        recovered.after_crash = True
        recovered.unfounded = _unfounded(connection, layout, tokens)
        for announcement in announced:
            if announcement.token not in tokens:
                _recover_announced(connection, layout, announcement, recovered)
    found = (recovered.finished, recovered.removed, recovered.restored, recovered.unlisted)
    if any(found) or recovered.unfounded:
        log.warning(
            "index.recovered",
            finished=recovered.finished,
            removed=recovered.removed,
            restored=recovered.restored,
            unlisted=len(recovered.unlisted),
            unfounded=len(recovered.unfounded),
        )
    return recovered


def journaled(layout: Layout) -> Iterator[Record]:
    """The objects of the journal, each with the path it has when its UIDs are its own.

    Without those that are not what they were announced as: they were refused, or would have been.
    """
    rows = RowBuilder()
    for record in read_journal(layout.journal):
        if not record.path:
            try:
                record.path = _announced_path(record.content, rows)
            except OperationError as error:
                log.debug("journal.skipped", token=record.token, reason=str(error))
                continue
        yield record


def _announced_path(content: bytes, rows: RowBuilder) -> str:
    """Raises OperationError. The File Meta Information has the UIDs of the C-STORE request."""
    meta = read_file_meta(content)
    row = row_of_content(memoryview(content), rows)
    if (row.sop_class, row.sop_instance) != (meta.sop_class, meta.sop_instance):
        raise DataSetMismatch("it is not the object that was announced")
    return row.path


def _final_path(connection: sqlite3.Connection, layout: Layout, token: int) -> str | None:
    """Where the file with this number belongs; None when it was never committed."""
    row = connection.execute("SELECT sop_instance_uid, path FROM instance WHERE id = ?", (token,)).fetchone()
    if row is not None:
        _make_way(connection, layout, row[0])
        return str(row[1])
    row = connection.execute("SELECT path FROM conflict WHERE id = ?", (token,)).fetchone()
    return None if row is None else str(row[0])


def _make_way(connection: sqlite3.Connection, layout: Layout, sop_instance: UID) -> None:
    """Move aside the object that the one in incoming/ replaced, if the crash came before that."""
    rows = connection.execute(
        "SELECT id, size, study_instance_uid, series_instance_uid, path FROM conflict"
        " WHERE sop_instance_uid = ? AND reason = 'replaced'",
        (sop_instance,),
    )
    for token, size, study, series, aside in rows.fetchall():
        place = layout.object_path(study, series, sop_instance)
        in_place = not layout.exists(aside) and not layout.exists(layout.incoming_path(token, size))
        if in_place and layout.exists(place):
            layout.move(place, aside)


def _recover_record(
    connection: sqlite3.Connection, layout: Layout, record: Record, recovered: Recovered
) -> None:
    """See to the file of a small object if it has a row, else have it stored again."""
    row = connection.execute(
        "SELECT path, size, digest FROM instance WHERE id = ?1"
        " UNION ALL SELECT path, size, digest FROM conflict WHERE id = ?1",
        (record.token,),
    ).fetchone()
    if row is None:
        _remove_unlisted(connection, layout, record)
        recovered.unlisted.setdefault(record.token, record)  # what replaces another is in incoming/, too
        return
    path, size, kept = row
    data = memoryview(record.content)[data_offset_of(record.content) :]
    is_same = len(record.content) == size and digest(data).digest() == kept
    if is_same and not layout.holds(path, record.content):
        layout.remove(path)
        layout.write(path, record.content)
        recovered.restored += 1


def _remove_unlisted(connection: sqlite3.Connection, layout: Layout, record: Record) -> None:
    """Remove the file of an object without a row, unless by now it is that of another one."""
    layout.remove(layout.conflict_path(_sop_instance_of(record.path), record.token))
    if not _has_row(connection, record.path):
        layout.remove(record.path)


def _has_row(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the file at the place of an object is that of an instance."""
    row = connection.execute(
        "SELECT 1 FROM instance WHERE sop_instance_uid = ? AND path = ?", (_sop_instance_of(path), path)
    ).fetchone()
    return row is not None


def _sop_instance_of(path: str) -> UID:
    return UID(os.path.basename(path).removesuffix(".dcm"))


def _unfounded(connection: sqlite3.Connection, layout: Layout, journaled: Container[int]) -> list[int]:
    """Rows that were committed before their objects were safe, which then did not become so (early.py).

    What stands in the place of such an object is put aside.
    """
    rows = connection.execute(
        "SELECT i.id, i.path, i.size, i.digest"
        " FROM (SELECT instances FROM change ORDER BY sequence DESC LIMIT ?) c"
        f" JOIN {NUMBERS}"
        " JOIN instance i ON i.id = number.value WHERE i.size <= ?",
        (SLOTS, SMALL + _MOST_META),
    )
    unfounded = []
    for token, path, size, kept in rows.fetchall():
        if token not in journaled and not layout.is_whole(path, size, kept):
            unfounded.append(token)
            if layout.exists(path):
                layout.put_aside(path)
    return unfounded


def _recover_announced(
    connection: sqlite3.Connection, layout: Layout, announced: Announcement, recovered: Recovered
) -> None:
    """See to a file that was written before its object had a row or was in the journal.

    Nobody has been told that it is stored; but when it is whole there is no reason to throw it away.
    """
    path = announced.path
    if not layout.exists(path) or _has_row(connection, path):
        return
    taken = connection.execute(
        "SELECT 1 FROM instance WHERE id = ?1 UNION ALL SELECT 1 FROM conflict WHERE id = ?1",
        (announced.token,),
    ).fetchone()
    if taken is not None or not layout.is_whole(path, announced.size, announced.digest):
        layout.put_aside(path)
        return
    layout.sync(path)
    source = layout.incoming_path(announced.token, announced.size)
    layout.move(path, source)
    recovered.unlisted[announced.token] = source


def restore(layout: Layout, record: Record) -> None:
    """Write a small object's file where there is no index to ask; whole files of others stay."""
    if layout.holds(record.path, record.content):
        return
    path = record.path
    if not _is_torn(layout, path, record.content):
        path = layout.conflict_path(_sop_instance_of(path), record.token)
    layout.remove(path)
    layout.write(path, record.content)


def _is_torn(layout: Layout, path: str, content: bytes) -> bool:
    """Whether a file is missing, or no more than what a power cut left of this content."""
    try:
        with open(layout.absolute(path), "rb") as file:
            found = file.read(len(content) + 1)
    except FileNotFoundError:
        return True
    return len(found) <= len(content) and content.startswith(found.rstrip(b"\0"))
