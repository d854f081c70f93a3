"""Files and index made to agree (`pacsnode index verify|rebuild`). Works on a data root that no node uses.

The files are the truth. verify() only tells; rebuild() makes a new index beside the old one and puts it in
its place when it is complete, so a rebuild that is interrupted changes nothing. Both block.
"""

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, count, islice
from pathlib import Path
from typing import Final

from pacsnode.archive import derived
from pacsnode.archive.files import Layout, digest
from pacsnode.archive.index import Index, connect
from pacsnode.archive.journal_frames import Record, segments
from pacsnode.archive.recovery import journaled, recover, restore
from pacsnode.archive.root import Lock
from pacsnode.archive.rows import InstanceRow, RowBuilder
from pacsnode.archive.schema import migrate
from pacsnode.archive.stored_file import Unreadable, mapped, row_of_file
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.errors import ArchiveError, OperationError

GROUP: Final = 500  # files scanned and then committed together
SCANNERS: Final = 4  # threads; reading and digest run outside the interpreter lock

Progress = Callable[[int, int | None], None]
"""Called now and then with what is done and what there is in all, in files; None: not known."""


class Finding(Enum):
    """What verify() finds wrong."""

    MISSING = "the index has it, the file is not there"
    WRONG_SIZE = "the file is longer or shorter than the index says"
    WRONG_CONTENT = "the data set is not the one that was stored"
    NOT_INDEXED = "the file is there, the index does not have it"


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that is not as it should be; `path` is relative to the data root."""

    finding: Finding
    path: str


@dataclass(slots=True)
class Verification:
    """`rows` of the index and `files` on disk were looked at.

    `pending` files are not yet what they shall be after a crash; incoming/ or the journal has them, and the
    next start sees to it.
    """

    rows: int = 0
    files: int = 0
    pending: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class Rebuilt:
    """What the new index holds, and which files it could not take."""

    instances: int = 0
    conflicts: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)


@contextmanager
def _locked(root: Path) -> Iterator[Layout]:
    """The layout of a data root nobody else uses. Raises ArchiveError."""
    if not root.is_dir():
        raise ArchiveError(f"data root {root} does not exist")
    lock = Lock(root)
    lock.acquire()
    try:
        yield Layout(root)
    finally:
        lock.release()


def _walk(layout: Layout, folder: Path) -> Iterator[str]:
    """Relative paths of all files under a folder, one directory at a time.

    Raises OSError where one cannot be listed: an index without its objects would be no index of the files.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # removed meanwhile, or never made
            raise error

    for path, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        if "lost+found" in folders:  # the file system's, where a folder is one of its own
            folders.remove("lost+found")
        relative = os.path.relpath(path, layout.root)
        for name in names:
            yield f"{relative}/{name}"


def verify(root: Path, deep: bool = False, progress: Progress | None = None) -> Verification:
    """Tell where files and index differ; `deep` reads every file and compares its digest.

    Raises ArchiveError when the root is in use or has no index.
    """
    with _locked(root) as layout:
        if not layout.index.exists():
            raise ArchiveError(f"data root {root} has no index; `pacsnode index rebuild` makes one")
        migrate(layout.index)
        connection = connect(layout.index)
        try:
            result = Verification()
            waiting = {record.token: record.path for record in journaled(layout)}
            _verify_rows(connection, layout, deep, waiting, result, progress)
            _verify_files(connection, layout, set(waiting.values()), result)
            return result
        except sqlite3.Error as error:
            raise ArchiveError(f"the index cannot be read: {error}") from error
        except OSError as error:
            raise ArchiveError(f"the files cannot be looked at: {error}") from error
        finally:
            connection.close()


