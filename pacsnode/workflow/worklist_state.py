"""The states of a scheduled procedure step, and what moves it between them (IHE RAD TF-2 4.5 to 4.7).

PS3.4 K has no states; its answers only tell a Scheduled Procedure Step Status (PS3.3 C.4.10, PS3.18 14).
"""

from enum import Enum
from typing import Final


class StepState(Enum):
    """Where a scheduled procedure step is."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class StepEvent(Enum):
    """What happens to it, in the words of the log."""

    STARTED = "an MPPS is in progress"
    COMPLETED = "its MPPS is completed"
    DISCONTINUED = "its MPPS is discontinued"
    ARRIVED = "its images arrive"
    CANCELLED = "the order or the file is taken back"
    EXPIRED = "nothing happens for too long"
    RESCHEDULED = "it is ordered again"


_S, _E = StepState, StepEvent

# What is not here changes nothing: the end of a step that has ended, the arrival of images of one whose MPPS
# will tell its end. A modality may perform what has been cancelled since it asked, or start again.
TRANSITIONS: Final = {
    (_S.SCHEDULED, _E.STARTED): _S.IN_PROGRESS,
    (_S.SCHEDULED, _E.COMPLETED): _S.COMPLETED,
    (_S.SCHEDULED, _E.DISCONTINUED): _S.DISCONTINUED,
    (_S.SCHEDULED, _E.ARRIVED): _S.COMPLETED,
    (_S.SCHEDULED, _E.CANCELLED): _S.CANCELLED,
    (_S.SCHEDULED, _E.EXPIRED): _S.EXPIRED,
    (_S.IN_PROGRESS, _E.COMPLETED): _S.COMPLETED,
    (_S.IN_PROGRESS, _E.DISCONTINUED): _S.DISCONTINUED,
    (_S.IN_PROGRESS, _E.EXPIRED): _S.EXPIRED,
    (_S.DISCONTINUED, _E.STARTED): _S.IN_PROGRESS,
    (_S.DISCONTINUED, _E.RESCHEDULED): _S.SCHEDULED,
    (_S.CANCELLED, _E.STARTED): _S.IN_PROGRESS,
    (_S.CANCELLED, _E.COMPLETED): _S.COMPLETED,
    (_S.CANCELLED, _E.RESCHEDULED): _S.SCHEDULED,
    (_S.EXPIRED, _E.STARTED): _S.IN_PROGRESS,
    (_S.EXPIRED, _E.COMPLETED): _S.COMPLETED,
    (_S.EXPIRED, _E.DISCONTINUED): _S.DISCONTINUED,
    (_S.EXPIRED, _E.ARRIVED): _S.COMPLETED,
    (_S.EXPIRED, _E.CANCELLED): _S.CANCELLED,
    (_S.EXPIRED, _E.RESCHEDULED): _S.SCHEDULED,
}

# No modality sees these, whatever the configuration.
NEVER_ANSWERED: Final = (_S.DISCONTINUED, _S.CANCELLED, _S.EXPIRED)

# Scheduled Procedure Step Status (0040,0020) by state; a SCHEDULED one may also be ARRIVED or READY.
STATUS_OF: Final = {
    _S.SCHEDULED: ("SCHEDULED", "ARRIVED", "READY"),
    _S.IN_PROGRESS: ("STARTED",),
    _S.COMPLETED: ("COMPLETED", "DEPARTED"),
    _S.DISCONTINUED: ("DISCONTINUED",),
    _S.CANCELLED: ("CANCELED",),
    _S.EXPIRED: ("SCHEDULED",),
}
