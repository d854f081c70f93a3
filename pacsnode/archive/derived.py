"""derived.sqlite: what was made of stored objects ahead of time, and can be made again at any time. Blocking.

Apart from the index, so that its writer never waits. A file that cannot be used is begun anew.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import structlog

log = structlog.get_logger()

FILE_NAME: Final = "derived.sqlite"
_VERSION: Final = 1  # of the tables and of what is in them; another one begins the file anew
_SCHEMA: Final = """
    CREATE TABLE series (
        id INTEGER PRIMARY KEY, study_uid TEXT NOT NULL, series_uid TEXT NOT NULL, version TEXT NOT NULL,
        UNIQUE (study_uid, series_uid)
    );
    CREATE TABLE part (
        series_id INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE, number INTEGER NOT NULL,
        objects BLOB NOT NULL, PRIMARY KEY (series_id, number)
    );
    CREATE TABLE state (seen INTEGER NOT NULL);
"""


class Derived:
    """The open file, used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, root: Path, newest: int) -> Self:
        """Open or make the file in a data root; `newest` is the number of the last instance then."""
        path = root / FILE_NAME
        try:
            return cls(_connect(path, newest))
        except sqlite3.DatabaseError as error:
            log.warning("derived.begun_anew", reason=str(error))
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    path.with_name(FILE_NAME + suffix).unlink()
            return cls(_connect(path, newest))

    def close(self) -> None:
        self._connection.close()

    def parts(self, study: str, series: str, version: str) -> list[bytes] | None:
        """What was made of a series, None when there is nothing of this version."""
        rows = self._connection.execute(
            "SELECT p.objects FROM series s JOIN part p ON p.series_id = s.id "
            "WHERE s.study_uid = ? AND s.series_uid = ? AND s.version = ? ORDER BY p.number",
            (study, series, version),
        ).fetchall()
        return [row[0] for row in rows] or None

    def holds(self, study: str, series: str, version: str) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM series WHERE study_uid = ? AND series_uid = ? AND version = ?",
            (study, series, version),
        )
        return found.fetchone() is not None

    def keep(self, study: str, series: str, version: str, parts: Sequence[bytes]) -> None:
        """Take the place of what was made of a series before."""
        with self._connection as connection:
            connection.execute("DELETE FROM series WHERE study_uid = ? AND series_uid = ?", (study, series))
            number = connection.execute(
                "INSERT INTO series (study_uid, series_uid, version) VALUES (?, ?, ?)",
                (study, series, version),
            ).lastrowid
            connection.executemany(
                "INSERT INTO part VALUES (?, ?, ?)", [(number, *row) for row in enumerate(parts)]
            )

    @property
    def seen(self) -> int:
        """The number of the newest instance that was looked at."""
        return int(self._connection.execute("SELECT seen FROM state").fetchone()[0])

    def have_seen(self, newest: int) -> None:
        with self._connection as connection:
            connection.execute("UPDATE state SET seen = ?", (newest,))


def _connect(path: Path, newest: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON"
        )
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"version {version} is another one")
        if version == 0:
            connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION}")
            connection.execute("INSERT INTO state VALUES (?)", (newest,))
            connection.commit()
        connection.execute("SELECT seen FROM state").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