def _verify_rows(
    connection: sqlite3.Connection,
    layout: Layout,
    deep: bool,
    waiting: Container[int],
    result: Verification,
    progress: Progress | None,
) -> None:
    """Look for the file of every row."""
    (total,) = connection.execute(
        "SELECT (SELECT count(*) FROM instance) + (SELECT count(*) FROM conflict)"
    ).fetchone()
    rows = connection.execute(
        "SELECT id, path, size, digest FROM instance UNION ALL SELECT id, path, size, digest FROM conflict"
    )
    for token, path, size, kept in rows:
        result.rows += 1
        finding = _finding(layout, path, size, kept if deep else None)
        incoming = finding is Finding.MISSING and layout.exists(layout.incoming_path(token, size))
        if finding is not None and (incoming or token in waiting):
            result.pending += 1
        elif finding is not None:
            result.problems.append(Problem(finding, path))
        if progress is not None and (result.rows % GROUP == 0 or result.rows == total):
            progress(result.rows, total)


def _finding(layout: Layout, path: str, size: int, digest: bytes | None) -> Finding | None:
    """What is wrong with one file; the content is read only when there is a digest to compare with."""
    absolute = layout.absolute(path)
    try:
        if os.stat(absolute).st_size != size:
            return Finding.WRONG_SIZE
        if digest is not None and _digest_of(absolute) != digest:
            return Finding.WRONG_CONTENT
    except FileNotFoundError:
        return Finding.MISSING
    except (
        OSError,
        OperationError,
    ):  # the disk cannot give it back, or the head is broken
        return Finding.WRONG_CONTENT
    return None


def _verify_files(
    connection: sqlite3.Connection, layout: Layout, waiting: Container[str], result: Verification
) -> None:
    """Look for the row of every file."""
    for path in chain(_walk(layout, layout.objects), _walk(layout, layout.conflicts)):
        result.files += 1
        if not _is_indexed(connection, _sop_instance_named(path), path) and not _is_indexed(
            connection, _sop_instance_in(layout.absolute(path)), path
        ):
            if path in waiting:
                result.pending += 1
                continue
            result.problems.append(Problem(Finding.NOT_INDEXED, path))


def _is_indexed(connection: sqlite3.Connection, sop_instance: str, path: str) -> bool:
    """Tell whether a file has a row, by its UID: paths have no index of their own."""
    row = connection.execute(
        "SELECT 1 FROM instance WHERE sop_instance_uid = ?1 AND path = ?2"
        " UNION ALL SELECT 1 FROM conflict WHERE sop_instance_uid = ?1 AND path = ?2",
        (sop_instance, path),
    ).fetchone()
    return row is not None


def _sop_instance_named(path: str) -> str:
    """The SOP Instance UID a file of ours is named after, the token of a conflict taken off."""
    stem = os.path.basename(path).removesuffix(".dcm")
    return stem.rpartition(".")[0] if path.startswith("conflicts/") else stem


def _sop_instance_in(path: str) -> str:
    """The SOP Instance UID inside a file whose name does not tell it, "" when there is none."""
    try:
        with mapped(path) as view:
            return read_file_meta(view).sop_instance or ""
    except (OSError, OperationError):
        return ""


def _digest_of(path: str) -> bytes:
    with mapped(path) as view:
        data = view[read_file_meta(view).data_offset :]
        return digest(data).digest()


def rebuild(root: Path, progress: Progress | None = None) -> Rebuilt:
    """Make a new index from the files, then put it in the place of the old one.

    Raises ArchiveError when the root is in use or cannot be written; the old index is untouched then.
    """
    with _locked(root) as layout:
        layout.create()
        _finish_old(layout)
        new = root / "index.sqlite.new"
        _remove_index(new)
        try:
            migrate(new)
            rebuilt = _fill(layout, new, progress)
            derived.forget(root)
            _swap(layout, new)
            _forget_journal(layout)
        except (sqlite3.Error, OSError) as error:
            raise ArchiveError(f"the index could not be rebuilt: {error}") from error
        finally:
            _remove_index(new)
        return rebuilt


