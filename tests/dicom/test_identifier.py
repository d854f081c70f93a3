"""Identifiers of C-FIND, read and written; pydicom reads what is written here (PS3.4 C.4.1.1.3)."""

from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacsnode.dicom.element import Element
from pacsnode.dicom.header import Encoding, encoding_of
from pacsnode.dicom.identifier import RequestIdentifier, ResponseEncoder, RowValue
from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.query import MAX_DEPTH, Key, Matching, Query, QueryOptions, RequestedKey, query_of
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand, InvalidIdentifier, OperationError

SYNTAXES = [EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE]
ENCODINGS = list(map(encoding_of, SYNTAXES))


def encoded(dataset: Dataset, encoding: Encoding) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little_endian
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def decoded(data: bytes, encoding: Encoding) -> Dataset:
    dataset = read_dataset(BytesIO(data), encoding.implicit, encoding.little_endian)
    dataset.decode()
    return dataset


def query(*keys: tuple[int, str], charset: str = "") -> Query:
    requested = [RequestedKey(tag, vr) for tag, vr in keys]
    options = QueryOptions(relational=True)
    return query_of(Level.STUDY, InformationModel.STUDY_ROOT, requested, options, charset)


def respond(asked: Query, *values: RowValue, encoding: Encoding = ENCODINGS[0]) -> Dataset:
    return decoded(ResponseEncoder(asked, encoding, "ARCHIVE").encode([values])[0], encoding)


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
    request = RequestIdentifier(encoded(dataset, encoding_of(transfer_syntax)), transfer_syntax)
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
    return encoded(dataset, ENCODINGS[0])


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
        RequestIdentifier(encoded(dataset, ENCODINGS[0]), EXPLICIT_VR_LE).requested()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_response_is_what_pydicom_writes(encoding: Encoding) -> None:
    expected = Dataset()
    expected.StudyDate = "20240105"
    expected.QueryRetrieveLevel = "IMAGE"
    expected.RetrieveAETitle = "ARCHIVE"
    expected.InstanceAvailability = "ONLINE"
    expected.ModalitiesInStudy = ["CT", "SR"]
    expected.PatientName = "DOE^JOHN"
    expected.PatientComments = ""
    expected.StudyInstanceUID = "1.2.3"
    expected.NumberOfStudyRelatedInstances = 42
    expected.Rows = 512
    tags = (0x00080020, 0x00080061, 0x00100010, 0x00104000, 0x0020000D, 0x00201208, 0x00280010)
    keys = tuple(Key(tag, dictionary_VR(tag), Matching.UNIVERSAL) for tag in tags)
    asked = Query(Level.IMAGE, InformationModel.STUDY_ROOT, keys)
    values = ("20240105", "CT\\SR", "DOE^JOHN", "", "1.2.3", 42, 512)
    assert ResponseEncoder(asked, encoding, "ARCHIVE").encode([values])[0] == encoded(expected, encoding)


def test_response_without_keys_still_names_level_and_place() -> None:
    answer = respond(query())
    assert (
        [int(tag) for tag in answer]
        if False
        else sorted(map(int, answer.keys()))
        == [
            0x00080052,
            0x00080054,
            0x00080056,
        ]
    )


@pytest.mark.parametrize(
    ("requested", "name", "answered"),
    [
        ("", "DOE^JOHN", None),
        ("ISO_IR 100", "DOE^JOHN", None),
        ("ISO_IR 100", "MÜLLER^JÖRG", "ISO_IR 100"),
        ("ISO_IR 100", "Μαρία", "ISO_IR 192"),
        ("", "MÜLLER^JÖRG", "ISO_IR 192"),
        ("ISO_IR 126", "Μαρία", "ISO_IR 126"),
        ("ISO_IR 192", "山田^太郎", "ISO_IR 192"),
        ("NONSENSE", "山田^太郎", "ISO_IR 192"),
    ],
)
def test_character_set_is_the_requestors_when_it_can_carry_the_answer(
    requested: str, name: str, answered: str | None
) -> None:
    answer = respond(query((0x00100010, "PN"), charset=requested), name)
    assert answer.get("SpecificCharacterSet") == answered
    assert str(answer.PatientName) == name


def test_japanese_name_is_answered_with_code_extensions() -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    answer = respond(query((0x00100010, "PN"), charset="\\ISO 2022 IR 87"), name)
    assert list(answer.SpecificCharacterSet) == ["", "ISO 2022 IR 87"]
    assert str(answer.PatientName) == name


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_sequences_are_answered(encoding: Encoding) -> None:
    item = (
        Element(0x00080100, "SH", "T-1"),
        Element(0x00080104, "LO", "Schädel"),
        Element(0x00280010, "US", "512"),
        Element(0x00280009, "AT", "00181063"),
        Element(0x00400008, "SQ", ()),
        Element(0x00281201, "OW", b"\x01\x02\x03\x04"),
    )
    asked = query((0x00081032, "SQ"), (0x00321064, "SQ"), charset="ISO_IR 100")
    answer = respond(asked, (item, ()), (), encoding=encoding)
    assert answer.SpecificCharacterSet == "ISO_IR 100"
    code = answer.ProcedureCodeSequence[0]
    assert (code.CodeValue, code.CodeMeaning, code.Rows) == ("T-1", "Schädel", 512)
    assert code.FrameIncrementPointer == 0x00181063
    assert len(code.ScheduledProtocolCodeSequence) == 0
    words = b"\x01\x02\x03\x04" if encoding.little_endian else b"\x02\x01\x04\x03"
    assert code.RedPaletteColorLookupTableData == words
    assert len(answer.ProcedureCodeSequence[1]) == 0
    assert len(answer.RequestedProcedureCodeSequence) == 0


def test_value_too_long_for_its_vr_is_sent_as_unknown_vr() -> None:
    answer = respond(query((0x00100010, "PN"), (0x00104000, "LT")), "A", "x" * 70_000)
    assert len(answer.PatientComments) == 70_000


def test_numbers_that_do_not_fit_are_left_empty() -> None:
    asked = Query(Level.STUDY, InformationModel.STUDY_ROOT, query((0x0040A0B0, "US")).keys)
    assert respond(asked, "-5").ReferencedWaveformChannels is None
    assert respond(asked, None).ReferencedWaveformChannels is None
