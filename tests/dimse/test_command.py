"""Command sets against pynetdicom's own encoder and decoder."""

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pynetdicom.dsutils import decode as pynetdicom_decode
from pynetdicom.dsutils import encode as pynetdicom_encode

from pacsnode.dicom.uid import UID
from pacsnode.dimse import message as messages
from pacsnode.dimse.command import CommandField, decode
from pacsnode.errors import InvalidMessage

CT = UID("1.2.840.10008.5.1.4.1.1.2")


def read_by_pynetdicom(raw: bytes) -> Dataset:
    return pynetdicom_decode(BytesIO(raw), True, True)


def test_c_store_rq_is_read_by_pynetdicom_as_written() -> None:
    found = read_by_pynetdicom(messages.c_store_rq(7, CT, UID("1.2.3"), originator=("WS1", 9)))
    assert found.AffectedSOPClassUID == CT
    assert found.AffectedSOPInstanceUID == "1.2.3"
    assert (found.CommandField, found.MessageID, found.CommandDataSetType) == (0x0001, 7, 1)
    assert (found.MoveOriginatorApplicationEntityTitle, found.MoveOriginatorMessageID) == ("WS1", 9)
    assert (
        found.CommandGroupLength == len(messages.c_store_rq(7, CT, UID("1.2.3"), originator=("WS1", 9))) - 12
    )


def test_command_written_by_pynetdicom_is_read_as_meant() -> None:
    data = Dataset()
    data.AffectedSOPClassUID = CT
    data.CommandField = 0x0001
    data.MessageID = 300
    data.Priority = 0
    data.CommandDataSetType = 1
    data.AffectedSOPInstanceUID = "1.2.3.4"
    raw = pynetdicom_encode(data, True, True)
    assert raw is not None
    command = decode(raw)
    assert command.field == CommandField.C_STORE_RQ
    assert (command.message_id, command.sop_class, command.sop_instance) == (300, CT, "1.2.3.4")
    assert command.has_data_set
    assert not command.is_response


def test_response_answers_the_request_it_is_made_from() -> None:
    request = decode(messages.c_store_rq(42, CT, UID("1.2.3")))
    found = read_by_pynetdicom(messages.response(request, 0xA700, comment="x" * 80, offending=(0x00100020,)))
    assert found.CommandField == 0x8001
    assert found.MessageIDBeingRespondedTo == 42
    assert found.Status == 0xA700
    assert found.CommandDataSetType == 0x0101
    assert found.ErrorComment == "x" * 64
    assert found.OffendingElement == 0x00100020
    assert found.AffectedSOPInstanceUID == "1.2.3"


def test_suboperation_counters_are_left_out_when_unknown() -> None:
    request = decode(messages.c_find_rq(1, CT))
    found = read_by_pynetdicom(messages.response(request, 0xB000, suboperations=(None, 3, 2, 1)))
    assert "NumberOfRemainingSuboperations" not in found
    assert found.NumberOfCompletedSuboperations == 3
    assert found.NumberOfFailedSuboperations == 2
    assert found.NumberOfWarningSuboperations == 1


def test_cancel_names_the_message_it_cancels() -> None:
    command = decode(messages.c_cancel_rq(77))
    assert command.field == CommandField.C_CANCEL_RQ
    assert command.message_id_being_responded_to == 77


@pytest.mark.parametrize(
    "raw",
    [b"\0", b"\0" * 7, b"\0\0\0\1\xff\0\0\0", b"\x08\0\x16\0\0\0\0\0", b""],
    ids=["short", "header cut", "value cut", "another group", "no command field"],
)
def test_broken_command_set_is_an_invalid_message(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(raw)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    try:
        command = decode(raw)
    except InvalidMessage:
        return
    assert 0 <= command.field <= 0xFFFF


def test_an_error_comment_holds_what_lo_allows_and_no_more() -> None:
    request = decode(messages.c_store_rq(7, CT, UID("1.2.3")))
    response = decode(messages.response(request, 0xA900, comment="SOP Instance 1\\2\n\x1b[2J\xfc" + "x" * 99))
    assert response.text(0x0902) == "SOP Instance 1?2??[2J?" + "x" * 42