def _finish_old(layout: Layout) -> None:
    """Let the old index say what incoming/ and the journal still owe, and close it whole.

    Its log is folded in by that close: left beside a new index it would be played into it.
    """
    records: list[Record] = []
    try:
        if layout.index.exists():
            migrate(layout.index)
            connection = connect(layout.index)
            try:
                unlisted = recover(connection, layout).unlisted
            finally:
                connection.close()
            records = [record for record in unlisted.values() if isinstance(record, Record)]
        else:
            records = list(journaled(layout))
    except (sqlite3.Error, ArchiveError):
        records = list(journaled(layout))
    for record in records:
        restore(layout, record)


def _forget_journal(layout: Layout) -> None:
    """Files and index have all that the journal had: once they are on the disk it may go."""
    used = segments(layout.journal)
    if used:
        os.sync()
    for segment in used:
        segment.unlink()


def _fill(layout: Layout, new: Path, progress: Progress | None) -> Rebuilt:
    """Index every file of objects/, then what is kept aside, then what is complete in incoming/."""
    rebuilt = Rebuilt()
    kept_aside = list(_walk(layout, layout.conflicts))
    incoming = [path for path in _walk(layout, layout.incoming) if layout.is_complete(path)]
    tokens = count(max(map(_number_in, [*kept_aside, *incoming]), default=0) + 1)
    connection = connect(new, "none")
    connection.execute("PRAGMA synchronous = OFF")  # synced as a whole before the swap
    index = Index(connection, notes_changes=False)
    done = 0
    with ThreadPoolExecutor(SCANNERS, thread_name_prefix="archive-rebuild") as pool:
        everything = chain(_walk(layout, layout.objects), kept_aside, incoming)
        for group in _scanned(layout, pool, everything):
            index.begin([row.sop_instance for _, row in group if isinstance(row, InstanceRow)])
            for path, scanned in group:
                _add(index, layout, next(tokens), path, scanned, rebuilt)
            index.commit()
            done += len(group)
            if progress is not None:
                progress(done, None)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.close()
    return rebuilt


def _number_in(path: str) -> int:
    """The token in the name of a file in conflicts/ or incoming/; new numbers start above all of them."""
    for part in reversed(os.path.basename(path).split(".")[:-1]):
        return int(part) if part.isdecimal() and len(part) < 18 else 0
    return 0


def _scanned(
    layout: Layout, pool: ThreadPoolExecutor, paths: Iterator[str]
) -> Iterator[list[tuple[str, InstanceRow | Unreadable]]]:
    """Scan in groups, always one group ahead of the one being indexed."""
    rows = RowBuilder()
    ahead: deque[tuple[list[str], list[Future[InstanceRow | Unreadable]]]] = deque()
    while True:
        paths_of_group = list(islice(paths, GROUP))
        if paths_of_group:
            ahead.append(
                (paths_of_group, [pool.submit(row_of_file, layout, rows, path) for path in paths_of_group])
            )
        if not ahead:
            return
        if len(ahead) == 2 or not paths_of_group:
            names, futures = ahead.popleft()
            yield [(name, future.result()) for name, future in zip(names, futures, strict=True)]


def _add(
    index: Index, layout: Layout, token: int, path: str, scanned: InstanceRow | Unreadable, rebuilt: Rebuilt
) -> None:
    if isinstance(scanned, Unreadable):
        rebuilt.unreadable.append(scanned)
        return
    taken = index.find(scanned.sop_instance) is not None
    if path.startswith("incoming/"):
        if taken:  # most likely the copy of a sender that tried again; the next start removes it
            return
        scanned.path = layout.object_path(
            scanned.parents.study_uid, scanned.parents.series_uid, scanned.sop_instance
        )
        layout.move(path, scanned.path)
    if taken or path.startswith("conflicts/"):
        index.add_conflict(token, scanned, path, "kept")
        rebuilt.conflicts += 1
    else:
        index.add_instance(token, scanned)
        rebuilt.instances += 1


def _swap(layout: Layout, new: Path) -> None:
    """Put the new index in place: it is synced first, and no log of the old one may stay beside it."""
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for suffix in ("-wal", "-shm"):
        layout.remove(layout.index.name + suffix)
    os.replace(new, layout.index)
    layout.sync_folder(layout.root)


def _remove_index(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
