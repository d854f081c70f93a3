"""archive.archive: what is stored, what is refused, and what is left behind (PS3.4 B.2.3)."""

import asyncio
import errno
import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from pacsnode.archive import files
from pacsnode.archive.archive import Archive
from pacsnode.archive.instance import FLUSH_SIZE, Outcome
from pacsnode.errors import (
    ArchiveError,
    CannotUnderstand,
    DataSetMismatch,
    DuplicateInstance,
    OperationError,
    OutOfResources,
)
from tests.archive.conftest import OpenArchive, receive, store
from tests.conftest import real_objects
from tests.support.objects import (
    Made,
    data_set_bytes,
    digests,
    encoded,
    incoming,
    made,
    object_path,
    part10,
    stored_files,
)

# Of the bundled collection: values that run past the end, fragments cut off, UIDs of letters.
DAMAGED = {
    "MR_truncated.dcm",
    "rtplan_truncated.dcm",
    "bad_sequence.dcm",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rows(root: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(root / "index.sqlite")) as connection:
        return connection.execute(sql).fetchall()


def files_in(root: Path) -> list[str]:
    """Every object file, relative to the data root."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.dcm"))


def assert_nothing_left(root: Path) -> None:
    assert list(stored_files(root)) == []
    assert incoming(root) == []
    assert rows(root, "SELECT * FROM instance") == []


async def test_every_real_object_is_stored_byte_for_byte(archive: Archive, root: Path) -> None:
    items = [part10(path) for path in real_objects() if path.name not in DAMAGED]
    outcomes = [(await store(archive, item)).outcome for item in items]
    kept = {(item.sop, item.data) for item in items}
    assert len(items) > 50
    assert digests(root) == sorted(digest(data) for _, data in kept)
    assert outcomes.count(Outcome.STORED) == len({item.sop for item in items})


async def test_a_damaged_real_object_is_refused(archive: Archive, root: Path) -> None:
    for path in real_objects():
        if path.name in DAMAGED:
            with pytest.raises(CannotUnderstand):
                await store(archive, part10(path))
    assert_nothing_left(root)


async def test_a_stored_file_is_read_by_pydicom(archive: Archive, root: Path) -> None:
    item = made(1)
    stored = await store(archive, item)
    read = dcmread(root / stored.path)
    assert (root / stored.path) == object_path(root, item)
    assert read.SOPInstanceUID == read.file_meta.MediaStorageSOPInstanceUID == item.sop
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert stored.size == (root / stored.path).stat().st_size


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
async def test_chunks_of_any_size_make_the_same_file(archive: Archive, root: Path, chunk: int) -> None:
    item = made(1)
    await store(archive, item, chunk)
    assert data_set_bytes(object_path(root, item)) == item.data


async def test_a_long_object_goes_to_disk_while_it_arrives(archive: Archive, root: Path) -> None:
    item = made(1, pixels=5 * FLUSH_SIZE)
    flushed = asyncio.Event()
    arriving = archive.begin(receive(archive, item).request)
    arriving.on_flushed = flushed.set
    view = memoryview(item.data)
    arriving.write(view[: 2 * FLUSH_SIZE])
    await flushed.wait()
    assert arriving.unwritten == 0
    assert incoming(root)[0].stat().st_size >= 2 * FLUSH_SIZE
    arriving.write(view[2 * FLUSH_SIZE :])
    stored = await archive.store(arriving)
    assert data_set_bytes(root / stored.path) == item.data


async def test_the_same_object_again_changes_nothing(archive: Archive, root: Path) -> None:
    item = made(1)
    first, second = await store(archive, item), await store(archive, item)
    assert (first.outcome, second.outcome) == (Outcome.STORED, Outcome.DUPLICATE)
    assert first.path == second.path
    assert len(list(stored_files(root))) == 1
    assert rows(root, "SELECT n_instances FROM series") == [(1,)]
    assert incoming(root) == []


async def test_another_object_under_a_known_uid_is_kept_aside(archive: Archive, root: Path) -> None:
    first, other = made(1), made(1, pixels=66)
    await store(archive, first)
    with capture_logs() as logs:
        stored = await store(archive, other)
    assert stored.outcome is Outcome.KEPT_ASIDE
    assert data_set_bytes(object_path(root, first)) == first.data
    assert data_set_bytes(root / stored.path) == other.data
    assert stored.path.startswith("conflicts/")
    assert rows(root, "SELECT path, reason FROM conflict") == [(stored.path, "kept")]
    assert [log["event"] for log in logs] == ["instance.conflict"]


async def test_what_was_kept_aside_is_a_duplicate_when_it_comes_again(archive: Archive, root: Path) -> None:
    await store(archive, made(1))
    aside = await store(archive, made(1, pixels=66))
    again = await store(archive, made(1, pixels=66))
    assert (again.outcome, again.path) == (Outcome.DUPLICATE, aside.path)
    assert len(list((root / "conflicts").iterdir())) == 1


async def test_policy_replace_keeps_the_old_object_aside(open_archive: OpenArchive, root: Path) -> None:
    first, other = made(1), made(1, pixels=66)
    async with open_archive(duplicates="replace") as archive:
        await store(archive, first)
        stored = await store(archive, other)
    assert stored.outcome is Outcome.REPLACED
    assert data_set_bytes(root / stored.path) == other.data
    [(aside, reason)] = rows(root, "SELECT path, reason FROM conflict")
    assert data_set_bytes(root / str(aside)) == first.data
    assert reason == "replaced"
    assert rows(root, "SELECT n_instances FROM series") == [(1,)]


async def test_a_replaced_object_leaves_no_empty_study(open_archive: OpenArchive, root: Path) -> None:
    moved = made(1, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", PatientID="Other", Modality="MR")
    async with open_archive(duplicates="replace") as archive:
        await store(archive, made(1))
        await store(archive, moved)
    assert rows(root, "SELECT study_instance_uid, modalities, n_series FROM study") == [("1.2.3", "MR", 1)]
    assert rows(root, "SELECT patient_id, n_studies FROM patient") == [("Other", 1)]


async def test_policy_refuse_answers_duplicate_and_keeps_the_first(
    open_archive: OpenArchive, root: Path
) -> None:
    first = made(1)
    async with open_archive(duplicates="refuse") as archive:
        await store(archive, first)
        with pytest.raises(DuplicateInstance):
            await store(archive, made(1, pixels=66))
        assert (await store(archive, first)).outcome is Outcome.DUPLICATE
    assert digests(root) == [digest(first.data)]
    assert incoming(root) == []


@pytest.mark.parametrize("policy", ["keep", "replace", "refuse"])
async def test_the_same_uid_many_times_in_flight(open_archive: OpenArchive, root: Path, policy: str) -> None:
    items = [made(1, pixels=64 + 2 * (number % 3)) for number in range(30)]
    async with open_archive(duplicates=policy, workers=4) as archive:
        results = await asyncio.gather(*(store(archive, item) for item in items), return_exceptions=True)
    outcomes = [result.outcome for result in results if not isinstance(result, BaseException)]
    assert outcomes.count(Outcome.STORED) == 1
    assert rows(root, "SELECT count(*) FROM instance") == [(1,)]
    assert rows(root, "SELECT n_instances FROM series") == [(1,)]
    assert incoming(root) == []
    paths = rows(root, "SELECT path FROM instance UNION SELECT path FROM conflict ORDER BY path")
    assert [path for (path,) in paths] == files_in(root)
    if policy != "refuse":
        assert {digest(item.data) for item in items} <= set(digests(root))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"SOPInstanceUID": None}, DataSetMismatch),
        ({"SOPInstanceUID": ""}, DataSetMismatch),
        ({"SOPClassUID": None}, DataSetMismatch),
        ({"StudyInstanceUID": None}, DataSetMismatch),
        ({"SeriesInstanceUID": ""}, DataSetMismatch),
        ({"StudyInstanceUID": "1.2.x"}, CannotUnderstand),
        ({"StudyInstanceUID": "../../../etc"}, CannotUnderstand),
        ({"SeriesInstanceUID": "/etc"}, CannotUnderstand),
        ({"SeriesInstanceUID": ".."}, CannotUnderstand),
        ({"SOPInstanceUID": "../../x"}, CannotUnderstand),
        ({"SeriesInstanceUID": "1." * 40 + "1"}, CannotUnderstand),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR UI.*", "ignore:.*exceeds the maximum length.*")
async def test_a_uid_that_is_missing_or_none_is_refused(
    archive: Archive, root: Path, values: dict[str, str | None], error: type[OperationError]
) -> None:
    item = without(made(1), values)
    with pytest.raises(error):
        await store(archive, item)
    assert_nothing_left(root)


def without(item: Made, values: dict[str, str | None]) -> Made:
    """The object with other UIDs, None taking one away."""
    data_set = dcmread(BytesIO(bytes(128) + b"DICM" + item.data), force=True)
    for keyword, value in values.items():
        if value is None:
            delattr(data_set, keyword)
        else:
            setattr(data_set, keyword, value)
    return Made(item.study, item.series, item.sop, encoded(data_set))


@pytest.mark.parametrize("fields", [{"sop_instance": "1.2.3"}, {"sop_class": "1.2.840.10008.5.1.4.1.1.4"}])
async def test_a_data_set_that_is_not_the_announced_one_is_a_mismatch(
    archive: Archive, root: Path, fields: dict[str, str]
) -> None:
    with pytest.raises(DataSetMismatch):
        await store(archive, made(1), **fields)
    assert_nothing_left(root)


@pytest.mark.parametrize("uid", ["", "../../x", "1.2.3/4", "1" * 65, "1..2"])
async def test_a_command_without_a_real_uid_cannot_begin(archive: Archive, uid: str) -> None:
    with pytest.raises(CannotUnderstand):
        receive(archive, made(1), sop_instance=uid)


@pytest.mark.parametrize("length", [0, 1, 7, 100, 299])
async def test_a_truncated_data_set_is_refused(archive: Archive, root: Path, length: int) -> None:
    item = made(1)
    cut = Made(item.study, item.series, item.sop, item.data[:length])
    with pytest.raises((CannotUnderstand, DataSetMismatch)):
        await store(archive, cut)
    assert_nothing_left(root)


async def test_pixel_data_cut_short_is_refused_after_it_was_flushed(archive: Archive, root: Path) -> None:
    item = made(1, pixels=3 * FLUSH_SIZE)
    cut = Made(item.study, item.series, item.sop, item.data[:-FLUSH_SIZE])
    with pytest.raises(CannotUnderstand):
        await store(archive, cut)
    assert_nothing_left(root)


@pytest.mark.parametrize("pixels", [64, 3 * FLUSH_SIZE])
async def test_a_discarded_object_leaves_nothing(open_archive: OpenArchive, root: Path, pixels: int) -> None:
    async with open_archive() as archive:
        arriving = receive(archive, made(1, pixels=pixels))
        arriving.discard()
        arriving.discard()
        arriving.write(b"late")
        assert arriving.unwritten == 0
        await store(archive, made(2))
    assert [path.stem for path in stored_files(root)] == [made(2).sop]
    assert incoming(root) == []


async def test_a_cancelled_store_does_not_disturb_the_others(archive: Archive) -> None:
    task = asyncio.create_task(store(archive, made(1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store(archive, made(2))).outcome is Outcome.STORED


async def test_close_finishes_what_was_given_to_store(open_archive: OpenArchive, root: Path) -> None:
    async with open_archive() as archive:
        tasks = [asyncio.create_task(store(archive, made(number))) for number in range(1, 20)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert len(list(stored_files(root))) == 19


@pytest.mark.parametrize("pixels", [64, 3 * FLUSH_SIZE])
@pytest.mark.parametrize("steps", [("open",), ("write", "writev")], ids=["open", "write"])
async def test_a_disk_that_is_full_refuses_and_leaves_no_file(
    archive: Archive, root: Path, monkeypatch: pytest.MonkeyPatch, steps: tuple[str, ...], pixels: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        for step in steps:  # writev for short objects, write past the page cache for long ones
            patched.setattr(files.os, step, full)
        with pytest.raises(OutOfResources):
            await store(archive, made(1, pixels=pixels))
    assert_nothing_left(root)
    assert (await store(archive, made(1, pixels=pixels))).outcome is Outcome.STORED


@pytest.fixture
def small_disk(root: Path) -> Iterator[None]:
    """The data root on a file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    root.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(root)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield
    subprocess.run(["umount", str(root)], check=True)


@pytest.mark.usefixtures("small_disk")
async def test_a_file_system_that_fills_up_refuses_until_there_is_room(
    open_archive: OpenArchive, root: Path
) -> None:
    async with open_archive() as archive:
        acknowledged = []
        for number in range(1, 200):
            try:
                acknowledged.append((await store(archive, made(number, pixels=50_000))).path)
            except OutOfResources:
                break
        else:
            pytest.fail("the disk never became full")
        assert incoming(root) == []
        assert files_in(root) == sorted(acknowledged)
        (root / acknowledged[0]).unlink()
        (root / acknowledged[1]).unlink()
        assert (await store(archive, made(500, pixels=64))).outcome is Outcome.STORED


async def test_below_the_reserve_nothing_begins(open_archive: OpenArchive) -> None:
    async with open_archive(reserve=2**80) as archive:
        with pytest.raises(OutOfResources):
            receive(archive, made(1))


async def test_a_second_node_cannot_open_the_same_root(archive: Archive, open_archive: OpenArchive) -> None:
    with pytest.raises(ArchiveError, match="in use"):
        async with open_archive():
            pass


@pytest.fixture
def broken_index(root: Path) -> None:
    root.mkdir()
    (root / "index.sqlite").write_bytes(b"this is no database, " * 100)


@pytest.mark.usefixtures("broken_index")
async def test_a_broken_index_file_is_an_archive_error(open_archive: OpenArchive) -> None:
    with pytest.raises(ArchiveError):
        async with open_archive():
            pass


@pytest.mark.parametrize("damage", ["gone", "empty"])
async def test_objects_whose_index_is_gone_are_not_hidden_by_an_empty_one(
    open_archive: OpenArchive, root: Path, damage: str
) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))
    index = root / "index.sqlite"
    index.unlink()
    if damage == "empty":
        index.touch()
    with pytest.raises(ArchiveError, match="no index; `pacsnode index rebuild` makes one"):
        async with open_archive():
            pass
    await Archive.rebuild(root)
    async with open_archive() as archive:
        assert (await store(archive, made(1))).outcome is Outcome.DUPLICATE
