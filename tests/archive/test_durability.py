"""What an acknowledgement is worth: kill -9, and the recovery of incoming/ step by step."""

import asyncio
import fcntl
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from pacsnode.archive.files import Layout
from pacsnode.archive.index import Index
from pacsnode.archive.instance import SMALL, Outcome
from pacsnode.archive.reconcile import verify
from pacsnode.archive.recovery import journaled
from tests.archive.conftest import OpenArchive, store
from tests.support import command
from tests.support.objects import data_set_bytes, incoming, made, object_path, stored_files
from tests.support.waiting import eventually

ROUNDS = 10

# Stores without end over several streams and prints each SOP Instance UID when it was acknowledged.
CHILD = """
import asyncio, sys
from pathlib import Path
from pacsnode.archive.archive import Archive, ArchiveOptions
from tests.archive.conftest import store
from tests.support.objects import made

async def stream(archive, first):
    for number in range(first, first + 10_000):
        stored = await store(archive, made(number, study=number % 5 + 1))
        print(stored.sop_instance, flush=True)

async def main(root, start):
    archive = await Archive.open(root, ArchiveOptions(reserve=0, duplicates="replace"))
    print("open", flush=True)
    await asyncio.gather(*(stream(archive, start + 10_000 * n) for n in range(4)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


async def run_and_kill(root: Path, start: int, acknowledgements: int) -> set[str]:
    """Kill the child after some acknowledgements; returns all that were printed."""
    child = await command.start(str(root), str(start), code=CHILD, joined=True)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"open\n"
    lines = [await child.stdout.readline() for _ in range(acknowledgements)]
    os.kill(child.pid, signal.SIGKILL)
    rest = await child.stdout.read()
    await child.wait()
    whole = (b"".join(lines) + rest).rpartition(b"\n")[0]
    return set(whole.decode().split("\n"))


def forget_row(root: Path, sop_instance: str) -> int:
    """Take an instance out of the index, as a power cut takes the last commits; its former token."""
    with closing(sqlite3.connect(root / "index.sqlite", isolation_level=None)) as index:
        (token,) = index.execute(
            "SELECT id FROM instance WHERE sop_instance_uid = ?", (sop_instance,)
        ).fetchone()
        index.execute("DELETE FROM header WHERE instance_id = ?", (token,))
        index.execute("DELETE FROM instance WHERE id = ?", (token,))
        index.execute("UPDATE series SET n_instances = n_instances - 1")
    return int(token)


async def test_after_kill_9_every_acknowledged_object_is_listed_and_readable(
    open_archive: OpenArchive, root: Path
) -> None:
    acknowledged: set[str] = set()
    for number in range(ROUNDS):
        # The same numbers again now and then, so that duplicates are on their way as well.
        acknowledged |= await run_and_kill(
            root, start=100_000 * (number % 3), acknowledgements=1 + number * 7
        )
        async with open_archive():
            assert incoming(root) == []
        with closing(sqlite3.connect(root / "index.sqlite")) as connection:
            listed = dict(connection.execute("SELECT sop_instance_uid, path FROM instance"))
        assert acknowledged <= listed.keys()
        assert verify(root, deep=True).problems == []
    for sop_instance in acknowledged:
        assert dcmread(root / listed[sop_instance]).SOPInstanceUID == sop_instance


Recover = Callable[[], Awaitable[list[tuple[str, int, int]]]]


@pytest.fixture
def recovering(open_archive: OpenArchive) -> Recover:
    """Opens the archive once and gives the log events of that."""

    async def recovered() -> list[tuple[str, int, int]]:
        with capture_logs() as logs:
            async with open_archive():
                pass
        return [(log["event"], log["finished"], log["removed"]) for log in logs if "finished" in log]

    return recovered


def back_to_incoming(root: Path, path: Path) -> None:
    """Undo the rename of a committed object."""
    with closing(sqlite3.connect(root / "index.sqlite")) as connection:
        sql = "SELECT id FROM instance WHERE path = ?1 UNION SELECT id FROM conflict WHERE path = ?1"
        [(token,)] = connection.execute(sql, (str(path.relative_to(root)),)).fetchall()
    path.rename(root / "incoming" / f"{token}.{path.stat().st_size}.part")


async def test_a_clean_start_says_nothing(recovering: Recover) -> None:
    assert await recovering() == []


async def test_a_committed_file_gets_its_place(
    open_archive: OpenArchive, root: Path, recovering: Recover
) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))
    place = object_path(root, made(1))
    back_to_incoming(root, place)
    place.parent.rmdir()
    assert await recovering() == [("index.recovered", 1, 0)]
    assert data_set_bytes(place) == made(1).data


async def test_files_that_were_never_committed_are_removed(
    open_archive: OpenArchive, root: Path, recovering: Recover
) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))
    for name in ("999.part", "link-4711", "-1.part", "999.12.part"):
        (root / "incoming" / name).write_bytes(b"half an obj")
    assert await recovering() == [("index.recovered", 0, 4)]
    assert incoming(root) == []
    assert verify(root, deep=True).agrees


async def test_what_others_put_into_incoming_is_left_there(
    open_archive: OpenArchive, root: Path, recovering: Recover
) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))
    (root / "incoming" / "IMG001.dcm").write_bytes(b"somebody took this for an inbox")
    (root / "incoming" / "lost+found").mkdir()
    assert await recovering() == []
    assert sorted(path.name for path in incoming(root)) == ["IMG001.dcm", "lost+found"]


async def test_complete_objects_the_index_lost_to_a_power_cut_are_listed_again(
    open_archive: OpenArchive, root: Path, recovering: Recover
) -> None:
    async with open_archive() as archive:
        lost = await store(archive, made(1))
        await store(archive, made(2))
        first = (root / lost.path).read_bytes()
    token = forget_row(root, lost.sop_instance)
    name = f"{token}.{len(first)}.part"
    os.link(root / lost.path, root / "incoming" / name)  # placed, but the commit never reached the disk
    (root / "incoming" / f"{token + 7}.{len(first)}.part").write_bytes(first)  # sent again after that
    assert await recovering() == [("index.recovered", 0, 0)]
    assert incoming(root) == []
    assert data_set_bytes(root / lost.path) == made(1).data
    assert verify(root, deep=True).agrees
    async with open_archive() as archive:
        assert (await store(archive, made(1))).outcome is Outcome.DUPLICATE
        assert (await store(archive, made(3))).outcome is Outcome.STORED


async def test_with_sync_file_the_second_name_goes_when_the_index_is_durable(
    open_archive: OpenArchive, root: Path
) -> None:
    async with open_archive(sync="file") as archive:
        stored = await store(archive, made(1))
        assert data_set_bytes(root / stored.path) == made(1).data
        await eventually(lambda: not incoming(root), "incoming/ is empty")
    assert verify(root, deep=True).agrees


async def test_an_index_that_could_not_be_synced_leaves_the_second_names_to_the_next_start(
    open_archive: OpenArchive, root: Path, recovering: Recover, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(5, "Input/output error")]

    def told_once(self: Index) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(Index, "sync_log", told_once)
    async with open_archive(sync="file") as archive:
        await store(archive, made(1, pixels=SMALL))
        await eventually(lambda: not failures, "tried once")
        await store(archive, made(2, pixels=SMALL))
    assert [path.stat().st_size for path in incoming(root)] == [object_path(root, made(1)).stat().st_size]
    assert await recovering() == [("index.recovered", 1, 0)]
    assert verify(root, deep=True).agrees


async def test_a_file_kept_aside_gets_its_place(
    open_archive: OpenArchive, root: Path, recovering: Recover
) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))
        aside = (await store(archive, made(1, pixels=66))).path
    back_to_incoming(root, root / aside)
    assert await recovering() == [("index.recovered", 1, 0)]
    assert data_set_bytes(root / aside) == made(1, pixels=66).data


@pytest.mark.parametrize("steps_done", [0, 1])
async def test_a_replacement_cut_short_is_finished(
    open_archive: OpenArchive, root: Path, recovering: Recover, steps_done: int
) -> None:
    async with open_archive(duplicates="replace") as archive:
        await store(archive, made(1))
        await store(archive, made(1, pixels=66))
    place = object_path(root, made(1))
    [aside] = (root / "conflicts").iterdir()
    back_to_incoming(root, place)  # the second rename
    if steps_done == 0:
        aside.rename(place)  # and the first: the replaced object is still where it was
    await recovering()
    assert data_set_bytes(place) == made(1, pixels=66).data
    assert data_set_bytes(aside) == made(1).data
    assert verify(root, deep=True).agrees


async def test_numbers_go_on_after_a_restart(open_archive: OpenArchive, root: Path) -> None:
    for number in (1, 2, 3):
        async with open_archive() as archive:
            await store(archive, made(number))
            await store(archive, made(number, pixels=66 + number * 2))
    assert verify(root, deep=True).agrees


@pytest.mark.parametrize("sync", ["full", "file", "none"])
async def test_every_sync_policy_stores(open_archive: OpenArchive, root: Path, sync: str) -> None:
    async with open_archive(sync=sync) as archive:
        await asyncio.gather(*(store(archive, made(number)) for number in range(1, 9)))
    assert verify(root, deep=True).rows == 8


@pytest.mark.parametrize(("sync", "calls"), [("full", 1), ("file", 1), ("none", 0)])
async def test_a_large_file_is_synced_before_the_answer(
    open_archive: OpenArchive, monkeypatch: pytest.MonkeyPatch, sync: str, calls: int
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def noted(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", noted)
    async with open_archive(sync=sync) as archive:
        await store(archive, made(1, pixels=SMALL))
        assert len(synced) == calls


@pytest.mark.parametrize(("sync", "durable"), [("full", True), ("file", True), ("none", False)])
async def test_a_small_object_is_in_the_journal_before_the_answer(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch, sync: str, durable: bool
) -> None:
    flags: list[int] = []
    real = os.pwrite

    def noted(descriptor: int, data: memoryview, position: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".log"):
            flags.append(fcntl.fcntl(descriptor, fcntl.F_GETFL))
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", noted)
    async with open_archive(sync=sync) as archive:
        stored = await store(archive, made(1))
        [record] = journaled(Layout(root))
        assert record.path == stored.path
        assert record.content == (root / stored.path).read_bytes()
    assert {bool(flag & os.O_DSYNC) for flag in flags} == {durable}


async def test_objects_get_their_place_where_a_file_can_have_one_name_only(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pacsnode.archive.files.os.link", refuse)
    with capture_logs() as logs:
        async with open_archive(sync="file") as archive:
            assert (await store(archive, made(1, pixels=SMALL))).outcome is Outcome.STORED
            assert len(list(stored_files(root))) == 1
            assert incoming(root) == []
    assert [log["sync"] for log in logs if log["event"] == "storage.no_links"] == ["full"]
    async with open_archive(sync="file") as archive:
        assert (await store(archive, made(1, pixels=SMALL))).outcome is Outcome.DUPLICATE
