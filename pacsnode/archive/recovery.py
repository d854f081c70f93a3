"""What a crash left in incoming/, finished or forgotten at start (the scheme is told in files.py).

Only incoming/ is listed, so a start costs the same with ten objects and with ten million.
"""

import os
import sqlite3

import structlog

from pacsnode.archive.files import Layout
from pacsnode.dicom.uid import UID

log = structlog.get_logger()


def recover(connection: sqlite3.Connection, layout: Layout) -> tuple[int, int]:
    """Place every committed file, remove the others; returns how many were (finished, removed)."""
    finished = removed = 0
    for name in os.listdir(layout.incoming):
        source = f"incoming/{name}"
        number = name.removesuffix(".part")
        target = _final_path(connection, layout, int(number)) if number.isdecimal() else None
        if target is None:
            layout.remove(source)
            removed += 1
        else:
            layout.move(source, target)
            finished += 1
    if finished or removed:
        log.warning("index.recovered", finished=finished, removed=removed)
    return finished, removed


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
        "SELECT id, study_instance_uid, series_instance_uid, path FROM conflict"
        " WHERE sop_instance_uid = ? AND reason = 'replaced'",
        (sop_instance,),
    )
    for token, study, series, aside in rows.fetchall():
        place = layout.object_path(study, series, sop_instance)
        in_place = not layout.exists(aside) and not layout.exists(layout.incoming_path(token))
        if in_place and layout.exists(place):
            layout.move(place, aside)
