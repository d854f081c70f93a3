"""Streams cut anywhere, damaged, or crossing on the wire: the Upper Layer stays in a state that is legal."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pacsnode.dicom.uid import UID
from pacsnode.errors import InvalidPdu
from pacsnode.ul import fsm
from pacsnode.ul.fsm import TRANSITIONS, State
from pacsnode.ul.negotiation import (
    AcceptorPolicy,
    AssociateReject,
    AssociateRequest,
    CommonExtended,
    ProposedContext,
    Support,
    UserIdentity,
    negotiate,
)
from pacsnode.ul.pdu import Abort, PDataFragment, Pdu, PduReader, ReleaseRp, ReleaseRq, encode, p_data_tf
from pacsnode.ul.upper_layer import (
    Aborted,
    AssociateRequested,
    Event,
    ReleaseRequested,
    TransportClosed,
    UpperLayer,
)

CT = UID("1.2.840.10008.5.1.4.1.1.2")
IMPLICIT = UID("1.2.840.10008.1.2")
REQUEST = AssociateRequest(
    called_ae="PACSNODE",
    calling_ae="MODALITY",
    contexts=tuple(ProposedContext(number, CT, (IMPLICIT, UID("1.2.840.10008.1.2.1"))) for number in (1, 3)),
    window=(4, 1),
    roles={CT: (True, True)},
    extended={CT: b"\2\0"},
    common_extended=(CommonExtended(CT, UID("1.2.840.10008.4.2")),),
    user_identity=UserIdentity(2, b"user", b"secret"),
)
POLICY = AcceptorPolicy(ae_title="PACSNODE", support=lambda uid: Support(frozenset({IMPLICIT}), as_scu=True))
ACCEPT = negotiate(REQUEST, POLICY)
assert not isinstance(ACCEPT, AssociateReject)


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return (len(data) + 2).to_bytes(4, "big") + bytes((context_id, control)) + data


def p_data(pdvs: list[bytes]) -> bytes:
    body = b"".join(pdvs)
    return b"\4\0" + len(body).to_bytes(4, "big") + body


pdvs = st.builds(pdv, st.sampled_from([1, 3, 255]), st.integers(0, 3), st.binary(max_size=12))
data_pdus = st.lists(pdvs, min_size=1, max_size=4).map(p_data)
other_pdus = st.sampled_from(
    [REQUEST, ACCEPT, AssociateReject(1, 1, 7), ReleaseRq(), ReleaseRp(), Abort(2, 1)]
)
streams = st.lists(data_pdus | other_pdus.map(encode), max_size=6).map(b"".join)
cuts = st.lists(st.integers(0, 2000), max_size=12)


def chopped(stream: bytes, at: list[int]) -> list[bytes]:
    marks = [0, *sorted(mark for mark in at if mark < len(stream)), len(stream)]
    return [stream[start:end] for start, end in pairwise(marks)]


@dataclass
class Part:
    """A command set or a data set, or as much of it as came without an interruption."""

    context_id: int
    is_command: bool
    data: bytes = b""
    is_complete: bool = False


def logical(pdus: list[Pdu] | list[Event]) -> list[object]:
    """The same things with the fragments joined to parts: what must not depend on the chopping."""
    joined: list[object] = []
    part: Part | None = None
    for pdu in pdus:
        if isinstance(pdu, PDataFragment):
            if part is None or (part.context_id, part.is_command) != (pdu.context_id, pdu.is_command):
                part = Part(pdu.context_id, pdu.is_command)
                joined.append(part)
            part.data += bytes(pdu.data)
            part.is_complete = pdu.is_last
            part = None if pdu.is_last else part
        else:
            joined.append((str(pdu), pdu.reason) if isinstance(pdu, InvalidPdu) else pdu)
            part = None
    return joined


def read(chunks: list[bytes]) -> list[Pdu]:
    reader = PduReader()
    return [pdu for chunk in chunks for pdu in reader.receive(chunk)]


# The reader


@given(streams, cuts)
def test_chopping_changes_nothing_that_is_read(stream: bytes, at: list[int]) -> None:
    assert logical(read(chopped(stream, at))) == logical(read([stream]))


@given(streams)
def test_stream_that_arrives_byte_by_byte_is_read_alike(stream: bytes) -> None:
    assert logical(read([stream[at : at + 1] for at in range(len(stream))])) == logical(read([stream]))


@given(st.binary(max_size=200), cuts)
def test_chopping_changes_nothing_that_is_wrong(stream: bytes, at: list[int]) -> None:
    assert logical(read(chopped(stream, at))) == logical(read([stream]))


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=300)), max_size=5), cuts)
def test_data_sent_come_through_any_chopping(messages: list[tuple[bool, bytes]], at: list[int]) -> None:
    stream = b"".join(b"".join(p_data_tf(1, command, data, 64)) for command, data in messages)
    assert logical(read(chopped(stream, at))) == [Part(1, command, data, True) for command, data in messages]


# One side against anything


class User:
    """A service user that answers everything, and remembers all it sees."""

    def __init__(self, requestor: bool) -> None:
        self.upper_layer = UpperLayer(requestor, max_pdu_length=16384, artim_timeout=30.0)
        self.events: list[Event] = []
        self.written = bytearray()
        self.upper_layer.connected(0.0)
        if requestor:
            self.upper_layer.associate_request(REQUEST)

    def receive(self, data: bytes) -> None:
        self.upper_layer.receive_data(data, 1.0)
        self.answer()

    def answer(self) -> None:
        """Handle the events. One that a later event has overtaken needs no answer any more."""
        for event in self.upper_layer.events_received():
            self.events.append(event)
            state = self.upper_layer.state
            if isinstance(event, AssociateRequested) and state is State.STA3:
                answer = negotiate(event.request, POLICY)
                if isinstance(answer, AssociateReject):
                    self.upper_layer.reject(answer, 1.0)
                else:
                    self.upper_layer.accept(answer)
            elif isinstance(event, ReleaseRequested) and state in (State.STA8, State.STA9, State.STA10):
                self.upper_layer.release_response(1.0)

    def write(self) -> bytes:
        data = b"".join(self.upper_layer.data_to_send())
        self.written += data
        return data


def check(user: User) -> None:
    """What must hold whatever was received."""
    upper_layer = user.upper_layer
    user.write()
    written = read([bytes(user.written)])
    assert not any(isinstance(pdu, InvalidPdu) for pdu in written)
    own_fault = [event for event in user.events if isinstance(event, Aborted) and not event.by_peer]
    if own_fault:
        assert any(isinstance(pdu, Abort) for pdu in written)
        assert upper_layer.state in (State.STA13, State.STA1)
    assert upper_layer.close_expected is (upper_layer.state is State.STA1)
    assert (upper_layer.deadline is not None) is (upper_layer.state in (State.STA2, State.STA13))
    upper_layer.handle_timer(1e9)
    upper_layer.receive_eof()
    assert upper_layer.state is State.STA1
    assert isinstance(upper_layer.events_received()[-1], TransportClosed)


CONVERSATIONS = {
    False: [
        encode(REQUEST),
        *p_data_tf(1, True, bytes(range(100)), 0),
        *p_data_tf(1, False, bytes(500), 128),
        encode(ReleaseRq()),
    ],
    True: [encode(ACCEPT), *p_data_tf(3, True, bytes(80), 0), encode(ReleaseRp())],
}
mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "drop", "insert", "repeat", "cut"]), st.integers(0, 2000), st.integers(0, 255)
    ),
    min_size=1,
    max_size=5,
)


def mutated(stream: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    data = bytearray(stream)
    for kind, where, value in changes:
        at = where % (len(data) + 1)
        match kind:
            case "set":
                data[at : at + 1] = bytes((value,))
            case "drop":
                del data[at : at + value]
            case "insert":
                data[at:at] = bytes((value,)) * (value % 8)
            case "repeat":
                data[at:at] = data[max(0, at - value) : at]
            case "cut":
                del data[at:]
    return bytes(data)


@given(st.booleans(), st.lists(st.binary(max_size=60), max_size=6))
@example(False, [b"\1\0\0\0\0\x44" + bytes(68)])
def test_any_bytes_end_in_an_abort_or_a_legal_state(requestor: bool, chunks: list[bytes]) -> None:
    user = User(requestor)
    for chunk in chunks:
        user.receive(chunk)
    check(user)


@settings(max_examples=300)
@given(st.booleans(), mutations, cuts)
def test_damaged_conversation_ends_in_an_abort_or_a_legal_state(
    requestor: bool, changes: list[tuple[str, int, int]], at: list[int]
) -> None:
    user = User(requestor)
    for chunk in chopped(mutated(b"".join(CONVERSATIONS[requestor]), changes), at):
        user.receive(chunk)
    check(user)


@given(streams, cuts)
def test_pdus_in_any_order_end_in_an_abort_or_a_legal_state(stream: bytes, at: list[int]) -> None:
    user = User(requestor=False)
    user.receive(encode(REQUEST))
    for chunk in chopped(stream, at):
        user.receive(chunk)
    check(user)


@given(streams, cuts)
def test_chopping_changes_nothing_that_is_indicated(stream: bytes, at: list[int]) -> None:
    # A release is answered between two chunks: what follows it in its own chunk comes too early by right.
    assume(not any(isinstance(pdu, ReleaseRq) for pdu in read([stream])))
    whole, pieces = User(requestor=False), User(requestor=False)
    for user, chunks in ((whole, [stream]), (pieces, chopped(stream, at))):
        user.receive(encode(REQUEST))
        for chunk in chunks:
            user.receive(chunk)
        user.write()
    assert logical(whole.events) == logical(pieces.events)
    assert whole.written == pieces.written
    assert whole.upper_layer.state is pieces.upper_layer.state


# Both sides on one wire


class Wire:
    """Two users and the bytes between them."""

    def __init__(self) -> None:
        self.users = {True: User(requestor=True), False: User(requestor=False)}
        self.under_way = {True: b"", False: b""}  # from the requestor, from the acceptor

    def deliver(self, from_requestor: bool, size: int) -> bool:
        """Carry at most `size` bytes; tell whether there were any."""
        self.under_way[from_requestor] += self.users[from_requestor].write()
        arriving = self.under_way[from_requestor][:size]
        self.under_way[from_requestor] = self.under_way[from_requestor][size:]
        self.users[not from_requestor].receive(arriving)
        return bool(arriving)

    def deliver_all(self) -> None:
        while self.deliver(True, 1_000_000) or self.deliver(False, 1_000_000):
            pass


PRIMITIVES = {
    "send": (fsm.Event.P_DATA_REQUEST, lambda upper_layer: upper_layer.send_data(1, False, bytes(40))),
    "release": (fsm.Event.A_RELEASE_REQUEST, lambda upper_layer: upper_layer.release_request()),
    "abort": (fsm.Event.A_ABORT_REQUEST, lambda upper_layer: upper_layer.abort(2.0)),
}
steps = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["send", "send", "release", "abort"]))
    | st.tuples(st.booleans(), st.integers(1, 400)),
    max_size=20,
)


@settings(max_examples=300)
@given(steps)
@example([(True, 400), (False, 400), (True, "release"), (False, "release"), (True, 3), (False, "send")])
def test_two_upper_layers_never_find_fault_with_each_other(steps: list[tuple[bool, str | int]]) -> None:
    wire = Wire()
    for side, step in steps:
        upper_layer = wire.users[side].upper_layer
        if isinstance(step, int):
            wire.deliver(side, step)
        elif (PRIMITIVES[step][0], upper_layer.state) in TRANSITIONS:
            PRIMITIVES[step][1](upper_layer)
    wire.deliver_all()
    for user in wire.users.values():
        assert not any(isinstance(event, Aborted) and not event.by_peer for event in user.events)
    legal = {State.STA1, State.STA6, State.STA13}
    assert {user.upper_layer.state for user in wire.users.values()} <= legal
