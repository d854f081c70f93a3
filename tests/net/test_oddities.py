"""What is legal but rare on an association, byte by byte (PS3.8 9.3.5, Annex E; PS3.7 Annex D)."""

import asyncio
from pathlib import Path

import pytest
import structlog

from pacsnode.node import Node
from pacsnode.ul.upper_layer import LEAST_PDU_LENGTH
from tests.conftest import SettingsOf
from tests.support.objects import Made, data_set_bytes, identifier, incoming, made, object_path, stored_files
from tests.support.raw import (
    ABORT,
    COMMAND,
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Closed,
    RawPeer,
    abort,
    associate_rq,
    c_cancel,
    c_echo,
    c_store,
    data_pdus,
    find_message,
    p_data,
    pdu,
    pdv,
    store_message,
)
from tests.support.sending import send_made
from tests.support.waiting import Holdings, eventually, resident

STORE, FIND, ECHO = (CT_IMAGE, [EXPLICIT]), (STUDY_ROOT_FIND, [EXPLICIT]), (VERIFICATION, [IMPLICIT])


def stored_rightly(root: Path, item: Made) -> bool:
    return data_set_bytes(object_path(root, item)) == item.data


def command_of(item: Made, message_id: int = 1) -> bytes:
    return c_store(message_id, CT_IMAGE, item.sop)


async def stored_by(node: Node, root: Path, stream: bytes, *, step: int = 0) -> None:
    """Send the bytes of a C-STORE of `made(1)` and see it arrive whole; `step` bytes at a time."""
    async with await RawPeer.associated(node.dimse_port, STORE) as peer:
        for start in range(0, len(stream), step or len(stream)):
            peer.send(stream[start : start + (step or len(stream))])
            await peer.flushed()
            if step:
                await asyncio.sleep(0)  # a segment of its own
        reply = await peer.reply()
        assert (reply.status, reply.message_id) == (0x0000, 1)
        assert await peer.release()
    assert stored_rightly(root, made(1))


# PDUs and PDVs


async def test_command_and_data_set_in_one_pdu(node: Node, root: Path) -> None:
    item = made(1)
    await stored_by(node, root, p_data(pdv(1, COMMAND | LAST, command_of(item)), pdv(1, LAST, item.data)))


async def test_last_fragment_of_the_command_and_first_of_the_data_set_in_one_pdu(
    node: Node, root: Path
) -> None:
    item, command = made(1), command_of(made(1))
    stream = (
        p_data(pdv(1, COMMAND, command[:20]))
        + p_data(pdv(1, COMMAND | LAST, command[20:]), pdv(1, 0, item.data[:33]))
        + p_data(pdv(1, LAST, item.data[33:]))
    )
    await stored_by(node, root, stream)


async def test_several_pdvs_in_each_pdu(node: Node, root: Path) -> None:
    item, command = made(1), command_of(made(1))
    pieces = [pdv(1, COMMAND, command[i : i + 10]) for i in range(0, len(command), 10)]
    pieces.append(pdv(1, COMMAND | LAST, b""))
    pieces += [pdv(1, 0, item.data[i : i + 50]) for i in range(0, len(item.data), 50)]
    pieces.append(pdv(1, LAST, b""))
    await stored_by(node, root, b"".join(p_data(*pieces[i : i + 7]) for i in range(0, len(pieces), 7)))


async def test_pdvs_of_one_byte(node: Node, root: Path) -> None:
    item = made(1)
    last = len(item.data) - 1
    data = [pdv(1, LAST * (i == last), item.data[i : i + 1]) for i in range(len(item.data))]
    await stored_by(node, root, p_data(pdv(1, COMMAND | LAST, command_of(item))) + p_data(*data))


async def test_a_last_pdv_without_a_byte(node: Node, root: Path) -> None:
    item = made(1)
    stream = (
        p_data(pdv(1, COMMAND | LAST, command_of(item)))
        + p_data(pdv(1, 0, item.data))
        + p_data(pdv(1, LAST, b""))
    )
    await stored_by(node, root, stream)


async def test_pdvs_without_a_byte_in_the_middle(node: Node, root: Path) -> None:
    item = made(1)
    stream = p_data(
        pdv(1, COMMAND, b""),
        pdv(1, COMMAND | LAST, command_of(item)),
        pdv(1, 0, b""),
        pdv(1, 0, item.data[:10]),
        pdv(1, 0, b""),
        pdv(1, LAST, item.data[10:]),
    )
    await stored_by(node, root, stream)


