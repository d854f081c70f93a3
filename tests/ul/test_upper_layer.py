"""The Upper Layer state by state (PS3.8 9.2), without a socket and without a clock."""

from collections.abc import Callable

import pytest

from pacsnode.dicom.uid import UID
from pacsnode.ul import fsm
from pacsnode.ul.fsm import TRANSITIONS, Action, State
from pacsnode.ul.negotiation import (
    AcceptorPolicy,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    ProposedContext,
    Rejection,
    Support,
    negotiate,
)
from pacsnode.ul.pdu import (
    Abort,
    AbortReason,
    AbortSource,
    InvalidPdu,
    PDataFragment,
    Pdu,
    PduReader,
    ReleaseRp,
    ReleaseRq,
    encode,
    p_data_tf,
)
from pacsnode.ul.upper_layer import (
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    AssociateRequested,
    Event,
    ForeseenReceived,
    IllegalPrimitive,
    ReleaseConfirmed,
    ReleaseRequested,
    TransportClosed,
    UpperLayer,
)

NOW = 1000.0
ARTIM = 30.0
IMPLICIT = UID("1.2.840.10008.1.2")
VERIFICATION = UID("1.2.840.10008.1.1")
REQUEST = AssociateRequest(
    called_ae="PACSNODE",
    calling_ae="MODALITY",
    contexts=(ProposedContext(1, VERIFICATION, (IMPLICIT,)),),
    max_pdu_length=8192,
    window=(4, 1),
)
POLICY = AcceptorPolicy(
    ae_title="PACSNODE", support=lambda uid: Support(frozenset({IMPLICIT})), window=(16, 16)
)
ACCEPT = negotiate(REQUEST, POLICY)
assert isinstance(ACCEPT, AssociateAccept)
REJECT = AssociateReject.of(Rejection.LOCAL_LIMIT_EXCEEDED)

PDUS: dict[fsm.Event, bytes] = {
    fsm.Event.A_ASSOCIATE_RQ: encode(REQUEST),
    fsm.Event.A_ASSOCIATE_AC: encode(ACCEPT),
    fsm.Event.A_ASSOCIATE_RJ: encode(REJECT),
    fsm.Event.P_DATA_TF: b"".join(p_data_tf(1, True, b"command!", 0)),
    fsm.Event.A_RELEASE_RQ: encode(ReleaseRq()),
    fsm.Event.A_RELEASE_RP: encode(ReleaseRp()),
    fsm.Event.A_ABORT: encode(Abort(AbortSource.SERVICE_PROVIDER, AbortReason.UNEXPECTED_PDU)),
    fsm.Event.INVALID_PDU: b"\x99\0\0\0\0\0",
}
PRIMITIVES: dict[fsm.Event, Callable[[UpperLayer], None]] = {
    fsm.Event.A_ASSOCIATE_REQUEST: lambda ul: ul.associate_request(REQUEST),
    fsm.Event.A_ASSOCIATE_ACCEPT: lambda ul: ul.accept(ACCEPT),
    fsm.Event.A_ASSOCIATE_REJECT: lambda ul: ul.reject(REJECT, NOW),
    fsm.Event.P_DATA_REQUEST: lambda ul: ul.send_data(1, True, b"command!"),
    fsm.Event.A_RELEASE_REQUEST: lambda ul: ul.release_request(),
    fsm.Event.A_RELEASE_RESPONSE: lambda ul: ul.release_response(NOW),
    fsm.Event.A_ABORT_REQUEST: lambda ul: ul.abort(NOW),
}
# Taken although the table has no entry for them; each is tested by itself.
BEYOND_THE_TABLE = {
    (fsm.Event.A_ABORT_REQUEST, State.STA2),
    (fsm.Event.A_ABORT_REQUEST, State.STA13),
    (fsm.Event.A_RELEASE_RESPONSE, State.STA10),
}
# How each state with an open transport connection is reached, and in which role.
PATHS: dict[State, tuple[bool, list[bytes | Callable[[UpperLayer], None]]]] = {
    State.STA2: (False, []),
    State.STA3: (False, [PDUS[fsm.Event.A_ASSOCIATE_RQ]]),
    State.STA5: (True, [PRIMITIVES[fsm.Event.A_ASSOCIATE_REQUEST]]),
}
_ACCEPTOR = [*PATHS[State.STA3][1], PRIMITIVES[fsm.Event.A_ASSOCIATE_ACCEPT]]
_REQUESTOR = [*PATHS[State.STA5][1], PDUS[fsm.Event.A_ASSOCIATE_AC]]
_RELEASE, _RELEASE_RQ = PRIMITIVES[fsm.Event.A_RELEASE_REQUEST], PDUS[fsm.Event.A_RELEASE_RQ]
PATHS |= {
    State.STA6: (False, _ACCEPTOR),
    State.STA7: (True, [*_REQUESTOR, _RELEASE]),
    State.STA8: (False, [*_ACCEPTOR, _RELEASE_RQ]),
    State.STA9: (True, [*_REQUESTOR, _RELEASE, _RELEASE_RQ]),
    State.STA10: (False, [*_ACCEPTOR, _RELEASE, _RELEASE_RQ]),
    State.STA11: (
        True,
        [*_REQUESTOR, _RELEASE, _RELEASE_RQ, PRIMITIVES[fsm.Event.A_RELEASE_RESPONSE]],
    ),
    State.STA12: (False, [*_ACCEPTOR, _RELEASE, _RELEASE_RQ, PDUS[fsm.Event.A_RELEASE_RP]]),
    State.STA13: (False, [*PATHS[State.STA3][1], PRIMITIVES[fsm.Event.A_ASSOCIATE_REJECT]]),
}


