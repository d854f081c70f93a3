"""Small objects and the journal: power cuts, kill -9 between its steps, failing disks."""

import asyncio
import errno
import os
import signal
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pacsnode.archive import journal as journal_module
from pacsnode.archive import recovery, scribe
from pacsnode.archive.files import Layout
from pacsnode.archive.index import Index
from pacsnode.archive.instance import SMALL, Outcome, SmallObject, Stored
from pacsnode.archive.journal import Journal
from pacsnode.archive.journal_frames import BLOCK, Record, read_journal, segments
from pacsnode.archive.reconcile import Finding, rebuild, verify
from pacsnode.archive.scribe import Scribe
from pacsnode.archive.settling import Settler
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import DataSetMismatch, DuplicateInstance, OutOfResources
from tests.archive.conftest import OpenArchive, store
from tests.archive.test_durability import forget_row
from tests.support import command
from tests.support.objects import data_set_bytes, incoming, made, object_path, stored_files
from tests.support.raw import CT_IMAGE
from tests.support.waiting import eventually


def journaled(root: Path) -> list[str]:
    while True:
        with suppress(FileNotFoundError):  # a segment went while they were read
            return [record.path for record in recovery.journaled(Layout(root))]


@pytest.fixture
def never_settling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """From here on nothing is settled, as if a power cut came before; calling it ends that."""
    patched = pytest.MonkeyPatch()

    def fail(_: Settler) -> None:
        raise OSError(errno.EIO, "Input/output error")

    patched.setattr(Settler, "_sync", fail)
    monkeypatch.setattr("pacsnode.archive.settling.RETRY_AFTER", 0.01)
    yield patched.undo
    patched.undo()


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def whole(path: Path) -> None:
    pass


def lose_index(root: Path) -> None:
    for path in root.glob("index.sqlite*"):
        path.unlink()


DAMAGES = [gone, empty, half, zeros, whole]
"""What a power cut leaves of a file that was written but not synced."""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("row", ["listed", "lost"])
async def test_a_power_cut_takes_nothing_that_was_acknowledged(
    open_archive: OpenArchive,
    root: Path,
    never_settling: Callable[[], None],
    damage: Callable[[Path], None],
    row: str,
) -> None:
    async with open_archive(sync="file") as archive:
        for number in (1, 2, 3):
            await store(archive, made(number))
    assert len(journaled(root)) == 3
    for number in (2, 3):
        damage(object_path(root, made(number)))
        if row == "lost":
            forget_row(root, made(number).sop)
    assert verify(root, deep=True).agrees, "what waits for the next start is no problem"
    never_settling()
    async with open_archive(sync="file"):
        pass
    assert journaled(root) == []
    found = verify(root, deep=True)
    assert (found.rows, found.files, found.pending, found.problems) == (3, 3, 0, [])
    for number in (1, 2, 3):
        assert data_set_bytes(object_path(root, made(number))) == made(number).data


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("row", ["listed", "lost"])
async def test_what_is_kept_aside_is_restored_there(
    open_archive: OpenArchive,
    root: Path,
    never_settling: Callable[[], None],
    damage: Callable[[Path], None],
    row: str,
) -> None:
    other = made(1, pixels=66)
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
        aside = root / (await store(archive, other)).path
    damage(aside)
    if row == "lost":
        with closing(sqlite3.connect(root / "index.sqlite", isolation_level=None)) as index:
            index.execute("DELETE FROM conflict")
    never_settling()
    async with open_archive(sync="file") as archive:
        assert data_set_bytes(aside) == other.data
        assert (await store(archive, other)).outcome is Outcome.DUPLICATE
    assert verify(root, deep=True).agrees


async def test_what_was_replaced_is_restored_where_it_was_moved(
    open_archive: OpenArchive, root: Path, never_settling: Callable[[], None]
) -> None:
    async with open_archive(sync="file", duplicates="replace") as archive:
        await store(archive, made(1))
        assert (await store(archive, made(1, pixels=66))).outcome is Outcome.REPLACED
    [aside] = (root / "conflicts").iterdir()
    zeros(aside)
    never_settling()
    async with open_archive(sync="file", duplicates="replace"):
        pass
    assert data_set_bytes(aside) == made(1).data
    assert data_set_bytes(object_path(root, made(1))) == made(1, pixels=66).data
    assert verify(root, deep=True).agrees


