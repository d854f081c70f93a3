"""archive.changes: what arrived, commit by commit."""

from pathlib import Path

import pytest

from pacsnode.archive.archive import Archive
from tests.archive.conftest import OpenArchive, store
from tests.support.objects import made


async def test_each_arrival_is_told_once_and_in_order(open_archive: OpenArchive) -> None:
    calls: list[int] = []
    async with open_archive() as archive:
        archive.listen(lambda: calls.append(1))
        objects = [made(number) for number in range(1, 6)]
        for item in objects:
            await store(archive, item)
        await store(archive, objects[0])  # again: nothing new
        arrived, last = await archive.changes.after(0)
        assert [one.sop_instance for one in arrived] == [item.sop for item in objects]
        assert {one.source_ae for one in arrived} == {"MODALITY"}
        assert last == await archive.changes.newest()
        assert await archive.changes.after(last) == ([], last)
        assert len(calls) == 6


async def test_what_was_seen_is_forgotten_and_numbers_go_on(open_archive: OpenArchive) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))
        _, last = await archive.changes.after(0)
        await archive.forget_changes(last)
        assert await archive.changes.newest() == last
        await store(archive, made(2))
        arrived, newer = await archive.changes.after(last)
        assert [one.sop_instance for one in arrived] == [made(2).sop]
        assert newer > last


async def test_an_object_replaced_since_is_left_out(open_archive: OpenArchive) -> None:
    async with open_archive(duplicates="replace") as archive:
        await store(archive, made(1))
        await store(archive, made(1, pixels=16))
        arrived, last = await archive.changes.after(0)
        assert [one.sop_instance for one in arrived] == [made(1).sop]
        assert arrived[0].sequence == last


async def test_a_rebuild_is_no_arrival(open_archive: OpenArchive, root: Path) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))
    await Archive.rebuild(root)
    async with open_archive() as archive:
        assert await archive.changes.after(0) == ([], 0)


async def test_a_change_that_fails_changes_nothing(open_archive: OpenArchive) -> None:
    async with open_archive() as archive:
        await store(archive, made(1))

        def fail(index: object) -> None:
            index.forget_changes(10)  # type: ignore[attr-defined]
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await archive._writer.change(fail)
        assert await archive.changes.newest() > 0
