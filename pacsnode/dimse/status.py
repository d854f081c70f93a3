"""Statuses (PS3.7 Annex C, PS3.4 B.2.3, C.4): the codes and the one table error -> code.

`STATUS_OF` is total over the leaves of OperationError; tests/dimse/test_status.py walks the subclasses.
"""

from typing import Final

from pacsnode import errors

SUCCESS: Final = 0x0000
CANCEL: Final = 0xFE00
PENDING: Final = 0xFF00
REQUESTED_ATTRIBUTES_MISSING: Final = (
    0x0001  # N-GET: what was asked for is not all there (PS3.4 Table F.8.2-2)
)
ATTRIBUTE_LIST_ERROR: Final = 0x0107  # N-SET, N-CREATE: done but for some attributes (PS3.7 10.1.3.1.9)
SUBOPERATIONS_FAILED: Final = 0xA702  # all of them (PS3.4 C.4.2.1.5)
SUBOPERATIONS_WARNING: Final = 0xB000  # some failed, or had a warning
DUPLICATE_SOP_INSTANCE: Final = 0x0111
PENDING_UNSUPPORTED_KEYS: Final = 0xFF01
RESOURCE_LIMITATION: Final = 0x0213  # what DIMSE-N says where DIMSE-C says A700 (PS3.7 C.5)
_DIMSE_N: Final = 0x0100  # a bit of the Command Field

STATUS_OF: Final[dict[type[errors.OperationError], int]] = {
    errors.OutOfResources: 0xA700,
    errors.DataSetMismatch: 0xA900,
    errors.StudyMismatch: 0xA900,
    errors.CannotUnderstand: 0xC000,
    errors.CannotTranscode: 0xC000,
    errors.CannotDeidentify: 0x0124,  # no DIMSE service does it; refused, not authorized
    errors.DuplicateInstance: DUPLICATE_SOP_INSTANCE,
    errors.InvalidIdentifier: 0xA900,
    errors.MatchesNotCounted: 0xA701,
    errors.UnknownDestination: 0xA801,
    errors.FramesNotFound: 0xAA00,  # these five: PS3.4 Table Y.4-1
    errors.CannotCreateInstance: 0xAA01,
    errors.CannotExtractFrames: 0xAA02,
    errors.NotTimeBased: 0xAA03,
    errors.InvalidFrameRange: 0xAA04,
    errors.SopClassNotSupported: 0x0122,
    errors.UnrecognizedOperation: 0x0211,
    errors.NotAuthorized: 0x0124,
    errors.Cancelled: CANCEL,
    errors.ProcessingFailure: 0x0110,
    errors.NoLongerInProgress: 0x0110,
    errors.NoSuchAttribute: 0x0105,
    errors.InvalidAttributeValue: 0x0106,
    errors.NoSuchInstance: 0x0112,
    errors.NoSuchEventType: 0x0113,
    errors.NoSuchArgument: 0x0114,
    errors.InvalidArgumentValue: 0x0115,
    errors.InvalidInstance: 0x0117,
    errors.NoSuchSopClass: 0x0118,
    errors.ClassInstanceConflict: 0x0119,
    errors.MissingAttribute: 0x0120,
    errors.MissingAttributeValue: 0x0121,
    errors.NoSuchActionType: 0x0123,
}


def status_of(error: errors.OperationError, command: int) -> int:
    """The status that answers `error`, in the words of the service that was asked by `command`."""
    if isinstance(error, errors.OutOfResources) and command & _DIMSE_N:
        return RESOURCE_LIMITATION
    return STATUS_OF[type(error)]


def is_pending(status: int) -> bool:
    return status in (PENDING, PENDING_UNSUPPORTED_KEYS)


def is_warning(status: int) -> bool:
    """Warning statuses (PS3.7 C.1.3)."""
    return status in (0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000


def is_failure(status: int) -> bool:
    return not (status in (SUCCESS, CANCEL) or is_pending(status) or is_warning(status))
