"""Bad input: each kind gets its status and a log event, leaves nothing, and the association goes on working.

What breaks the protocol itself, so that nobody knows where the next message begins, is answered by A-ABORT.
"""

import os
import random
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from pydicom import Dataset
from structlog.typing import EventDict

from pacsnode.node import Node
from tests.conftest import SettingsOf
from tests.support.objects import (
    Made,
    data_set_bytes,
    digests,
    encoded,
    identifier,
    incoming,
    made,
    object_path,
    read_data_set,
    set_values,
    stored_files,
)
from tests.support.raw import (
    ABORT,
    COMMAND,
    CT_IMAGE,
    DATA_SET,
    EXPLICIT,
    IMPLICIT,
    LAST,
    NO_DATA_SET,
    STUDY_ROOT_FIND,
    VERIFICATION,
    RawPeer,
    Reply,
    associate_rq,
    c_echo,
    c_store,
    command,
    data_pdus,
    p_data,
    pdu,
    pdv,
    store_message,
)
from tests.support.waiting import Holdings, eventually

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
DEFLATED = "1.2.840.10008.1.2.1.99"
TRAVERSAL = "../../../../outside"
CONTEXTS = ((VERIFICATION, [IMPLICIT]), (CT_IMAGE, [EXPLICIT]), (STUDY_ROOT_FIND, [EXPLICIT]))
ECHO_ID, STORE_ID, FIND_ID = 1, 3, 5


def without(item: Made, *keywords: str, **changed: str) -> bytes:
    """The data set of an object without some attributes, or with others."""
    data_set = read_data_set(item.data)
    for keyword in keywords:
        delattr(data_set, keyword)
    set_values(data_set, changed)
    return encoded(data_set)


def store(sop_instance: str, data: bytes, sop_class: str = CT_IMAGE) -> bytes:
    return store_message(STORE_ID, 1, sop_class, sop_instance, data)


def announced(elements: dict[int, int | str | bytes], context: int, data: bytes) -> bytes:
    """A message with a command as given."""
    return p_data(pdv(context, COMMAND | LAST, command(elements))) + data_pdus(context, data, 16384)


def lone(elements: dict[int, int | str | bytes], context: int) -> bytes:
    return p_data(pdv(context, COMMAND | LAST, command({0x0110: 1, 0x0800: NO_DATA_SET, **elements})))


ITEM = made(1)
CT, UID = {0x0002: CT_IMAGE}, {0x1000: ITEM.sop}
STORE_RQ = {0x0100: 0x0001, 0x0110: 1, 0x0700: 0, 0x0800: DATA_SET}
FIND_RQ = {0x0002: STUDY_ROOT_FIND, 0x0100: 0x0020, 0x0110: 1, 0x0700: 0, 0x0800: DATA_SET}
GARBAGE = random.Random(2).randbytes(5000)
HUGE = b"\x10\0\x10\0UN\0\0\xf0\xff\xff\xff" + bytes(64)

