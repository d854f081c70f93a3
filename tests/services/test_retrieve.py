"""C-MOVE and C-GET as SCP: counters, statuses, destinations that fail in every way (PS3.4 C.4.2, C.4.3)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import structlog
from pydicom import Dataset

from pacsnode.archive import outgoing
from pacsnode.archive.archive import Archive
from pacsnode.config import Peer
from pacsnode.dicom.data_set import encode_data_set
from pacsnode.dicom.sop_class import (
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from pacsnode.dicom.uid import UID, AETitle
from pacsnode.dimse.message import c_move_rq
from pacsnode.errors import MatchesNotCounted
from pacsnode.net.requestor import connect
from pacsnode.net.scu import Reply, ServiceUser, SubOperations
from pacsnode.node import Node
from pacsnode.services import retrieval
from pacsnode.ul.negotiation import ProposedContext
from tests.conftest import SettingsOf
from tests.support.destination import Destination, Gate, Received, free_address, success
from tests.support.objects import Made, incoming, made, object_path
from tests.support.raw import COMMAND, CT_IMAGE, EXPLICIT, LAST, RawPeer, c_cancel, c_echo, p_data, pdv
from tests.support.sending import send_made
from tests.support.waiting import Holdings, eventually

DESTINATION = "DESTINATION"
STUDY = made(1).study
SUCCESS, CANCEL, PENDING, WARNING = 0x0000, 0xFE00, 0xFF00, 0xB000
NOT_COUNTED, ALL_FAILED, UNKNOWN_DESTINATION, INVALID = 0xA701, 0xA702, 0xA801, 0xA900


def study_of(count: int, **values: object) -> list[Made]:
    return [made(number, **values) for number in range(1, count + 1)]


def identifier(level: str = "STUDY", **keys: str) -> Dataset:
    data_set = Dataset()
    data_set.QueryRetrieveLevel = level
    for keyword, value in (keys or {"StudyInstanceUID": STUDY}).items():
        setattr(data_set, keyword, value)
    return data_set


@asynccontextmanager
async def node_with(
    settings_of: SettingsOf, items: Sequence[Made], address: str, **dimse: object
) -> AsyncIterator[Node]:
    """A node that holds `items` and knows DESTINATION at `address`."""
    async with Node(settings_of(peers={DESTINATION: address}, dimse=dimse)) as node:
        await send_made(node.dimse_port, items)
        yield node


@asynccontextmanager
async def requestor(
    node: Node, sop_class: UID = STUDY_ROOT_MOVE, title: str = "VIEWER"
) -> AsyncIterator[ServiceUser]:
    peer = Peer(ae_title=AETitle("PACSNODE"), host="127.0.0.1", port=node.dimse_port)
    async with connect(peer, title, [ProposedContext(1, sop_class, (EXPLICIT_VR_LE,))]) as user:
        yield user


async def move(
    node: Node,
    asked: Dataset | None = None,
    destination: str = DESTINATION,
    sop_class: UID = STUDY_ROOT_MOVE,
    title: str = "VIEWER",
) -> list[Reply]:
    """All responses, the final one last."""
    async with requestor(node, sop_class, title) as user:
        replies = user.c_move(sop_class, asked or identifier(), destination)
        async with aclosing(replies):
            return [reply async for reply in replies]


def failed_of(reply: Reply) -> list[str]:
    assert reply.identifier is not None
    assert "SpecificCharacterSet" not in reply.identifier
    found = reply.identifier.FailedSOPInstanceUIDList
    return [found] if isinstance(found, str) else list(found)


def counted(completed: int, failed: int = 0, warning: int = 0) -> SubOperations:
    """The counters of a final response, which tells nothing of remaining ones (C.4.2.1.6)."""
    return SubOperations(None, completed, failed, warning)


# What goes well


async def test_every_object_arrives_byte_for_byte_and_in_order(settings_of: SettingsOf) -> None:
    items = study_of(5, pixels=40_000)
    async with Destination() as destination, node_with(settings_of, items, destination.address) as node:
        replies = await move(node)
    assert (replies[-1].status, replies[-1].suboperations) == (SUCCESS, counted(5))
    assert replies[-1].identifier is None
    assert [(one.sop, one.data) for one in destination.received] == [(i.sop, i.data) for i in items]
    assert {one.transfer_syntax for one in destination.received} == {EXPLICIT}


async def test_each_store_names_the_move_it_serves_and_has_its_priority(settings_of: SettingsOf) -> None:
    async with (
        Destination() as destination,
        node_with(settings_of, study_of(2), destination.address) as node,
        await RawPeer.associated(node.dimse_port, (STUDY_ROOT_MOVE, [EXPLICIT]), calling="VIEWER") as peer,
    ):
        peer.send(move_message(777, priority=1))
        while (await peer.reply()).status == PENDING:
            pass
    assert {one.originator for one in destination.received} == {("VIEWER", 777)}
    assert {one.request.command.us(0x0700) for one in destination.received} == {1}


@pytest.mark.parametrize(
    ("sop_class", "level", "keys", "expected"),
    [
        (STUDY_ROOT_MOVE, "SERIES", {"StudyInstanceUID": STUDY, "SeriesInstanceUID": made(1).series}, 2),
        (STUDY_ROOT_MOVE, "STUDY", {"StudyInstanceUID": f"{STUDY}\\{made(1, study=2).study}"}, 4),
        (
            STUDY_ROOT_MOVE,
            "SERIES",
            {"StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{made(1).series}\\{made(1, series=2).series}"},
            3,
        ),
        (
            STUDY_ROOT_MOVE,
            "IMAGE",
            {
                "StudyInstanceUID": STUDY,
                "SeriesInstanceUID": made(1).series,
                "SOPInstanceUID": f"{made(1).sop}\\{made(2).sop}\\1.2.3",
            },
            2,
        ),
        (PATIENT_ROOT_MOVE, "PATIENT", {"PatientID": "P1"}, 3),
        (PATIENT_ROOT_MOVE, "STUDY", {"PatientID": "P1", "StudyInstanceUID": STUDY}, 3),
    ],
)
async def test_levels_and_models(
    settings_of: SettingsOf, sop_class: UID, level: str, keys: dict[str, str], expected: int
) -> None:
    items = [made(1), made(2), made(1, series=2), made(1, study=2)]
    async with Destination() as destination, node_with(settings_of, items, destination.address) as node:
        replies = await move(node, identifier(level, **keys), sop_class=sop_class)
    assert replies[-1].suboperations == counted(expected)
    assert len(destination.received) == expected


async def test_nothing_found_is_a_success_with_zero_counters_and_no_association(
    settings_of: SettingsOf,
) -> None:
    async with Destination() as destination, node_with(settings_of, [], destination.address) as node:
        (reply,) = await move(node)
    assert (reply.status, reply.suboperations) == (SUCCESS, counted(0))
    assert destination.received == []


async def test_a_window_that_is_granted_is_used(settings_of: SettingsOf) -> None:
    together = asyncio.Barrier(4)

    async def answer(_received: Received) -> int:
        await together.wait()  # none is answered before four are outstanding
        return SUCCESS

    async with (
        Destination(answer=answer, window=4) as destination,
        node_with(settings_of, study_of(8), destination.address) as node,
    ):
        replies = await move(node)
    assert replies[-1].suboperations == counted(8)


async def test_a_large_object_goes_in_pieces(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "PIECE", 10_000)
    monkeypatch.setattr(outgoing, "LARGE", 10_000)
    items = study_of(2, pixels=123_456)
    async with Destination() as destination, node_with(settings_of, items, destination.address) as node:
        replies = await move(node)
    assert replies[-1].suboperations == counted(2)
    assert [one.data for one in destination.received] == [item.data for item in items]


async def test_pending_responses_tell_how_far_it_is(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "PENDING_INTERVAL", 0.02)

    async def slowly(_received: Received) -> int:
        await asyncio.sleep(0.05)
        return SUCCESS

    async with (
        Destination(answer=slowly) as destination,
        node_with(settings_of, study_of(4), destination.address) as node,
    ):
        *pending, final = await move(node)
    assert {reply.status for reply in pending} == {PENDING}
    assert all(reply.identifier is None for reply in pending)
    told = [reply.suboperations for reply in pending]
    assert told[0] == SubOperations(4, 0, 0, 0)
    assert {(one.remaining or 0) + (one.completed or 0) for one in told} == {4}
    assert {one.completed for one in told} >= {0, 1, 2, 3}
    assert final.status == SUCCESS


# Destinations


async def test_an_unknown_destination_is_named(settings_of: SettingsOf) -> None:
    async with node_with(settings_of, study_of(1), free_address()) as node:
        (reply,) = await move(node, destination="NOBODY")
    assert reply.status == UNKNOWN_DESTINATION
    assert "NOBODY" in reply.comment


async def test_a_reload_makes_a_destination_known(settings_of: SettingsOf) -> None:
    async with Destination() as destination, Node(settings_of()) as node:
        await send_made(node.dimse_port, study_of(1))
        before = await move(node)
        node.reload(
            node.settings.model_copy(
                update={"peers": settings_of(peers={DESTINATION: destination.address}).peers}
            )
        )
        after = await move(node)
    assert [before[-1].status, after[-1].status] == [UNKNOWN_DESTINATION, SUCCESS]


async def test_a_calling_ae_is_a_destination_where_that_is_allowed(settings_of: SettingsOf) -> None:
    async with Destination() as destination:
        port = {"move_to_caller_port": destination.acceptor.port}
        async with node_with(settings_of, study_of(1), free_address(), **port) as node:
            refused = await move(node, destination="VIEWER")
        async with node_with(settings_of, [], free_address(), move_to_caller=True, **port) as node:
            taken = await move(node, destination="VIEWER")
            other = await move(node, destination="ANOTHER")
    assert [refused[-1].status, taken[-1].status, other[-1].status] == [
        UNKNOWN_DESTINATION,
        SUCCESS,
        UNKNOWN_DESTINATION,
    ]


async def all_failed(node: Node, count: int) -> Reply:
    """Every object failed; the reason is in the Error Comment."""
    items = study_of(count)
    final = (await move(node))[-1]
    assert (final.status, final.suboperations) == (ALL_FAILED, counted(0, failed=count))
    assert sorted(failed_of(final)) == sorted(item.sop for item in items)
    return final


async def test_a_destination_that_is_down(settings_of: SettingsOf) -> None:
    async with node_with(settings_of, study_of(3), free_address()) as node:
        with structlog.testing.capture_logs() as events:
            assert "cannot be reached" in (await all_failed(node, 3)).comment
    (lost,) = (event for event in events if event["event"] == "destination.lost")
    assert lost["objects"] == 3


async def test_a_destination_that_begins_to_listen_after_it_asked(settings_of: SettingsOf) -> None:
    """As gdcmscu does: between its request and its listening, a connection is refused."""
    address = free_address()
    async with node_with(settings_of, study_of(3), address) as node:
        asked = asyncio.ensure_future(move(node))
        with structlog.testing.capture_logs() as events:
            await asyncio.sleep(0.1)
            async with Destination(port=int(address.rpartition(":")[2])) as destination:
                final = (await asked)[-1]
    assert (final.status, final.suboperations) == (SUCCESS, counted(3))
    assert len(destination.received) == 3
    assert "destination.lost" not in [event["event"] for event in events]


async def test_a_destination_that_rejects(settings_of: SettingsOf) -> None:
    async with (
        Destination(callers=frozenset()) as destination,
        node_with(settings_of, study_of(3), destination.address) as node,
    ):
        assert "rejected-permanent" in (await all_failed(node, 3)).comment


async def test_a_destination_that_accepts_no_context(settings_of: SettingsOf) -> None:
    async with (
        Destination(takes={}) as destination,
        node_with(settings_of, study_of(3), destination.address) as node,
    ):
        assert "CT Image Storage" in (await all_failed(node, 3)).comment
    assert destination.received == []


async def test_a_destination_that_takes_the_connection_and_says_nothing(settings_of: SettingsOf) -> None:
    silent = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
    address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with silent, node_with(settings_of, study_of(2), address, dimse_timeout=0.2) as node:
        assert "did not answer" in (await all_failed(node, 2)).comment


async def test_a_destination_that_hangs_at_a_store(settings_of: SettingsOf) -> None:
    gate = Gate()
    async with (
        Destination(answer=gate) as destination,
        node_with(settings_of, study_of(2), destination.address, dimse_timeout=0.2) as node,
    ):
        assert "no response" in (await all_failed(node, 2)).comment
    assert len(destination.received) == 1


async def test_a_destination_that_aborts_at_every_store_is_given_up(settings_of: SettingsOf) -> None:
    async with (
        Destination(answer=abort) as destination,
        node_with(settings_of, study_of(9), destination.address) as node,
    ):
        await all_failed(node, 9)
    assert len(destination.received) == 2


async def abort(received: Received) -> int:
    received.request.association.abort_now()
    return SUCCESS


async def test_an_object_at_which_the_destination_aborts_fails_alone(settings_of: SettingsOf) -> None:
    items = study_of(6)

    async def answer(received: Received) -> int:
        return await (abort if received.sop == items[2].sop else success)(received)

    async with (
        Destination(answer=answer) as destination,
        node_with(settings_of, items, destination.address) as node,
    ):
        final = (await move(node))[-1]
    assert (final.status, final.suboperations) == (WARNING, counted(5, failed=1))
    assert failed_of(final) == [items[2].sop]
    assert destination.sops == [item.sop for item in items]


async def test_an_object_that_is_made_for_a_destination_fails_alone_too(settings_of: SettingsOf) -> None:
    """It takes Implicit VR only; what was being made when it aborted is sent on the next association."""
    items = study_of(9)

    async def answer(received: Received) -> int:
        return await (abort if received.sop == items[2].sop else success)(received)

    takes = {CT_IMAGE: (IMPLICIT_VR_LE,)}
    async with (
        Destination(answer=answer, takes=takes) as destination,
        node_with(settings_of, items, destination.address) as node,
    ):
        final = (await move(node))[-1]
    assert (final.status, final.suboperations) == (WARNING, counted(8, failed=1))
    assert failed_of(final) == [items[2].sop]
    assert sorted(destination.sops) == sorted(item.sop for item in items)


@pytest.mark.parametrize(
    ("status", "final_status", "counters"),
    [
        (0xA700, WARNING, counted(2, failed=1)),
        (0x0122, WARNING, counted(2, failed=1)),
        (0xB000, WARNING, counted(2, warning=1)),
        (0x0111, WARNING, counted(2, warning=1)),
    ],
)
async def test_the_status_of_one_object_is_counted(
    settings_of: SettingsOf, status: int, final_status: int, counters: SubOperations
) -> None:
    items = study_of(3)

    async def answer(received: Received) -> int:
        return status if received.sop == items[1].sop else SUCCESS

    async with (
        Destination(answer=answer) as destination,
        node_with(settings_of, items, destination.address) as node,
    ):
        final = (await move(node))[-1]
    assert (final.status, final.suboperations) == (final_status, counters)
    if counters.failed:
        assert failed_of(final) == [items[1].sop]
    else:
        assert final.identifier is None


async def test_only_warnings_are_a_warning(settings_of: SettingsOf) -> None:
    async def answer(_received: Received) -> int:
        return 0xB007

    async with (
        Destination(answer=answer) as destination,
        node_with(settings_of, study_of(2), destination.address) as node,
    ):
        final = (await move(node))[-1]
    assert (final.status, final.suboperations) == (WARNING, counted(0, warning=2))


async def test_a_kind_of_object_that_is_not_accepted_fails_and_the_rest_goes_on(
    settings_of: SettingsOf,
) -> None:
    jpeg = "1.2.840.10008.1.2.4.70"
    items = study_of(2)
    async with (
        Destination(takes={CT_IMAGE: (EXPLICIT,)}) as destination,
        node_with(settings_of, items, destination.address) as node,
    ):
        async with await RawPeer.associated(node.dimse_port, (CT_IMAGE, [jpeg])) as peer:
            compressed = made(3, pixels=0)
            assert (await peer.store(compressed.sop, encapsulated(compressed), context=1)).status == SUCCESS
        final = (await move(node))[-1]
    assert (final.status, final.suboperations) == (WARNING, counted(2, failed=1))
    assert failed_of(final) == [compressed.sop]


def encapsulated(item: Made) -> bytes:
    """The same object with compressed pixel data that no codec can read."""
    head = item.data[: item.data.index(b"\xe0\x7f\x10\x00")]
    return head + bytes.fromhex(
        "e07f1000 4f420000 ffffffff feff00e0 00000000 feff00e0 04000000 01020304 feffdde0 00000000"
    )


async def test_a_file_that_is_gone_fails_alone(settings_of: SettingsOf, root: Path) -> None:
    items = study_of(3)
    async with Destination() as destination, node_with(settings_of, items, destination.address) as node:
        for path in (object_path(root, items[0]), *incoming(root)):  # there may be a second name for a while
            path.unlink()
        final = (await move(node))[-1]
    assert (final.status, final.suboperations) == (WARNING, counted(2, failed=1))
    assert failed_of(final) == [items[0].sop]


# Requests that cannot be carried out


@pytest.mark.parametrize(
    ("asked", "sop_class", "offending"),
    [
        (identifier("SERIES", SeriesInstanceUID="1.2"), STUDY_ROOT_MOVE, 0x0020000D),
        (identifier("STUDY", StudyInstanceUID=""), STUDY_ROOT_MOVE, 0x0020000D),
        (identifier("STUDY", StudyInstanceUID="1.2"), PATIENT_ROOT_MOVE, 0x00100020),
        (identifier("PATIENT", PatientID="P1"), STUDY_ROOT_MOVE, 0x00080052),
        (identifier("FRAME", SOPInstanceUID="1.2"), STUDY_ROOT_MOVE, 0x00080052),
    ],
)
async def test_an_identifier_against_the_rules_names_the_offending_element(
    settings_of: SettingsOf, asked: Dataset, sop_class: UID, offending: int
) -> None:
    async with node_with(settings_of, [], free_address()) as node, requestor(node, sop_class) as user:
        replies = user.association.invoke(
            user.context(sop_class),
            lambda number: c_move_rq(number, sop_class, DESTINATION),
            encode_data_set(asked, EXPLICIT_VR_LE),
        )
        async with aclosing(replies):
            (answer, _) = await anext(replies)
    assert answer.status == INVALID
    tag = answer.elements[0x0901]
    assert int.from_bytes(tag[:2], "little") << 16 | int.from_bytes(tag[2:], "little") == offending


async def test_keys_that_do_not_belong_into_an_identifier_change_nothing(settings_of: SettingsOf) -> None:
    asked = identifier("STUDY", StudyInstanceUID=STUDY, PatientName="SOMEBODY^ELSE", Modality="MR")
    async with Destination() as destination, node_with(settings_of, study_of(2), destination.address) as node:
        assert (await move(node, asked))[-1].suboperations == counted(2)


async def test_a_lenient_node_retrieves_series_without_their_study(settings_of: SettingsOf) -> None:
    asked = identifier("SERIES", SeriesInstanceUID=made(1).series)
    async with Destination() as destination:
        settings = settings_of(peers={DESTINATION: destination.address}, query={"lenient_hierarchy": True})
        async with Node(settings) as node:
            await send_made(node.dimse_port, study_of(2))
            assert (await move(node, asked))[-1].suboperations == counted(2)


async def test_an_index_that_cannot_be_read(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_self: Archive, _retrieval: object) -> AsyncIterator[list[object]]:
        raise MatchesNotCounted("the index cannot be read")
        yield []

    monkeypatch.setattr(Archive, "locate", broken)
    async with node_with(settings_of, [], free_address()) as node:
        (reply,) = await move(node)
    assert (reply.status, reply.comment) == (NOT_COUNTED, "the index cannot be read")


# C-CANCEL and lost requestors


def move_message(message_id: int = 1, priority: int = 0) -> bytes:
    request = c_move_rq(message_id, STUDY_ROOT_MOVE, DESTINATION, priority=priority)
    return p_data(pdv(1, COMMAND | LAST, request)) + p_data(
        pdv(1, LAST, encode_data_set(identifier(), EXPLICIT_VR_LE))
    )


async def test_cancel_stops_at_the_next_suboperation(settings_of: SettingsOf) -> None:
    gate = Gate()
    async with (
        Destination(answer=gate) as destination,
        node_with(settings_of, study_of(5), destination.address) as node,
        await RawPeer.associated(node.dimse_port, (STUDY_ROOT_MOVE, [EXPLICIT])) as peer,
    ):
        peer.send(move_message())
        await gate.arrived.wait()
        peer.send(p_data(pdv(1, COMMAND | LAST, c_cancel(1))))
        peer.send(p_data(pdv(1, COMMAND | LAST, c_echo(2))))
        reply = await peer.reply()
        while reply.message_id != 2:  # what was sent before it has been taken
            reply = await peer.reply()
        gate.opened.set()
        while (reply := await peer.reply()).status == PENDING:
            pass
        assert await peer.release()
    assert reply.status == CANCEL
    counters = [reply.us(element) for element in (0x1020, 0x1021, 0x1022, 0x1023)]
    assert counters == [4, 1, 0, 0]
    assert len(destination.received) == 1


async def cancelled(node: Node, is_due: asyncio.Event) -> tuple[int, list[int | None]]:
    """A C-MOVE that is cancelled when `is_due` is set: its last status, its counters."""
    async with await RawPeer.associated(node.dimse_port, (STUDY_ROOT_MOVE, [EXPLICIT])) as peer:
        peer.send(move_message())
        await is_due.wait()
        peer.send(p_data(pdv(1, COMMAND | LAST, c_cancel(1))))
        while (reply := await peer.reply()).status == PENDING:
            pass
        assert await peer.release()
    return reply.status, [reply.us(element) for element in (0x1020, 0x1021, 0x1022, 0x1023)]


@pytest.mark.parametrize("associations", [1, 3])
async def test_cancel_does_not_wait_for_an_association(settings_of: SettingsOf, associations: int) -> None:
    """The destination takes the connection and says nothing, for as long as dimse_timeout."""
    connected, aborted = asyncio.Event(), asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.read(2**16))[:2] == b"\x01\x00"  # A-ASSOCIATE-RQ
        connected.set()
        if (await reader.read(2**16))[:2] == b"\x07\x00":  # A-ABORT
            aborted.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        peer = {"host": "127.0.0.1", "port": port, "associations": associations}
        async with Node(settings_of(peers={DESTINATION: peer})) as node:
            await send_made(node.dimse_port, study_of(5))
            async with asyncio.timeout(30):
                assert await cancelled(node, connected) == (CANCEL, [5, 0, 0, 0])
                await aborted.wait()


async def test_cancel_counts_what_is_not_answered_as_failed_alone(settings_of: SettingsOf) -> None:
    """The destination hangs at the first object until dimse_timeout; the others were not begun."""
    gate = Gate()
    async with (
        Destination(answer=gate) as destination,
        node_with(settings_of, study_of(5), destination.address, dimse_timeout=1) as node,
    ):
        assert await cancelled(node, gate.arrived) == (CANCEL, [4, 0, 1, 0])


async def test_a_requestor_that_goes_away_ends_the_sending(settings_of: SettingsOf) -> None:
    gate = Gate()
    async with (
        Destination(answer=gate) as destination,
        node_with(settings_of, study_of(5), destination.address) as node,
    ):
        held = Holdings.now()
        peer = await RawPeer.associated(node.dimse_port, (STUDY_ROOT_MOVE, [EXPLICIT]))
        peer.send(move_message())
        await gate.arrived.wait()
        peer.reset()
        await eventually(lambda: destination.acceptor.associations == 0, "the destination is left")
        del peer
        await held.restored()
    assert len(destination.received) == 1


# C-GET


class Fetched(Destination):
    """What a C-GET brings; not entered."""


async def get(
    node: Node,
    contexts: Sequence[tuple[str, tuple[str, ...]]] = ((CT_IMAGE, (EXPLICIT,)),),
    *,
    as_scp: bool = True,
    window: int = 1,
    answer: Callable[[Received], Awaitable[int]] = success,
    sop_class: UID = STUDY_ROOT_GET,
    asked: Dataset | None = None,
) -> tuple[list[Reply], Fetched]:
    fetched = Fetched(answer=answer, takes=dict(contexts))
    proposed = [(sop_class, (EXPLICIT,)), *contexts]
    peer = Peer(ae_title=AETitle("PACSNODE"), host="127.0.0.1", port=node.dimse_port)
    async with connect(
        peer,
        "VIEWER",
        [ProposedContext(2 * i + 1, UID(a), tuple(map(UID, t))) for i, (a, t) in enumerate(proposed)],
        roles={UID(a): (False, True) for a, _ in contexts} if as_scp else None,
        services=(fetched,),
        window=window,
    ) as user:
        replies = user.c_get(sop_class, asked or identifier())
        async with aclosing(replies):
            return [reply async for reply in replies], fetched


@pytest.mark.parametrize("window", [1, 8])
async def test_get_brings_every_object_byte_for_byte(settings_of: SettingsOf, window: int) -> None:
    items = study_of(20, pixels=30_000)
    async with node_with(settings_of, items, free_address()) as node:
        replies, fetched = await get(node, window=window)
    assert (replies[-1].status, replies[-1].suboperations) == (SUCCESS, counted(20))
    assert {one.sop: one.data for one in fetched.received} == {item.sop: item.data for item in items}
    assert {one.originator for one in fetched.received} == {("", None)}


async def test_get_of_a_patient(settings_of: SettingsOf) -> None:
    async with node_with(settings_of, study_of(3), free_address()) as node:
        asked = identifier("PATIENT", PatientID="P1")
        replies, _ = await get(node, sop_class=PATIENT_ROOT_GET, asked=asked)
    assert replies[-1].suboperations == counted(3)


@pytest.mark.parametrize(
    ("contexts", "as_scp"),
    [((), True), (((CT_IMAGE, (EXPLICIT,)),), False), (((CT_IMAGE, ("1.2.840.10008.1.2.4.70",)),), True)],
    ids=["no storage context", "no role", "another transfer syntax"],
)
async def test_get_without_a_context_to_store_on(
    settings_of: SettingsOf, contexts: tuple[tuple[str, tuple[str, ...]], ...], as_scp: bool
) -> None:
    async with node_with(settings_of, study_of(2), free_address()) as node:
        replies, fetched = await get(node, contexts, as_scp=as_scp)
    assert (replies[-1].status, replies[-1].suboperations) == (ALL_FAILED, counted(0, failed=2))
    assert len(failed_of(replies[-1])) == 2
    assert fetched.received == []


@pytest.mark.parametrize("first", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"])
async def test_get_by_one_context_that_names_a_compression_first(settings_of: SettingsOf, first: str) -> None:
    """Nothing uncompressed becomes JPEG, and pixels of no image nothing else."""
    items = study_of(2)
    async with node_with(settings_of, items, free_address()) as node:
        replies, fetched = await get(node, ((CT_IMAGE, (first, EXPLICIT)),))
    assert (replies[-1].status, replies[-1].suboperations) == (SUCCESS, counted(2))
    assert {one.transfer_syntax for one in fetched.received} == {EXPLICIT}


async def test_get_counts_what_the_requestor_refuses(settings_of: SettingsOf) -> None:
    async def answer(received: Received) -> int:
        return 0xA700 if received.sop == made(1).sop else SUCCESS

    async with node_with(settings_of, study_of(3), free_address()) as node:
        replies, _ = await get(node, answer=answer)
    assert (replies[-1].status, replies[-1].suboperations) == (WARNING, counted(2, failed=1))


async def test_closing_the_iterator_cancels_a_get_and_keeps_the_association(settings_of: SettingsOf) -> None:
    gate = Gate()
    fetched = Fetched(answer=gate)
    contexts = [
        ProposedContext(1, STUDY_ROOT_GET, (EXPLICIT_VR_LE,)),
        ProposedContext(3, UID(CT_IMAGE), (EXPLICIT_VR_LE, IMPLICIT_VR_LE)),
    ]
    async with node_with(settings_of, study_of(5), free_address()) as node:
        peer = Peer(ae_title=AETitle("PACSNODE"), host="127.0.0.1", port=node.dimse_port)
        roles = {UID(CT_IMAGE): (False, True)}
        with structlog.testing.capture_logs() as events:
            async with connect(peer, "VIEWER", contexts, roles=roles, services=(fetched,)) as user:
                replies = user.c_get(STUDY_ROOT_GET, identifier())
                async with aclosing(replies):
                    assert (await anext(replies)).status == PENDING
                    await gate.arrived.wait()
                gate.opened.set()
                await eventually(lambda: user.association.is_idle, "the final response")
            await eventually(
                lambda: any(event["event"] == "retrieval.answered" for event in events), "its end"
            )
    (answered,) = (event for event in events if event["event"] == "retrieval.answered")
    assert (answered["completed"], answered["failed"]) == (1, 0)
    assert len(fetched.received) == 1


async def test_a_move_on_a_get_context_is_no_operation_of_it(settings_of: SettingsOf) -> None:
    async with node_with(settings_of, study_of(1), free_address()) as node:
        (reply,) = await move(node, sop_class=STUDY_ROOT_GET)
    assert reply.status == 0x0211
