"""DIMSE-N requests that no client means to send: each has its own answer, none is taken for a bug."""

import pytest

from pacsnode.node import Node
from tests.support.raw import (
    ABORT,
    DATA_SET,
    EXPLICIT,
    NO_DATA_SET,
    RawPeer,
    command,
    p_data,
    pdv,
)

MPPS, MPPS_RETRIEVE = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.3.1.2.3.4"
COMMITMENT, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
CONTEXTS = ((MPPS, [EXPLICIT]), (MPPS_RETRIEVE, [EXPLICIT]), (COMMITMENT, [EXPLICIT]))
N_EVENT_REPORT, N_GET, N_SET, N_ACTION, N_CREATE, N_DELETE = 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150
GARBAGE = b"\x08\x00\x18\x00ZZ\xff\xff garbage"

Elements = dict[int, int | str | bytes]


def action(**changes: int | str | bytes) -> Elements:
    elements: Elements = {0x0003: COMMITMENT, 0x0100: N_ACTION, 0x1001: WELL_KNOWN, 0x1008: 1}
    return {**elements, **{int(name[1:], 16): value for name, value in changes.items()}}


def message(context: int, elements: Elements, data: bytes | None = None) -> bytes:
    whole = {0x0110: 7, 0x0800: NO_DATA_SET if data is None else DATA_SET, **elements}
    fragments = [pdv(context, 3, command(whole))]
    if data is not None:
        fragments.append(pdv(context, 2, data))
    return b"".join(p_data(fragment) for fragment in fragments)


ANSWERED: dict[str, tuple[int, Elements, bytes | None, int]] = {
    "a request for commitment that is garbage": (5, action(), GARBAGE, 0x0115),
    "one without anything": (5, action(), None, 0x0115),
    "one without an action type": (5, action(x1008=b""), GARBAGE, 0x0123),
    "one of another SOP class": (5, action(x0003=MPPS), GARBAGE, 0x0118),
    "one on another instance": (5, action(x1001="1.2.3"), GARBAGE, 0x0112),
    "an event from an SCU": (
        5,
        {0x0002: COMMITMENT, 0x0100: N_EVENT_REPORT, 0x1000: WELL_KNOWN, 0x1002: 1},
        GARBAGE,
        0x0122,
    ),
    "a step that is garbage": (1, {0x0002: MPPS, 0x0100: N_CREATE, 0x1000: "1.2.3"}, GARBAGE, 0x0106),
    "a step without attributes": (1, {0x0002: MPPS, 0x0100: N_CREATE, 0x1000: "1.2.3"}, None, 0x0120),
    "a change of no step": (1, {0x0003: MPPS, 0x0100: N_SET}, b"", 0x0112),
    "a deletion": (1, {0x0003: MPPS, 0x0100: N_DELETE, 0x1001: "1.2.3"}, None, 0x0211),
    "a request for no step": (3, {0x0003: MPPS_RETRIEVE, 0x0100: N_GET}, None, 0x0112),
}


async def test_each_is_answered_with_its_own_status(node: Node) -> None:
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
        for what, (context, elements, data, status) in ANSWERED.items():
            peer.send(message(context, elements, data))
            reply = await peer.reply()
            assert f"{reply.status:04X}" == f"{status:04X}", what
            assert reply.field == elements[0x0100] | 0x8000  # type: ignore[operator]
        assert await peer.release()


WORKLIST = "1.2.840.10008.5.1.4.31"
C_FIND = 0x0020
IDENTIFIERS = {
    "no data set at all": (None, 0xA900),
    "garbage": (GARBAGE, 0xC000),
    "half an element": (b"\x10\x00\x20\x00LO\x40\x00abc", 0xC000),
    "a date that is none": (
        b"\x40\x00\x00\x01SQ\0\0\x16\0\0\0\xfe\xff\x00\xe0\x0e\0\0\0\x40\x00\x02\x00DA\x06\x00monday",
        0xA900,
    ),
}


@pytest.mark.parametrize("what", IDENTIFIERS)
async def test_a_query_of_the_worklist_that_cannot_be_read(node: Node, what: str) -> None:
    data, status = IDENTIFIERS[what]
    async with await RawPeer.associated(node.dimse_port, (WORKLIST, [EXPLICIT])) as peer:
        peer.send(message(1, {0x0002: WORKLIST, 0x0100: C_FIND, 0x0700: 0}, data))
        assert f"{(await peer.reply()).status:04X}" == f"{status:04X}"
        assert await peer.release()


@pytest.mark.parametrize(
    ("context", "elements"),
    [
        (5, action(x1008=b"\1\0\0\0")),
        (3, {0x0003: MPPS_RETRIEVE, 0x0100: N_GET, 0x1001: "1.2.3", 0x1005: b"\x10\x00"}),
    ],
    ids=["an action type of four bytes", "half a tag"],
)
async def test_a_broken_command_element_ends_the_association(
    node: Node, context: int, elements: Elements, capsys: pytest.CaptureFixture[str]
) -> None:
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
        peer.send(message(context, elements))
        assert (await peer.ended()).type == ABORT
    assert "operation.crashed" not in capsys.readouterr().out


async def test_an_scp_only_may_not_ask(node: Node) -> None:
    """Role selection left the peer the role of the SCP, which reports and does not ask."""
    async with await RawPeer.associated(
        node.dimse_port, (COMMITMENT, [EXPLICIT]), roles={COMMITMENT: (0, 1)}
    ) as peer:
        assert peer.accepted.roles == {COMMITMENT: (0, 1)}
        peer.send(message(1, action(), GARBAGE))
        assert (await peer.reply()).status == 0x0122
        event: Elements = {0x0002: COMMITMENT, 0x0100: N_EVENT_REPORT, 0x1000: WELL_KNOWN, 0x1002: 1}
        peer.send(message(1, event, GARBAGE))
        assert (await peer.reply()).status == 0x0115
        assert await peer.release()
