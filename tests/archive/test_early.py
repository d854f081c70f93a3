"""Small objects whose rows and files do not wait for the journal: crashes and failing disks in between."""

import asyncio
import errno
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pacsnode.archive import early
from pacsnode.archive.announced import MOST, SLOTS, Announced, Announcement, read_announced
from pacsnode.archive.files import Layout
from pacsnode.archive.index import Index
from pacsnode.archive.instance import Outcome, Stored
from pacsnode.archive.journal import Segment
from pacsnode.archive.judge import Verdict
from pacsnode.archive.reconcile import rebuild, verify
from pacsnode.archive.writer import Writer
from pacsnode.errors import OutOfResources
from tests.archive.conftest import OpenArchive, store
from tests.archive.test_journal import DAMAGES, journaled, lose_index, whole
from tests.support import command
from tests.support.objects import data_set_bytes, incoming, made, object_path, stored_files
from tests.support.waiting import eventually


class Disk:
    """The disk under the journal: what is written there waits for release(), and fails with `failures`."""

    def __init__(self) -> None:
        self.failures: list[OSError] = []
        self.waiting = 0
        self._free = threading.Event()
        self._real = Segment.append

    def append(self, segment: Segment, frame: memoryview) -> None:
        self.waiting += 1
        assert self._free.wait(20)
        if self.failures:
            raise self.failures.pop(0)
        self._real(segment, frame)

    def release(self) -> None:
        self._free.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    slow = Disk()
    monkeypatch.setattr(Segment, "append", lambda segment, frame: slow.append(segment, frame))
    yield slow
    slow.release()


def rows(root: Path) -> list[str]:
    with closing(sqlite3.connect(root / "index.sqlite")) as index:
        return [sop for (sop,) in index.execute("SELECT sop_instance_uid FROM instance ORDER BY 1")]


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


async def test_the_answer_waits_for_the_journal_but_row_and_file_do_not(
    open_archive: OpenArchive, root: Path, disk: Disk
) -> None:
    async with open_archive(sync="file") as archive:
        answers = [asyncio.create_task(store(archive, made(number))) for number in (1, 2, 3)]
        await eventually(lambda: len(rows(root)) == 3, "the rows are there")
        assert len(list(stored_files(root))) == 3
        await asyncio.sleep(0.05)
        assert not any(answer.done() for answer in answers)
        disk.release()
        assert [(await answer).outcome for answer in answers] == [Outcome.STORED] * 3
        assert len(journaled(root)) == 3
    assert verify(root, deep=True).agrees


@pytest.mark.parametrize("first", ["full", "file"])
async def test_with_full_sync_nothing_is_committed_before_it_is_durable(
    open_archive: OpenArchive, root: Path, disk: Disk, first: str
) -> None:
    async with open_archive(sync=first) as archive:
        answer = asyncio.create_task(store(archive, made(1)))
        await eventually(lambda: disk.waiting, "the journal is being written")
        await asyncio.sleep(0.1)
        assert len(rows(root)) == {"full": 0, "file": 1}[first]
        disk.release()
        await answer


