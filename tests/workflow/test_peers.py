"""Peers: configured ones first, run-time ones at once, from any process."""

import pytest

from pacsnode.config import Peer
from pacsnode.dicom.uid import AETitle
from pacsnode.errors import ConfigurationError
from pacsnode.workflow.database import Database
from pacsnode.workflow.peers import Peers
from tests.support.waiting import eventually_true, running


def peer(text: str) -> Peer:
    return Peer.parse(text)


@pytest.fixture
def elsewhere(other: Database) -> Peers:
    """The peers as a command beside the node sees them."""
    return Peers(other)


async def test_a_peer_added_by_another_process_is_found_at_once(opened: Database, elsewhere: Peers) -> None:
    node = Peers(opened, {})
    await elsewhere.add(peer("WS@[::1]:104"))
    assert await node.get("WS") == peer("WS@[::1]:104")
    await elsewhere.add(peer("WS@other:105"))
    assert await node.get("WS") == peer("WS@other:105")
    assert await elsewhere.remove("WS")
    assert await node.get("WS") is None
    assert not await elsewhere.remove("WS")


async def test_a_configured_peer_is_seen_elsewhere_and_stays_as_it_is(
    opened: Database, elsewhere: Peers
) -> None:
    await elsewhere.add(peer("CT@old:1"))
    node = Peers(opened, {AETitle("CT"): peer("CT@here:2")})
    async with running(node.run()):
        await eventually_true(lambda: _knows(elsewhere, "CT@here:2"), "the copy is there")
        assert [(str(known.peer), known.configured) for known in await elsewhere.known()] == [
            ("CT@here:2", True)
        ]
        for change in (elsewhere.add(peer("CT@there:3")), elsewhere.remove("CT")):
            with pytest.raises(ConfigurationError, match="stands in the configuration"):
                await change


async def test_a_reload_counts_from_its_moment(opened: Database, elsewhere: Peers) -> None:
    node = Peers(opened, {AETitle("CT"): peer("CT@here:2")})
    async with running(node.run()):
        await eventually_true(lambda: _knows(elsewhere, "CT@here:2"), "the copy is there")
        node.configure({AETitle("MR"): peer("MR@here:3")})
        assert await node.get("CT") is None
        assert await node.get("MR") == peer("MR@here:3")
        await eventually_true(lambda: _knows(elsewhere, "MR@here:3"), "the copy follows")
        assert await elsewhere.get("CT") is None


async def _knows(peers: Peers, text: str) -> bool:
    return text in [str(one) for one in await peers.all()]
