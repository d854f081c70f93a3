"""The requestor's side with peers that real ones can be: slow, strict, and releasing at the same moment."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from pydicom import Dataset

from pacsnode.config import Peer
from pacsnode.dicom.uid import UID
from pacsnode.net import association, invoker
from pacsnode.net.requestor import connect
from pacsnode.net.scu import ServiceUser
from pacsnode.net.timeouts import Timeouts
from pacsnode.ul.negotiation import ProposedContext
from tests.support.raw import (
    C_CANCEL,
    COMMAND,
    CT_IMAGE,
    DATA_SET,
    IMPLICIT,
    LAST,
    NO_DATA_SET,
    RELEASE_RP,
    RELEASE_RQ,
    STUDY_ROOT_FIND,
    RawPeer,
    associate_ac,
    command,
    p_data,
    pdu,
    pdv,
)
from tests.support.waiting import Holdings, eventually

FIND = UID(STUDY_ROOT_FIND)
Script = Callable[[RawPeer], Awaitable[None]]
SHORT = Timeouts(artim=1, idle=1, dimse=1)
SUCCESS = command(
    {0x0002: CT_IMAGE, 0x0100: 0x8001, 0x0120: 1, 0x0800: NO_DATA_SET, 0x0900: 0, 0x1000: "1.2.3"}
)


@asynccontextmanager
async def acceptor(script: Script) -> AsyncIterator[Peer]:
    """A peer that accepts one association with the first context it is offered, then goes by its script."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with RawPeer(reader, writer) as peer:
            peer.send(associate_ac((await peer.pdu()).body, IMPLICIT))
            await script(peer)

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)  # so that little is on its way
        listening.bind(("127.0.0.1", 0))
        async with await asyncio.start_server(serve, sock=listening, limit=2**14):
            yield Peer(ae_title="SCRIPTED", host="127.0.0.1", port=listening.getsockname()[1])


@asynccontextmanager
async def associated(peer: Peer, sop_class: str = CT_IMAGE) -> AsyncIterator[ServiceUser]:
    contexts = [ProposedContext(1, UID(sop_class), (UID(IMPLICIT),))]
    async with connect(peer, "PACSNODE", contexts, timeouts=SHORT) as user:
        yield user


async def test_a_peer_at_the_end_of_a_slow_line_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "_TICK", 0.1)
    size = 3_000_000  # not sent in pieces, and more than the system takes at once

    async def slow(peer: RawPeer) -> None:
        now = asyncio.get_running_loop().time
        received, started = 0, now()
        while received < size:
            received += len(await peer.reader.read(2**14))
            await asyncio.sleep(started + 3 * SHORT.dimse * received / size - now())
        peer.send(p_data(pdv(1, COMMAND | LAST, SUCCESS)))
        await release_is_answered(peer)

    async with acceptor(slow) as peer, associated(peer) as user:
        assert (await user.c_store(user.contexts[0], UID("1.2.3"), bytes(size))).status == 0x0000


def found(message_id: int, status: int) -> bytes:
    """A C-FIND-RSP; a pending one with an empty identifier."""
    has_data_set = status == 0xFF00
    kind = DATA_SET if has_data_set else NO_DATA_SET
    response = command({0x0002: FIND, 0x0100: 0x8020, 0x0120: message_id, 0x0800: kind, 0x0900: status})
    return p_data(pdv(1, COMMAND | LAST, response), *([pdv(1, LAST, b"")] if has_data_set else []))


async def release_is_answered(peer: RawPeer) -> None:
    assert (await peer.pdu()).type == RELEASE_RQ
    peer.send(pdu(RELEASE_RP, bytes(4)))


