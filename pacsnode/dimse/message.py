"""The messages of PS3.7 9.3 and 10.3 as functions: arguments -> encoded command set.

Requests carry what the caller says; a response takes its Message ID, SOP class and SOP instance from the
request it answers.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import (
    DATA_SET_PRESENT,
    NO_DATA_SET,
    PRIORITY_MEDIUM,
    RESPONSE_BIT,
    CommandField,
    CommandSet,
    Element,
    at,
    element_of,
    encode,
    group_of,
    text,
    ui,
    us,
)
from pacsnode.dimse.status import SUCCESS

ERROR_COMMENT_LENGTH: Final = 64  # characters of VR LO (PS3.5 6.2)
MAX_US: Final = 0xFFFF
UID_LENGTH: Final = 64  # bytes of VR UI
# VR LO takes neither control characters nor the backslash (PS3.5 6.2); a comment may quote what was received.
_NOT_LO: Final = {code: "?" for code in (*range(0x20), 0x5C, 0x7F)}
_SUBOPERATIONS: Final = (
    Element.REMAINING_SUBOPERATIONS,
    Element.COMPLETED_SUBOPERATIONS,
    Element.FAILED_SUBOPERATIONS,
    Element.WARNING_SUBOPERATIONS,
)


def c_echo_rq(message_id: int, sop_class: UID) -> bytes:
    """C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return encode(
        (
            (Element.AFFECTED_SOP_CLASS_UID, ui(sop_class)),
            (Element.COMMAND_FIELD, us(CommandField.C_ECHO_RQ)),
            (Element.MESSAGE_ID, us(message_id)),
            (Element.COMMAND_DATA_SET_TYPE, us(NO_DATA_SET)),
        )
    )


def c_store_rq(
    message_id: int,
    sop_class: UID,
    sop_instance: UID,
    *,
    priority: int = PRIORITY_MEDIUM,
    originator: tuple[str, int] | None = None,
) -> bytes:
    """C-STORE-RQ (PS3.7 9.3.1.1). `originator`: AE title and Message ID of the C-MOVE it serves."""
    before, between, after = _c_store_constants(sop_class, priority, originator)
    return group_of(
        before
        + element_of(Element.MESSAGE_ID, us(message_id))
        + between
        + element_of(Element.AFFECTED_SOP_INSTANCE_UID, ui(sop_instance))
        + after
    )


@lru_cache(maxsize=256)
def _c_store_constants(
    sop_class: UID, priority: int, originator: tuple[str, int] | None
) -> tuple[bytes, bytes, bytes]:
    """What the requests for the objects of a study have in common, around what differs."""
    before = element_of(Element.AFFECTED_SOP_CLASS_UID, ui(sop_class))
    before += element_of(Element.COMMAND_FIELD, us(CommandField.C_STORE_RQ))
    between = element_of(Element.PRIORITY, us(priority))
    between += element_of(Element.COMMAND_DATA_SET_TYPE, us(DATA_SET_PRESENT))
    if originator is None:
        return before, between, b""
    ae_title, message_id = originator
    after = element_of(Element.MOVE_ORIGINATOR_AE_TITLE, text(ae_title))
    return before, between, after + element_of(Element.MOVE_ORIGINATOR_MESSAGE_ID, us(message_id))


def c_find_rq(message_id: int, sop_class: UID, *, priority: int = PRIORITY_MEDIUM) -> bytes:
    """C-FIND-RQ (PS3.7 9.3.2.1)."""
    return _identifier_rq(CommandField.C_FIND_RQ, message_id, sop_class, priority)


def c_get_rq(message_id: int, sop_class: UID, *, priority: int = PRIORITY_MEDIUM) -> bytes:
    """C-GET-RQ (PS3.7 9.3.3.1)."""
    return _identifier_rq(CommandField.C_GET_RQ, message_id, sop_class, priority)


def c_move_rq(message_id: int, sop_class: UID, destination: str, *, priority: int = PRIORITY_MEDIUM) -> bytes:
    """C-MOVE-RQ (PS3.7 9.3.4.1). `destination`: the AE title that is to receive the instances."""
    return _identifier_rq(
        CommandField.C_MOVE_RQ, message_id, sop_class, priority, (Element.MOVE_DESTINATION, text(destination))
    )


def _identifier_rq(
    field: CommandField, message_id: int, sop_class: UID, priority: int, *more: tuple[int, bytes]
) -> bytes:
    """What the requests that come with an identifier have in common; `more` goes before the priority."""
    return encode(
        (
            (Element.AFFECTED_SOP_CLASS_UID, ui(sop_class)),
            (Element.COMMAND_FIELD, us(field)),
            (Element.MESSAGE_ID, us(message_id)),
            *more,
            (Element.PRIORITY, us(priority)),
            (Element.COMMAND_DATA_SET_TYPE, us(DATA_SET_PRESENT)),
        )
    )