async def test_a_journal_of_which_the_end_is_torn_is_read_up_to_there(
    open_archive: OpenArchive, root: Path, never_settling: Callable[[], None]
) -> None:
    async with open_archive(sync="file") as archive:
        for number in (1, 2, 3):
            await store(archive, made(number))
    [segment] = segments(root / "journal")
    content = bytearray(segment.read_bytes())
    content[2 * BLOCK + 700] ^= 1  # each of the objects takes a block
    segment.write_bytes(content)
    places = [object_path(root, made(number)) for number in (1, 2)]
    assert journaled(root) == [str(place.relative_to(root)) for place in places]
    never_settling()
    async with open_archive(sync="file"):
        pass
    assert verify(root, deep=True).rows == 3, "the third was whole in the index and in its file"


@pytest.mark.parametrize("index", ["kept", "lost", "rubbish"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_rebuild_takes_what_the_files_lack_from_the_journal(
    open_archive: OpenArchive,
    root: Path,
    never_settling: Callable[[], None],
    damage: Callable[[Path], None],
    index: str,
) -> None:
    async with open_archive(sync="file") as archive:
        for number in (1, 2):
            await store(archive, made(number))
    damage(object_path(root, made(2)))
    if index == "kept":
        forget_row(root, made(2).sop)
    else:
        lose_index(root)
    if index == "rubbish":
        (root / "index.sqlite").write_bytes(b"no index" * 1000)
    assert rebuild(root).instances == 2
    assert segments(root / "journal") == []
    assert verify(root, deep=True).agrees
    assert data_set_bytes(object_path(root, made(2))) == made(2).data


async def test_a_rebuild_without_index_does_not_write_over_what_took_the_place(
    open_archive: OpenArchive, root: Path, never_settling: Callable[[], None]
) -> None:
    async with open_archive(sync="file", duplicates="replace") as archive:
        await store(archive, made(1))
        await store(archive, made(1, pixels=66))
    [aside] = (root / "conflicts").iterdir()
    aside.unlink()
    lose_index(root)
    rebuilt = rebuild(root)
    assert (rebuilt.instances, rebuilt.conflicts) == (1, 1)
    assert data_set_bytes(object_path(root, made(1))) == made(1, pixels=66).data
    [aside] = (root / "conflicts").iterdir()
    assert data_set_bytes(aside) == made(1).data


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (journal_module.Segment, "append"),
        (Journal, "_next_segment"),
        (Layout, "write"),
        (Index, "commit"),
    ],
)
async def test_a_full_disk_refuses_the_object_and_leaves_nothing(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    async with open_archive(sync="file") as archive:
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, full)
            answers = await asyncio.gather(
                *(store(archive, made(number)) for number in (1, 2, 3)), return_exceptions=True
            )
        assert [str(answer) for answer in answers] == ["no space left to store the object"] * 3
        assert {type(answer) for answer in answers} == {OutOfResources}
        assert list(stored_files(root)) == []
        assert journaled(root) == []
        assert (await store(archive, made(2))).outcome is Outcome.STORED
        assert len(journaled(root)) == 1
    assert verify(root, deep=True).rows == 1