# name -> the message and the statuses that PS3.4 B.2.3, C.4.1 and PS3.7 Annex C have for it
REFUSED = {
    "truncated data set": (store(ITEM.sop, ITEM.data[:-20]), {0xC000}),
    "data set cut in an element header": (store(ITEM.sop, ITEM.data[:-70]), {0xC000}),
    "garbage for a data set": (store(ITEM.sop, GARBAGE), {0xC000}),
    "an empty data set": (store(ITEM.sop, b""), {0xC000, 0xA900}),
    "an element longer than four gigabytes": (store(ITEM.sop, ITEM.data[:300] + HUGE), {0xC000}),
    "no SOP Instance UID in the data set": (store(ITEM.sop, without(ITEM, "SOPInstanceUID")), {0xA900}),
    "no SOP Class UID in the data set": (store(ITEM.sop, without(ITEM, "SOPClassUID")), {0xA900}),
    "no Study Instance UID": (store(ITEM.sop, without(ITEM, "StudyInstanceUID")), {0xC000, 0xA900}),
    "no Series Instance UID": (store(ITEM.sop, without(ITEM, "SeriesInstanceUID")), {0xC000, 0xA900}),
    "no SOP Instance UID in the command": (announced({**STORE_RQ, **CT}, STORE_ID, ITEM.data), {0xC000}),
    "no SOP Class UID in the command": (
        announced({**STORE_RQ, **UID}, STORE_ID, ITEM.data),
        {0xC000, 0xA900},
    ),
    "another SOP Instance UID": (store(made(2).sop, ITEM.data), {0xA900}),
    "another SOP Class UID": (store(ITEM.sop, without(ITEM, SOPClassUID=MR_IMAGE)), {0xA900}),
    "a SOP class that is not the context's": (store(ITEM.sop, ITEM.data, MR_IMAGE), {0xA900}),
    "a path for a UID in the command": (store(TRAVERSAL, ITEM.data), {0xC000}),
    "a path for a UID in both": (store(TRAVERSAL, without(ITEM, SOPInstanceUID=TRAVERSAL)), {0xC000}),
    "a path for a study": (store(ITEM.sop, without(ITEM, StudyInstanceUID=TRAVERSAL)), {0xC000, 0xA900}),
    "dots for a series": (store(ITEM.sop, without(ITEM, SeriesInstanceUID="..")), {0xC000, 0xA900}),
    "a UID of 65 characters": (store("1." + "2" * 63, ITEM.data), {0xC000}),
    "a UID that is not even text": (
        announced({**STORE_RQ, **CT, 0x1000: b"1.2.\xff\xfe\x80"}, STORE_ID, ITEM.data),
        {0xC000},
    ),
    "a UID of a kilobyte": (store("1." + "2" * 1000, ITEM.data), {0xC000}),
    "C-STORE without a data set": (lone({**CT, **UID, 0x0100: 0x0001}, STORE_ID), {0xC000}),
    "garbage for an identifier": (announced(FIND_RQ, FIND_ID, GARBAGE), {0xC000, 0xA900}),
    "a truncated identifier": (announced(FIND_RQ, FIND_ID, identifier("STUDY", StudyDate="")[:-3]), {0xC000}),
    "an identifier without a level": (announced(FIND_RQ, FIND_ID, encoded(Dataset())), {0xA900}),
    "an unknown level": (announced(FIND_RQ, FIND_ID, identifier("FRAME")), {0xA900}),
    "a level that the model lacks": (announced(FIND_RQ, FIND_ID, identifier("PATIENT")), {0xA900}),
    "a date that is none": (announced(FIND_RQ, FIND_ID, identifier("STUDY", StudyDate="soon")), {0xA900}),
    "C-FIND without an identifier": (
        lone({0x0002: STUDY_ROOT_FIND, 0x0100: 0x0020}, FIND_ID),
        {0xA900, 0xC000},
    ),
    "an unknown command field": (lone({**CT, 0x0100: 0x0042}, STORE_ID), {0x0211}),
    "C-ECHO on a storage context": (lone({**CT, 0x0100: 0x0030}, STORE_ID), {0x0211}),
    "C-FIND on a storage context": (announced(FIND_RQ, STORE_ID, identifier("STUDY")), {0x0211, 0xA900}),
    "C-STORE on a verification context": (
        announced({**STORE_RQ, **CT, **UID}, ECHO_ID, ITEM.data),
        {0x0211, 0x0122, 0xA900},
    ),
    "N-CREATE on a storage context": (lone({**CT, 0x0100: 0x0140}, STORE_ID), {0x0211}),
}

# name -> bytes after which the association cannot go on
ABORTED = {
    "garbage": GARBAGE,
    "an unknown PDU type": pdu(0x42, b"what"),
    "a second association request": associate_rq(CONTEXTS),
    "a PDU longer than agreed": p_data(pdv(ECHO_ID, COMMAND | LAST, bytes(300_000))),
    "a PDV longer than its PDU": pdu(4, b"\0\0\1\0\1\3" + bytes(10)),
    "a PDV shorter than its header": pdu(4, b"\0\0\0\1\1\3"),
    "a PDU of four gigabytes": b"\5\0\xff\xff\xff\xff",
    "a command set that is none": p_data(pdv(ECHO_ID, COMMAND | LAST, GARBAGE[:99])),
    "a command element longer than the command": p_data(
        pdv(ECHO_ID, COMMAND | LAST, b"\0\0\0\1\xf0\xff\xff\xff\x30\0")
    ),
    "a command of a megabyte": p_data(pdv(ECHO_ID, COMMAND, bytes(100_000))),
    "a command without a Message ID": p_data(
        pdv(ECHO_ID, COMMAND | LAST, command({0x0002: VERIFICATION, 0x0100: 0x0030, 0x0800: NO_DATA_SET}))
    ),
    "a data set without a command": p_data(pdv(STORE_ID, LAST, ITEM.data)),
    "a context that was not accepted": p_data(pdv(99, COMMAND | LAST, c_echo(1))),
    "messages of two contexts mixed": p_data(
        pdv(ECHO_ID, COMMAND, c_echo(1)[:10]), pdv(STORE_ID, COMMAND, c_store(2, CT_IMAGE, ITEM.sop))
    ),
    "a response to nothing": lone({0x0100: 0x8001, 0x0120: 7, 0x0900: 0}, STORE_ID),
}


