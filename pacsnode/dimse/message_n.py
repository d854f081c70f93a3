"""The requests of DIMSE-N as functions (PS3.7 10.3): arguments -> encoded command set.

N-CREATE and N-EVENT-REPORT name the *Affected* SOP class and instance, the others the *Requested* ones.
`message.response` answers them as it answers DIMSE-C.
"""

from collections.abc import Sequence

from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import (
    DATA_SET_PRESENT,
    NO_DATA_SET,
    CommandField,
    Element,
    at,
    encode,
    ui,
    us,
)


def n_event_report_rq(
    message_id: int, sop_class: UID, sop_instance: UID, event_type: int, *, has_data_set: bool
) -> bytes:
    """N-EVENT-REPORT-RQ (PS3.7 10.3.1.1)."""
    return _affected_rq(
        CommandField.N_EVENT_REPORT_RQ,
        message_id,
        sop_class,
        sop_instance,
        has_data_set,
        (Element.EVENT_TYPE_ID, us(event_type)),
    )


def n_get_rq(message_id: int, sop_class: UID, sop_instance: UID, attributes: Sequence[int] = ()) -> bytes:
    """N-GET-RQ (PS3.7 10.3.2.1). `attributes`: the tags asked for; none: all there are."""
    listed = ((Element.ATTRIBUTE_IDENTIFIER_LIST, at(attributes)),) if attributes else ()
    return _requested_rq(CommandField.N_GET_RQ, message_id, sop_class, sop_instance, False, *listed)


def n_set_rq(message_id: int, sop_class: UID, sop_instance: UID) -> bytes:
    """N-SET-RQ (PS3.7 10.3.3.1)."""
    return _requested_rq(CommandField.N_SET_RQ, message_id, sop_class, sop_instance, True)


def n_action_rq(
    message_id: int, sop_class: UID, sop_instance: UID, action_type: int, *, has_data_set: bool
) -> bytes:
    """N-ACTION-RQ (PS3.7 10.3.4.1)."""
    return _requested_rq(
        CommandField.N_ACTION_RQ,
        message_id,
        sop_class,
        sop_instance,
        has_data_set,
        (Element.ACTION_TYPE_ID, us(action_type)),
    )


def n_create_rq(message_id: int, sop_class: UID, sop_instance: UID | None, *, has_data_set: bool) -> bytes:
    """N-CREATE-RQ (PS3.7 10.3.5.1). `sop_instance`: None has the peer assign one."""
    return _affected_rq(CommandField.N_CREATE_RQ, message_id, sop_class, sop_instance, has_data_set)


def n_delete_rq(message_id: int, sop_class: UID, sop_instance: UID) -> bytes:
    """N-DELETE-RQ (PS3.7 10.3.6.1)."""
    return _requested_rq(CommandField.N_DELETE_RQ, message_id, sop_class, sop_instance, False)


def _affected_rq(
    field: CommandField,
    message_id: int,
    sop_class: UID,
    sop_instance: UID | None,
    has_data_set: bool,
    *more: tuple[int, bytes],
) -> bytes:
    named = ((Element.AFFECTED_SOP_INSTANCE_UID, ui(sop_instance)),) if sop_instance else ()
    return encode(
        (
            (Element.AFFECTED_SOP_CLASS_UID, ui(sop_class)),
            (Element.COMMAND_FIELD, us(field)),
            (Element.MESSAGE_ID, us(message_id)),
            (Element.COMMAND_DATA_SET_TYPE, us(DATA_SET_PRESENT if has_data_set else NO_DATA_SET)),
            *named,
            *more,
        )
    )


def _requested_rq(
    field: CommandField,
    message_id: int,
    sop_class: UID,
    sop_instance: UID,
    has_data_set: bool,
    *more: tuple[int, bytes],
) -> bytes:
    return encode(
        (
            (Element.REQUESTED_SOP_CLASS_UID, ui(sop_class)),
            (Element.COMMAND_FIELD, us(field)),
            (Element.MESSAGE_ID, us(message_id)),
            (Element.COMMAND_DATA_SET_TYPE, us(DATA_SET_PRESENT if has_data_set else NO_DATA_SET)),
            (Element.REQUESTED_SOP_INSTANCE_UID, ui(sop_instance)),
            *more,
        )
    )