async def test_a_write_of_a_file_cut_short_leaves_no_part_of_it(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.writev
    calls: list[int] = []

    def full_half_way(descriptor: int, buffers: list[bytes]) -> int:
        whole(descriptor, [buffers[0][:100]])
        calls.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    async with open_archive() as archive:
        with monkeypatch.context() as patched:
            patched.setattr(os, "writev", full_half_way)
            with pytest.raises(OutOfResources):
                await store(archive, made(1))
        assert calls
        assert list(stored_files(root)) == []


@pytest.mark.parametrize("pixels", [64, SMALL])
@pytest.mark.parametrize("links", [True, False])
async def test_a_leftover_at_an_objects_place_is_kept_aside(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch, pixels: int, links: bool
) -> None:
    monkeypatch.setattr(Layout, "_probe_links", lambda self: links)
    item, former = made(1, pixels=pixels), made(1, pixels=pixels + 2)
    async with open_archive() as archive:
        stored = await store(archive, former)
    forget_row(root, former.sop)  # an index of before
    with capture_logs() as logs:
        async with open_archive() as archive:
            assert (await store(archive, item)).outcome is Outcome.STORED
    assert data_set_bytes(root / stored.path) == item.data
    [aside] = (root / "conflicts").iterdir()
    assert data_set_bytes(aside) == former.data
    assert "instance.unlisted" in [log["event"] for log in logs]
    assert [problem.finding for problem in verify(root).problems] == [Finding.NOT_INDEXED]
    rebuilt = rebuild(root)
    assert (rebuilt.instances, rebuilt.conflicts) == (1, 1)


@pytest.mark.parametrize("pixels", [64, SMALL])
async def test_a_leftover_that_is_the_same_object_is_no_conflict(
    open_archive: OpenArchive, root: Path, pixels: int
) -> None:
    async with open_archive() as archive:
        await store(archive, made(1, pixels=pixels))
    forget_row(root, made(1).sop)
    async with open_archive() as archive:
        await store(archive, made(1, pixels=pixels))
    assert list((root / "conflicts").iterdir()) == []
    assert verify(root, deep=True).agrees


async def test_a_disk_that_cannot_be_synced_keeps_the_journal(
    open_archive: OpenArchive, root: Path, never_settling: Callable[[], None]
) -> None:
    with capture_logs() as logs:
        async with open_archive(sync="file") as archive:
            await store(archive, made(1))
            await eventually(lambda: "journal.unsettled" in [log["event"] for log in logs], "it is told")
            assert len(journaled(root)) == 1
            await store(archive, made(2))
            assert len(journaled(root)) == 2
            never_settling()
            await store(archive, made(3))
            await eventually(lambda: not journaled(root), "the journal is settled once the disk works")


async def test_what_a_disk_has_lost_is_written_again_by_the_next_start(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.EIO, "Input/output error")]

    def told_once(_: int) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr("pacsnode.archive.settling._system_syncfs", lambda: told_once)
    with capture_logs() as logs:
        async with open_archive(sync="file") as archive:
            await store(archive, made(1))
            await eventually(lambda: "journal.abandoned" in [log["event"] for log in logs], "it is told")
            await store(archive, made(2))
    assert [Path(path).name for path in journaled(root)] == [f"{made(1).sop}.dcm"]
    zeros(object_path(root, made(1)))
    async with open_archive(sync="file"):
        await eventually(lambda: not journaled(root), "the next start settles it")
    assert verify(root, deep=True).agrees