def events_named(events: list[EventDict], name: str) -> list[EventDict]:
    return [event for event in events if event["event"] == name]


def outside(root: Path) -> list[Path]:
    """What a UID that was taken for a path would have made."""
    return list(root.parent.rglob("outside*"))


async def nothing_is_kept(node: Node, root: Path) -> None:
    await eventually(lambda: not incoming(root), "incoming/ is empty")
    assert list(stored_files(root)) == []
    async with await RawPeer.associated(node.dimse_port, CONTEXTS[2]) as peer:
        assert len(await peer.find(identifier("STUDY", StudyInstanceUID=""))) == 1


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_with_its_status_and_the_association_goes_on(node: Node, root: Path, name: str) -> None:
    message, statuses = REFUSED[name]
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
            peer.send(message)
            reply = await peer.reply()
            assert await peer.echo(ECHO_ID) == 0x0000
            assert (await peer.store(ITEM.sop, ITEM.data, context=STORE_ID)).status == 0x0000
            assert await peer.release()
    assert reply.status in statuses, f"{reply.status:04X} {reply.comment}"
    assert reply.comment
    assert len(reply.comment) <= 64
    failures = events_named(events, "operation.failed")
    assert [failure["status"] for failure in failures] == [f"{reply.status:04X}H"]
    assert failures[0]["log_level"] == "warning"
    assert all(len(str(value)) <= 200 for value in failures[0].values())
    assert events_named(events, "operation.crashed") == []
    assert list(stored_files(root)) == [object_path(root, ITEM)]
    await eventually(lambda: not incoming(root), "incoming/ is empty")
    assert outside(root) == []


@pytest.mark.parametrize("name", ABORTED)
async def test_answered_by_abort_and_the_service_goes_on(node: Node, root: Path, name: str) -> None:
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
            peer.send(ABORTED[name])
            assert (await peer.ended()).type == ABORT
        await eventually(lambda: events_named(events, "association.aborted"), "logged")
    assert events_named(events, "association.aborted")[0]["reason"]
    async with await RawPeer.associated(node.dimse_port) as peer:
        assert await peer.echo() == 0x0000
    await nothing_is_kept(node, root)


@pytest.mark.parametrize(
    "first",
    [GARBAGE, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"\x16\x03\x01\x02\0\x01", b"\1\0\xff\xff\xff\xff"],
    ids=["garbage", "HTTP", "TLS", "four gigabytes"],
)
async def test_a_connection_that_does_not_begin_with_a_request_is_ended_and_logged(
    node: Node, first: bytes
) -> None:
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.connect(node.dimse_port) as peer:
            peer.send(first)
            assert (await peer.ended()).type in (ABORT, 0)
        await eventually(lambda: events_named(events, "connection.aborted"), "logged")
    async with await RawPeer.associated(node.dimse_port) as peer:
        assert await peer.echo() == 0x0000


async def test_a_message_id_in_use_ends_the_association(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS, window=(16, 1)) as peer:
        peer.send(store(ITEM.sop, ITEM.data), store(made(2).sop, made(2).data))
        assert (await peer.ended()).type == ABORT


