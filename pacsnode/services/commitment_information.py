"""Action and event information of Storage Commitment (PS3.4 Tables J.3-1 and J.3-2), read and made."""

from typing import Final

from pydicom import Dataset

from pacsnode.archive.integrity import Reference
from pacsnode.dicom.data_set import read_whole
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.errors import CannotUnderstand, InvalidArgumentValue
from pacsnode.net.service import Request
from pacsnode.workflow.commitment import PROCESSING_FAILURE
from pacsnode.workflow.commitment_records import COMMITTED, Commitment

_COMMITTED_SEQUENCE: Final = "ReferencedSOPSequence"
_FAILED_SEQUENCE: Final = "FailedSOPSequence"


def request_in(request: Request) -> tuple[UID, list[Reference]]:
    """Transaction UID and instances of an N-ACTION. Raises InvalidArgumentValue."""
    given = _read(request)
    transaction_uid = _transaction_uid(given)
    references = [_reference(item) for item in _items(given, _COMMITTED_SEQUENCE)]
    if not references:
        raise InvalidArgumentValue("no instance is referenced")
    if len({one.sop_instance for one in references}) < len(references):
        raise InvalidArgumentValue("an instance is referenced twice")  # PS3.4 J.3.2.1.1.3
    return transaction_uid, references


def result_in(request: Request, *, failures: bool) -> tuple[UID, dict[Reference, int]]:
    """Transaction UID and Failure Reason of each instance, 0 for committed. Raises InvalidArgumentValue."""
    given = _read(request)
    transaction_uid = _transaction_uid(given)
    reasons = {_reference(item): COMMITTED for item in _items(given, _COMMITTED_SEQUENCE)}
    if failures:
        for item in _items(given, _FAILED_SEQUENCE):
            reasons[_reference(item)] = int(item.get("FailureReason") or PROCESSING_FAILURE)
    if not reasons:
        raise InvalidArgumentValue("no instance is referenced")
    return transaction_uid, reasons


def request_of(commitment: Commitment) -> Dataset:
    """The action information of a request."""
    made = Dataset()
    made.TransactionUID = commitment.transaction_uid
    made.ReferencedSOPSequence = [_item(one.reference) for one in commitment.results]
    return made


def result_of(commitment: Commitment, retrieve_ae: str) -> Dataset:
    """The event information of a result; what is committed to can be had from `retrieve_ae`."""
    made = Dataset()
    made.TransactionUID = commitment.transaction_uid
    if commitment.committed:
        made.RetrieveAETitle = retrieve_ae
        made.ReferencedSOPSequence = [_item(one.reference) for one in commitment.committed]
    if commitment.failed:
        made.FailedSOPSequence = [_item(one.reference, one.reason) for one in commitment.failed]
    return made


def _read(request: Request) -> Dataset:
    try:
        return read_whole(request.identifier_bytes, request.context.transfer_syntax)
    except CannotUnderstand as error:
        raise InvalidArgumentValue(str(error)) from error


def _transaction_uid(given: Dataset) -> UID:
    uid = str(given.get("TransactionUID") or "")
    if not is_uid(uid):
        raise InvalidArgumentValue("there is no Transaction UID")
    return UID(uid)


def _items(given: Dataset, keyword: str) -> list[Dataset]:
    if keyword not in given or given[keyword].is_empty:
        return []
    element = given[keyword]
    if element.VR != "SQ":
        raise InvalidArgumentValue(f"{keyword} is no sequence")
    return list(element.value)


def _reference(item: Dataset) -> Reference:
    sop_class = str(item.get("ReferencedSOPClassUID") or "")
    sop_instance = str(item.get("ReferencedSOPInstanceUID") or "")
    if not (is_uid(sop_class) and is_uid(sop_instance)):
        raise InvalidArgumentValue("a reference without SOP Class or Instance UID")
    return Reference(UID(sop_class), UID(sop_instance))


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class
    item.ReferencedSOPInstanceUID = reference.sop_instance
    if reason is not None:
        item.FailureReason = reason
    return item
