"""Where frames are, found after ingest and kept: never looked for twice, given up when it is wrong."""

import sqlite3
import threading
import time
from array import array
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate

from pacsnode.archive import frames as module
from pacsnode.archive.archive import Archive
from pacsnode.archive.derived import FILE_NAME
from pacsnode.archive.frame_index import index_frames
from pacsnode.archive.locate import Located
from pacsnode.archive.object_file import Readable
from pacsnode.dicom.uid import UID
from tests.archive.conftest import OpenArchive, store
from tests.support.objects import ROOT, Made, encoded, made, stored_files
from tests.support.raw import CT_IMAGE
from tests.support.waiting import eventually

JPEG_2000 = "1.2.840.10008.1.2.4.90"
STREAMS = [b"\xff\x4f\xff\x51" + bytes([number]) * (20 + 2 * number) for number in range(60)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacsnode.archive.ahead.QUIET", 0.05)


def multi_frame(number: int = 1, fragments: int = 2) -> Made:
    """Frames of two fragments each, and no table that tells where they are."""
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = CT_IMAGE, f"{ROOT}.1.1.{number}"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.1.1"
    data_set.Rows = data_set.Columns = 4
    data_set.BitsAllocated, data_set.SamplesPerPixel = 8, 1
    data_set.PhotometricInterpretation, data_set.NumberOfFrames = "MONOCHROME2", len(STREAMS)
    data_set.add_new(0x7FE00010, "OB", encapsulate(STREAMS, fragments_per_frame=fragments, has_bot=False))
    data_set["PixelData"].is_undefined_length = True
    item = made(number)
    return replace(item, sop=data_set.SOPInstanceUID, data=encoded(data_set))


async def located(archive: Archive, item: Made) -> Located:
    held = await archive.lookup.one((UID(item.study), UID(item.series), UID(item.sop)))
    assert held is not None
    return held.located


async def read(archive: Archive, item: Made, number: int) -> bytes:
    found = await located(archive, item)
    return bytes(await archive.in_file(found, lambda file: archive.frames.read(file, number)))


def kept(root: Path) -> list[tuple[int, int]]:
    """Of each instance: its number, and how many frames are known."""
    with closing(sqlite3.connect(root / FILE_NAME)) as derived:
        return derived.execute("SELECT instance_id, length(starts) / 8 - 1 FROM frames").fetchall()


class Looks:
    """Counts the looks into files."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, file: Readable, *, trust_tables: bool = True) -> object:
        self.count += 1
        return index_frames(file, trust_tables=trust_tables)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    monkeypatch.setattr(module, "index_frames", looks)
    return looks


async def test_frames_are_found_after_ingest_and_outlive_a_restart(
    open_archive: OpenArchive, root: Path, looks: Looks
) -> None:
    async with open_archive() as archive:
        await store(archive, made(7))
        await store(archive, multi_frame(), transfer_syntax=UID(JPEG_2000))
        await eventually(lambda: kept(root), "the frames are found")
        assert looks.count == 1  # of the one that is compressed and has several
        assert await read(archive, multi_frame(), 60) == STREAMS[59]
    async with open_archive() as archive:
        assert await read(archive, multi_frame(), 31) == STREAMS[30]
    assert looks.count == 1
    assert [frames for _, frames in kept(root)] == [60]


async def test_what_is_asked_for_before_is_found_then_and_kept(
    open_archive: OpenArchive, root: Path, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacsnode.archive.ahead.QUIET", 3600)
    async with open_archive() as archive:
        await store(archive, multi_frame(), transfer_syntax=UID(JPEG_2000))
        assert not kept(root)
        assert await read(archive, multi_frame(), 2) == STREAMS[1]
        assert len(kept(root)) == 1
    assert looks.count == 1


async def test_a_place_that_is_wrong_is_found_again(open_archive: OpenArchive, root: Path) -> None:
    async with open_archive() as archive:
        await store(archive, multi_frame(), transfer_syntax=UID(JPEG_2000))
        await eventually(lambda: kept(root), "the frames are found")
    with closing(sqlite3.connect(root / FILE_NAME)) as derived, derived:
        (starts,) = derived.execute("SELECT starts FROM frames").fetchone()
        moved = array("Q", (start + 2 for start in array("Q", starts)))
        derived.execute("UPDATE frames SET starts = ?", (moved.tobytes(),))
    async with open_archive() as archive:
        assert await read(archive, multi_frame(), 3) == STREAMS[2]
    with closing(sqlite3.connect(root / FILE_NAME)) as derived:
        assert derived.execute("SELECT starts FROM frames").fetchone() == (starts,)


async def test_another_object_under_a_number_is_no_match(open_archive: OpenArchive, root: Path) -> None:
    async with open_archive() as archive:
        await store(archive, multi_frame(), transfer_syntax=UID(JPEG_2000))
        await eventually(lambda: kept(root), "the frames are found")
    with closing(sqlite3.connect(root / FILE_NAME)) as derived, derived:
        derived.execute("UPDATE frames SET sop_instance_uid = '1.2', starts = zeroblob(488)")
    async with open_archive() as archive:
        assert await read(archive, multi_frame(), 9) == STREAMS[8]


async def test_a_file_without_the_table_keeps_what_it_has(open_archive: OpenArchive, root: Path) -> None:
    async with open_archive() as archive:
        await store(archive, made(7))
    with closing(sqlite3.connect(root / FILE_NAME)) as derived, derived:
        derived.executescript(
            "DROP TABLE frames; ALTER TABLE state DROP COLUMN frames_seen; PRAGMA user_version = 1;"
            "DELETE FROM series; INSERT INTO series VALUES (1, 'a', 'b', 'c')"
        )
    async with open_archive() as archive:
        await store(archive, multi_frame(), transfer_syntax=UID(JPEG_2000))
        await eventually(lambda: kept(root), "the frames are found")
    with closing(sqlite3.connect(root / FILE_NAME)) as derived:
        assert ("a", "b") in derived.execute("SELECT study_uid, series_uid FROM series").fetchall()


async def test_a_walk_through_a_file_stands_still_while_objects_arrive_and_ends_with_the_node(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READS_AT_ONCE", 1)
    began = threading.Event()

    def endless(file: Readable, *, trust_tables: bool = True) -> None:
        began.set()
        while True:
            file.read(0, 1)
            time.sleep(0.001)

    monkeypatch.setattr(module, "index_frames", endless)
    async with open_archive() as archive:
        await store(archive, multi_frame(), transfer_syntax=UID(JPEG_2000))
        await eventually(began.is_set, "the walk has begun")
        stored = await store(archive, made(8))  # it keeps nobody waiting
        assert stored.sop_instance == made(8).sop
    assert not kept(root)
    assert len(list(stored_files(root))) == 2


async def test_a_rebuilt_index_begins_anew_with_what_was_made_ahead(
    open_archive: OpenArchive, root: Path
) -> None:
    """Its numbers are those of other objects."""
    async with open_archive() as archive:
        await store(archive, made(7))
        await store(archive, multi_frame(), transfer_syntax=UID(JPEG_2000))
        await eventually(lambda: kept(root), "the frames are found")
    await Archive.rebuild(root)
    assert not (root / FILE_NAME).exists()
    async with open_archive() as archive:
        assert await read(archive, multi_frame(), 9) == STREAMS[8]