@pytest.mark.parametrize("message_ids", [(None,), (1, 1)], ids=["missing", "in use"])
async def test_an_object_whose_message_id_cannot_be_taken_leaves_nothing(
    node: Node, root: Path, message_ids: tuple[int | None, ...]
) -> None:
    before = Holdings.now()
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS, window=(16, 1)) as peer:
        for number, message_id in enumerate(message_ids, 1):
            item = made(number, pixels=3_000_000)  # on the disk before its end comes
            numbered = {} if message_id is None else {0x0110: message_id}
            elements = {0x0100: 0x0001, 0x0700: 0, 0x0800: DATA_SET, **CT, 0x1000: item.sop, **numbered}
            peer.send(announced(elements, STORE_ID, item.data))
        assert (await peer.ended()).type == ABORT
    await before.restored()
    await eventually(lambda: not incoming(root), "incoming/ is empty")


# Bombs


def nested(depth: int, *, defined: bool) -> bytes:
    """A private sequence in a sequence in a sequence..."""
    body = b""
    if not defined:
        opening = b"\x09\0\x10\0SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
        closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        return opening * depth + closing * depth
    for _ in range(depth):
        item = b"\xfe\xff\0\xe0" + len(body).to_bytes(4, "little") + body
        body = b"\x09\0\x10\0SQ\0\0" + len(item).to_bytes(4, "little") + item
    return body


@pytest.mark.parametrize("defined", [False, True], ids=["undefined lengths", "defined lengths"])
async def test_10000_nested_sequences_do_not_stop_the_node(node: Node, defined: bool) -> None:
    split = ITEM.data.index(b"\x10\0\x10\0PN")
    data = ITEM.data[:split] + nested(10_000 if not defined else 2_000, defined=defined) + ITEM.data[split:]
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
        reply = await peer.store(ITEM.sop, data, context=STORE_ID)
        assert reply.status in (0x0000, 0xC000)
        keys = identifier("STUDY", StudyInstanceUID="", PatientName="")
        replies = await peer.find(keys, context=FIND_ID)
        assert replies[-1].status == 0x0000
        assert await peer.echo(ECHO_ID) == 0x0000


async def test_10000_nested_sequences_in_an_identifier(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
        keys = identifier("STUDY", StudyInstanceUID="") + nested(10_000, defined=False)
        peer.send(announced(FIND_RQ, FIND_ID, keys))
        assert (await peer.reply()).status in (0x0000, 0xC000, 0xA900)
        assert await peer.echo(ECHO_ID) == 0x0000


async def test_a_deflate_bomb_costs_a_refusal(node: Node, root: Path) -> None:
    """500 MB of zeros in half a megabyte."""
    packer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join([packer.compress(bytes(2**20)) for _ in range(500)]) + packer.flush()
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, (CT_IMAGE, [DEFLATED]), CONTEXTS[0]) as peer:
            reply = await peer.store(ITEM.sop, bomb, context=1)
            assert reply.status == 0xC000
            assert await peer.echo(3) == 0x0000
    assert events_named(events, "operation.failed")
    await nothing_is_kept(node, root)


async def test_values_far_too_long_are_kept_and_found(node: Node) -> None:
    item = made(1, PatientID="P" * 300, AccessionNumber="A" * 1000, PatientName="N" * 5000)
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
        assert (await peer.store(item.sop, item.data, context=STORE_ID)).status == 0x0000
        replies = await peer.find(identifier("STUDY", PatientID="P" * 300), context=FIND_ID)
    assert [reply.status for reply in replies] == [0xFF00, 0x0000]


# No room


