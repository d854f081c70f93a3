"""`pacsnode serve` with peers at work: how it stops, reloads, refuses to start."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.conftest import needs, run
from tests.support.objects import data_set_bytes, incoming, made, object_path
from tests.support.raw import (
    ABORT,
    COMMAND,
    CT_IMAGE,
    EXPLICIT,
    LAST,
    RawPeer,
    c_store,
    data_pdus,
    p_data,
    pdv,
)
from tests.support.service import Service

STORE = (CT_IMAGE, [EXPLICIT])


@pytest_asyncio.fixture
async def service(root: Path) -> AsyncIterator[Service]:
    async with await Service.start(root) as running:
        yield running


async def half_a_store(peer: RawPeer, item_data: bytes, sop: str) -> bytes:
    """Send the command and half of the data set; the rest is returned."""
    half = len(item_data) // 2
    peer.send(p_data(pdv(1, COMMAND | LAST, c_store(1, CT_IMAGE, sop))))
    peer.send(data_pdus(1, item_data[:half], 16384, ends=False))
    await peer.flushed()
    return data_pdus(1, item_data[half:], 16384)


async def test_sigterm_aborts_what_is_idle_and_ends_with_0(service: Service) -> None:
    async with await RawPeer.associated(service.port) as peer:
        assert await peer.echo() == 0x0000
        service.send_signal(signal.SIGTERM)
        assert (await peer.pdu()).type == ABORT
    async with asyncio.timeout(5):
        assert await service.ended() == 0
    assert [event["event"] for event in service.events[-3:]] == [
        "node.draining",
        "association.aborted",
        "node.stopped",
    ]
    assert service.events[-2]["reason"] == "aborted by this side: the node stops"


async def test_sigterm_lets_a_running_store_finish_and_takes_no_new_association(
    service: Service, root: Path
) -> None:
    item = made(1, pixels=100_000)
    async with await RawPeer.associated(service.port, STORE) as peer:
        rest = await half_a_store(peer, item.data, item.sop)
        service.send_signal(signal.SIGTERM)
        await is_closed(service.port)
        peer.send(rest)
        assert (await peer.reply()).status == 0x0000
        assert (await peer.pdu()).type == ABORT
    assert await service.ended() == 0
    assert data_set_bytes(object_path(root, item)) == item.data


async def test_sigterm_ends_each_association_when_it_is_idle(service: Service) -> None:
    item = made(1, pixels=100_000)
    async with (
        await RawPeer.associated(service.port, STORE) as busy,
        await RawPeer.associated(service.port) as idle,
    ):
        rest = await half_a_store(busy, item.data, item.sop)
        service.send_signal(signal.SIGTERM)
        assert (await idle.pdu()).type == ABORT, "while the other one is at work"
        busy.send(rest)
        assert (await busy.reply()).status == 0x0000
    assert await service.ended() == 0


async def is_closed(port: int) -> None:
    """Wait until nobody listens any more."""
    async with asyncio.timeout(5):
        while True:
            try:
                await (await RawPeer.connect(port)).close()
            except OSError:
                return


async def test_a_store_that_does_not_go_on_is_cut_short_at_the_drain_limit(root: Path) -> None:
    async with await Service.start(root, PACSNODE_DIMSE__DRAIN_TIMEOUT="0.5") as service:
        async with await RawPeer.associated(service.port, STORE) as peer:
            await half_a_store(peer, made(1).data, made(1).sop)
            service.send_signal(signal.SIGTERM)
            assert (await peer.pdu()).type == ABORT
        async with asyncio.timeout(5):
            assert await service.ended() == 0
    assert incoming(root) == []
    assert "node.drain_cut_short" in [event["event"] for event in service.events]


async def test_a_peer_that_never_closes_does_not_hold_up_the_end(service: Service) -> None:
    peer = await RawPeer.associated(service.port)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    service.send_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await service.ended() == 0
    await peer.close()


async def test_sigint_ends_it_as_well(service: Service) -> None:
    service.send_signal(signal.SIGINT)
    assert await service.ended() == 0


async def test_sighup_takes_over_log_level_and_peers_while_serving(root: Path, tmp_path: Path) -> None:
    config = tmp_path / "pacsnode.toml"
    config.write_text("[log]\nlevel = 'info'\n")
    async with await Service.start(root, "--config", str(config)) as service:
        async with await RawPeer.associated(service.port) as peer:
            await peer.echo()
            config.write_text("[log]\nlevel = 'debug'\n[peers]\nCT1 = '127.0.0.1:11113'\n")
            service.send_signal(signal.SIGHUP)
            reloaded = await service.event("node.reloaded")
            assert set(reloaded["changed"]) == {"peers", "log.level"}  # type: ignore[call-overload]
            assert await peer.echo() == 0x0000, "the association is not disturbed"
        assert not any(e["event"] == "connection.closed" for e in service.events), "a debug event"
        async with await RawPeer.connect(service.port):
            pass
        await service.event("connection.closed")


async def test_a_wrong_configuration_is_one_clear_line(root: Path, tmp_path: Path) -> None:
    config = tmp_path / "pacsnode.toml"
    config.write_text("[dimse]\nmax_associations = 'x'\n")
    service = await Service.spawn(root, "--config", str(config))
    assert await service.ended() == 1
    assert len(service.lines) == 1
    assert all(word in service.lines[0] for word in ["dimse.max_associations", '"x"', "1 to 10000"])


async def test_every_line_of_the_log_is_json_with_event_level_and_time(root: Path) -> None:
    async with await Service.start(root, "--log-level", "debug") as service:
        async with await RawPeer.associated(service.port, STORE) as peer:
            await peer.store(made(1).sop, made(1).data, context=1)
            await peer.store(made(1).sop, b"garbage", context=1)
            await peer.release()
        service.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
    for line in service.lines:
        assert {"timestamp", "level", "event"} <= json.loads(line).keys()
    stored = next(e for e in service.events if e["event"] == "instance.stored")
    assert isinstance(stored["bytes"], int)
    assert stored["calling_ae"] == "RAW"


@needs("echoscu")
async def test_a_peer_sees_a_stopped_node_as_refused(service: Service) -> None:
    assert (await run("echoscu", "127.0.0.1", str(service.port))).status == 0
    service.send_signal(signal.SIGTERM)
    await service.ended()
    assert (await run("echoscu", "127.0.0.1", str(service.port))).status != 0
