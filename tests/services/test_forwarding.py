"""Forwarding by rules: what is chosen, when it goes, what happens when the destination fails in any way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from pacsnode.config import Settings
from pacsnode.errors import ConfigurationError
from pacsnode.node import Node
from pacsnode.workflow.jobs import Job, State
from tests.conftest import SettingsOf
from tests.support.destination import Destination, Gate, Received, free_address, success
from tests.support.objects import Made, made
from tests.support.raw import CT_IMAGE, EXPLICIT, RawPeer
from tests.support.sending import send_made
from tests.support.waiting import eventually, eventually_true

SOON = {"series_complete_after": 0.3, "study_stable_after": 0.9}
QUICK = {"retry_after": 0.02, "retry_longest": 0.1, "retry_limit": 4}
JPEG_LS = "1.2.840.10008.1.2.4.80"


@asynccontextmanager
async def forwarding(settings_of: SettingsOf, address: str, **rule: object) -> AsyncIterator[Node]:
    """A node with one rule that sends to DESTINATION."""
    settings = settings_of(
        peers={"DESTINATION": address},
        forward={"rule": {"to": ["DESTINATION"], **rule}},
        workflow=SOON,
        jobs=QUICK,
    )
    async with Node(settings) as node:
        yield node


async def store(node: Node, items: Sequence[Made], calling: str = "MODALITY") -> None:
    async with await RawPeer.associated(node.dimse_port, (CT_IMAGE, [EXPLICIT]), calling=calling) as peer:
        for number, item in enumerate(items, 1):
            assert (await peer.store(item.sop, item.data, context=1, message_id=number)).status == 0
        assert await peer.release()


async def arrives(destination: Destination, items: Sequence[Made]) -> None:
    wanted = Counter(item.sop for item in items)
    await eventually(lambda: Counter(destination.sops) >= wanted, "everything is forwarded")
    assert Counter(destination.sops) == wanted


async def ends(node: Node, state: State) -> Job:
    async def ended() -> bool:
        return bool(await node.workflow.jobs.all([state]))

    await eventually_true(ended, f"a job is {state}")
    return (await node.workflow.jobs.all([state]))[0]


async def test_what_is_stored_is_sent_on_byte_for_byte(settings_of: SettingsOf) -> None:
    items = [made(number) for number in range(1, 41)]
    async with Destination() as destination, forwarding(settings_of, destination.address) as node:
        await send_made(node.dimse_port, items)
        await arrives(destination, items)
        assert {one.sop: one.data for one in destination.received} == {one.sop: one.data for one in items}
        assert {one.originator for one in destination.received} == {("", None)}
        job = await ends(node, State.DONE)
        assert job.items_open == 0


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ({"modality": ["MR", "CT"]}, {1, 2, 3}),
        ({"modality": ["M?"]}, {3}),
        ({"match": {"PatientID": "P1"}}, {1}),
        ({"match": {"PatientID": "p1"}}, set()),
        ({"match": {"StudyDescription": "*thorax*"}}, {2}),
        ({"match": {"RequestAttributesSequence.RequestedProcedureID": "RP2"}}, {2}),
        ({"match": {"StudyDate": "20240101-20241231", "BodyPartExamined": "CHEST"}}, {2, 3}),
        ({"calling_ae": ["MODALITY", "X"]}, {1, 2, 3}),
        ({"calling_ae": ["X*"]}, set()),
    ],
)
async def test_a_rule_chooses(settings_of: SettingsOf, rule: dict[str, object], chosen: set[int]) -> None:
    from pydicom import Dataset

    request = Dataset()
    request.RequestedProcedureID = "RP2"
    items = [
        made(1, study=1),
        made(
            1,
            study=2,
            StudyDescription="CT thorax",
            RequestAttributesSequence=[request],
            BodyPartExamined="CHEST",
        ),
        made(1, study=3, Modality="MR", BodyPartExamined="CHEST"),
    ]
    marker = made(9, study=9, PatientID="marker")  # sent by a rule of its own, when all else has been judged
    async with Destination() as destination:
        settings = settings_of(
            peers={"DESTINATION": destination.address},
            forward={
                "tested": {"to": ["DESTINATION"], "priority": "high", **rule},
                "marker": {"to": ["DESTINATION"], "calling_ae": ["MARKER"], "priority": "low"},
            },
            jobs={"per_peer": 1},
        )
        async with Node(settings) as node:
            await store(node, items)
            await store(node, [marker], calling="MARKER")
            await eventually(lambda: marker.sop in destination.sops, "the marker comes")
            expected = {items[number - 1].sop for number in chosen}
            await eventually(lambda: set(destination.sops) - {marker.sop} == expected, "the chosen ones")
    received = Counter(destination.sops)
    received.pop(marker.sop)
    assert received == Counter(expected)


async def test_nothing_goes_back_to_where_it_came_from(settings_of: SettingsOf) -> None:
    theirs, others = [made(1, study=1)], [made(1, study=2)]
    async with Destination() as destination, forwarding(settings_of, destination.address) as node:
        await store(node, theirs, calling="DESTINATION")
        await store(node, others)
        await arrives(destination, others)


async def test_a_complete_series_goes_once_and_what_comes_later_goes_alone(settings_of: SettingsOf) -> None:
    first, later = [made(1), made(2)], [made(3)]
    async with (
        Destination() as destination,
        forwarding(settings_of, destination.address, when="series-complete") as node,
    ):
        await store(node, first)
        await eventually_true(partial(has_gathered, node, 2), "both are noted")
        assert destination.sops == []
        await arrives(destination, first)
        await store(node, later)
        await arrives(destination, first + later)
        jobs = await node.workflow.jobs.all()
        assert [job.items for job in jobs] == [1, 2]


async def test_a_stable_study_goes_with_all_its_series_after_a_restart(settings_of: SettingsOf) -> None:
    items = [made(1, series=1), made(1, series=2)]
    async with Destination() as destination:
        async with forwarding(settings_of, destination.address, when="study-stable") as node:
            await store(node, items)
            await ends(node, State.GATHERING)
        async with forwarding(settings_of, destination.address, when="study-stable") as node:
            await arrives(destination, items)
            assert [job.items for job in await node.workflow.jobs.all()] == [2]


async def test_a_destination_that_breaks_off_gets_each_object_once(settings_of: SettingsOf) -> None:
    """Every fifth answer is an abort instead: what was acknowledged does not come again."""
    items = [made(number) for number in range(1, 31)]
    acknowledged: list[str] = []

    async def answer(received: Received) -> int:
        if received.sop not in acknowledged and len(destination.received) % 5 == 0:
            received.request.association.abort_now()
        else:
            acknowledged.append(received.sop)
        return 0

    async with (
        Destination(answer=answer) as destination,
        forwarding(settings_of, destination.address) as node,
    ):
        await send_made(node.dimse_port, items)
        await eventually(lambda: len(set(acknowledged)) == 30, "all are acknowledged")
        assert Counter(acknowledged) == Counter(item.sop for item in items)


async def test_objects_refused_for_want_of_space_are_tried_again_alone(settings_of: SettingsOf) -> None:
    items = [made(number) for number in range(1, 11)]
    refusals = Counter({items[3].sop: 2, items[7].sop: 1})

    async def answer(received: Received) -> int:
        refused = refusals[received.sop] > 0
        refusals[received.sop] -= 1
        return 0xA700 if refused else 0

    async with (
        Destination(answer=answer) as destination,
        forwarding(settings_of, destination.address) as node,
    ):
        await send_made(node.dimse_port, items)
        await ends(node, State.DONE)
        await eventually(lambda: len(destination.sops) == 13, "ten and three again")
        counts = Counter(destination.sops)
        assert (counts[items[3].sop], counts[items[7].sop]) == (3, 2)
        assert sum(counts.values()) == 13


async def test_what_is_always_refused_becomes_a_dead_letter_the_rest_arrives(settings_of: SettingsOf) -> None:
    items = [made(number) for number in range(1, 6)]

    async def answer(received: Received) -> int:
        return 0xA700 if received.sop == items[0].sop else 0

    async with (
        Destination(answer=answer) as destination,
        forwarding(settings_of, destination.address) as node,
    ):
        await send_made(node.dimse_port, items)
        job = await ends(node, State.DEAD)
        assert job.attempts == QUICK["retry_limit"]
        assert await node.workflow.jobs.open_items(job, 10) == [items[0].sop]
        assert "as the test told it" in job.error
        assert Counter(destination.sops) == Counter([items[0].sop] * 4 + [item.sop for item in items[1:]])
        destination.answer = success
        assert await node.workflow.jobs.retry(job.id)
        await ends(node, State.DONE)


async def test_a_destination_that_is_down_gets_all_when_it_is_up(settings_of: SettingsOf) -> None:
    items = [made(number) for number in range(1, 6)]
    async with forwarding(settings_of, free_address()) as node:
        await send_made(node.dimse_port, items)
        assert "cannot be reached" in (await ends(node, State.WAITING)).error
        async with Destination() as destination:
            host, _, port = destination.address.rpartition(":")
            node.reload(settings_of(peers={"DESTINATION": f"{host}:{port}"}, jobs=QUICK))
            await arrives(destination, items)


async def test_a_destination_that_hangs_is_left_and_tried_again(settings_of: SettingsOf) -> None:
    items = [made(1)]
    gate = Gate()
    async with Destination(answer=gate) as destination:
        settings = settings_of(
            peers={"DESTINATION": destination.address},
            forward={"rule": {"to": ["DESTINATION"]}},
            dimse={"dimse_timeout": 0.3},
            jobs=QUICK,
        )
        async with Node(settings) as node:
            await store(node, items)
            await asyncio.wait_for(gate.arrived.wait(), 5)
            job = await ends(node, State.WAITING)
            assert job.items_open == 1
            gate.opened.set()
            await ends(node, State.DONE)


async def test_an_unknown_destination_waits_until_it_is_added(settings_of: SettingsOf) -> None:
    items = [made(1)]
    settings = settings_of(forward={"rule": {"to": ["LATER"]}}, jobs=QUICK)
    async with Destination() as destination, Node(settings) as node:
        await store(node, items)
        await ends(node, State.WAITING)
        from pacsnode.config import Peer

        await node.workflow.peers.add(Peer.parse(f"LATER@{destination.address}"))
        await arrives(destination, items)


@pytest.mark.parametrize("restarts", [True, False], ids=["restart", "reload"])
@pytest.mark.parametrize("before", [{}, {"LATER": "127.0.0.1:1"}], ids=["unknown", "elsewhere"])
async def test_a_destination_is_tried_at_once_when_the_configuration_has_its_address(
    settings_of: SettingsOf, restarts: bool, before: dict[str, str]
) -> None:
    """The job would wait for an hour, and so would the peer."""
    items = [made(1)]
    slow = {"retry_after": 3600.0}
    rule = {"rule": {"to": ["LATER"]}}
    async with Destination() as destination, AsyncExitStack() as stack:
        node = await stack.enter_async_context(Node(settings_of(peers=before, forward=rule, jobs=slow)))
        await store(node, items)
        await ends(node, State.WAITING)
        settings = settings_of(peers={"LATER": destination.address}, forward=rule, jobs=slow)
        if restarts:
            await stack.aclose()
            await stack.enter_async_context(Node(settings))
        else:
            node.reload(settings)
        await arrives(destination, items)


async def test_objects_are_transcoded_where_the_destination_takes_it(settings_of: SettingsOf) -> None:
    image = made(
        1,
        Rows=8,
        Columns=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
    )
    async with (
        Destination() as destination,
        forwarding(settings_of, destination.address, transfer_syntax=[JPEG_LS]) as node,
    ):
        await store(node, [image])
        await arrives(destination, [image])
    assert [one.transfer_syntax for one in destination.received] == [JPEG_LS]


async def test_several_rules_and_destinations_are_jobs_of_their_own(settings_of: SettingsOf) -> None:
    items = [made(1), made(2)]
    async with Destination() as one, Destination() as other:
        settings = settings_of(
            peers={"ONE": one.address, "OTHER": other.address, "AWAY": free_address()},
            forward={"a": {"to": ["AWAY", "ONE"]}, "b": {"to": ["OTHER"]}},
            jobs=QUICK,
        )
        async with Node(settings) as node:
            await store(node, items)
            await arrives(one, items)
            await arrives(other, items)
            jobs = await node.workflow.jobs.all()
            assert {job.peer for job in jobs} == {"ONE", "OTHER", "AWAY"}


async def test_a_reload_takes_over_rules(settings_of: SettingsOf) -> None:
    first, second, third = (made(number) for number in (1, 2, 3))
    async with Destination() as destination, Destination() as other:
        peers = {"DESTINATION": destination.address, "OTHER": other.address}
        async with Node(settings_of(peers=peers, workflow=SOON, jobs=QUICK)) as node:
            await store(node, [first])
            await asyncio.sleep(0.5)  # nobody has listened
            node.reload(
                settings_of(
                    peers=peers,
                    forward={"rule": {"to": ["DESTINATION"], "when": "series-complete"}},
                    workflow=SOON,
                    jobs=QUICK,
                )
            )
            await store(node, [second])
            await eventually(lambda: second.sop in destination.sops, "the new rule is followed")
            node.reload(settings_of(peers=peers, forward={"b": {"to": ["OTHER"]}}, workflow=SOON, jobs=QUICK))
            await store(node, [third])
            await eventually(lambda: third.sop in other.sops, "another rule is followed")
            assert third.sop not in destination.sops
            assert other.sops == [third.sop]


async def test_a_rule_that_cannot_be_followed_leaves_everything_as_it_was(settings_of: SettingsOf) -> None:
    items = [made(1)]
    async with Destination() as destination, forwarding(settings_of, destination.address) as node:
        with pytest.raises(ConfigurationError, match="7FE00010"):
            node.reload(settings_of(forward={"bad": {"to": ["X"], "match": {"PixelData": "1"}}}, jobs=QUICK))
        await store(node, items)
        await arrives(destination, items)


OTHER_RULES: list[dict[str, object]] = [
    {},
    {"other": {"to": ["DESTINATION"], "when": "study-stable"}},
    {"rule": {"to": ["DESTINATION"]}},
    {"rule": {"to": ["DESTINATION"], "when": "series-complete"}},
    {"rule": {"to": ["ELSEWHERE"], "when": "study-stable"}},
]


@pytest.mark.parametrize("restarts", [True, False], ids=["restart", "reload"])
@pytest.mark.parametrize("rules", OTHER_RULES, ids=["none", "renamed", "at once", "series", "elsewhere"])
async def test_what_was_gathered_for_a_rule_goes_when_the_rule_has_gone(
    settings_of: SettingsOf, rules: dict[str, object], restarts: bool
) -> None:
    items = [made(1), made(2)]
    never = {"series_complete_after": 3600, "study_stable_after": 3600}
    async with Destination() as destination:
        peers = {"DESTINATION": destination.address, "ELSEWHERE": free_address()}

        def settings(forward: dict[str, object]) -> Settings:
            return settings_of(peers=peers, forward=forward, workflow=never, jobs=QUICK)

        async with Node(settings({"rule": {"to": ["DESTINATION"], "when": "study-stable"}})) as node:
            await store(node, items)
            await ends(node, State.GATHERING)
            await eventually_true(partial(has_gathered, node, 2), "both are noted")
            if not restarts:
                node.reload(settings(rules))
                await arrives(destination, items)
        if restarts:
            async with Node(settings(rules)):
                await arrives(destination, items)


async def has_gathered(node: Node, items: int) -> bool:
    return [job.items for job in await node.workflow.jobs.all([State.GATHERING])] == [items]


async def test_a_rule_on_what_no_object_has_is_refused_at_the_start(settings_of: SettingsOf) -> None:
    settings = settings_of(forward={"rule": {"to": ["X"], "match": {"PixelData": "1"}}})
    with pytest.raises(ConfigurationError, match="7FE00010"):
        async with Node(settings):
            pass