def c_cancel_rq(message_id_being_responded_to: int) -> bytes:
    """C-CANCEL-RQ (PS3.7 9.3.2.3): the Message ID is that of the operation to cancel."""
    return encode(
        (
            (Element.COMMAND_FIELD, us(CommandField.C_CANCEL_RQ)),
            (Element.MESSAGE_ID_BEING_RESPONDED_TO, us(message_id_being_responded_to)),
            (Element.COMMAND_DATA_SET_TYPE, us(NO_DATA_SET)),
        )
    )


def response(
    request: CommandSet,
    status: int,
    *,
    has_data_set: bool = False,
    comment: str = "",
    offending: Sequence[int] = (),
    suboperations: Sequence[int | None] = (),
    error_id: int | None = None,
    sop_instance: UID | None = None,
    attributes: Sequence[int] = (),
    typed: bool = False,
) -> bytes:
    """The response to any request (PS3.7 9.3, 10.3).

    `suboperations`: numbers of remaining, completed, failed and warning sub-operations; None leaves one out.
    Of more than a US can tell, the most it can is told. `sop_instance`: of the instance an N-CREATE has made
    without being told its UID. `attributes`: tags for the Attribute Identifier List. `typed`: whether Event
    or Action Type ID is repeated.
    """
    sop_class = _echoed(request, Element.AFFECTED_SOP_CLASS_UID, Element.REQUESTED_SOP_CLASS_UID)
    echoed = _echoed(request, Element.AFFECTED_SOP_INSTANCE_UID, Element.REQUESTED_SOP_INSTANCE_UID)
    affected = ui(sop_instance) if sop_instance else echoed
    if not (comment or offending or suboperations or attributes or typed) and error_id is None:
        constants = _plain_constants(sop_class, request.field, status, has_data_set)
        return _plain_response(constants, request.elements[Element.MESSAGE_ID], affected)
    elements = []
    if sop_class:
        elements.append((Element.AFFECTED_SOP_CLASS_UID, sop_class))
    elements += [
        (Element.COMMAND_FIELD, us(request.field | RESPONSE_BIT)),
        (Element.MESSAGE_ID_BEING_RESPONDED_TO, request.elements[Element.MESSAGE_ID]),
        (Element.COMMAND_DATA_SET_TYPE, us(DATA_SET_PRESENT if has_data_set else NO_DATA_SET)),
        (Element.STATUS, us(status)),
    ]
    if offending:
        elements.append((Element.OFFENDING_ELEMENT, at(offending)))
    if comment:
        elements.append((Element.ERROR_COMMENT, text(comment[:ERROR_COMMENT_LENGTH].translate(_NOT_LO))))
    if error_id is not None:
        elements.append((Element.ERROR_ID, us(error_id)))
    if affected:
        elements.append((Element.AFFECTED_SOP_INSTANCE_UID, affected))
    if typed and (event_type := request.elements.get(Element.EVENT_TYPE_ID)):
        elements.append((Element.EVENT_TYPE_ID, event_type))
    if attributes:
        elements.append((Element.ATTRIBUTE_IDENTIFIER_LIST, at(attributes)))
    if typed and (action_type := request.elements.get(Element.ACTION_TYPE_ID)):
        elements.append((Element.ACTION_TYPE_ID, action_type))
    for element, count in zip(_SUBOPERATIONS, suboperations, strict=False):
        if count is not None:
            elements.append((element, us(min(count, MAX_US))))
    return encode(elements)


def c_store_success(message_id: int, sop_class: UID, sop_instance: UID) -> bytes:
    """The C-STORE-RSP (PS3.7 9.3.1.2) that a request gets when all is well, without anything optional."""
    constants = _plain_constants(ui(sop_class), CommandField.C_STORE_RQ, SUCCESS, has_data_set=False)
    return _plain_response(constants, us(message_id), ui(sop_instance))


def _plain_response(constants: tuple[bytes, bytes], message_id: bytes, affected: bytes) -> bytes:
    before, between = constants
    after = element_of(Element.AFFECTED_SOP_INSTANCE_UID, affected) if affected else b""
    return group_of(before + element_of(Element.MESSAGE_ID_BEING_RESPONDED_TO, message_id) + between + after)


@lru_cache(maxsize=256)
def _plain_constants(sop_class: bytes, field: int, status: int, has_data_set: bool) -> tuple[bytes, bytes]:
    """What responses without details have in common, around the Message ID; the SOP instance ends them."""
    before = element_of(Element.AFFECTED_SOP_CLASS_UID, sop_class) if sop_class else b""
    before += element_of(Element.COMMAND_FIELD, us(field | RESPONSE_BIT))
    kind = DATA_SET_PRESENT if has_data_set else NO_DATA_SET
    between = element_of(Element.COMMAND_DATA_SET_TYPE, us(kind))
    return before, between + element_of(Element.STATUS, us(status))


def _echoed(request: CommandSet, affected: int, requested: int) -> bytes:
    """A UID of the request as it came, whatever its bytes are; empty when it cannot be one by its length."""
    value = request.elements.get(affected) or request.elements.get(requested, b"")
    return b"" if len(value) > UID_LENGTH or len(value) & 1 else value
