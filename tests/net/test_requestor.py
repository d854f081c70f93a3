"""The requestor's side with peers that real ones can be: slow, and releasing at the same moment."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from pacsnode.config import Peer
from pacsnode.dicom.uid import UID
from pacsnode.net import association
from pacsnode.net.association import Timeouts
from pacsnode.net.requestor import connect
from pacsnode.net.scu import ServiceUser
from pacsnode.ul.negotiation import ProposedContext
from tests.support.raw import (
    COMMAND,
    CT_IMAGE,
    IMPLICIT,
    LAST,
    NO_DATA_SET,
    RELEASE_RP,
    RELEASE_RQ,
    RawPeer,
    associate_ac,
    command,
    p_data,
    pdu,
    pdv,
)
from tests.support.waiting import Holdings

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
async def associated(peer: Peer) -> AsyncIterator[ServiceUser]:
    contexts = [ProposedContext(1, UID(CT_IMAGE), (UID(IMPLICIT),))]
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
        assert (await peer.pdu()).type == RELEASE_RQ
        peer.send(pdu(RELEASE_RP, bytes(4)))

    async with acceptor(slow) as peer, associated(peer) as user:
        assert (await user.c_store(user.contexts[0], UID("1.2.3"), bytes(size))).status == 0x0000


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
