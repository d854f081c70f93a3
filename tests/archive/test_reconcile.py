"""archive.reconcile: what verify finds, and an index made again from the files."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from pacsnode.archive.archive import Archive
from pacsnode.archive.reconcile import Finding, Problem, rebuild, verify
from pacsnode.errors import ArchiveError
from tests.archive.conftest import OpenArchive, store
from tests.support.objects import made, object_path

# Everything of the index but the row numbers and what only a file's own time can tell.
DUMP = (
    "SELECT patient_id, patient_name, patient_name_key, n_studies, n_series FROM patient",
    "SELECT study_instance_uid, study_date, modalities, sop_classes, n_series FROM study",
    "SELECT series_instance_uid, modality, n_instances FROM series",
    "SELECT sop_instance_uid, transfer_syntax, path, size, digest, source_ae, encoding, kept"
    " FROM instance JOIN header ON instance_id = instance.id",
    "SELECT sop_instance_uid, path, size, digest FROM conflict",
)


def dump(root: Path) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(root / "index.sqlite")) as connection:
        return [sorted(connection.execute(sql).fetchall()) for sql in DUMP]


def change_index(root: Path, sql: str) -> None:
    with closing(sqlite3.connect(root / "index.sqlite")) as connection:
        connection.execute(sql)
        connection.commit()


@pytest_asyncio.fixture
async def stopped(open_archive: OpenArchive, root: Path) -> AsyncIterator[Path]:
    """A data root of six instances and one kept aside, that no node uses."""
    async with open_archive() as archive:
        for number in (1, 2, 3):
            for study in (1, 2):
                await store(archive, made(number, study=study))
        await store(archive, made(1, pixels=66))
    yield root


def test_a_whole_archive_agrees(stopped: Path) -> None:
    result = verify(stopped, deep=True)
    assert result.agrees
    assert (result.rows, result.files, result.pending) == (7, 7, 0)


def test_a_file_that_is_gone_is_missing(stopped: Path) -> None:
    path = object_path(stopped, made(1))
    path.unlink()
    assert verify(stopped).problems == [Problem(Finding.MISSING, str(path.relative_to(stopped)))]


def test_a_file_of_another_length_is_told(stopped: Path) -> None:
    path = object_path(stopped, made(1))
    path.write_bytes(path.read_bytes() + b"\0")
    assert [problem.finding for problem in verify(stopped).problems] == [Finding.WRONG_SIZE]


@pytest.mark.parametrize("position", [-1, 128])
def test_only_a_deep_look_finds_a_changed_byte(stopped: Path, position: int) -> None:
    path = object_path(stopped, made(1))
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert verify(stopped).agrees
    assert [problem.finding for problem in verify(stopped, deep=True).problems] == [Finding.WRONG_CONTENT]


def test_a_file_without_a_row_is_told(stopped: Path) -> None:
    strange = stopped / "objects" / "1.2" / "copy.dcm"
    strange.parent.mkdir()
    strange.write_bytes(object_path(stopped, made(1)).read_bytes())
    (stopped / "conflicts" / "1.2.3.9.dcm").write_bytes(b"")
    assert verify(stopped).problems == [
        Problem(Finding.NOT_INDEXED, "objects/1.2/copy.dcm"),
        Problem(Finding.NOT_INDEXED, "conflicts/1.2.3.9.dcm"),
    ]


def test_a_committed_file_in_incoming_is_pending_not_missing(stopped: Path) -> None:
    with closing(sqlite3.connect(stopped / "index.sqlite")) as connection:
        token, path = connection.execute("SELECT id, path FROM instance").fetchone()
    (stopped / path).rename(stopped / "incoming" / f"{token}.{(stopped / path).stat().st_size}.part")
    result = verify(stopped)
    assert result.agrees
    assert result.pending == 1


async def test_neither_runs_beside_a_node(archive: Archive, root: Path) -> None:
    for job in (Archive.verify, Archive.rebuild):
        with pytest.raises(ArchiveError, match="in use"):
            await job(root)


def test_verify_without_an_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="rebuild"):
        verify(tmp_path)


def test_a_rebuilt_index_says_the_same(stopped: Path) -> None:
    before = dump(stopped)
    result = rebuild(stopped)
    assert (result.instances, result.conflicts, result.unreadable) == (6, 1, [])
    assert dump(stopped) == before
    assert verify(stopped, deep=True).agrees


@pytest.mark.parametrize("damage", ["gone", "garbage", "garbage and log"])
def test_an_index_is_made_from_the_files_alone(stopped: Path, damage: str) -> None:
    before = dump(stopped)
    index = stopped / "index.sqlite"
    index.unlink()
    if damage != "gone":
        index.write_bytes(b"garbage" * 1000)
    if damage == "garbage and log":
        Path(f"{index}-wal").write_bytes(b"garbage" * 1000)
    rebuild(stopped)
    assert dump(stopped) == before
    assert sorted(path.name for path in stopped.glob("index*")) == ["index.sqlite"]


def test_files_copied_in_by_hand_are_indexed_where_they_are(stopped: Path) -> None:
    source = object_path(stopped, made(1, study=2))
    place = stopped / "objects" / "from elsewhere" / "image1"
    place.parent.mkdir()
    source.rename(place)
    assert rebuild(stopped).instances == 6
    assert verify(stopped, deep=True).agrees


def test_files_that_are_no_objects_are_named_and_left(stopped: Path) -> None:
    (stopped / "objects" / "notes.txt").write_text("hello")
    (stopped / "objects" / "empty.dcm").write_bytes(b"")
    result = rebuild(stopped)
    assert {file.path for file in result.unreadable} == {"objects/notes.txt", "objects/empty.dcm"}
    assert all(file.reason for file in result.unreadable)
    assert (stopped / "objects" / "notes.txt").exists()


def test_without_an_index_whole_files_in_incoming_are_taken_in(stopped: Path) -> None:
    before = dump(stopped)
    place = object_path(stopped, made(1, study=2))
    whole = place.read_bytes()
    place.unlink()
    (stopped / "index.sqlite").unlink()
    (stopped / "incoming" / f"900.{len(whole)}.part").write_bytes(whole)
    (stopped / "incoming" / f"901.{len(whole)}.part").write_bytes(whole[:-10])
    result = rebuild(stopped)
    assert place.read_bytes() == whole
    assert result.unreadable == []
    assert dump(stopped) == before


async def test_new_numbers_do_not_collide_with_what_is_kept_aside(
    stopped: Path, open_archive: OpenArchive
) -> None:
    rebuild(stopped)
    async with open_archive() as archive:
        for pixels in range(68, 90, 2):
            await store(archive, made(1, pixels=pixels))
    assert verify(stopped, deep=True).agrees
    assert len(list((stopped / "conflicts").iterdir())) == 12


def test_a_rebuild_that_fails_leaves_the_old_index(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dump(stopped)

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pacsnode.archive.reconcile.os.replace", failing)
    with pytest.raises(ArchiveError, match="could not be rebuilt"):
        rebuild(stopped)
    assert dump(stopped) == before
    assert sorted(path.name for path in stopped.glob("index*")) == ["index.sqlite"]


def test_a_folder_that_cannot_be_listed_is_an_error(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dump(stopped)
    folder, scandir = object_path(stopped, made(1, study=2)).parent.parent, os.scandir
    forbidden: set[str] = {str(stopped / "objects" / "lost+found")}
    (stopped / "objects" / "lost+found").mkdir()

    def failing(path: str) -> object:
        if str(path) in forbidden:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", failing)
        assert verify(stopped).agrees
        forbidden.add(str(folder))
        with pytest.raises(ArchiveError, match=r"could not be rebuilt.*Permission denied"):
            rebuild(stopped)
        with pytest.raises(ArchiveError, match=r"cannot be looked at.*Permission denied"):
            verify(stopped)
    assert dump(stopped) == before


def test_a_study_that_was_moved_to_another_disk_is_found_by_its_link(stopped: Path, tmp_path: Path) -> None:
    folder = object_path(stopped, made(1, study=2)).parent.parent
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)
    before = dump(stopped)
    assert verify(stopped, deep=True).files == 7
    rebuild(stopped)
    assert dump(stopped) == before


def test_progress_is_told_in_files(stopped: Path) -> None:
    told: list[tuple[int, int | None]] = []
    verify(stopped, progress=lambda done, total: told.append((done, total)))
    rebuild(stopped, progress=lambda done, total: told.append((done, total)))
    assert told == [(7, 7), (7, None)]
