"""Forwarding with real receivers, and with the node killed again and again: all arrives, nothing twice."""

import asyncio
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsnode.workflow.database import Database
from pacsnode.workflow.jobs import Jobs, State
from tests.conftest import needs
from tests.support.destination import Destination, Received, free_address
from tests.support.files import bundled
from tests.support.objects import data_set_bytes, made, stored_files
from tests.support.sending import send_files, send_made
from tests.support.service import Service
from tests.support.truth import Truth
from tests.support.waiting import eventually, eventually_true

KILLS = int(os.environ.get("PACSNODE_TEST_KILLS", "3"))
QUICK = "[jobs]\nretry_after = 0.1\nretry_longest = 0.5\nretry_limit = 50\n"


def configured(folder: Path, rule: str) -> str:
    """A configuration file with one rule."""
    path = folder / "pacsnode.toml"
    path.write_text(f"{QUICK}[forward.everything]\n{rule}\n")
    return str(path)


@asynccontextmanager
async def storescp(port: str, folder: Path, *options: str) -> AsyncIterator[None]:
    """DCMTK's receiver; every object it gets becomes a file of its own, so that what comes twice is seen."""
    process = await asyncio.create_subprocess_exec(
        "storescp", "+B", "+uf", "-od", str(folder), "-aet", "STORESCP", *options, port
    )
    try:
        await eventually(lambda: _listens(int(port)), "storescp listens")
        yield
    finally:
        process.terminate()
        await process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@needs("storescp")
async def test_storescp_gets_every_real_object_byte_for_byte(root: Path, tmp_path: Path) -> None:
    truth = Truth.of(bundled())
    address = free_address()
    peers = {"PACSNODE_PEERS": f"STORESCP@{address}"}
    config = configured(tmp_path, 'to = ["STORESCP"]')
    folder = tmp_path / "received"
    folder.mkdir()
    async with (
        storescp(address.rpartition(":")[2], folder, "+xa"),
        await Service.start(root, "--config", config, **peers) as service,
    ):
        assert set(await send_files(service.port, truth.items)) == {0x0000}
        await eventually(lambda: len(list(folder.iterdir())) >= len(truth.items), "all arrive", limit=30)
        service.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
    by_sop = {str(dcmread(path).SOPInstanceUID): path for path in folder.iterdir()}
    assert len(by_sop) == len(list(folder.iterdir()))
    for item in truth.items:
        assert data_set_bytes(by_sop[item.sop]) == item.data + b"\0" * (len(item.data) & 1), item.path


async def test_a_killed_node_sends_nothing_twice_that_it_had_heard_of(root: Path, tmp_path: Path) -> None:
    """A request that follows an answer on the same association proves that the answer was heard."""
    chance = random.Random("kill the forwarder")
    items = [made(number) for number in range(1, 401)]
    heard: Counter[str] = Counter()
    outstanding: dict[int, str] = {}

    async def answer(one: Received) -> int:
        association = id(one.request.association)
        if (before := outstanding.get(association)) is not None:
            heard[before] += 1
        outstanding[association] = one.sop
        return 0

    async with Destination(answer=answer) as destination:
        peers = {"PACSNODE_PEERS": f"DESTINATION@{destination.address}"}
        config = configured(tmp_path, 'to = ["DESTINATION"]')
        for life in range(KILLS):
            async with await Service.start(root, "--config", config, **peers) as service:
                if life == 0:
                    await send_made(service.port, items)
                wanted = len(destination.received) + chance.randrange(5, 60)
                await eventually(partial(_has, destination, wanted), "some arrive")
                service.send_signal(signal.SIGKILL)
                await service.ended()
        async with await Service.start(root, "--config", config, **peers) as service:
            await eventually(lambda: set(destination.sops) == {item.sop for item in items}, "all arrive")
            await eventually_true(lambda: _nothing_is_open(root), "the jobs are done")
    again = {sop: count for sop, count in Counter(destination.sops).items() if count > 1}
    assert max(heard.values()) == 1, f"sent again though acknowledged: {[s for s in heard if heard[s] > 1]}"
    assert sum(again.values()) - len(again) <= 2 * KILLS, "more than was under way"


def _has(destination: Destination, count: int) -> bool:
    return len(destination.received) >= count


async def _nothing_is_open(root: Path) -> bool:
    database = await Database.open(root)
    try:
        counts = await Jobs(database).counts()
    finally:
        await database.close()
    return counts.keys() <= {State.DONE}


@needs("storescp")
@pytest.mark.parametrize("unkind", [["--refuse"], ["--abort-during"]])
async def test_storescp_that_refuses_or_aborts_gets_all_when_it_has_recovered(
    root: Path, tmp_path: Path, unkind: list[str]
) -> None:
    items = [made(number) for number in range(1, 6)]
    address = free_address()
    config = configured(tmp_path, 'to = ["STORESCP"]')
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    port = address.rpartition(":")[2]
    async with await Service.start(root, "--config", config, PACSNODE_PEERS=f"STORESCP@{address}") as service:
        async with storescp(port, first, *unkind):
            await send_made(service.port, items)
            await service.event("job.failed")
        async with storescp(port, second):
            await eventually_true(lambda: _nothing_is_open(root), "the jobs are done")
    assert Counter(path.name.split(".")[-1] for path in second.iterdir()).total() == len(items)


async def test_a_second_node_that_is_killed_holds_everything_in_the_end(root: Path, tmp_path: Path) -> None:
    items = [made(number, pixels=9000) for number in range(1, 301)]
    address = free_address()
    config = configured(tmp_path, 'to = ["SECOND"]')
    there = ("--ae-title", "SECOND", "--dimse-port", address.rpartition(":")[2], "--log-level", "debug")
    async with await Service.start(root, "--config", config, PACSNODE_PEERS=f"SECOND@{address}") as service:
        async with await Service.start(tmp_path / "second", *there) as second:
            sending = asyncio.create_task(send_made(service.port, items))
            await second.event("instance.stored")
            second.send_signal(signal.SIGKILL)
            await second.ended()
            await sending
        async with await Service.start(tmp_path / "second", *there) as second:
            await eventually_true(lambda: _nothing_is_open(root), "the jobs are done", limit=20)
            second.send_signal(signal.SIGTERM)
            await second.ended()
    stored = {path.stem for path in stored_files(tmp_path / "second")}
    assert stored == {item.sop for item in items}
    assert not list((tmp_path / "second" / "conflicts").rglob("*.dcm"))
