"""Identifiers of requests: read in one pass or by pydicom, with the same result (PS3.4 C.4.1.1.3)."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence

from pacsnode.dicom import request_identifier
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.query import MAX_DEPTH, QueryOptions, RequestedKey, query_of
from pacsnode.dicom.request_identifier import RequestIdentifier
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand, InvalidIdentifier, OperationError
from tests.support.objects import encoded_as

SYNTAXES = [EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE]
ENCODINGS = list(map(encoding_of, SYNTAXES))
KEYS = {
    "SpecificCharacterSet": ("", "ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"], "no such set"),
    "QueryRetrieveLevel": ("STUDY", "IMAGE", ""),
    "StudyDate": ("", "20200101-20211231"),
    "AccessionNumber": ("", "4711", "*", "M\u00fcller"),
    "ModalitiesInStudy": ("", ["CT", "MR"]),
    "PatientName": ("", "M\u00dcLLER^J*", " DOE "),
    "PatientComments": ("", "a\\b ", " led by a space"),
    "StudyInstanceUID": ("", "1.2.3", ["1.2", "1.3"]),
    "Rows": (None, 512),
    "FrameIncrementPointer": (None, 0x00181063),
    "SmallestImagePixelValue": (None, 3),
    "ProcedureCodeSequence": ([],),
    "RetrieveURL": ("", "http://localhost/a"),
}


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_request_is_read_in_every_encoding(transfer_syntax: UID) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.QueryRetrieveLevel = "STUDY"
    dataset.PatientName = "MÜLLER*"
    dataset.StudyInstanceUID = ["1.2", "1.3"]
    dataset.Rows = 512
    code = Dataset()
    code.CodeValue = "T-1"
    dataset.ProcedureCodeSequence = Sequence([code])
    request = RequestIdentifier(encoded_as(dataset, encoding_of(transfer_syntax)), transfer_syntax)
    assert request.level == "STUDY"
    assert request.character_set == "ISO_IR 100"
    keys = {key.tag: key for key in request.requested()}
    assert keys[0x00100010] == RequestedKey(0x00100010, "PN", "MÜLLER*")
    assert keys[0x0020000D].text == "1.2\\1.3"
    assert keys[0x00280010] == RequestedKey(0x00280010, "US", "512")
    assert keys[0x00081032].items == ((RequestedKey(0x00080100, "SH", "T-1"),),)


def test_request_that_cannot_be_read_is_told_so() -> None:
    with pytest.raises(CannotUnderstand):
        RequestIdentifier(b"\x08\x00\x52\x00CS\x06\x00STU", EXPLICIT_VR_LE)


def test_empty_request_has_no_level() -> None:
    assert RequestIdentifier(b"", EXPLICIT_VR_LE).level == ""


def _a_request() -> bytes:
    code = Dataset()
    code.CodeValue = "A*"
    dataset = Dataset()
    dataset.ProcedureCodeSequence = Sequence([code])
    dataset.QueryRetrieveLevel, dataset.StudyDate, dataset.Rows = "STUDY", "2020-2021", 512
    dataset.PatientName, dataset.StudyInstanceUID = "S?I*", ["1.2", "3.4"]
    return encoded_as(dataset, ENCODINGS[0])


REQUEST = _a_request()


@given(st.lists(st.tuples(st.integers(0, len(REQUEST) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(8, ord("E"))])
def test_damaged_request_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(REQUEST)
    for position, value in changes:
        data[position] = value
    with suppress(OperationError):
        request = RequestIdentifier(bytes(data), EXPLICIT_VR_LE)
        options = QueryOptions(relational=True)
        query_of(Level.STUDY, InformationModel.STUDY_ROOT, request.requested(), options)


def test_request_with_endless_sequences_is_refused() -> None:
    dataset = Dataset()
    for _ in range(MAX_DEPTH + 5):
        outer = Dataset()
        outer.ProcedureCodeSequence = Sequence([dataset])
        dataset = outer
    with pytest.raises(InvalidIdentifier):
        RequestIdentifier(encoded_as(dataset, ENCODINGS[0]), EXPLICIT_VR_LE).requested()


class Read:
    """What became of an identifier: what is in it, or why it was refused."""

    def __init__(self, data: bytes, transfer_syntax: UID) -> None:
        self.said: object
        try:
            request = RequestIdentifier(data, transfer_syntax)
            self.said = (request.level, request.character_set, request.requested())
        except OperationError as error:
            self.said = (type(error), str(error))


def agree(data: bytes, transfer_syntax: UID) -> None:
    """Compare with what the header scan and pydicom make of it.

    But for a NUL in the Specific Character Set, which is an unknown one here; Python lets no codec have it.
    """
    read = Read(data, transfer_syntax)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_identifier, "_plain_keys", lambda data, encoding: None)
        parsed = Read(data, transfer_syntax)
    assert read.said == parsed.said or "null character" in str(parsed.said)


@st.composite
def requests(draw: st.DrawFn) -> Dataset:
    dataset = Dataset()
    for keyword in draw(st.sets(st.sampled_from(sorted(KEYS)))):
        setattr(dataset, keyword, draw(st.sampled_from(KEYS[keyword])))
    if draw(st.integers(0, 9)) == 0:
        dataset.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "X")
    return dataset


@pytest.mark.filterwarnings("ignore")
@given(requests(), st.sampled_from(SYNTAXES), st.data())
def test_both_ways_of_reading_agree(dataset: Dataset, transfer_syntax: UID, data: st.DataObject) -> None:
    request = encoded_as(dataset, encoding_of(transfer_syntax))
    agree(request, transfer_syntax)
    if request:
        agree(request[: data.draw(st.integers(0, len(request) - 1))], transfer_syntax)
        damaged = bytearray(request)
        damaged[data.draw(st.integers(0, len(request) - 1))] = data.draw(st.integers(0, 255))
        agree(bytes(damaged), transfer_syntax)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_both_agree_on_damage_at_every_byte(transfer_syntax: UID) -> None:
    dataset = Dataset()
    for keyword in ("SpecificCharacterSet", "QueryRetrieveLevel", "PatientName", "PatientID", "Rows"):
        setattr(dataset, keyword, KEYS.get(keyword, ("4711",))[-1] if keyword != "Rows" else None)
    request = encoded_as(dataset, encoding_of(transfer_syntax))
    for position in range(len(request)):
        agree(request[:position], transfer_syntax)
        for byte in (0, 1, 0x20, ord("S"), 0x7F, 0xFF):
            agree(request[:position] + bytes([byte]) + request[position + 1 :], transfer_syntax)


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_both_agree_on_a_character_set_behind_its_text(transfer_syntax: UID) -> None:
    name, charset = Dataset(), Dataset()
    charset.SpecificCharacterSet = name.SpecificCharacterSet = "ISO_IR 192"
    name.PatientName = "M\u00dcLLER"
    encoding = encoding_of(transfer_syntax)
    first = encoded_as(charset, encoding)
    request = encoded_as(name, encoding)[len(first) :] + first
    agree(request, transfer_syntax)
    assert RequestIdentifier(request, transfer_syntax).requested()[0].text == "M\u00dcLLER"


def test_what_clients_send_is_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would compare a way of reading with itself."""

    def parsed(data: bytes, transfer_syntax: UID) -> None:
        raise AssertionError("read by pydicom")

    monkeypatch.setattr(request_identifier, "_parsed", parsed)
    dataset = Dataset()
    dataset.QueryRetrieveLevel, dataset.PatientName, dataset.Rows = "STUDY", "DOE*", None
    for transfer_syntax in (EXPLICIT_VR_LE, IMPLICIT_VR_LE):
        request = RequestIdentifier(encoded_as(dataset, encoding_of(transfer_syntax)), transfer_syntax)
        assert [key.text for key in request.requested()] == ["STUDY", "DOE*", ""]
