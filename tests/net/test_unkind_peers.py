"""Peers that end, cancel, or stop reading at the worst moment."""

import asyncio
import contextlib
import errno
import gc
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pacsnode.net import transport
from pacsnode.net.association import Association
from pacsnode.node import Node
from tests.support.destination import Destination, Gate
from tests.support.objects import identifier, incoming, made, stored_files
from tests.support.raw import (
    ASSOCIATE_AC,
    C_CANCEL,
    COMMAND,
    CT_IMAGE,
    DATA_SET,
    EXPLICIT,
    IMPLICIT,
    LAST,
    STUDY_ROOT_FIND,
    VERIFICATION,
    RawPeer,
    abort,
    associate_rq,
    c_cancel,
    c_echo,
    find_message,
    p_data,
    pdv,
    store_message,
)
from tests.support.raw import command as raw_command
from tests.support.sending import send_made
from tests.support.waiting import Holdings, eventually

STORE, FIND, ECHO = (CT_IMAGE, [EXPLICIT]), (STUDY_ROOT_FIND, [EXPLICIT]), (VERIFICATION, [IMPLICIT])
EVERYTHING = identifier("STUDY", StudyInstanceUID="", PatientComments="")


def cancel(message_id: int) -> bytes:
    return p_data(pdv(1, COMMAND | LAST, c_cancel(message_id)))


async def test_a_find_cancelled_in_the_segment_it_came_in_is_answered(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port, FIND) as peer:
        peer.send(find_message(1, 5, STUDY_ROOT_FIND, EVERYTHING), cancel(5))
        reply = await peer.reply()
        assert (reply.message_id, reply.status) == (5, 0xFE00)
        assert await peer.release()


async def test_cancel_of_a_store_is_ignored(node: Node, root: Path) -> None:
    item = made(1)
    async with await RawPeer.associated(node.dimse_port, STORE) as peer:
        peer.send(store_message(1, 5, CT_IMAGE, item.sop, item.data), cancel(5))
        assert (await peer.reply()).status == 0x0000
        assert await peer.release()
    assert len(list(stored_files(root))) == 1


@pytest.mark.parametrize("pixels", [500, 3_000_000], ids=["in memory", "on disk already"])
async def test_an_abort_in_the_segment_that_ends_a_store_leaves_nothing(
    node: Node, root: Path, pixels: int
) -> None:
    item = made(1, pixels=pixels)
    before = Holdings.now()
    async with await RawPeer.associated(node.dimse_port, STORE) as peer:
        message = store_message(1, 1, CT_IMAGE, item.sop, item.data)
        peer.send(message[:-100])
        await peer.flushed()
        if pixels > 1_000_000:
            await eventually(lambda: incoming(root), "the object is on its way to the disk")
        peer.send(message[-100:], abort())
        await peer.ended()
    await before.restored()
    await eventually(lambda: not incoming(root), "incoming/ is empty")


async def test_a_peer_that_asks_and_never_reads_is_not_asked_for_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_WRITE_HIGH_WATER", 1000)
    with socket.socket() as short:
        short.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        short.setblocking(False)
        await asyncio.get_running_loop().sock_connect(short, ("127.0.0.1", node.dimse_port))
        peer = RawPeer(*await asyncio.open_connection(sock=short.dup()))
        async with peer:
            peer.send(associate_rq([ECHO]))
            assert (await peer.pdu()).type == ASSOCIATE_AC
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            numbers = itertools.cycle(range(1, 65536))
            flood = (p_data(pdv(1, COMMAND | LAST, c_echo(number))) for number in numbers)
            await send_until_stopped(peer, flood, most=200_000)
            (association,) = associations()
            assert not association.ended.is_set()
            # one chunk of requests may be answered before the node looks at its buffer
            assert association._transport._transport.get_write_buffer_size() < 2**19
            peer.reset()


