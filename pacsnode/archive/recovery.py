"""What a crash left in incoming/, placed, indexed again or forgotten at start (scheme: files.py).

Only incoming/ is listed, so a start costs the same with ten objects and with ten million.
"""

import os
import sqlite3
from dataclasses import dataclass, field

import structlog

from pacsnode.archive.files import Layout
from pacsnode.dicom.uid import UID

log = structlog.get_logger()


@dataclass(slots=True)
class Recovered:
    """What became of the files of incoming/. `unlisted`: token -> path of those to be indexed again."""

    finished: int = 0
    removed: int = 0
    unlisted: dict[int, str] = field(default_factory=dict)


def recover(connection: sqlite3.Connection, layout: Layout) -> Recovered:
    """Place every file that has a row, remove those broken off, name those that are complete without a row.

    The last kind was received to its end and may have been acknowledged: after a power cut the index can
    lack its last commits when storage.sync is "file".
    """
    recovered = Recovered()
    for name in os.listdir(layout.incoming):
        source = f"incoming/{name}"
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
    if recovered.finished or recovered.removed or recovered.unlisted:
        log.warning(
            "index.recovered",
            finished=recovered.finished,
            removed=recovered.removed,
            unlisted=len(recovered.unlisted),
        )
    return recovered


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