async def test_bytes_arriving_one_by_one(node: Node, root: Path) -> None:
    item = made(1)
    await stored_by(node, root, store_message(1, 1, CT_IMAGE, item.sop, item.data), step=1)


async def test_two_messages_in_one_segment(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port) as peer:
        peer.send(*(p_data(pdv(1, COMMAND | LAST, c_echo(number))) for number in (1, 2)))
        assert [(await peer.reply()).message_id, (await peer.reply()).message_id] == [1, 2]


async def test_an_association_request_arriving_byte_by_byte(node: Node) -> None:
    async with await RawPeer.connect(node.dimse_port) as peer:
        for byte in associate_rq([ECHO]):
            peer.send(bytes((byte,)))
            await peer.flushed()
            await asyncio.sleep(0)
        assert (await peer.pdu()).type == 2
        assert await peer.echo() == 0x0000


async def test_a_message_that_does_not_wait_for_the_accept_ends_by_abort(node: Node) -> None:
    """P-DATA in Sta3 is an unexpected PDU (PS3.8 Table 9-10, AA-8)."""
    async with await RawPeer.connect(node.dimse_port) as peer:
        peer.send(associate_rq([ECHO]), p_data(pdv(1, COMMAND | LAST, c_echo(1))))
        received = await peer.ended()
        assert (received.type, received.body[2:]) == (ABORT, bytes((2, 2)))


async def test_a_release_and_an_abort_in_one_segment(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port) as peer:
        peer.send(pdu(RELEASE_RQ, bytes(4)), abort())
        assert (await peer.ended()).type == 0


@pytest.mark.parametrize("length", [0, 8, 64, 128, 16384, 2**32 - 1])
async def test_responses_fit_what_the_peer_takes(node: Node, length: int) -> None:
    """A maximum length of 0 is no limit (PS3.8 D.1); one that has room for nothing is not meant."""
    await send_made(node.dimse_port, [made(1, PatientComments="x" * 10_000)])
    async with await RawPeer.associated(node.dimse_port, FIND, max_pdu_length=length) as peer:
        peer.send(find_message(1, 1, STUDY_ROOT_FIND, identifier("STUDY", PatientComments="")))
        lengths = [len((await peer.pdu()).body)]
        while sum(lengths) < 10_000:
            lengths.append(len((await peer.pdu()).body))
    assert max(lengths) <= (max(length, LEAST_PDU_LENGTH) if length else 2**20)
    if length == 0 or length > 16384:
        assert max(lengths) > 10_000


async def test_any_length_is_taken_where_the_node_sets_no_limit(settings_of: SettingsOf, root: Path) -> None:
    item = made(1, pixels=3_000_000)
    async with (
        Node(settings_of(dimse={"max_pdu_length": 0})) as node,
        await RawPeer.associated(node.dimse_port, STORE) as peer,
    ):
        assert peer.accepted.max_pdu_length == 0
        peer.send(p_data(pdv(1, COMMAND | LAST, command_of(item)), pdv(1, LAST, item.data)))
        await peer.flushed()
        assert (await peer.reply()).status == 0x0000
    assert stored_rightly(root, item)


async def test_pdvs_of_one_byte_cost_no_more_memory_than_they_hold(node: Node, root: Path) -> None:
    """As one object each they would take 200 MB for a megabyte."""
    item = made(1, pixels=300_000)
    fragments = b"".join(pdv(1, 0, item.data[i : i + 1]) for i in range(len(item.data)))
    pdus = [pdu(4, fragments[i : i + 14_000]) for i in range(0, len(fragments), 14_000)]
    async with await RawPeer.associated(node.dimse_port, STORE, FIND) as peer:
        before = most = resident()
        peer.send(p_data(pdv(1, COMMAND | LAST, command_of(item))), *pdus, p_data(pdv(1, LAST, b"")))
        reply = asyncio.create_task(peer.reply())
        while not reply.done():
            most = max(most, resident())
            await asyncio.sleep(0)
        assert (await reply).status == 0x0000
        assert most - before < 20 * 2**20
    assert stored_rightly(root, item)


# Ends in the middle


