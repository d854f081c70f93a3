"""DICOM Upper Layer state machine (PS3.8 9.2). Tables only; the layout follows Tables 9-6 to 9-10.

Each enum value is what the standard says of it, so logs read well. The members stand in the standard's order:
the first state is Sta1, the first event Evt1. `TABLE` is Table 9-10 turned into text: one row per event, one
column per state, `____` where the standard has no entry. A PDU never meets an empty cell once the transport
connection is open, every illegal one has AA-1 or AA-8 there; a service primitive that does is a bug of its
caller. What the actions send and indicate is done by `upper_layer`; how they end is in `OUTCOMES`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class State(Enum):
    """Tables 9-1 to 9-5."""

    STA1 = "Idle"
    STA2 = "Transport connection open, awaiting A-ASSOCIATE-RQ PDU"
    STA3 = "Awaiting local A-ASSOCIATE response primitive"
    STA4 = "Awaiting transport connection opening to complete"
    STA5 = "Awaiting A-ASSOCIATE-AC or A-ASSOCIATE-RJ PDU"
    STA6 = "Association established and ready for data transfer"
    STA7 = "Awaiting A-RELEASE-RP PDU"
    STA8 = "Awaiting local A-RELEASE response primitive"
    STA9 = "Release collision requestor side, awaiting A-RELEASE response primitive"
    STA10 = "Release collision acceptor side, awaiting A-RELEASE-RP PDU"
    STA11 = "Release collision requestor side, awaiting A-RELEASE-RP PDU"
    STA12 = "Release collision acceptor side, awaiting A-RELEASE response primitive"
    STA13 = "Awaiting transport connection close indication"


class Event(Enum):
    """The rows of Table 9-10."""

    A_ASSOCIATE_REQUEST = "A-ASSOCIATE request primitive"  # Evt1
    TRANSPORT_CONFIRM = "Transport connection confirmation"  # Evt2
    A_ASSOCIATE_AC = "A-ASSOCIATE-AC PDU received"  # Evt3
    A_ASSOCIATE_RJ = "A-ASSOCIATE-RJ PDU received"  # Evt4
    TRANSPORT_INDICATION = "Transport connection indication"  # Evt5
    A_ASSOCIATE_RQ = "A-ASSOCIATE-RQ PDU received"  # Evt6
    A_ASSOCIATE_ACCEPT = "A-ASSOCIATE response primitive (accept)"  # Evt7
    A_ASSOCIATE_REJECT = "A-ASSOCIATE response primitive (reject)"  # Evt8
    P_DATA_REQUEST = "P-DATA request primitive"  # Evt9
    P_DATA_TF = "P-DATA-TF PDU received"  # Evt10
    A_RELEASE_REQUEST = "A-RELEASE request primitive"  # Evt11
    A_RELEASE_RQ = "A-RELEASE-RQ PDU received"  # Evt12
    A_RELEASE_RP = "A-RELEASE-RP PDU received"  # Evt13
    A_RELEASE_RESPONSE = "A-RELEASE response primitive"  # Evt14
    A_ABORT_REQUEST = "A-ABORT request primitive"  # Evt15
    A_ABORT = "A-ABORT PDU received"  # Evt16
    TRANSPORT_CLOSED = "Transport connection closed indication"  # Evt17
    ARTIM_EXPIRED = "ARTIM timer expired"  # Evt18
    INVALID_PDU = "Unrecognized or invalid PDU received"  # Evt19


class Action(Enum):
    """Tables 9-6 to 9-9."""

    AE_1 = "Issue TRANSPORT CONNECT request primitive"
    AE_2 = "Send A-ASSOCIATE-RQ PDU"
    AE_3 = "Issue A-ASSOCIATE confirmation (accept) primitive"
    AE_4 = "Issue A-ASSOCIATE confirmation (reject) primitive, close transport connection"
    AE_5 = "Issue transport connection response primitive, start ARTIM"
    AE_6 = "Stop ARTIM, issue A-ASSOCIATE indication primitive"
    AE_7 = "Send A-ASSOCIATE-AC PDU"
    AE_8 = "Send A-ASSOCIATE-RJ PDU, start ARTIM"
    DT_1 = "Send P-DATA-TF PDU"
    DT_2 = "Issue P-DATA indication primitive"
    AR_1 = "Send A-RELEASE-RQ PDU"
    AR_2 = "Issue A-RELEASE indication primitive"
    AR_3 = "Issue A-RELEASE confirmation primitive, close transport connection"
    AR_4 = "Send A-RELEASE-RP PDU, start ARTIM"
    AR_5 = "Stop ARTIM"
    AR_6 = "Issue P-DATA indication primitive while awaiting A-RELEASE-RP"
    AR_7 = "Send P-DATA-TF PDU while the peer awaits A-RELEASE-RP"
    AR_8 = "Issue A-RELEASE indication primitive (release collision)"
    AR_9 = "Send A-RELEASE-RP PDU (release collision)"
    AR_10 = "Issue A-RELEASE confirmation primitive (release collision)"
    AA_1 = "Send A-ABORT PDU (service-user source), start ARTIM again"
    AA_2 = "Stop ARTIM, close transport connection"
    AA_3 = "Issue A-ABORT or A-P-ABORT indication primitive, close transport connection"
    AA_4 = "Issue A-P-ABORT indication primitive"
    AA_5 = "Stop ARTIM, the peer having closed the transport connection"
    AA_6 = "Ignore PDU"
    AA_7 = "Send A-ABORT PDU"
    AA_8 = "Send A-ABORT PDU (service-provider source), issue A-P-ABORT indication primitive, start ARTIM"


class Artim(Enum):
    """What becomes of the ARTIM timer (PS3.8 9.1.5)."""

    LEFT = "left as it is"
    STARTED = "started, from the beginning if it was running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ends: the next state, the timer, and whether the transport connection is closed."""

    state: State
    artim: Artim = Artim.LEFT
    closes: bool = False


