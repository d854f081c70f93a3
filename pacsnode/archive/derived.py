"""derived.sqlite: what was made of stored objects ahead of time, and can be made again at any time. Blocking.

Apart from the index, so that its writer never waits. A file that cannot be used is begun anew.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple, Self

import structlog

log = structlog.get_logger()

FILE_NAME: Final = "derived.sqlite"
_VERSION: Final = 2  # of the tables and of what is in them; an unknown one begins the file anew
_METADATA: Final = """
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
_FRAMES: Final = """
    CREATE TABLE frames (
        instance_id INTEGER PRIMARY KEY, sop_instance_uid TEXT NOT NULL, size INTEGER NOT NULL,
        tag INTEGER NOT NULL, bits INTEGER NOT NULL, starts BLOB NOT NULL, lengths BLOB,
        attributes TEXT NOT NULL
    );
    ALTER TABLE state ADD COLUMN frames_seen INTEGER NOT NULL DEFAULT 0;
"""


class FramesRow(NamedTuple):
    """Where the frames of an instance are. `starts` and `lengths`: 64-bit numbers of this machine."""

    tag: int
    bits: int
    starts: bytes
    lengths: bytes | None
    attributes: str


class Derived:
    """The open file. Its methods may be called in any thread, and wait for each other."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = Lock()

    @classmethod
    def open(cls, root: Path, newest: int) -> Self:
        """Open or make the file in a data root; `newest` is the number of the last instance then."""
        path = root / FILE_NAME
        try:
            return cls(_connect(path, newest))
        except sqlite3.DatabaseError as error:
            log.warning("derived.begun_anew", reason=str(error))
            forget(root)
            return cls(_connect(path, newest))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # Metadata of series

    def parts(self, study: str, series: str, version: str) -> list[bytes] | None:
        """What was made of a series, None when there is nothing of this version."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT p.objects FROM series s JOIN part p ON p.series_id = s.id "
                "WHERE s.study_uid = ? AND s.series_uid = ? AND s.version = ? ORDER BY p.number",
                (study, series, version),
            ).fetchall()
        return [row[0] for row in rows] or None

    def holds(self, study: str, series: str, version: str) -> bool:
        with self._lock:
            found = self._connection.execute(
                "SELECT 1 FROM series WHERE study_uid = ? AND series_uid = ? AND version = ?",
                (study, series, version),
            )
            return found.fetchone() is not None

    def keep(self, study: str, series: str, version: str, parts: Sequence[bytes]) -> None:
        """Take the place of what was made of a series before."""
        with self._lock, self._connection as connection:
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
        return self._state("seen")

    def have_seen(self, newest: int) -> None:
        with self._lock, self._connection as connection:
            connection.execute("UPDATE state SET seen = ?", (newest,))

    # Frames of instances

    def frames(self, instance: int, sop_instance: str, size: int) -> FramesRow | None:
        """Where the frames of an instance are; None when nobody has kept it of this one, of this size."""
        with self._lock:
            row = self._connection.execute(
                "SELECT tag, bits, starts, lengths, attributes FROM frames "
                "WHERE instance_id = ? AND sop_instance_uid = ? AND size = ?",
                (instance, sop_instance, size),
            ).fetchone()
        return None if row is None else FramesRow(*row)

    def keep_frames(self, instance: int, sop_instance: str, size: int, frames: FramesRow) -> None:
        with self._lock, self._connection as connection:
            connection.execute(
                "INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (instance, sop_instance, size, *frames),
            )

    @property
    def frames_seen(self) -> int:
        """The number of the newest instance whose frames were looked for."""
        return self._state("frames_seen")

    def have_seen_frames(self, newest: int) -> None:
        with self._lock, self._connection as connection:
            connection.execute("UPDATE state SET frames_seen = ?", (newest,))

    def _state(self, column: str) -> int:
        with self._lock:
            return int(self._connection.execute(f"SELECT {column} FROM state").fetchone()[0])


def forget(root: Path) -> None:
    """Have the file begun anew: it tells objects by numbers that a rebuilt index gives to others."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            (root / f"{FILE_NAME}{suffix}").unlink()


def _connect(path: Path, newest: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON"
        )
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise sqlite3.DatabaseError(f"version {version} is another one")
        if version == 0:
            connection.executescript(_METADATA)
            connection.execute("INSERT INTO state VALUES (?)", (newest,))
            connection.commit()
        if version < _VERSION:
            connection.executescript(_FRAMES)
            connection.execute("UPDATE state SET frames_seen = ?", (newest,))
            connection.commit()
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("SELECT seen, frames_seen FROM state").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
