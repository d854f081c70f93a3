"""The response to a request that failed (PS3.7 Annex C): which facts of the error it carries."""

from typing import Final

from pydicom import Dataset

from pacsnode.dicom.data_set import decode_data_set, empty_element, encode_data_set, first_of
from pacsnode.dimse.status import status_of
from pacsnode.errors import (
    ArgumentFault,
    AttributeFault,
    InvalidAttributeValue,
    InvalidFrameRange,
    InvalidIdentifier,
    MissingAttributeValue,
    NoLongerInProgress,
    OperationError,
)
from pacsnode.net.service import Request, Response

_WITH_ATTRIBUTE_LIST: Final = (InvalidAttributeValue, MissingAttributeValue)  # PS3.7 C.5.11, C.5.14


def refusal_of(request: Request, error: OperationError) -> Response:
    """The response that tells `error`: status, comment, and what else its status type has."""
    response = Response(status_of(error, request.command.field), comment=str(error))
    if isinstance(error, (InvalidIdentifier, InvalidFrameRange)):
        response.offending = error.offending
    elif isinstance(error, _WITH_ATTRIBUTE_LIST):
        response.data = _attribute_list(request, error)
    elif isinstance(error, AttributeFault):
        response.attributes = error.attributes
    elif isinstance(error, NoLongerInProgress):
        response.error_id = error.error_id
    elif isinstance(error, ArgumentFault):
        response.typed = True
    return response


def _attribute_list(request: Request, error: AttributeFault) -> bytes | None:
    """The attributes at fault with the values they came with; empty those that did not come."""
    transfer_syntax = request.context.transfer_syntax
    try:
        given = decode_data_set(request.identifier_bytes, transfer_syntax)
        told = Dataset()
        for tag in error.attributes:
            told.add(first_of(given, tag) or empty_element(tag))
        return encode_data_set(told, transfer_syntax) if told else None
    except Exception:  # what is wrong may be that it cannot be read; then the comment has to do
        return None
