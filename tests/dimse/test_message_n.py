"""The commands of DIMSE-N against pynetdicom's own messages (PS3.7 10.3)."""

from collections.abc import Callable
from io import BytesIO

import pytest
from pydicom import Dataset
from pynetdicom import dimse_messages
from pynetdicom.dsutils import decode as pynetdicom_decode

from pacsnode.dicom.uid import UID
from pacsnode.dimse import message, message_n
from pacsnode.dimse.command import CommandField, Element, decode
from pacsnode.errors import InvalidMessage

MPPS = UID("1.2.840.10008.3.1.2.3.3")
STEP = UID("1.2.3.4")

REQUESTS: dict[str, Callable[[], bytes]] = {
    "N_EVENT_REPORT_RQ": lambda: message_n.n_event_report_rq(7, MPPS, STEP, 2, has_data_set=True),
    "N_GET_RQ": lambda: message_n.n_get_rq(7, MPPS, STEP, (0x00100010, 0x00400252)),
    "N_SET_RQ": lambda: message_n.n_set_rq(7, MPPS, STEP),
    "N_ACTION_RQ": lambda: message_n.n_action_rq(7, MPPS, STEP, 1, has_data_set=True),
    "N_CREATE_RQ": lambda: message_n.n_create_rq(7, MPPS, STEP, has_data_set=True),
    "N_DELETE_RQ": lambda: message_n.n_delete_rq(7, MPPS, STEP),
}


def read_by_pynetdicom(raw: bytes) -> Dataset:
    return pynetdicom_decode(BytesIO(raw), True, True)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_has_the_elements_pynetdicom_gives_it(name: str) -> None:
    found = read_by_pynetdicom(REQUESTS[name]())
    theirs = getattr(dimse_messages, name)().command_set
    optional = {"CommandGroupLength"}
    assert {e.keyword for e in found} | optional == {e.keyword for e in theirs} | optional
    assert (CommandField(found.CommandField).name, found.MessageID) == (name, 7)
    tags = [element.tag for element in found]
    assert tags == sorted(tags)


def test_what_a_request_says_is_what_was_asked() -> None:
    event = read_by_pynetdicom(REQUESTS["N_EVENT_REPORT_RQ"]())
    assert (event.AffectedSOPInstanceUID, event.EventTypeID, event.CommandDataSetType) == (STEP, 2, 1)
    action = read_by_pynetdicom(REQUESTS["N_ACTION_RQ"]())
    assert (action.RequestedSOPInstanceUID, action.ActionTypeID) == (STEP, 1)
    asked = decode(REQUESTS["N_GET_RQ"]())
    assert asked.tags(Element.ATTRIBUTE_IDENTIFIER_LIST) == (0x00100010, 0x00400252)
    assert (asked.sop_class, asked.sop_instance, asked.has_data_set) == (MPPS, STEP, False)


def test_an_instance_without_uid_is_created_under_the_uid_of_the_response() -> None:
    request = decode(message_n.n_create_rq(1, MPPS, None, has_data_set=False))
    assert request.sop_instance == ""
    found = read_by_pynetdicom(message.response(request, 0, sop_instance=STEP))
    assert (found.CommandField, found.AffectedSOPInstanceUID) == (0x8140, STEP)


def test_a_response_tells_types_and_attributes_in_the_order_of_the_tags() -> None:
    request = decode(REQUESTS["N_ACTION_RQ"]())
    raw = message.response(
        request, 0x0110, comment="c", error_id=0xA710, attributes=(0x00400252,), typed=True
    )
    found = read_by_pynetdicom(raw)
    assert found.AffectedSOPInstanceUID == STEP  # asked for as Requested
    assert (found.ErrorID, found.ActionTypeID, found.AttributeIdentifierList) == (0xA710, 1, 0x00400252)
    tags = [element.tag for element in found]
    assert tags == sorted(tags)
    event = decode(message.response(decode(REQUESTS["N_EVENT_REPORT_RQ"]()), 0x0113, typed=True))
    assert event.us(Element.EVENT_TYPE_ID) == 2
    assert event.field == CommandField.N_EVENT_REPORT_RSP


def test_half_a_tag_is_no_list_of_tags() -> None:
    command = decode(message_n.n_get_rq(1, MPPS, STEP, (0x00100010,)))
    command.elements[Element.ATTRIBUTE_IDENTIFIER_LIST] = b"\x10\x00\x10"
    with pytest.raises(InvalidMessage):
        command.tags(Element.ATTRIBUTE_IDENTIFIER_LIST)