def at(state: State) -> UpperLayer:
    """An upper layer brought into `state`, its outputs taken away."""
    requestor, path = PATHS[state]
    upper_layer = UpperLayer(requestor, max_pdu_length=16384, artim_timeout=ARTIM)
    upper_layer.connected(NOW)
    for step in path:
        if isinstance(step, bytes):
            upper_layer.receive_data(step, NOW)
        else:
            step(upper_layer)
    assert upper_layer.state is state
    upper_layer.events_received()
    upper_layer.data_to_send()
    return upper_layer


def requestor_at_sta6() -> UpperLayer:
    upper_layer = UpperLayer(True, max_pdu_length=16384, artim_timeout=ARTIM)
    upper_layer.connected(NOW)
    upper_layer.associate_request(REQUEST)
    upper_layer.receive_data(PDUS[fsm.Event.A_ASSOCIATE_AC], NOW)
    upper_layer.events_received()
    upper_layer.data_to_send()
    return upper_layer


def sent(upper_layer: UpperLayer) -> list[Pdu]:
    """The PDUs waiting to be written."""
    return PduReader().receive(b"".join(upper_layer.data_to_send()))


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def exchange(one: UpperLayer, other: UpperLayer) -> None:
    """Carry what each has to say to the other, once."""
    to_other, to_one = b"".join(one.data_to_send()), b"".join(other.data_to_send())
    other.receive_data(to_other, NOW)
    one.receive_data(to_one, NOW)


# The whole table


@pytest.mark.parametrize("state", PATHS, ids=lambda state: state.name)
@pytest.mark.parametrize("event", PDUS, ids=lambda event: event.name)
def test_pdu_does_what_the_table_says(event: fsm.Event, state: State) -> None:
    requestor, _ = PATHS[state]
    upper_layer = at(state)
    upper_layer.receive_data(PDUS[event], NOW + 1)
    action = TRANSITIONS[event, state]
    expected = fsm.outcome(action, requestor=requestor)
    assert upper_layer.state is expected.state
    assert upper_layer.close_expected is expected.closes
    aborts = action in (Action.AA_1, Action.AA_7, Action.AA_8)
    assert [type(pdu) for pdu in sent(upper_layer)] == [Abort] * aborts
    if expected.artim is fsm.Artim.STARTED:
        assert upper_layer.deadline == NOW + 1 + ARTIM
    elif expected.artim is fsm.Artim.STOPPED:
        assert upper_layer.deadline is None


@pytest.mark.parametrize(
    ("event", "state"),
    [(event, state) for event in PRIMITIVES for state in PATHS if (event, state) not in BEYOND_THE_TABLE],
    ids=lambda member: member.name,
)
def test_primitive_does_what_the_table_says_or_is_illegal(event: fsm.Event, state: State) -> None:
    requestor, _ = PATHS[state]
    upper_layer = at(state)
    action = TRANSITIONS.get((event, state))
    if action is None:
        with pytest.raises(IllegalPrimitive) as raised:
            PRIMITIVES[event](upper_layer)
        assert (raised.value.event, raised.value.state) == (event, state)
        assert upper_layer.state is state
        assert not upper_layer.data_to_send()
    else:
        PRIMITIVES[event](upper_layer)
        assert upper_layer.state is fsm.outcome(action, requestor=requestor).state
        assert len(sent(upper_layer)) == 1