async def test_a_query_that_was_left_is_outstanding_until_its_last_response() -> None:
    """Without a window there is one operation at a time (PS3.7 D.3.3.3)."""

    async def strict(peer: RawPeer) -> None:
        first = (await peer.reply()).us(0x0110)
        peer.send(found(first, 0xFF00))
        cancel = await peer.reply()
        assert (cancel.field, cancel.message_id) == (C_CANCEL, first)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await peer.reader.readexactly(1)
        peer.send(found(first, 0xFE00))
        peer.send(found((await peer.reply()).us(0x0110), 0x0000))
        await release_is_answered(peer)

    async with acceptor(strict) as peer, associated(peer, FIND) as user:
        async with aclosing(user.c_find(FIND, Dataset())) as replies:
            assert (await anext(replies)).status == 0xFF00
        assert [reply.status async for reply in user.c_find(FIND, Dataset())] == [0x0000]


async def test_a_query_that_was_left_after_its_last_response_is_over() -> None:
    async def quick(peer: RawPeer) -> None:
        for _ in range(2):
            message_id = (await peer.reply()).us(0x0110)
            peer.send(found(message_id, 0xFF00), found(message_id, 0xFF00), found(message_id, 0x0000))
        await release_is_answered(peer)

    async with acceptor(quick) as peer, associated(peer, FIND) as user:
        for _ in range(2):
            async with aclosing(user.c_find(FIND, Dataset())) as replies:
                assert (await anext(replies)).status == 0xFF00
                await eventually(lambda: user.association.is_idle, "the last response has come")
            assert user.association.is_idle


async def test_a_query_may_be_left_without_being_closed() -> None:
    """A bare `break`: Python closes the iterator after the association has begun to be released."""

    async def leisurely(peer: RawPeer) -> None:
        peer.send(found((await peer.reply()).us(0x0110), 0xFF00))
        await release_is_answered(peer)

    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    async with acceptor(leisurely) as peer, associated(peer, FIND) as user:
        async for reply in user.c_find(FIND, Dataset()):
            assert reply.status == 0xFF00
            break
    await asyncio.sleep(0.1)
    assert failures == []


async def test_a_query_that_was_left_with_much_unread_is_read_to_its_end() -> None:
    many = invoker.UNREAD_RESPONSES + 100

    async def generous(peer: RawPeer) -> None:
        message_id = (await peer.reply()).us(0x0110)
        for _ in range(many):
            peer.send(found(message_id, 0xFF00))
            await asyncio.sleep(0)  # so that they arrive in more than one piece
        assert (await peer.reply()).field == C_CANCEL
        peer.send(*[found(message_id, 0xFF00)] * many, found(message_id, 0xFE00))
        peer.send(found((await peer.reply()).us(0x0110), 0x0000))
        await release_is_answered(peer)

    async with acceptor(generous) as peer, associated(peer, FIND) as user:
        async with aclosing(user.c_find(FIND, Dataset())) as replies:
            assert (await anext(replies)).status == 0xFF00
            await eventually(lambda: not is_read(user), "no more is read")
        async with asyncio.timeout(10):
            assert [reply.status async for reply in user.c_find(FIND, Dataset())] == [0x0000]


def is_read(user: ServiceUser) -> bool:
    assert isinstance(user.association, association.Association)
    return user.association._transport.is_reading


async def test_a_release_collision_ends_well() -> None:
    async def collide(peer: RawPeer) -> None:
        assert (await peer.pdu()).type == RELEASE_RQ
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert (await peer.pdu()).type == RELEASE_RP
        await asyncio.sleep(0.1)
        peer.send(pdu(RELEASE_RP, bytes(4)))
        assert (await peer.pdu()).type == 0

    async with acceptor(collide) as peer, associated(peer):
        pass


async def test_a_peer_that_leaves_a_release_collision_unfinished_is_not_waited_for() -> None:
    before = Holdings.now()
    ended = asyncio.Event()

    async def forget(peer: RawPeer) -> None:
        assert (await peer.pdu()).type == RELEASE_RQ
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert (await peer.pdu()).type == RELEASE_RP
        await peer.ended()
        ended.set()

    async with acceptor(forget) as peer:
        async with associated(peer):
            pass
        async with asyncio.timeout(10):
            await ended.wait()
    await before.restored()