async def test_a_file_that_cannot_be_read_is_written_again(
    open_archive: OpenArchive, root: Path, never_settling: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
    zeros(object_path(root, made(1)))

    def unreadable(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fadvise", unreadable)
        async with open_archive(sync="file"):
            pass
    assert verify(root, deep=True).agrees


async def test_segments_are_used_again(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribe, "SEGMENT", 8 * BLOCK)
    async with open_archive(sync="file") as archive:
        for first in range(1, 120, 40):
            await asyncio.gather(*(store(archive, made(number)) for number in range(first, first + 40)))
            await eventually(lambda: not journaled(root), "settled when nothing comes")
        assert len(segments(root / "journal")) <= 2
    assert verify(root, deep=True).rows == 120


async def test_more_than_a_frame_holds_is_journaled(
    open_archive: OpenArchive, root: Path, never_settling: Callable[[], None]
) -> None:
    items = [made(number, pixels=SMALL - 4000) for number in range(1, 41)]  # 2.4 MB
    async with open_archive(sync="file") as archive:
        await asyncio.gather(*(store(archive, item) for item in items))
        await store(archive, made(100, pixels=SMALL))
    assert len(journaled(root)) == len(items), "a larger one is not"
    for item in items:
        object_path(root, item).unlink()
    never_settling()
    async with open_archive(sync="file"):
        pass
    assert verify(root, deep=True).rows == len(items) + 1


def test_a_session_does_not_read_on_in_what_an_earlier_one_left(tmp_path: Path) -> None:
    records = [Record(number, 0.0, f"objects/{number}", b"x" * 5000) for number in range(5)]
    first = Journal(tmp_path, sync=True, direct=False)
    for record in records:
        first.append([record])
    segment = first.retire()
    assert segment is not None
    assert list(read_journal(tmp_path)) == records
    first.recycle(segment)
    assert list(read_journal(tmp_path)) == []
    first.append([records[3]])
    assert list(read_journal(tmp_path)) == [records[3]], "the frames behind it are older"
    first.close()
    second = Journal(tmp_path, sync=True, direct=False)
    second.append([records[4]])
    assert list(read_journal(tmp_path)) == [records[3], records[4]], "in a segment of its own"
    for segment in second.take_former():
        second.recycle(segment)
    assert list(read_journal(tmp_path)) == [records[4]]
    second.close()


def test_what_is_revoked_is_not_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, sync=True, direct=False)
    kept, refused = Record(1, 0.0, "", b"kept"), Record(2, 0.0, "", b"r" * 600_000)
    journal.append([kept, refused])  # a frame each
    segment = journal.retire()
    journal.append([Record(2, 0.0, "", b"")])
    assert list(read_journal(tmp_path)) == [kept], "the revocation may be in another segment"
    after = Record(3, 0.0, "", b"r" * 600_000)
    journal.append([after])
    assert list(read_journal(tmp_path)) == [kept, after]
    assert segment is not None
    segment.close()
    journal.close()


def test_a_number_of_what_was_revoked_may_be_given_to_another_object(tmp_path: Path) -> None:
    first = Journal(tmp_path, sync=True, direct=False)
    first.append([Record(2, 0.0, "", b"refused")])
    first.append([Record(2, 0.0, "", b"")])
    first.close()
    second = Journal(tmp_path, sync=True, direct=False)
    acknowledged = Record(2, 0.0, "", b"acknowledged")
    second.append([acknowledged])
    assert list(read_journal(tmp_path)) == [acknowledged]
    second.close()


def test_a_segment_that_somebody_removed_is_let_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path, sync=True, direct=False)
    retired = []
    for token in (1, 2):
        journal.append([Record(token, 0.0, "", b"x")])
        retired.append(journal.retire())
    for segment in retired:
        assert segment is not None
        segment.path.unlink()
        journal.recycle(segment)  # tried again, it would write to what has its descriptor by then
    journal.close()


@pytest.mark.parametrize("duplicates", ["keep", "refuse"])
async def test_what_is_not_kept_leaves_the_journal(
    open_archive: OpenArchive, root: Path, never_settling: Callable[[], None], duplicates: str
) -> None:
    async with open_archive(sync="file", duplicates=duplicates) as archive:
        await store(archive, made(1))
        await store(archive, made(1))
        await eventually(lambda: len(list(read_journal(root / "journal"))) == 1, "the duplicate is forgotten")
        with pytest.raises(DataSetMismatch):
            await store(archive, made(2), sop_instance=made(3).sop)
        assert len(list(read_journal(root / "journal"))) == 1, "forgotten before it is refused"
        other = made(1, pixels=66)
        if duplicates == "refuse":
            with pytest.raises(DuplicateInstance):
                await store(archive, other)
            assert len(list(read_journal(root / "journal"))) == 1
        else:
            await store(archive, other)
            assert len(list(read_journal(root / "journal"))) == 2
    never_settling()
    async with open_archive(sync="file", duplicates=duplicates):
        pass
    assert verify(root, deep=True).agrees


async def test_what_is_not_what_was_announced_is_not_taken_from_the_journal(
    open_archive: OpenArchive, root: Path
) -> None:
    def journaled_file(number: int, announced: int) -> Record:
        meta = file_meta(UID(CT_IMAGE), UID(made(announced).sop), EXPLICIT_VR_LE, "CT1")
        return Record(number, 0.0, "", meta + made(number).data)

    async with open_archive(sync="file"):
        pass
    journal = Journal(root / "journal", sync=True, direct=False)
    journal.append([journaled_file(1, 1), journaled_file(2, 3), Record(4, 0.0, "", b"no object")])
    journal.close()
    async with open_archive(sync="file"):
        pass
    found = verify(root, deep=True)
    assert (found.rows, found.files, found.pending, found.problems) == (1, 1, 0, [])
    assert data_set_bytes(object_path(root, made(1))) == made(1).data