async def test_a_peer_that_reads_nothing_and_aborts_is_let_go(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LINGER", 0.2)
    first = made(1, ImageComments="x" * 10_000)
    items = (made(number, ImageComments="x" * 10_000) for number in range(2, 1001))
    await send_made(node.dimse_port, [first, *items])
    everything = identifier(
        "IMAGE",
        StudyInstanceUID=first.study,
        SeriesInstanceUID=first.series,
        SOPInstanceUID="",
        ImageComments="",
    )
    before = Holdings.now()
    async with await RawPeer.associated(node.dimse_port, FIND) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.send(find_message(1, 1, STUDY_ROOT_FIND, everything))
        await peer.flushed()
        await eventually(holds_responses, "the node waits for the peer to read")
        peer.send(abort())
        await before.restored()


async def test_a_connection_without_a_descriptor_of_our_own_is_closed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_transport: asyncio.BaseTransport) -> socket.socket:
        raise OSError(errno.EMFILE, "as if none were left")

    before = Holdings.now()
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as events:
        patch.setattr(transport, "_own_socket", exhausted)
        async with await RawPeer.connect(node.dimse_port) as peer:
            assert (await peer.ended()).type == 0
    assert [event["reason"] for event in events if event["event"] == "connection.dropped"]
    await before.restored()
    async with await RawPeer.associated(node.dimse_port, ECHO) as peer:
        assert await peer.echo() == 0x0000


async def send_until_stopped(peer: RawPeer, requests: Iterator[bytes], most: int) -> None:
    """Send until the node stops reading, and no more than `most`."""
    with contextlib.suppress(TimeoutError):
        for _ in range(0, most, 1000):
            peer.send(*itertools.islice(requests, 1000))
            async with asyncio.timeout(1):
                await peer.flushed()


def associations() -> list[Association]:
    return [o for o in gc.get_objects() if type(o) is Association]


def holds_responses() -> bool:
    return any(association.holds_responses for association in associations())


async def test_a_store_on_a_context_without_the_role_is_refused(node: Node, root: Path) -> None:
    item = made(1)
    roles = {CT_IMAGE: (0, 1)}
    async with await RawPeer.associated(node.dimse_port, ECHO, STORE, roles=roles) as peer:
        assert peer.accepted.roles == roles
        assert (await peer.store(item.sop, item.data)).status == 0x0122
        assert await peer.echo() == 0x0000
        assert await peer.release()
    assert not list(stored_files(root))


async def test_a_refusal_is_logged_with_the_object_it_concerns(node: Node) -> None:
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, ECHO, STORE) as peer:
            assert (await peer.store("1.2.3", made(1).data)).status == 0xA900
    (failed,) = (event for event in events if event["event"] == "operation.failed")
    assert (failed["sop_instance"], failed["calling_ae"]) == ("1.2.3", "RAW")


async def test_long_identifiers_wait_outside_while_others_are_worked_on() -> None:
    gate = Gate()
    async with Destination(gate, window=16, max_pdu_length=0) as destination:
        port = destination.acceptor.port
        async with await RawPeer.associated(port, STORE, window=(16, 1), called="DESTINATION") as peer:
            data = bytes(5 * 2**20)
            for number in range(1, 9):
                peer.send(store_message(1, number, CT_IMAGE, f"1.2.{number}", data, 2**20))
            (served,) = (a for a in associations() if not a.ended.is_set())
            await eventually(lambda: not served._transport.is_reading, "no more is read")
            assert len(destination.received) == 4  # 20 MiB: no more is read
            gate.opened.set()
            assert {(await peer.reply()).status for _ in range(8)} == {0x0000}


async def test_a_cancel_with_a_data_set_is_no_operation(node: Node, root: Path) -> None:
    async with await RawPeer.associated(node.dimse_port, ECHO, STORE) as peer:
        command = raw_command({0x0100: C_CANCEL, 0x0120: 5, 0x0800: DATA_SET})
        peer.send(p_data(pdv(3, COMMAND | LAST, command), pdv(3, LAST, bytes(10))))
        assert await peer.echo() == 0x0000