@pytest.mark.parametrize("state", PATHS, ids=lambda state: state.name)
def test_closed_transport_connection_ends_every_state(state: State) -> None:
    upper_layer = at(state)
    upper_layer.receive_eof()
    events = upper_layer.events_received()
    assert upper_layer.state is State.STA1
    assert upper_layer.deadline is None
    indicated = TRANSITIONS[fsm.Event.TRANSPORT_CLOSED, state] is Action.AA_4
    assert kinds(events) == [Aborted] * indicated + [TransportClosed]
    upper_layer.receive_eof()
    assert upper_layer.events_received() == []


@pytest.mark.parametrize("state", PATHS, ids=lambda state: state.name)
def test_abort_ends_every_state(state: State) -> None:
    upper_layer = at(state)
    upper_layer.abort(NOW + 1)
    if state is State.STA2:
        assert upper_layer.state is State.STA1
        assert upper_layer.close_expected
        assert upper_layer.deadline is None
        assert sent(upper_layer) == []
    elif state is State.STA13:
        assert upper_layer.deadline == NOW + ARTIM
        assert sent(upper_layer) == []
    else:
        assert upper_layer.state is State.STA13
        assert sent(upper_layer) == [Abort(AbortSource.SERVICE_USER, 0)]
        assert upper_layer.deadline == NOW + 1 + ARTIM
    assert upper_layer.events_received() == []


# Establishment, acceptor


def test_acceptor_waits_for_the_request_until_artim() -> None:
    upper_layer = at(State.STA2)
    assert upper_layer.deadline == NOW + ARTIM
    upper_layer.handle_timer(NOW + ARTIM - 0.1)
    assert upper_layer.state is State.STA2
    upper_layer.handle_timer(NOW + ARTIM)
    assert upper_layer.close_expected
    assert upper_layer.state is State.STA1
    assert upper_layer.deadline is None
    assert sent(upper_layer) == []


def test_artim_of_zero_seconds_never_expires() -> None:
    upper_layer = UpperLayer(False, max_pdu_length=16384, artim_timeout=0)
    upper_layer.connected(NOW)
    assert upper_layer.deadline is None
    upper_layer.handle_timer(NOW + 1e9)
    assert upper_layer.state is State.STA2


def test_request_is_indicated_and_the_answer_may_take_its_time() -> None:
    upper_layer = at(State.STA2)
    upper_layer.receive_data(PDUS[fsm.Event.A_ASSOCIATE_RQ], NOW)
    assert upper_layer.events_received() == [AssociateRequested(REQUEST)]
    assert upper_layer.deadline is None


def test_answer_announces_the_length_the_reader_takes() -> None:
    upper_layer = at(State.STA3)
    assert isinstance(ACCEPT, AssociateAccept)
    upper_layer.accept(ACCEPT)
    (answer,) = sent(upper_layer)
    assert isinstance(answer, AssociateAccept)
    assert answer.max_pdu_length == 16384
    assert answer.window == (4, 1)


def test_rejected_peer_has_the_artim_time_to_close() -> None:
    upper_layer = at(State.STA3)
    upper_layer.reject(REJECT, NOW + 5)
    assert sent(upper_layer) == [REJECT]
    assert not upper_layer.close_expected
    assert upper_layer.deadline == NOW + 5 + ARTIM
    upper_layer.handle_timer(NOW + 5 + ARTIM)
    assert upper_layer.close_expected


def test_bytes_that_are_no_dicom_are_aborted_before_an_association() -> None:
    upper_layer = at(State.STA2)
    upper_layer.receive_data(b"GET / HTTP/1.1\r\n\r\n", NOW)
    assert sent(upper_layer) == [Abort(AbortSource.SERVICE_USER, 0)]
    (event,) = upper_layer.events_received()
    assert isinstance(event, Aborted)
    assert not event.by_peer
    assert "47H" in event.meaning


# Establishment, requestor


def test_requestor_may_ask_before_the_transport_connection_is_open() -> None:
    upper_layer = UpperLayer(True, max_pdu_length=16384, artim_timeout=ARTIM)
    upper_layer.associate_request(REQUEST)
    assert upper_layer.state is State.STA4
    assert sent(upper_layer) == []
    upper_layer.connected(NOW)
    assert upper_layer.state is State.STA5
    (request,) = sent(upper_layer)
    assert isinstance(request, AssociateRequest)
    assert request.contexts == REQUEST.contexts
    assert request.max_pdu_length == 16384


