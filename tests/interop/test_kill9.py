"""kill -9 under load, again and again on one data root: nothing acknowledged is lost, nothing half is listed.

PACSNODE_TEST_KILLS=20 is the number the project promises; fewer by default, for their time.
"""

import asyncio
import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from tests.support.objects import (
    Made,
    data_set_bytes,
    identifier,
    incoming,
    made,
    object_path,
    read_data_set,
    stored_files,
)
from tests.support.raw import CT_IMAGE, EXPLICIT, STUDY_ROOT_FIND, Closed, RawPeer, store_message
from tests.support.service import Service
from tests.support.waiting import eventually

KILLS = int(os.environ.get("PACSNODE_TEST_KILLS", "5"))
SEED = int(os.environ.get("PACSNODE_TEST_SEED", "20240229"))
WINDOW = 4
SIZES = (64, 9_000, 9_000, 9_000, 200_000, 1_500_000)  # bytes of pixels; the last are on disk before they end
STORE, FIND = (CT_IMAGE, [EXPLICIT]), (STUDY_ROOT_FIND, [EXPLICIT])


@dataclass
class Series:
    """What one sender has sent and what it was told of it."""

    number: int
    sent: dict[str, Made] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    async def send(self, port: int, chance: random.Random) -> None:
        """Send with a window until the node dies."""
        outstanding: dict[int, str] = {}
        try:
            async with await RawPeer.associated(port, STORE, window=(WINDOW, 1)) as peer:
                for number in range(1, 60_000):
                    item = made(number, study=self.number, pixels=chance.choice(SIZES))
                    self.sent[item.sop] = item
                    peer.send(store_message(1, number, CT_IMAGE, item.sop, item.data, peer.max_send))
                    outstanding[number] = item.sop
                    if len(outstanding) == WINDOW:
                        reply = await peer.reply()
                        assert reply.status == 0x0000
                        self.acknowledged.add(outstanding.pop(reply.message_id))
        except (Closed, ConnectionError):
            return


async def listed(port: int, series: Series) -> set[str]:
    """The SOP Instance UIDs that C-FIND knows of one study."""
    item = made(1, study=series.number)
    keys = identifier("IMAGE", StudyInstanceUID=item.study, SeriesInstanceUID=item.series, SOPInstanceUID="")
    async with await RawPeer.associated(port, FIND) as peer:
        *pending, last = await peer.find(keys)
    assert last.status == 0x0000
    return {str(read_data_set(reply.data).SOPInstanceUID) for reply in pending}


async def one_life(root: Path, batch: list[Series], chance: random.Random) -> None:
    """Start, send over some associations, and kill at a random moment."""
    async with await Service.start(root) as service:
        await eventually(lambda: not incoming(root), "recovery empties incoming/")
        senders = [asyncio.create_task(series.send(service.port, chance)) for series in batch]
        await asyncio.sleep(chance.uniform(0.05, 0.6))  # the moment of the kill, not a state waited for
        service.send_signal(signal.SIGKILL)
        assert await service.ended() == -signal.SIGKILL
        await asyncio.gather(*senders)


async def test_no_acknowledged_object_is_lost_and_nothing_half_written_is_listed(root: Path) -> None:
    chance = random.Random(f"{SEED} kill")
    everything: list[Series] = []
    for life in range(KILLS):
        batch = [Series(10 * life + sender + 1) for sender in range(chance.randint(2, 4))]
        everything += batch
        await one_life(root, batch, chance)
    assert sum(len(series.acknowledged) for series in everything) > 10 * KILLS
    async with await Service.start(root) as service:
        await eventually(lambda: not incoming(root), "recovery empties incoming/")
        files = set(stored_files(root))
        for series in everything:
            known = await listed(service.port, series)
            assert series.acknowledged <= known, series.acknowledged - known
            assert known <= series.sent.keys()
            for sop in known:
                path = object_path(root, series.sent[sop])
                assert data_set_bytes(path) == series.sent[sop].data
                assert dcmread(path).SOPInstanceUID == sop
                files.discard(path)
        assert files == set(), "a file that is not listed"
        service.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