@pytest.mark.parametrize("size", [500, 5_000_000], ids=["in memory", "on disk already"])
@pytest.mark.parametrize("how", ["abort", "close", "reset"])
async def test_an_end_in_the_middle_of_a_store_leaves_nothing(
    node: Node, root: Path, size: int, how: str
) -> None:
    item = made(1, pixels=size)
    before = Holdings.now()
    async with await RawPeer.associated(node.dimse_port, STORE) as peer:
        peer.send(
            p_data(pdv(1, COMMAND | LAST, command_of(item))),
            data_pdus(1, item.data[: size // 2], 16384, ends=False),
        )
        await peer.flushed()
        if size > 1_000_000:
            await eventually(lambda: incoming(root), "the object is on its way to the disk")
        match how:
            case "abort":
                peer.send(abort())
                assert (await peer.ended()).type == 0
            case "close":
                await peer.close()
            case "reset":
                peer.reset()
    await eventually(lambda: not incoming(root), "incoming/ is empty")
    await before.restored()
    assert list(stored_files(root)) == []
    async with await RawPeer.associated(node.dimse_port, FIND) as peer:
        replies = await peer.find(identifier("STUDY", StudyInstanceUID=""))
    assert [reply.status for reply in replies] == [0x0000]


async def test_an_aborted_association_is_logged_with_who_and_why(node: Node) -> None:
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, calling="CT7") as peer:
            peer.send(abort(source=2, reason=2))
            await peer.ended()
        await eventually(lambda: any(e["event"] == "association.aborted" for e in events), "logged")
    aborted = next(e for e in events if e["event"] == "association.aborted")
    assert aborted["calling_ae"] == "CT7"
    assert aborted["remote"] == "127.0.0.1"
    assert aborted["reason"]


async def test_release_waits_for_the_responses_due(node: Node, root: Path) -> None:
    items = [made(number) for number in range(1, 9)]
    async with await RawPeer.associated(node.dimse_port, STORE, window=(16, 1)) as peer:
        messages = [store_message(1, n, CT_IMAGE, item.sop, item.data) for n, item in enumerate(items, 1)]
        peer.send(*messages, pdu(RELEASE_RQ, bytes(4)))
        replies = [await peer.reply() for _ in items]
        assert (await peer.pdu()).type == RELEASE_RP
    assert {reply.status for reply in replies} == {0x0000}
    assert all(stored_rightly(root, item) for item in items)


# Operations at once


async def test_a_window_of_16_answers_16_outstanding_stores(node: Node, root: Path) -> None:
    items = [made(number) for number in range(1, 17)]
    async with await RawPeer.associated(node.dimse_port, STORE, window=(16, 1)) as peer:
        assert peer.accepted.window == (16, 1)
        for number, item in enumerate(items, 1):
            peer.send(store_message(1, number, CT_IMAGE, item.sop, item.data))
        replies = [await peer.reply() for _ in items]
        assert await peer.release()
    assert sorted(reply.message_id for reply in replies) == list(range(1, 17))
    assert {reply.status for reply in replies} == {0x0000}
    assert all(stored_rightly(root, item) for item in items)


@pytest.mark.parametrize(("offered", "granted"), [((0, 0), 16), ((5, 1), 5), ((100, 9), 16)])
async def test_the_window_is_lowered_and_never_raised(
    node: Node, offered: tuple[int, int], granted: int
) -> None:
    async with await RawPeer.associated(node.dimse_port, window=offered) as peer:
        assert peer.accepted.window is not None
        assert peer.accepted.window[0] == granted
        assert 1 <= peer.accepted.window[1] <= (offered[1] or 65535)


async def test_without_a_window_item_none_is_answered(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port) as peer:
        assert peer.accepted.window is None


async def test_more_outstanding_than_granted_is_served_all_the_same(node: Node) -> None:
    """A peer that does not count must not lose anything: the node reads on when it has caught up."""
    async with await RawPeer.associated(node.dimse_port, STORE) as peer:
        for number in range(1, 101):
            item = made(number)
            peer.send(store_message(1, number, CT_IMAGE, item.sop, item.data))
        assert {(await peer.reply()).status for _ in range(100)} == {0x0000}


async def test_echo_is_answered_while_a_find_runs(node: Node) -> None:
    await send_made(node.dimse_port, (made(number) for number in range(1, 301)))
    study = made(1)
    keys = identifier(
        "IMAGE", StudyInstanceUID=study.study, SeriesInstanceUID=study.series, SOPInstanceUID=""
    )
    async with await RawPeer.associated(node.dimse_port, FIND, ECHO, window=(16, 1)) as peer:
        peer.send(find_message(1, 1, STUDY_ROOT_FIND, keys), p_data(pdv(3, COMMAND | LAST, c_echo(2))))
        order = []
        while order.count(1) < 301 or 2 not in order:
            order.append((await peer.reply()).message_id)
    assert order.index(2) < len(order) - 1, "the echo did not wait for the find"


async def test_cancel_stops_a_large_find(node: Node) -> None:
    items = (made(1, study=number, PatientComments="x" * 10_000) for number in range(1, 601))
    await send_made(node.dimse_port, items)
    async with await RawPeer.associated(node.dimse_port, FIND) as peer:
        keys = identifier("STUDY", StudyInstanceUID="", PatientComments="")
        peer.send(find_message(1, 5, STUDY_ROOT_FIND, keys))
        replies = [await peer.reply()]
        peer.send(p_data(pdv(1, COMMAND | LAST, c_cancel(5))))
        while replies[-1].status in (0xFF00, 0xFF01):
            replies.append(await peer.reply())
        assert replies[-1].status == 0xFE00
        assert len(replies) < 600
        assert await peer.release()


async def test_cancel_of_nothing_is_ignored(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port) as peer:
        peer.send(p_data(pdv(1, COMMAND | LAST, c_cancel(99))))
        assert await peer.echo() == 0x0000


# Negotiation


async def test_128_contexts(node: Node, root: Path) -> None:
    contexts = [STORE, ECHO] * 64
    item = made(1)
    async with await RawPeer.associated(node.dimse_port, *contexts) as peer:
        assert len(peer.accepted.contexts) == 128
        assert {result for result, _ in peer.accepted.contexts.values()} == {0}
        assert await peer.echo(context=255) == 0x0000
        assert (await peer.store(item.sop, item.data, context=253)).status == 0x0000


async def test_what_is_not_supported_is_told_apart(node: Node) -> None:
    """Result 3: abstract syntax; 4: transfer syntaxes (PS3.8 Table 9-18)."""
    contexts = ((CT_IMAGE, ["1.2.3.4"]), ("1.2.3.4.5", [IMPLICIT]), ECHO)
    async with await RawPeer.associated(node.dimse_port, *contexts) as peer:
        assert [result for result, _ in peer.accepted.contexts.values()] == [4, 3, 0]
        assert await peer.echo(context=5) == 0x0000


async def test_the_requestors_first_transfer_syntax_is_taken(node: Node) -> None:
    orders = ([IMPLICIT, EXPLICIT], [EXPLICIT, IMPLICIT], ["1.2.3.4", "1.2.840.10008.1.2.4.70", IMPLICIT])
    async with await RawPeer.associated(node.dimse_port, *((CT_IMAGE, order) for order in orders)) as peer:
        chosen = [transfer_syntax for _, transfer_syntax in peer.accepted.contexts.values()]
    assert chosen == [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.4.70"]


async def test_a_preferred_transfer_syntax_goes_first(settings_of: SettingsOf) -> None:
    async with (
        Node(settings_of(dimse={"preferred_transfer_syntaxes": [EXPLICIT]})) as node,
        await RawPeer.associated(node.dimse_port, (CT_IMAGE, [IMPLICIT, EXPLICIT])) as peer,
    ):
        assert peer.accepted.contexts[1] == (0, EXPLICIT)


async def test_role_selection_never_promises_what_was_not_asked(node: Node) -> None:
    """An answer of 1 only where 1 was proposed (PS3.7 D.3.3.4)."""
    async with await RawPeer.associated(node.dimse_port, STORE, ECHO, roles={CT_IMAGE: (1, 0)}) as peer:
        assert peer.accepted.roles.get(CT_IMAGE, (1, 0)) == (1, 0)
        assert VERIFICATION not in peer.accepted.roles
        item = made(1)
        assert (await peer.store(item.sop, item.data, context=1)).status == 0x0000


async def test_unknown_sop_classes_are_stored_where_that_is_allowed(
    settings_of: SettingsOf, root: Path
) -> None:
    private = "1.2.826.0.1.3680043.10.1474.99"
    item = made(1, SOPClassUID=private)
    async with (
        Node(settings_of(dimse={"accept_unknown_sop_classes": True})) as node,
        await RawPeer.associated(node.dimse_port, (private, [EXPLICIT])) as peer,
    ):
        reply = await peer.store(item.sop, item.data, context=1, sop_class=private)
    assert reply.status == 0x0000
    assert stored_rightly(root, item)


async def test_private_sop_classes_of_the_settings_are_stored(settings_of: SettingsOf, root: Path) -> None:
    private = "1.2.826.0.1.3680043.10.1474.98"
    item = made(1, SOPClassUID=private)
    async with Node(settings_of(dimse={"extra_sop_classes": [private]})) as node:
        contexts = ((private, [EXPLICIT]), ("1.2.826.0.1.3680043.10.1474.97", [EXPLICIT]))
        async with await RawPeer.associated(node.dimse_port, *contexts) as peer:
            assert [result for result, _ in peer.accepted.contexts.values()] == [0, 3]
            assert (await peer.store(item.sop, item.data, context=1, sop_class=private)).status == 0x0000


# Limits


async def test_one_association_too_many_is_rejected_as_transient(settings_of: SettingsOf) -> None:
    async with Node(settings_of(dimse={"max_associations": 2})) as node:
        first = await RawPeer.associated(node.dimse_port)
        second = await RawPeer.associated(node.dimse_port)
        with pytest.raises(Closed) as refused:
            await RawPeer.associated(node.dimse_port)
        rejection = refused.value.args[0]
        assert (rejection.type, rejection.body[1:]) == (3, bytes((2, 3, 2)))
        assert await first.release()
        async with await RawPeer.associated(node.dimse_port) as third:
            assert await third.echo() == 0x0000
        assert await second.release()


async def test_silent_connections_do_not_keep_others_out(settings_of: SettingsOf) -> None:
    async with Node(settings_of(dimse={"max_associations": 2})) as node:
        silent = [await RawPeer.connect(node.dimse_port) for _ in range(52)]
        async with await RawPeer.associated(node.dimse_port) as peer:
            assert await peer.echo() == 0x0000
        for connection in silent:
            await connection.close()


async def test_a_silent_connection_is_closed_by_artim(settings_of: SettingsOf) -> None:
    async with (
        Node(settings_of(dimse={"artim_timeout": 0.2})) as node,
        await RawPeer.connect(node.dimse_port) as peer,
    ):
        assert (await peer.pdu()).type == 0


async def test_half_a_request_is_closed_by_artim(settings_of: SettingsOf) -> None:
    async with (
        Node(settings_of(dimse={"artim_timeout": 0.2})) as node,
        await RawPeer.connect(node.dimse_port) as peer,
    ):
        peer.send(associate_rq([ECHO])[:50])
        assert (await peer.ended()).type in (0, ABORT)


async def test_a_peer_that_does_not_close_after_release_is_closed_by_artim(settings_of: SettingsOf) -> None:
    async with (
        Node(settings_of(dimse={"artim_timeout": 0.2})) as node,
        await RawPeer.associated(node.dimse_port) as peer,
    ):
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert (await peer.pdu()).type == RELEASE_RP
        assert (await peer.pdu()).type == 0


async def test_an_idle_association_is_aborted(settings_of: SettingsOf) -> None:
    async with Node(settings_of(dimse={"idle_timeout": 0.5})) as node:
        with structlog.testing.capture_logs() as events:
            async with await RawPeer.associated(node.dimse_port) as peer:
                assert (await peer.pdu()).type == ABORT
    assert "association.timeout" in [event["event"] for event in events]


async def test_half_a_message_does_not_keep_an_association_from_being_idle(settings_of: SettingsOf) -> None:
    async with (
        Node(settings_of(dimse={"dimse_timeout": 0, "idle_timeout": 1})) as node,
        await RawPeer.associated(node.dimse_port) as peer,
    ):
        peer.send(p_data(pdv(1, COMMAND, c_echo()[:20])))
        assert (await peer.ended()).type == ABORT


async def test_half_a_message_is_not_waited_for_longer_than_the_limit(
    settings_of: SettingsOf, root: Path
) -> None:
    async with Node(settings_of(dimse={"dimse_timeout": 0.5})) as node:
        async with await RawPeer.associated(node.dimse_port, STORE) as peer:
            peer.send(store_message(1, 1, CT_IMAGE, made(1).sop, made(1).data)[:-10])
            assert (await peer.pdu()).type == ABORT
        await eventually(lambda: not incoming(root), "incoming/ is empty")


async def test_300_associations_leave_nothing_behind(node: Node) -> None:
    async def cycle(number: int) -> None:
        if number % 3 == 0:
            await (await RawPeer.connect(node.dimse_port)).close()
            return
        peer = await RawPeer.associated(node.dimse_port)
        assert await peer.echo() == 0x0000
        if number % 3 == 1:
            assert await peer.release()
        else:
            peer.reset()
            await peer.close()

    for number in range(10):
        await cycle(number)
    before = Holdings.now()
    for number in range(300):
        await cycle(number)
    await before.restored()
