"""Identifiers of C-FIND responses; pydicom reads what is written here (PS3.4 C.4.1.1.3)."""

from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_dataset

from pacsnode.dicom.element import Element
from pacsnode.dicom.header import Encoding, encoding_of
from pacsnode.dicom.identifier import ResponseEncoder, RowValue
from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.query import Key, Matching, Query, QueryOptions, RequestedKey, query_of
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from tests.support.objects import encoded_as

SYNTAXES = [EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE]
ENCODINGS = list(map(encoding_of, SYNTAXES))


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
    assert ResponseEncoder(asked, encoding, "ARCHIVE").encode([values])[0] == encoded_as(expected, encoding)


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