def test_requestor_may_ask_after_the_transport_connection_is_open() -> None:
    upper_layer = UpperLayer(True, max_pdu_length=16384, artim_timeout=ARTIM)
    upper_layer.connected(NOW)
    assert upper_layer.state is State.STA1
    assert upper_layer.deadline is None
    upper_layer.associate_request(REQUEST)
    assert upper_layer.state is State.STA5
    assert len(sent(upper_layer)) == 1


def test_abort_while_the_transport_connection_is_being_opened_needs_no_pdu() -> None:
    upper_layer = UpperLayer(True, max_pdu_length=16384, artim_timeout=ARTIM)
    upper_layer.associate_request(REQUEST)
    upper_layer.abort(NOW)
    assert upper_layer.state is State.STA1
    assert sent(upper_layer) == []


def test_peer_that_talks_before_it_was_asked_is_hung_up_on() -> None:
    upper_layer = UpperLayer(True, max_pdu_length=16384, artim_timeout=ARTIM)
    upper_layer.connected(NOW)
    upper_layer.receive_data(b"SSH-2.0-OpenSSH_9.2\r\n", NOW)
    assert upper_layer.close_expected
    assert upper_layer.events_received() == []


def test_acceptance_is_confirmed_with_resolved_contexts() -> None:
    upper_layer = at(State.STA5)
    upper_layer.receive_data(PDUS[fsm.Event.A_ASSOCIATE_AC], NOW)
    (event,) = upper_layer.events_received()
    assert isinstance(event, AssociateAccepted)
    (context,) = event.accept.contexts
    assert (context.abstract_syntax, context.as_scu, context.as_scp) == (VERIFICATION, True, False)
    assert event.accept.window == (4, 1)


def test_rejection_is_confirmed_and_the_transport_connection_closed() -> None:
    upper_layer = at(State.STA5)
    upper_layer.receive_data(PDUS[fsm.Event.A_ASSOCIATE_RJ], NOW)
    assert upper_layer.events_received() == [AssociateRejected(REJECT)]
    assert upper_layer.close_expected


# Data


def test_data_are_indicated_as_they_arrive() -> None:
    upper_layer = at(State.STA6)
    stream = b"".join(p_data_tf(1, True, b"command!", 0) + p_data_tf(1, False, b"dataset!", 0))
    upper_layer.receive_data(stream[:30], NOW)
    first = upper_layer.events_received()
    upper_layer.receive_data(stream[30:], NOW)
    fragments = first + upper_layer.events_received()
    assert [bytes(f.data) for f in fragments if isinstance(f, PDataFragment)] == [b"command!", b"dataset!"]
    assert upper_layer.state is State.STA6


def test_a_message_that_was_foreseen_is_indicated_as_that_once() -> None:
    layer = requestor_at_sta6()
    (message,) = p_data_tf(1, True, b"response", 0)
    layer.foresee(message, 42)
    for _ in range(2):
        layer.receive_data(message, NOW)
    foreseen, read = layer.events_received()
    assert foreseen == ForeseenReceived(42)
    assert isinstance(read, PDataFragment)
    assert read.data == b"response"


def test_a_message_that_was_foreseen_and_comes_in_pieces_is_read() -> None:
    layer = requestor_at_sta6()
    (message,) = p_data_tf(1, True, b"response", 0)
    layer.foresee(message, 42)
    layer.receive_data(message[:5], NOW)
    layer.receive_data(message[5:], NOW)
    assert [type(event) for event in layer.events_received()] == [PDataFragment]


def test_the_data_of_a_pdv_are_not_taken_for_a_message_that_was_foreseen() -> None:
    layer = requestor_at_sta6()
    (message,) = p_data_tf(1, True, b"response", 0)
    layer.foresee(message, 42)
    outer = p_data_tf(1, False, message, 0)[0]
    layer.receive_data(outer[: -len(message)], NOW)
    layer.receive_data(message, NOW)
    events = layer.events_received()
    assert [type(event) for event in events] == [PDataFragment]


def test_a_message_that_was_foreseen_comes_too_late_for_an_association_that_has_ended() -> None:
    layer = requestor_at_sta6()
    (message,) = p_data_tf(1, True, b"response", 0)
    layer.foresee(message, 42)
    layer.abort(NOW)
    layer.receive_data(message, NOW)
    assert not layer.events_received()


