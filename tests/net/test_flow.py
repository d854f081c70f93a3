"""Back-pressure: whoever is faster than the disk, or slower than the index, waits in its own memory."""

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog

from pacsnode.archive.workers import Workers
from pacsnode.net import association
from pacsnode.net.association import UNWRITTEN_HIGH, Association
from pacsnode.node import Node
from tests.conftest import SettingsOf
from tests.support.objects import data_set_bytes, identifier, made, object_path
from tests.support.raw import CT_IMAGE, EXPLICIT, STUDY_ROOT_FIND, RawPeer, find_message, store_message
from tests.support.sending import send_made
from tests.support.waiting import eventually, resident

Job = Callable[[], None]
LONG = made(1, pixels=60_000_000)


class Disk:
    """The worker threads' queue, which a test can stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: list[tuple[Workers, Job]] = []
        self._stopped = False
        self._submit = Workers.submit
        monkeypatch.setattr(Workers, "submit", lambda workers, job: self._take(workers, job))

    def stop(self) -> None:
        self._stopped = True

    def go_on(self) -> None:
        self._stopped = False
        held, self.held = self.held, []
        for workers, job in held:
            self._submit(workers, job)

    def _take(self, workers: Workers, job: Job) -> None:
        if self._stopped:
            self.held.append((workers, job))
        else:
            self._submit(workers, job)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def stuck(peer: RawPeer) -> None:
    """Wait until the node takes no more of what the peer has to send."""
    waiting, unchanged = -1, 0
    while unchanged < 200:
        await asyncio.sleep(0.001)
        now = peer.writer.transport.get_write_buffer_size()  # type: ignore[attr-defined]
        unchanged = unchanged + 1 if now == waiting and now else 0
        waiting = now


async def test_a_sender_waits_while_the_disk_is_behind(node: Node, root: Path, disk: Disk) -> None:
    message = store_message(1, 1, CT_IMAGE, LONG.sop, LONG.data, 262144)
    async with await RawPeer.associated(node.dimse_port, (CT_IMAGE, [EXPLICIT])) as peer:
        disk.stop()
        before = resident()
        peer.send(message)
        async with asyncio.timeout(20):
            await stuck(peer)
        unsent = peer.writer.transport.get_write_buffer_size()  # type: ignore[attr-defined]
        assert unsent > len(message) // 4, "the rest is in the buffers of the kernel"
        assert resident() - before < len(message) + 4 * UNWRITTEN_HIGH
        disk.go_on()
        assert (await peer.reply()).status == 0x0000
        assert await peer.release()
    assert data_set_bytes(object_path(root, LONG)) == LONG.data


async def test_a_sender_that_was_not_listened_to_has_its_time_from_then_on(
    settings_of: SettingsOf, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(association, "_TICK", 0.0)  # a look at the clock between any two events
    message = store_message(1, 1, CT_IMAGE, LONG.sop, LONG.data, 262144)
    async with (
        Node(settings_of(dimse={"dimse_timeout": 1})) as node,
        await RawPeer.associated(node.dimse_port, (CT_IMAGE, [EXPLICIT])) as peer,
    ):
        disk.stop()
        peer.send(message)
        await eventually(lambda: disk.held and not is_read(), "the node has stopped reading")
        await asyncio.sleep(1.5)
        disk.go_on()
        assert (await peer.reply()).status == 0x0000


def is_read() -> bool:
    return all(o._transport.is_reading for o in gc.get_objects() if type(o) is Association)


async def test_many_senders_share_what_may_wait_for_the_disk(
    node: Node, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(association, "UNWRITTEN_IN_ALL", 12 * 2**20)
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(await RawPeer.associated(node.dimse_port, (CT_IMAGE, [EXPLICIT])))
            for _ in range(4)
        ]
        disk.stop()
        for number, peer in enumerate(peers):
            item = made(number, pixels=12_000_000)
            peer.send(store_message(1, 1, CT_IMAGE, item.sop, item.data, 262144))
        served = [o for o in gc.get_objects() if type(o) is Association and not o.ended.is_set()]
        await eventually(lambda: not any(one._transport.is_reading for one in served), "all wait")
        waiting = [one._performer.unwritten for one in served]
        assert len(waiting) == 4
        assert all(3 * 2**20 < bytes_held < 4 * 2**20 for bytes_held in waiting), waiting
        disk.go_on()
        for peer in peers:
            assert (await peer.reply()).status == 0x0000


async def test_others_are_served_while_one_waits_for_the_disk(node: Node, disk: Disk) -> None:
    async with (
        await RawPeer.associated(node.dimse_port, (CT_IMAGE, [EXPLICIT])) as slow,
        await RawPeer.associated(node.dimse_port) as other,
    ):
        disk.stop()
        slow.send(store_message(1, 1, CT_IMAGE, LONG.sop, LONG.data, 262144))
        assert await other.echo() == 0x0000
        disk.go_on()
        assert (await slow.reply()).status == 0x0000


async def test_an_abort_while_the_disk_is_behind_leaves_nothing(node: Node, root: Path, disk: Disk) -> None:
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, (CT_IMAGE, [EXPLICIT])) as peer:
            disk.stop()
            peer.send(store_message(1, 1, CT_IMAGE, LONG.sop, LONG.data, 262144))
            await eventually(lambda: disk.held, "the object is on its way")
            peer.reset()
        disk.go_on()  # the socket of a sender that has to wait is not read, so its end is seen only now
        await eventually(lambda: "association.aborted" in [e["event"] for e in events], "it has ended")
    await eventually(lambda: not list((root / "incoming").iterdir()), "incoming/ is empty")
    assert not object_path(root, LONG).exists()


async def test_answers_wait_in_the_index_for_a_peer_that_reads_nothing(node: Node) -> None:
    await send_made(node.dimse_port, (made(1, study=n, PatientComments="x" * 10_000) for n in range(1, 3001)))
    async with (
        await RawPeer.associated(node.dimse_port, (STUDY_ROOT_FIND, [EXPLICIT])) as idle,
        await RawPeer.associated(node.dimse_port) as other,
    ):
        before = resident()
        idle.writer.transport.pause_reading()  # type: ignore[attr-defined]
        idle.send(find_message(1, 1, STUDY_ROOT_FIND, identifier("STUDY", PatientComments="")))
        for number in range(1, 200):
            assert await other.echo(message_id=number) == 0x0000
        assert resident() - before < 20 * 2**20, "30 MB of answers are not held"
        idle.writer.transport.resume_reading()  # type: ignore[attr-defined]
        replies = [await idle.reply()]
        while replies[-1].status in (0xFF00, 0xFF01):
            replies.append(await idle.reply())
    assert len(replies) == 3001