OUTCOMES: Final[dict[Action, Outcome]] = {
    Action.AE_1: Outcome(State.STA4),
    Action.AE_2: Outcome(State.STA5),
    Action.AE_3: Outcome(State.STA6),
    Action.AE_4: Outcome(State.STA1, closes=True),
    Action.AE_5: Outcome(State.STA2, Artim.STARTED),
    # "Not acceptable by the service-provider" is found out by `negotiate`, one step later, and answered by
    # AE-8: the peer sees the same, and every rejection is logged in one place.
    Action.AE_6: Outcome(State.STA3, Artim.STOPPED),
    Action.AE_7: Outcome(State.STA6),
    Action.AE_8: Outcome(State.STA13, Artim.STARTED),
    Action.DT_1: Outcome(State.STA6),
    Action.DT_2: Outcome(State.STA6),
    Action.AR_1: Outcome(State.STA7),
    Action.AR_2: Outcome(State.STA8),
    Action.AR_3: Outcome(State.STA1, closes=True),
    Action.AR_4: Outcome(State.STA13, Artim.STARTED),
    Action.AR_5: Outcome(State.STA1, Artim.STOPPED),
    Action.AR_6: Outcome(State.STA7),
    Action.AR_7: Outcome(State.STA8),
    Action.AR_8: Outcome(State.STA9),  # Sta10 for the association-acceptor: see `outcome`
    Action.AR_9: Outcome(State.STA11),
    Action.AR_10: Outcome(State.STA12),
    Action.AA_1: Outcome(State.STA13, Artim.STARTED),
    Action.AA_2: Outcome(State.STA1, Artim.STOPPED, closes=True),
    Action.AA_3: Outcome(State.STA1, closes=True),
    Action.AA_4: Outcome(State.STA1),
    Action.AA_5: Outcome(State.STA1, Artim.STOPPED),
    Action.AA_6: Outcome(State.STA13),
    Action.AA_7: Outcome(State.STA13),
    Action.AA_8: Outcome(State.STA13, Artim.STARTED),
}
_COLLISION_AT_ACCEPTOR: Final = Outcome(State.STA10)


def outcome(action: Action, *, requestor: bool) -> Outcome:
    """How `action` ends for the association-requestor or the association-acceptor."""
    if action is Action.AR_8 and not requestor:
        return _COLLISION_AT_ACCEPTOR
    return OUTCOMES[action]


# fmt: off
# Table 9-10.
#                    Sta1  Sta2  Sta3  Sta4  Sta5  Sta6  Sta7  Sta8  Sta9  Sta10 Sta11 Sta12 Sta13
TABLE: Final = {
    Event.A_ASSOCIATE_REQUEST:
                    "AE_1  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____",
    Event.TRANSPORT_CONFIRM:
                    "____  ____  ____  AE_2  ____  ____  ____  ____  ____  ____  ____  ____  ____",
    Event.A_ASSOCIATE_AC:
                    "____  AA_1  AA_8  ____  AE_3  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_6",
    Event.A_ASSOCIATE_RJ:
                    "____  AA_1  AA_8  ____  AE_4  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_6",
    Event.TRANSPORT_INDICATION:
                    "AE_5  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____",
    Event.A_ASSOCIATE_RQ:
                    "____  AE_6  AA_8  ____  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_7",
    Event.A_ASSOCIATE_ACCEPT:
                    "____  ____  AE_7  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____",
    Event.A_ASSOCIATE_REJECT:
                    "____  ____  AE_8  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____",
    Event.P_DATA_REQUEST:
                    "____  ____  ____  ____  ____  DT_1  ____  AR_7  ____  ____  ____  ____  ____",
    Event.P_DATA_TF:
                    "____  AA_1  AA_8  ____  AA_8  DT_2  AR_6  AA_8  AA_8  AA_8  AA_8  AA_8  AA_6",
    Event.A_RELEASE_REQUEST:
                    "____  ____  ____  ____  ____  AR_1  ____  ____  ____  ____  ____  ____  ____",
    Event.A_RELEASE_RQ:
                    "____  AA_1  AA_8  ____  AA_8  AR_2  AR_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_6",
    Event.A_RELEASE_RP:
                    "____  AA_1  AA_8  ____  AA_8  AA_8  AR_3  AA_8  AA_8  AR_10 AR_3  AA_8  AA_6",
    Event.A_RELEASE_RESPONSE:
                    "____  ____  ____  ____  ____  ____  ____  AR_4  AR_9  ____  ____  AR_4  ____",
    Event.A_ABORT_REQUEST:
                    "____  ____  AA_1  AA_2  AA_1  AA_1  AA_1  AA_1  AA_1  AA_1  AA_1  AA_1  ____",
    Event.A_ABORT:
                    "____  AA_2  AA_3  ____  AA_3  AA_3  AA_3  AA_3  AA_3  AA_3  AA_3  AA_3  AA_2",
    Event.TRANSPORT_CLOSED:
                    "____  AA_5  AA_4  AA_4  AA_4  AA_4  AA_4  AA_4  AA_4  AA_4  AA_4  AA_4  AR_5",
    Event.ARTIM_EXPIRED:
                    "____  AA_2  ____  ____  ____  ____  ____  ____  ____  ____  ____  ____  AA_2",
    Event.INVALID_PDU:
                    "____  AA_1  AA_8  ____  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_8  AA_7",
}
# fmt: on

TRANSITIONS: Final[dict[tuple[Event, State], Action]] = {
    (event, state): Action[name]
    for event, row in TABLE.items()
    for state, name in zip(State, row.split(), strict=True)
    if name != "____"
}