def test_acceptor_cuts_data_to_what_the_request_says() -> None:
    upper_layer = at(State.STA6)
    upper_layer.send_data(1, False, bytes(20_000))
    assert [len(f.data) for f in sent(upper_layer) if isinstance(f, PDataFragment)] == [8186, 8186, 3628]


def test_requestor_cuts_data_to_what_the_acceptance_says() -> None:
    upper_layer = requestor_at_sta6()
    upper_layer.send_data(1, False, bytes(300_000))
    assert [len(f.data) for f in sent(upper_layer) if isinstance(f, PDataFragment)] == [262138, 37862]


def test_message_may_be_sent_in_parts() -> None:
    upper_layer = at(State.STA6)
    upper_layer.send_data(1, False, b"ab", last=False)
    upper_layer.send_data(1, False, b"cd")
    assert [f.is_last for f in sent(upper_layer) if isinstance(f, PDataFragment)] == [False, True]


def test_pdu_longer_than_announced_is_aborted() -> None:
    upper_layer = at(State.STA6)
    upper_layer.receive_data(b"".join(p_data_tf(1, False, bytes(20_000), 0)), NOW)
    assert sent(upper_layer) == [Abort(AbortSource.SERVICE_PROVIDER, AbortReason.INVALID_PARAMETER)]


# Release


def test_release_by_the_requestor() -> None:
    upper_layer = requestor_at_sta6()
    upper_layer.release_request()
    assert sent(upper_layer) == [ReleaseRq()]
    upper_layer.receive_data(PDUS[fsm.Event.P_DATA_TF], NOW)
    upper_layer.receive_data(PDUS[fsm.Event.A_RELEASE_RP], NOW)
    assert kinds(upper_layer.events_received()) == [PDataFragment, ReleaseConfirmed]
    assert upper_layer.close_expected


def test_acceptor_may_send_data_before_it_answers_a_release() -> None:
    upper_layer = at(State.STA8)
    upper_layer.send_data(1, True, b"response")
    assert upper_layer.state is State.STA8
    upper_layer.release_response(NOW)
    assert [type(pdu) for pdu in sent(upper_layer)] == [PDataFragment, ReleaseRp]
    assert not upper_layer.close_expected  # the requestor closes
    assert upper_layer.deadline == NOW + ARTIM


def test_data_after_a_release_request_are_unexpected() -> None:
    upper_layer = at(State.STA8)
    upper_layer.receive_data(PDUS[fsm.Event.P_DATA_TF], NOW)
    assert sent(upper_layer) == [Abort(AbortSource.SERVICE_PROVIDER, AbortReason.UNEXPECTED_PDU)]
    (event,) = upper_layer.events_received()
    assert isinstance(event, Aborted)
    assert (event.by_peer, event.reason) == (False, AbortReason.UNEXPECTED_PDU)
    assert "P-DATA-TF" in event.meaning


def test_release_collision_requestor_answers_before_the_peer() -> None:
    upper_layer = at(State.STA7)
    upper_layer.receive_data(_RELEASE_RQ, NOW)
    assert upper_layer.events_received() == [ReleaseRequested()]
    assert upper_layer.state is State.STA9
    upper_layer.release_response(NOW)
    assert sent(upper_layer) == [ReleaseRp()]
    assert upper_layer.state is State.STA11
    upper_layer.receive_data(PDUS[fsm.Event.A_RELEASE_RP], NOW)
    assert upper_layer.events_received() == [ReleaseConfirmed()]
    assert upper_layer.close_expected


def test_release_collision_acceptor_answers_after_the_peer() -> None:
    upper_layer = at(State.STA10)
    upper_layer.receive_data(PDUS[fsm.Event.A_RELEASE_RP], NOW)
    assert upper_layer.events_received() == [ReleaseConfirmed()]
    assert upper_layer.state is State.STA12
    upper_layer.release_response(NOW)
    assert sent(upper_layer) == [ReleaseRp()]
    assert upper_layer.state is State.STA13
    assert upper_layer.deadline == NOW + ARTIM


def test_release_collision_acceptor_may_give_its_answer_early() -> None:
    upper_layer = at(State.STA10)
    upper_layer.release_response(NOW)
    assert sent(upper_layer) == []
    upper_layer.receive_data(PDUS[fsm.Event.A_RELEASE_RP], NOW + 2)
    assert sent(upper_layer) == [ReleaseRp()]
    assert upper_layer.state is State.STA13
    assert upper_layer.deadline == NOW + 2 + ARTIM


