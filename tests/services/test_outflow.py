"""What receivers answer to C-STORE sub-operations, byte by byte (PS3.4 C.4.3, PS3.7 9.3.1.2)."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import structlog

from pacsnode.archive import outgoing
from pacsnode.dicom.sop_class import STUDY_ROOT_GET
from pacsnode.node import Node
from tests.conftest import SettingsOf
from tests.support.objects import Made, identifier, made
from tests.support.raw import (
    COMMAND,
    CT_IMAGE,
    EXPLICIT,
    LAST,
    NO_DATA_SET,
    RawPeer,
    Reply,
    abort,
    p_data,
    pdv,
    read_command,
)
from tests.support.raw import command as raw_command
from tests.support.sending import send_made
from tests.support.waiting import Holdings, eventually

SUCCESS, PENDING, WARNING = 0x0000, 0xFF00, 0xB000
C_GET, C_STORE, C_GET_RSP = 0x0010, 0x0001, 0x8010
GET, STORE = (STUDY_ROOT_GET, [EXPLICIT]), (CT_IMAGE, [EXPLICIT])
COUNTERS = (0x1021, 0x1022, 0x1023)  # completed, failed, warning

Answer = Callable[[Reply], bytes]
"""A C-STORE-RQ -> what is sent when it has come."""


def response(
    request: Reply, status: int = SUCCESS, number: int | None = None, **more: int | str | bytes
) -> bytes:
    """A C-STORE-RSP with what most receivers send, and `more` by hexadecimal element number."""
    elements: dict[int, int | str | bytes] = {
        0x0002: request.command[0x0002],
        0x0100: 0x8001,
        0x0120: request.us(0x0110) if number is None else number,
        0x0800: NO_DATA_SET,
        0x0900: status,
        0x1000: request.command[0x1000],
    }
    elements |= {int(name, 16): value for name, value in more.items()}
    return p_data(pdv(request.context, COMMAND | LAST, raw_command(elements)))


def in_two_pdvs(request: Reply) -> bytes:
    whole = response(request)[12:]
    return p_data(pdv(request.context, COMMAND, whole[:50]), pdv(request.context, COMMAND | LAST, whole[50:]))


@asynccontextmanager
async def asked(
    settings_of: SettingsOf, items: Sequence[Made], *, window: int = 1
) -> AsyncIterator[tuple[RawPeer, Node]]:
    """A requestor that has asked for the study of `items` by C-GET."""
    async with Node(settings_of()) as node:
        await send_made(node.dimse_port, items)
        roles = {CT_IMAGE: (0, 1)}
        async with await RawPeer.associated(
            node.dimse_port, GET, STORE, roles=roles, window=(1, window), max_pdu_length=0
        ) as peer:
            command = raw_command({0x0002: STUDY_ROOT_GET, 0x0100: C_GET, 0x0110: 1, 0x0700: 0, 0x0800: 0})
            wanted = identifier("STUDY", StudyInstanceUID=items[0].study)
            peer.send(p_data(pdv(1, COMMAND | LAST, command)), p_data(pdv(1, LAST, wanted)))
            yield peer, node


async def store_request(peer: RawPeer) -> Reply:
    """The next C-STORE-RQ; responses to the C-GET are passed over."""
    while (message := await peer.reply()).field != C_STORE:
        assert (message.field, message.status) == (C_GET_RSP, PENDING)
    return message


async def final_response(peer: RawPeer) -> Reply:
    while (message := await peer.reply()).status == PENDING:
        pass
    assert message.field == C_GET_RSP
    return message


def counters(final: Reply) -> list[int]:
    return [final.us(element) for element in COUNTERS]


ANSWERS: list[tuple[str, Answer, list[int]]] = [
    ("as foreseen", response, [3, 0, 0]),
    ("with a comment", lambda rq: response(rq, **{"0902": b"well done "}), [3, 0, 0]),
    ("without the instance", lambda rq: response(rq, **{"1000": b""}), [3, 0, 0]),
    ("in two PDVs", in_two_pdvs, [3, 0, 0]),
    ("a warning", lambda rq: response(rq, WARNING), [0, 0, 3]),
    ("a refusal", lambda rq: response(rq, 0xA700, **{"0902": b"full"}), [0, 3, 0]),
]


@pytest.mark.parametrize("chopped", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("answer", "counted"), [a[1:] for a in ANSWERS], ids=[a[0] for a in ANSWERS])
async def test_every_form_of_an_answer_is_counted(
    settings_of: SettingsOf, answer: Answer, counted: list[int], chopped: bool
) -> None:
    items = [made(number) for number in range(1, 4)]
    sent = []
    async with asked(settings_of, items) as (peer, _):
        for _ in items:
            request = await store_request(peer)
            sent.append((request.command[0x1000].rstrip(b"\0").decode(), request.data))
            said = answer(request)
            for piece in (said[i : i + 1] for i in range(len(said))) if chopped else (said,):
                peer.send(piece)
                await peer.flushed()
        final = await final_response(peer)
        assert await peer.release()
    assert counters(final) == counted
    assert sent == [(item.sop, item.data) for item in items]


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "the last first"])
async def test_answers_in_one_segment_let_as_many_objects_leave(settings_of: SettingsOf, order: int) -> None:
    items = [made(number) for number in range(1, 13)]
    async with asked(settings_of, items, window=4) as (peer, _):
        for _ in range(3):
            requests = [await store_request(peer) for _ in range(4)]
            assert len({request.us(0x0110) for request in requests}) == 4
            peer.send(*map(response, requests[::order]))
        final = await final_response(peer)
        assert await peer.release()
    assert counters(final) == [12, 0, 0]


async def test_an_abort_behind_an_answer_ends_the_sending(settings_of: SettingsOf) -> None:
    items = [made(number) for number in range(1, 6)]
    with structlog.testing.capture_logs() as events:
        async with asked(settings_of, items) as (peer, _):
            held = Holdings.now()
            peer.send(response(await store_request(peer)), abort())
            await eventually(lambda: "retrieval.answered" in names(events), "the end")
            await peer.close()
            await held.restored()
    (answered,) = (event for event in events if event["event"] == "retrieval.answered")
    assert answered["completed"] == 1
    assert not {"operation.crashed"} & names(events)


@pytest.mark.parametrize("number", [4711, None], ids=["to nothing", "twice"])
async def test_an_answer_to_nothing_ends_the_association(settings_of: SettingsOf, number: int | None) -> None:
    items = [made(number) for number in range(1, 4)]
    with structlog.testing.capture_logs() as events:
        async with asked(settings_of, items) as (peer, _):
            request = await store_request(peer)
            if number is None:
                peer.send(response(request))
                await store_request(peer)
            peer.send(response(request, number=number))
            await peer.ended()
    (invalid,) = (event for event in events if event["event"] == "message.invalid")
    assert "answers no request of ours" in invalid["reason"]


async def test_an_answer_before_all_of_an_object_has_left(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "LARGE", 50_000)
    monkeypatch.setattr(outgoing, "PIECE", 20_000)
    items = [made(1, pixels=3_000_000), made(2), made(3, pixels=3_000_000)]
    async with asked(settings_of, items) as (peer, _):
        for item in items:
            command = await first_command(peer)
            peer.send(response(command, 0xA700))
            data = await data_set(peer)
            assert data == item.data
        final = await final_response(peer)
        assert await peer.release()
    assert counters(final) == [0, 3, 0]


async def first_command(peer: RawPeer) -> Reply:
    """The command of the next C-STORE-RQ, its data set not yet read."""
    while True:
        context, control, value = await peer._fragment()
        command = read_command(value)
        assert control == COMMAND | LAST
        if int.from_bytes(command[0x0100], "little") == C_STORE:
            return Reply(context, command, b"")


async def data_set(peer: RawPeer) -> bytes:
    parts, control = [], 0
    while not control & LAST:
        _, control, value = await peer._fragment()
        assert not control & COMMAND
        parts.append(value)
    return b"".join(parts)


def names(events: Sequence[structlog.typing.EventDict]) -> set[str]:
    return {event["event"] for event in events}