async def power_cut(open_archive: OpenArchive, root: Path, disk: Disk, copy: Path) -> None:
    """What there is of a data root while the journal waits for the disk with object 2: objects 1 and 2."""
    async with open_archive(sync="file") as archive:
        answer = asyncio.create_task(store(archive, made(2)))
        await eventually(lambda: rows(root) == [made(1).sop, made(2).sop], "the row is there")
        shutil.copytree(root, copy)
        disk.release()
        await answer
    shutil.rmtree(root)
    shutil.move(copy, root)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_power_cut_before_the_journal_lists_nothing_that_is_not_whole(
    open_archive: OpenArchive,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
    with monkeypatch.context() as patched:
        disk = Disk()
        patched.setattr(Segment, "append", lambda segment, frame: disk.append(segment, frame))
        await power_cut(open_archive, root, disk, tmp_path / "copy")
    damage(object_path(root, made(2)))
    synced: list[Layout] = []
    monkeypatch.setattr("pacsnode.archive.archive.sync_all", synced.append)
    with capture_logs() as logs:
        async with open_archive(sync="file") as archive:
            assert len(synced) == 1, "before anybody is told on the strength of a row"
            assert rows(root) == [made(1).sop, *([made(2).sop] if damage is whole else [])]
            assert (await store(archive, made(1))).outcome is Outcome.DUPLICATE
            again = await store(archive, made(2))
            assert again.outcome is (Outcome.DUPLICATE if damage is whole else Outcome.STORED)
    unfounded = [log["unfounded"] for log in logs if log["event"] == "index.recovered"]
    assert unfounded == ([] if damage is whole else [1])
    assert data_set_bytes(object_path(root, made(2))) == made(2).data
    for aside in (root / "conflicts").iterdir():  # what was left of it
        aside.unlink()
    assert verify(root, deep=True).agrees


async def test_a_stop_needs_no_second_look(open_archive: OpenArchive, root: Path) -> None:
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
        assert read_announced(Layout(root)) != []
    assert read_announced(Layout(root)) is None
    object_path(root, made(1)).unlink()  # by hand, while the node stood still
    async with open_archive(sync="file") as archive:
        assert rows(root) == [made(1).sop], "it was acknowledged, so that is an error, not a recovery"
        assert (await store(archive, made(1))).outcome is Outcome.RESTORED


async def test_what_the_journal_cannot_take_is_taken_back(
    open_archive: OpenArchive, root: Path, disk: Disk
) -> None:
    async with open_archive(sync="file") as archive:
        disk.failures = [disk_full()]
        answer = asyncio.create_task(store(archive, made(1)))
        await eventually(lambda: rows(root) == [made(1).sop], "the row is there")
        disk.release()
        with pytest.raises(OutOfResources, match="no space left"):
            await answer
        assert rows(root) == []
        assert list(stored_files(root)) == []
        with closing(sqlite3.connect(root / "index.sqlite")) as index:
            for table in ("patient", "study", "series", "header"):
                assert index.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        assert (await store(archive, made(1))).outcome is Outcome.STORED
    assert verify(root, deep=True).agrees


async def test_what_is_taken_back_leaves_its_neighbours(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
        disk = Disk()
        disk.failures = [disk_full()]
        with monkeypatch.context() as patched:
            patched.setattr(Segment, "append", lambda segment, frame: disk.append(segment, frame))
            answer = asyncio.create_task(store(archive, made(2)))
            await eventually(lambda: len(rows(root)) == 2, "the row is there")
            disk.release()
            with pytest.raises(OutOfResources):
                await answer
        assert rows(root) == [made(1).sop]
        await store(archive, made(3))
        with closing(sqlite3.connect(root / "index.sqlite")) as index:
            assert index.execute("SELECT n_instances FROM series").fetchall() == [(2,)]
    assert verify(root, deep=True).agrees


@pytest.mark.parametrize("second", ["same", "other"])
async def test_nobody_is_told_on_the_strength_of_an_object_that_may_be_taken_back(
    open_archive: OpenArchive, root: Path, disk: Disk, second: str
) -> None:
    item = made(1) if second == "same" else made(1, pixels=66)
    async with open_archive(sync="file") as archive:
        disk.failures = [disk_full()]
        first = asyncio.create_task(store(archive, made(1)))
        await eventually(lambda: rows(root) == [made(1).sop], "the row is there")
        again = asyncio.create_task(store(archive, item))
        await asyncio.sleep(0.1)
        assert not again.done()
        disk.release()
        with pytest.raises(OutOfResources):
            await first
        assert (await again).outcome is Outcome.STORED, "the first is gone"
        assert data_set_bytes(object_path(root, item)) == item.data
        assert len(journaled(root)) == 1
    assert verify(root, deep=True).agrees


async def test_a_duplicate_of_an_object_under_way_is_answered_with_it(
    open_archive: OpenArchive, root: Path, disk: Disk
) -> None:
    async with open_archive(sync="file") as archive:
        first = asyncio.create_task(store(archive, made(1)))
        await eventually(lambda: rows(root) == [made(1).sop], "the row is there")
        again = asyncio.create_task(store(archive, made(1)))
        await asyncio.sleep(0.1)
        assert not again.done()
        disk.release()
        assert [(await first).outcome, (await again).outcome] == [Outcome.STORED, Outcome.DUPLICATE]


async def test_what_cannot_be_taken_back_is_not_confirmed_either(
    open_archive: OpenArchive, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with capture_logs() as logs:
        async with open_archive(sync="file") as archive:
            disk.failures = [disk_full()]
            answer = asyncio.create_task(store(archive, made(1)))
            await eventually(lambda: rows(root) == [made(1).sop], "the row is there")
            with monkeypatch.context() as patched:
                patched.setattr(Index, "remove", locked)
                disk.release()
                with pytest.raises(OutOfResources, match="no space left"):
                    await answer
                assert "instance.unrefused" in [log["event"] for log in logs]
                with pytest.raises(OutOfResources, match="could not be removed"):
                    await store(archive, made(1))
                assert (await store(archive, made(2))).outcome is Outcome.STORED, "others are not concerned"
            assert (await store(archive, made(1))).outcome is Outcome.STORED
    assert verify(root, deep=True).rows == 2


async def test_what_is_taken_back_while_its_group_is_answered_is_not_confirmed(
    open_archive: OpenArchive, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer may look between the scribe's finding that an object is lost and the scribe's answers."""
    settle, tell = early.Early.settle, Writer._settle
    told: list[Stored | Exception] = []

    def slowly(self: early.Early, verdicts: Sequence[Verdict]) -> object:
        lost = settle(self, verdicts)
        limit = time.monotonic() + 10
        while lost and made(1).sop in rows(root) and time.monotonic() < limit:
            time.sleep(0.005)
        return lost

    def noted(self: Writer, results: list[tuple[asyncio.Future[Stored], Stored | Exception]]) -> None:
        told.extend(result for _, result in results)
        tell(self, results)

    monkeypatch.setattr(early.Early, "settle", slowly)
    monkeypatch.setattr(Writer, "_settle", noted)
    async with open_archive(sync="file") as archive:
        disk.failures = [disk_full()]
        first = asyncio.create_task(store(archive, made(1)))
        await eventually(lambda: rows(root) == [made(1).sop], "the row is there")
        disk.release()
        await asyncio.sleep(0.05)
        second = await store(archive, made(2))  # has the writer look
        with pytest.raises(OutOfResources):
            await first
    assert [type(one) for one in told if isinstance(one, Exception)] == [OutOfResources]
    assert [one.sop_instance for one in told if isinstance(one, Stored)] == [second.sop_instance]


async def test_a_disk_that_fails_at_the_stop_does_not_keep_the_root(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        async with open_archive(sync="file") as archive:
            await store(archive, made(1))
            patched.setattr(Layout, "sync_folder", broken)
    async with open_archive(sync="file") as archive:
        assert (await store(archive, made(1))).outcome is Outcome.DUPLICATE


async def test_the_writer_does_not_run_away_from_the_journal(
    open_archive: OpenArchive, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "UNDER_WAY", 2)
    async with open_archive(sync="file") as archive:
        answers: list[asyncio.Task[Stored]] = []
        for number in range(1, 5):
            answers.append(asyncio.create_task(store(archive, made(number))))
            if number < 3:
                await eventually(lambda: len(rows(root)) == len(answers), "a group of its own")
        await asyncio.sleep(0.1)
        assert len(rows(root)) == 2
        disk.release()
        for answer in answers:
            await answer
    assert verify(root, deep=True).rows == 4


KILLED = """
import asyncio, os, signal, sys, time
from pathlib import Path
import pacsnode.archive.files, pacsnode.archive.index, pacsnode.archive.announced
from pacsnode.archive.archive import Archive, ArchiveOptions
from pacsnode.archive.journal import Segment
from pacsnode.archive.judge import Verdict
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
    print((await store(archive, made(1))).sop_instance, flush=True)
    Segment.append = lambda segment, frame: time.sleep(30)  # the disk hangs
    setattr(owner, step, deadly)
    await store(archive, made(2, series=2))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("module", "owner", "step", "moment", "whole_file"),
    [
        ("announced", "Announced", "note", "after", False),
        ("files", "Layout", "write", "before", False),
        ("files", "Layout", "write", "after", True),
        ("index", "Index", "commit", "before", True),
        ("index", "Index", "commit", "after", True),
    ],
)
@pytest.mark.parametrize("cut_short", [False, True])
async def test_kill_9_before_the_journal_leaves_nothing_that_no_start_would_find(
    open_archive: OpenArchive,
    root: Path,
    module: str,
    owner: str,
    step: str,
    moment: str,
    whole_file: bool,
    cut_short: bool,
) -> None:
    child = await command.start(str(root), module, owner, step, moment, code=KILLED, joined=True)
    said, _ = await child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert said.decode().split() == [made(1).sop]
    place = object_path(root, made(2, series=2))
    assert place.exists() == whole_file
    if whole_file and cut_short:
        place.write_bytes(place.read_bytes()[:-10])
    async with open_archive(sync="file"):
        pass
    assert incoming(root) == []
    kept = whole_file and not cut_short
    assert rows(root) == [made(1).sop, *([made(2, series=2).sop] if kept else [])]
    asides = list((root / "conflicts").iterdir())
    assert len(asides) == int(whole_file and cut_short)
    for aside in asides:
        aside.unlink()
    found = verify(root, deep=True)
    assert (found.files, found.problems) == (1 + kept, [])
    async with open_archive(sync="file") as archive:
        again = await store(archive, made(2, series=2))
        assert again.outcome is (Outcome.DUPLICATE if kept else Outcome.STORED)
    assert verify(root, deep=True).rows == rebuild(root).instances == 2


async def test_what_was_announced_long_ago_is_left_alone(open_archive: OpenArchive, root: Path) -> None:
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
        announced = (root / "journal" / "announced").read_bytes()
    async with open_archive(sync="file", duplicates="replace") as archive:
        await store(archive, made(1, pixels=66))
    (root / "journal" / "announced").write_bytes(announced)
    async with open_archive(sync="file"):
        assert rows(root) == [made(1).sop]
    assert data_set_bytes(object_path(root, made(1))) == made(1, pixels=66).data
    assert verify(root, deep=True).agrees


async def test_a_file_that_an_older_index_does_not_know_is_indexed_again_not_removed(
    open_archive: OpenArchive, root: Path, tmp_path: Path
) -> None:
    async with open_archive(sync="file") as archive:
        await store(archive, made(1))
    older = (root / "index.sqlite").read_bytes()
    async with open_archive(sync="file") as archive:
        await store(archive, made(2))
        announced = (root / "journal" / "announced").read_bytes()
    lose_index(root)
    (root / "index.sqlite").write_bytes(older)
    (root / "journal" / "announced").write_bytes(announced)
    async with open_archive(sync="file"):
        pass
    assert rows(root) == [made(1).sop, made(2).sop]
    assert verify(root, deep=True).agrees


def test_slots_are_used_in_turn_and_torn_lines_are_no_announcements(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    assert read_announced(layout) is None
    announced = Announced(layout)
    assert read_announced(layout) == []

    def some(first: int, count: int) -> list[Announcement]:
        uid = "2.25." + "9" * 59
        return [
            Announcement(n, 2**40 + n, bytes(range(16)), f"objects/{uid}/{uid}/{uid}.dcm")
            for n in range(first, first + count)
        ]

    announced.note(some(0, MOST))
    announced.note(some(1000, 1))
    assert read_announced(layout) == some(0, MOST) + some(1000, 1)
    for number in range(SLOTS):
        announced.note(some(2000 + number, 1))
    found = read_announced(layout)
    assert found is not None
    assert {item.token for item in found} == set(range(2000, 2000 + SLOTS))
    content = (tmp_path / "journal" / "announced").read_bytes()
    (tmp_path / "journal" / "announced").write_bytes(content[:150] + b"\0" + content[151:])
    torn = read_announced(layout)
    assert torn is not None
    assert len(torn) == SLOTS - 1
    announced.close(done=False)
    assert read_announced(layout) is not None
    Announced(layout).close(done=True)
    assert read_announced(layout) is None