@pytest.mark.parametrize("early", [True, False], ids=["early answer", "answer in turn"])
def test_release_collision_ends_well_on_both_sides(early: bool) -> None:
    acceptor, requestor = at(State.STA6), requestor_at_sta6()
    acceptor.release_request()
    requestor.release_request()
    exchange(acceptor, requestor)
    assert (requestor.state, acceptor.state) == (State.STA9, State.STA10)
    if early:
        acceptor.release_response(NOW)
    requestor.release_response(NOW)
    exchange(acceptor, requestor)
    if not early:
        acceptor.release_response(NOW)
    exchange(acceptor, requestor)
    assert requestor.close_expected
    assert acceptor.state is State.STA13
    acceptor.receive_eof()
    assert kinds(acceptor.events_received())[-1] is TransportClosed
    assert acceptor.state is State.STA1


# Abort


def test_abort_by_the_peer_is_indicated_and_the_transport_connection_closed() -> None:
    upper_layer = at(State.STA6)
    upper_layer.receive_data(encode(Abort()), NOW)
    (event,) = upper_layer.events_received()
    assert event == Aborted(True, 0, 0, "aborted by the service-user")
    assert upper_layer.close_expected
    assert sent(upper_layer) == []


def test_abort_in_the_middle_of_a_pdv_ends_the_association() -> None:
    upper_layer = at(State.STA6)
    upper_layer.receive_data(b"".join(p_data_tf(1, False, bytes(100), 0))[:50], NOW)
    upper_layer.abort(NOW)
    assert sent(upper_layer) == [Abort()]
    upper_layer.receive_data(bytes(62), NOW)  # the rest of it: ignored
    assert kinds(upper_layer.events_received()) == [PDataFragment]
    assert upper_layer.state is State.STA13


def test_what_follows_an_abort_in_the_same_chunk_is_ignored() -> None:
    upper_layer = at(State.STA6)
    upper_layer.receive_data(encode(Abort()) + PDUS[fsm.Event.P_DATA_TF] + encode(ReleaseRq()), NOW)
    assert kinds(upper_layer.events_received()) == [Aborted]
    assert sent(upper_layer) == []


def test_peer_that_answers_our_abort_by_data_is_ignored_until_artim() -> None:
    upper_layer = at(State.STA6)
    upper_layer.abort(NOW)
    upper_layer.receive_data(PDUS[fsm.Event.P_DATA_TF] * 3, NOW + 10)
    assert upper_layer.deadline == NOW + ARTIM
    upper_layer.handle_timer(NOW + ARTIM)
    assert upper_layer.close_expected
    assert upper_layer.events_received() == []


def test_unrecognized_pdu_in_an_association_is_aborted_as_such() -> None:
    upper_layer = at(State.STA6)
    upper_layer.receive_data(PDUS[fsm.Event.INVALID_PDU], NOW)
    assert sent(upper_layer) == [Abort(AbortSource.SERVICE_PROVIDER, AbortReason.UNRECOGNIZED_PDU)]


def test_second_association_request_is_aborted_as_unexpected() -> None:
    upper_layer = at(State.STA6)
    upper_layer.receive_data(PDUS[fsm.Event.A_ASSOCIATE_RQ], NOW)
    assert sent(upper_layer) == [Abort(AbortSource.SERVICE_PROVIDER, AbortReason.UNEXPECTED_PDU)]


def test_impatient_requestor_that_sends_before_the_answer_is_aborted() -> None:
    upper_layer = at(State.STA2)
    upper_layer.receive_data(PDUS[fsm.Event.A_ASSOCIATE_RQ] + PDUS[fsm.Event.P_DATA_TF], NOW)
    assert kinds(upper_layer.events_received()) == [AssociateRequested, Aborted]
    assert upper_layer.state is State.STA13


def test_nothing_is_read_after_the_transport_connection_has_closed() -> None:
    upper_layer = at(State.STA6)
    upper_layer.receive_eof()
    upper_layer.events_received()
    upper_layer.receive_data(PDUS[fsm.Event.P_DATA_TF], NOW)
    assert upper_layer.events_received() == []
    assert not upper_layer.close_expected


def test_every_kind_of_pdu_has_an_event() -> None:
    readable = {type(pdu) for stream in PDUS.values() for pdu in PduReader().receive(stream)}
    assert InvalidPdu in readable
    assert len(readable) == len(PDUS) == 8
