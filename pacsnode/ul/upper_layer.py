"""One association's DICOM Upper Layer (PS3.8): bytes and service primitives in, events and bytes out. Pure.

The shell, `net.transport`, does four things with an `UpperLayer`: it hands over what it receives, handles
`events_received()`, writes `data_to_send()`, and closes the transport connection once that is written if
`close_expected`. Time comes in as `now`, in seconds of any clock that does not go back, with every input that
may start the ARTIM timer; `deadline` tells when `handle_timer` wants to be called.

Each input is one event of `fsm`; what the peer does wrong never raises, it becomes A-ABORT and `Aborted`. A
service primitive that the state has no place for is a bug of the caller and raises IllegalPrimitive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pacsnode.errors import InvalidPdu
from pacsnode.ul import fsm
from pacsnode.ul.fsm import Action, Artim, State
from pacsnode.ul.negotiation import AssociateAccept, AssociateReject, AssociateRequest, resolve
from pacsnode.ul.pdu import (
    Abort,
    AbortReason,
    AbortSource,
    Buffer,
    PDataFragment,
    Pdu,
    PduReader,
    ReleaseRp,
    ReleaseRq,
    encode,
    p_data_message,
    p_data_messages,
    p_data_tf,
)

# Bytes of a P-DATA-TF body. PS3.8 D.1 has no least length, but one that hardly holds one element is a
# mistake: an object would be a million PDUs, most of them headers.
LEAST_PDU_LENGTH: Final = 64
MAX_FORESEEN: Final = 512  # bytes of a message worth comparing


@dataclass(frozen=True, slots=True)
class AssociateRequested:
    """A-ASSOCIATE indication; answer with `accept` or `reject`."""

    request: AssociateRequest


@dataclass(frozen=True, slots=True)
class AssociateAccepted:
    """A-ASSOCIATE confirmation (accept), its contexts resolved against the request."""

    accept: AssociateAccept


@dataclass(frozen=True, slots=True)
class AssociateRejected:
    """A-ASSOCIATE confirmation (reject)."""

    reject: AssociateReject


@dataclass(frozen=True, slots=True)
class ForeseenReceived:
    """P-DATA indication of a message that was foreseen; `what` it is was told to `foresee`."""

    what: int


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """A-RELEASE indication; answer with `release_response`. The acceptor may send data before it does."""


@dataclass(frozen=True, slots=True)
class ReleaseConfirmed:
    """A-RELEASE confirmation."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """A-ABORT or A-P-ABORT indication: by the peer, or by this side because of what the peer did."""

    by_peer: bool
    source: int
    reason: int
    meaning: str


@dataclass(frozen=True, slots=True)
class TransportClosed:
    """The transport connection is gone. Nothing comes after it."""


Event = (
    AssociateRequested
    | AssociateAccepted
    | AssociateRejected
    | PDataFragment
    | ForeseenReceived
    | ReleaseRequested
    | ReleaseConfirmed
    | Aborted
    | TransportClosed
)


class IllegalPrimitive(RuntimeError):
    """A service primitive for which PS3.8 Table 9-10 has no entry in this state: a bug of ours."""

    def __init__(self, event: fsm.Event, state: State) -> None:
        super().__init__(f"{event.value} in {state.name}: {state.value}")
        self.event, self.state = event, state


_RECEIVED: Final[dict[type[Pdu], fsm.Event]] = {
    AssociateRequest: fsm.Event.A_ASSOCIATE_RQ,
    AssociateAccept: fsm.Event.A_ASSOCIATE_AC,
    AssociateReject: fsm.Event.A_ASSOCIATE_RJ,
    PDataFragment: fsm.Event.P_DATA_TF,
    ReleaseRq: fsm.Event.A_RELEASE_RQ,
    ReleaseRp: fsm.Event.A_RELEASE_RP,
    Abort: fsm.Event.A_ABORT,
    InvalidPdu: fsm.Event.INVALID_PDU,
}
# The states in which P-DATA-TF is indicated (DT-2, AR-6) and in which it may be sent (DT-1, AR-7). Neither
# changes the state, so both are looked up when the state changes, and not for each PDU.
_DATA_IS_INDICATED: Final = frozenset(
    state
    for state in State
    if fsm.TRANSITIONS.get((fsm.Event.P_DATA_TF, state)) in (Action.DT_2, Action.AR_6)
)
_DATA_MAY_BE_SENT: Final = frozenset(
    state for state in State if (fsm.Event.P_DATA_REQUEST, state) in fsm.TRANSITIONS
)


class UpperLayer:
    """One end of one association. `state` is for tests and logs; decisions follow from the events."""

    __slots__ = (
        "_artim_timeout",
        "_data_is_indicated",
        "_data_may_be_sent",
        "_events",
        "_foreseen",
        "_is_open",
        "_max_pdu_length",
        "_peer_max_pdu_length",
        "_reader",
        "_release_answered",
        "_request",
        "_requestor",
        "_to_send",
        "close_expected",
        "deadline",
        "state",
    )

    def __init__(self, requestor: bool, max_pdu_length: int, artim_timeout: float) -> None:
        """`max_pdu_length`: longest P-DATA-TF body taken, in bytes, 0 for any; the peer is told so.

        `artim_timeout`: seconds of the ARTIM timer (PS3.8 9.1.5), 0 for no limit.
        """
        self._enter(State.STA1)
        self.close_expected = False
        self.deadline: float | None = None
        self._requestor = requestor
        self._max_pdu_length = max_pdu_length
        self._peer_max_pdu_length = 0
        self._artim_timeout = artim_timeout
        self._reader = PduReader(max_pdu_length)
        self._request: AssociateRequest | None = None
        self._is_open = False
        self._release_answered = False
        self._events: list[Event] = []
        self._to_send: list[bytes | memoryview] = []
        self._foreseen: dict[Buffer, int] = {}

    # Outputs

    def events_received(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> list[bytes | memoryview]:
        """What is to be written to the transport connection since the last call, in order."""
        buffers, self._to_send = self._to_send, []
        return buffers

    @property
    def has_ended(self) -> bool:
        """The association is over, though the event that says so may still wait behind others.

        An answer to one of those crosses with the end and is not to be given any more.
        """
        return self.state in (State.STA1, State.STA13)

    @property
    def may_send_data(self) -> bool:
        """Whether `send_data` is legal in this state."""
        return self._data_may_be_sent

    # Inputs from the transport connection and the clock

    def connected(self, now: float) -> None:
        """The transport connection is open: for the acceptor Evt5, for the requestor Evt2.

        The requestor may connect before it has a request; Evt2 then follows its `associate_request`.
        """
        self._is_open = True
        if not self._requestor:
            self._step(fsm.Event.TRANSPORT_INDICATION, now)
        elif self._request is not None:
            self._send_request()

    def receive_data(self, data: Buffer, now: float) -> None:
        """Bytes have arrived. P-DATA fragments are views of `data`, which must not change afterwards."""
        if self._foreseen and len(data) <= MAX_FORESEEN and self._reader.is_at_start:
            what = self._foreseen.pop(data, None)
            if what is not None and self._data_is_indicated:
                self._events.append(ForeseenReceived(what))
                return
        for pdu in self._reader.receive(data):
            if type(pdu) is PDataFragment and self._data_is_indicated:
                self._events.append(pdu)
            elif self._is_open and not self.close_expected:
                self._receive(pdu, now)

    def receive_eof(self) -> None:
        """The transport connection is closed (Evt17). Calling it again does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        if self.state is not State.STA1:
            action = self._step(fsm.Event.TRANSPORT_CLOSED)
            if action is Action.AA_4:
                self._events.append(
                    Aborted(
                        by_peer=False,
                        source=AbortSource.SERVICE_PROVIDER,
                        reason=AbortReason.NOT_SPECIFIED,
                        meaning="the transport connection was closed",
                    )
                )
        self._events.append(TransportClosed())

    def handle_timer(self, now: float) -> None:
        """`now` has come. When ARTIM has expired (Evt18) the transport connection is to be closed."""
        if self.deadline is not None and now >= self.deadline:
            self._step(fsm.Event.ARTIM_EXPIRED)

    # Service primitives

    def associate_request(self, request: AssociateRequest) -> None:
        """A-ASSOCIATE request: sent as soon as the transport connection is open."""
        self._step(fsm.Event.A_ASSOCIATE_REQUEST)
        self._request = replace(request, max_pdu_length=self._max_pdu_length)
        if self._is_open:
            self._send_request()

    def accept(self, accept: AssociateAccept) -> None:
        """A-ASSOCIATE response (accept)."""
        pdu = encode(replace(accept, max_pdu_length=self._max_pdu_length))
        self._step(fsm.Event.A_ASSOCIATE_ACCEPT)
        self._to_send.append(pdu)

    def reject(self, reject: AssociateReject, now: float) -> None:
        """A-ASSOCIATE response (reject). The peer has the ARTIM time to close."""
        self._step(fsm.Event.A_ASSOCIATE_REJECT, now)
        self._to_send.append(encode(reject))

    def send_data(self, context_id: int, is_command: bool, data: Buffer, *, last: bool = True) -> None:
        """P-DATA request: a command set or a data set, or with `last` False a part of it to be continued.

        Cut to what the peer takes. `data` is not copied when it is long: it must not change until written.
        """
        if not self._data_may_be_sent:
            raise IllegalPrimitive(fsm.Event.P_DATA_REQUEST, self.state)
        self._to_send += p_data_tf(context_id, is_command, data, self._peer_max_pdu_length, last=last)

    def send_message(self, context_id: int, command: bytes, data: Buffer) -> None:
        """P-DATA requests for a command set and the whole data set that follows it; see `send_data`."""
        if not self._data_may_be_sent:
            raise IllegalPrimitive(fsm.Event.P_DATA_REQUEST, self.state)
        self._to_send += p_data_message(context_id, command, data, self._peer_max_pdu_length)

    def encode_message(self, context_id: int, command: bytes, data: Buffer) -> list[bytes | memoryview]:
        """What `send_message` would send, to be given to `send_encoded`."""
        return p_data_message(context_id, command, data, self._peer_max_pdu_length)

    def send_encoded(self, message: Sequence[bytes | memoryview]) -> None:
        """P-DATA requests for a message that was encoded before."""
        if not self._data_may_be_sent:
            raise IllegalPrimitive(fsm.Event.P_DATA_REQUEST, self.state)
        self._to_send += message

    def foresee(self, message: bytes, what: int) -> None:
        """Most responses are known before they come: one that comes as foreseen needs not be read."""
        self._foreseen[message] = what

    def forget(self, message: bytes) -> None:
        """It will not come any more, or has come otherwise."""
        self._foreseen.pop(message, None)

    def send_messages(self, context_id: int, command: bytes, data_sets: Sequence[bytes]) -> None:
        """As `send_message` for each of many data sets with the same command set."""
        if not self._data_may_be_sent:
            raise IllegalPrimitive(fsm.Event.P_DATA_REQUEST, self.state)
        self._to_send += p_data_messages(context_id, command, data_sets, self._peer_max_pdu_length)

    def release_request(self) -> None:
        """A-RELEASE request."""
        self._step(fsm.Event.A_RELEASE_REQUEST)
        self._to_send.append(encode(ReleaseRq()))

    def release_response(self, now: float) -> None:
        """A-RELEASE response.

        The acceptor may give it at once in a release collision: it is sent when A-RELEASE-RP has come,
        because Table 9-10 has a place for it in Sta12 only.
        """
        if self.state is State.STA10:
            self._release_answered = True
            return
        self._step(fsm.Event.A_RELEASE_RESPONSE, now)
        self._to_send.append(encode(ReleaseRp()))

    def abort(self, now: float) -> None:
        """A-ABORT request. Legal at any time: without an association it closes the transport connection."""
        if self.state in (State.STA1, State.STA2):
            self._enter(State.STA1)
            self.deadline = None
            self.close_expected = self._is_open
        elif self.state is not State.STA13 and self._step(fsm.Event.A_ABORT_REQUEST, now) is Action.AA_1:
            self._to_send.append(encode(Abort()))

    # The state machine

    def _enter(self, state: State) -> None:
        self.state = state
        self._data_is_indicated = state in _DATA_IS_INDICATED
        self._data_may_be_sent = state in _DATA_MAY_BE_SENT

    def _step(self, event: fsm.Event, now: float | None = None) -> Action:
        """Take the transition of Table 9-10 and do what `fsm.OUTCOMES` says of it."""
        action = fsm.TRANSITIONS.get((event, self.state))
        if action is None:
            raise IllegalPrimitive(event, self.state)
        outcome = fsm.outcome(action, requestor=self._requestor)
        self._enter(outcome.state)
        if outcome.closes:
            self.close_expected = self._is_open
        if outcome.artim is Artim.STARTED and now is not None:
            self.deadline = now + self._artim_timeout if self._artim_timeout else None
        elif outcome.artim is Artim.STOPPED:
            self.deadline = None
        return action

    def _send_request(self) -> None:
        assert self._request is not None
        self._step(fsm.Event.TRANSPORT_CONFIRM)
        self._to_send.append(encode(self._request))

    def _receive(self, pdu: Pdu, now: float) -> None:
        """Step by a received PDU, then indicate and send what the action says."""
        if self.state is State.STA1:
            # A peer that talks to a requestor before it has been asked anything: Table 9-10 has no such case.
            self.close_expected = True
            return
        action = self._step(_RECEIVED[type(pdu)], now)
        match pdu:
            case AssociateRequest() if action is Action.AE_6:
                self._peer_max_pdu_length = _meant(pdu.max_pdu_length)
                self._events.append(AssociateRequested(pdu))
            case AssociateAccept() if action is Action.AE_3:
                assert self._request is not None
                self._peer_max_pdu_length = _meant(pdu.max_pdu_length)
                self._events.append(AssociateAccepted(resolve(self._request, pdu)))
            case AssociateReject() if action is Action.AE_4:
                self._events.append(AssociateRejected(pdu))
            case ReleaseRq() if action in (Action.AR_2, Action.AR_8):
                self._events.append(ReleaseRequested())
            case ReleaseRp() if action in (Action.AR_3, Action.AR_10):
                self._confirm_release(now)
            case Abort() if action is Action.AA_3:
                self._events.append(Aborted(True, pdu.source, pdu.reason, pdu.meaning))
            case _ if action in (Action.AA_1, Action.AA_7, Action.AA_8):
                self._refuse(pdu, action)

    def _confirm_release(self, now: float) -> None:
        self._events.append(ReleaseConfirmed())
        if self.state is State.STA12 and self._release_answered:
            self.release_response(now)

    def _refuse(self, pdu: Pdu, action: Action) -> None:
        """Answer a PDU that cannot be taken: AA-1 before an association, AA-8 in one, AA-7 after it."""
        if isinstance(pdu, InvalidPdu):
            reason, what = pdu.reason, str(pdu)
        else:
            reason, what = AbortReason.UNEXPECTED_PDU, f"unexpected {_RECEIVED[type(pdu)].value}"
        abort = Abort() if action is Action.AA_1 else Abort(AbortSource.SERVICE_PROVIDER, reason)
        self._to_send.append(encode(abort))
        if action is not Action.AA_7:
            self._events.append(Aborted(False, abort.source, abort.reason, f"aborted by this side: {what}"))


def _meant(max_pdu_length: int) -> int:
    """The longest P-DATA-TF body to send a peer that told this limit; 0 is none."""
    return max(max_pdu_length, LEAST_PDU_LENGTH) if max_pdu_length else 0