async def test_below_the_reserve_nothing_is_taken(settings_of: SettingsOf, root: Path) -> None:
    async with Node(settings_of(storage={"reserve": 2**60})) as node:
        with structlog.testing.capture_logs() as events:
            async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
                reply = await peer.store(ITEM.sop, made(1, pixels=3_000_000).data, context=STORE_ID)
                assert reply.status == 0xA700
                assert await peer.echo(ECHO_ID) == 0x0000
        assert [e["status"] for e in events_named(events, "operation.failed")] == ["A700H"]
        await nothing_is_kept(node, root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    options = ("-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder))
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("pixels", [700_000, 5_000_000], ids=["in memory", "while it arrives"])
async def test_a_full_disk_is_told_and_what_was_acknowledged_stays(
    settings_of: SettingsOf, small_disk: Path, pixels: int
) -> None:
    root = small_disk / "root"
    items = [made(number, pixels=pixels) for number in range(1, 30)]
    async with Node(settings_of(node={"storage": str(root)})) as node:
        async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
            statuses = []
            for item in items:
                reply = await peer.store(item.sop, item.data, context=STORE_ID)
                statuses.append(reply.status)
                if len(statuses) > 3 and set(statuses[-3:]) == {0xA700}:
                    break
            assert await peer.echo(ECHO_ID) == 0x0000
        taken = [item for item, status in zip(items, statuses, strict=False) if status == 0x0000]
        assert taken
        assert set(statuses) == {0x0000, 0xA700}
        await eventually(lambda: not incoming(root), "incoming/ is empty")
        assert all(data_set_bytes(object_path(root, item)) == item.data for item in taken)
        assert len(list(stored_files(root))) == len(taken)


# Another object under a known UID


async def stored_twice(node: Node, first: Made, second: Made) -> tuple[Reply, Reply, list[EventDict]]:
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
            replies = [await peer.store(i.sop, i.data, context=STORE_ID) for i in (first, second)]
            assert await peer.echo(ECHO_ID) == 0x0000
    return replies[0], replies[1], list(events)


FIRST, OTHER = made(1, StudyDescription="first"), made(1, StudyDescription="other")


async def test_the_same_object_again_is_a_success_and_changes_nothing(node: Node, root: Path) -> None:
    *replies, events = await stored_twice(node, FIRST, FIRST)
    assert [reply.status for reply in replies] == [0x0000, 0x0000]
    assert len(digests(root)) == 1
    assert [e["outcome"] for e in events_named(events, "instance.stored")] == ["stored", "duplicate"]


async def test_keep_leaves_the_first_and_keeps_the_other_aside(node: Node, root: Path) -> None:
    *replies, events = await stored_twice(node, FIRST, OTHER)
    assert [reply.status for reply in replies] == [0x0000, 0x0000]
    assert data_set_bytes(object_path(root, FIRST)) == FIRST.data
    assert len(digests(root)) == 2
    assert events_named(events, "instance.conflict")


async def test_replace_takes_the_other_and_keeps_the_first_aside(settings_of: SettingsOf, root: Path) -> None:
    async with Node(settings_of(storage={"duplicates": "replace"})) as node:
        *replies, events = await stored_twice(node, FIRST, OTHER)
        async with await RawPeer.associated(node.dimse_port, CONTEXTS[2]) as peer:
            found = await peer.find(identifier("STUDY", NumberOfStudyRelatedInstances=""))
    assert [reply.status for reply in replies] == [0x0000, 0x0000]
    assert data_set_bytes(object_path(root, FIRST)) == OTHER.data
    assert len(digests(root)) == 2
    assert events_named(events, "instance.conflict")
    assert read_data_set(found[0].data).NumberOfStudyRelatedInstances == 1


async def test_refuse_answers_0111(settings_of: SettingsOf, root: Path) -> None:
    async with Node(settings_of(storage={"duplicates": "refuse"})) as node:
        *replies, events = await stored_twice(node, FIRST, OTHER)
    assert [reply.status for reply in replies] == [0x0000, 0x0111]
    assert data_set_bytes(object_path(root, FIRST)) == FIRST.data
    assert len(digests(root)) == 1
    assert [e["status"] for e in events_named(events, "operation.failed")] == ["0111H"]


async def test_one_uid_sixteen_times_at_once_is_stored_once(node: Node, root: Path) -> None:
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS, window=(16, 1)) as peer:
        for number in range(1, 17):
            peer.send(store_message(STORE_ID, number, CT_IMAGE, FIRST.sop, FIRST.data))
        assert {(await peer.reply()).status for _ in range(16)} == {0x0000}
    assert len(digests(root)) == 1


# Privacy


async def test_no_patient_data_above_debug(node: Node) -> None:
    secret = made(1, PatientName="Secret^Name", PatientID="SECRET-ID")
    with structlog.testing.capture_logs() as events:
        async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
            await peer.store(secret.sop, secret.data, context=STORE_ID)
            await peer.store(secret.sop, secret.data[:-9], context=STORE_ID)
            await peer.store(secret.sop, without(secret, PatientID="SECRET-OTHER"), context=STORE_ID)
            await peer.find(identifier("STUDY", PatientName="Secret*"), context=FIND_ID)
            await peer.find(identifier("STUDY", PatientID="SECRET-ID", StudyDate="x"), context=FIND_ID)
    above = [event for event in events if event["log_level"] != "debug"]
    assert above
    assert "secret" not in repr(above).lower()