async def test_nobody_keeps_what_has_been_stored(
    open_archive: OpenArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[weakref.ref[asyncio.Future[Stored]]] = []
    real = Scribe.submit

    def noted(scribe: Scribe, small: SmallObject) -> None:
        answers.append(weakref.ref(small.future))
        real(scribe, small)

    monkeypatch.setattr(Scribe, "submit", noted)
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
        await eventually(lambda: answers[0]() is None, "idle threads have let go of it")
    assert len(answers) == 1


async def test_one_that_cannot_be_synced_does_not_spoil_the_others(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdatasync
    failed: list[int] = []

    def fail_once(descriptor: int) -> None:
        is_object = os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part")
        if is_object and not failed:  # in this order: another thread may come while the link is read
            failed.append(descriptor)
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    async with open_archive(sync="file") as archive:
        items = [made(1, pixels=SMALL), made(2), made(3, pixels=SMALL), made(4)]
        answers = await asyncio.gather(*(store(archive, item) for item in items), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, OutOfResources)]
        assert [str(answer) for answer in refused] == ["storage failed: Input/output error"]
    assert incoming(root) == []
    found = verify(root, deep=True)
    assert (found.rows, found.files, found.problems) == (3, 3, [])


def test_what_could_not_be_written_whole_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, sync=True, direct=False)
    kept, refused = Record(1, 0.0, "", b"kept"), Record(2, 0.0, "", b"r" * 600_000)
    journal.append([kept])
    real = journal_module.Segment.append
    frames: list[int] = []

    def fail_after_the_second(segment: journal_module.Segment, frame: memoryview) -> None:
        real(segment, frame)
        frames.append(len(frame))
        if len(frames) == 2:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(journal_module.Segment, "append", fail_after_the_second)
        with pytest.raises(OSError, match="Input/output"):
            journal.append([refused, refused, refused])  # a frame each
    assert list(read_journal(tmp_path)) == [kept]
    journal.append([Record(3, 0.0, "", b"after")])
    assert [record.token for record in read_journal(tmp_path)] == [1, 3]
    journal.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
import pacsnode.archive.scribe
import pacsnode.archive.files, pacsnode.archive.index, pacsnode.archive.journal, pacsnode.archive.writer
from pacsnode.archive.archive import Archive, ArchiveOptions
from tests.archive.conftest import store
from tests.support.objects import made

module, owner, step, moment = sys.argv[2:]
owner = getattr(sys.modules[f"pacsnode.archive.{module}"], owner)
real = getattr(owner, step)

def deadly(*arguments, **named):
    if moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    archive = await Archive.open(Path(sys.argv[1]), ArchiveOptions(reserve=0))
    for number in (1, 2):
        print((await store(archive, made(number))).sop_instance, flush=True)
    setattr(owner, step, deadly)
    await store(archive, made(3))
    await asyncio.sleep(30)  # what is settled behind the answer is killed, too

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("module", "owner", "step"),
    [
        ("scribe", "Scribe", "_write"),
        ("journal", "Segment", "append"),
        ("early", "Early", "begin"),
        ("announced", "Announced", "note"),
        ("files", "Layout", "write"),
        ("index", "Index", "commit"),
        ("scribe", "Scribe", "after"),
        ("early", "Early", "settle"),
        ("scribe", "Scribe", "finish"),
        ("writer", "Writer", "_settle"),
        ("journal", "Journal", "recycle"),
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_kill_9_between_two_steps(
    open_archive: OpenArchive, root: Path, module: str, owner: str, step: str, moment: str
) -> None:
    child = await command.start(str(root), module, owner, step, moment, code=KILLED, joined=True)
    said, _ = await child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert said.decode().split() == [made(1).sop, made(2).sop]
    async with open_archive(sync="file"):
        pass
    assert incoming(root) == []
    assert journaled(root) == []
    found = verify(root, deep=True)
    assert found.problems == []
    assert found.pending == 0
    assert found.rows in (2, 3)
    with closing(sqlite3.connect(root / "index.sqlite")) as connection:
        for sop_instance, path in connection.execute("SELECT sop_instance_uid, path FROM instance"):
            number = int(sop_instance.rpartition(".")[2])
            assert data_set_bytes(root / path) == made(number).data
