"""Keys decided on a kept header, sequences included (PS3.4 C.2.2.2.6)."""

from collections.abc import Callable
from io import BytesIO

import pytest
from pydicom import Dataset, Sequence
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from pacsnode.dicom.element import DataSet, Element, KeyReader, ScannedValues, Value, read_keys
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.query import RequestedKey, key_of
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

SYNTAXES = [EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE]


def encoded(dataset: Dataset, transfer_syntax: UID = EXPLICIT_VR_LE) -> bytes:
    encoding = encoding_of(transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little_endian
    write_dataset(buffer, dataset)
    return BytesIO(buffer.getvalue()).read()


@pytest.fixture
def header() -> Dataset:
    dataset = Dataset()
    dataset[0x00201041] = RawDataElement(Tag(0x00201041), "DS", 12, b"not a number", 0, False, True)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.RequestingPhysician = "Müller^Jörg"
    dataset.SmallestImagePixelValue = 7
    dataset.add_new(0x00181063, "DS", "33.3")
    dataset.FrameIncrementPointer = 0x00181063
    dataset.DiffusionBValue = 0.5
    codes = []
    for value, meaning in (("T-1", "Schädel"), ("T-2", "Thorax")):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SRT", meaning
        codes.append(code)
    request = Dataset()
    request.ScheduledProcedureStepID, request.RequestedProcedureID = "SPS1", "RP1"
    request.ScheduledProtocolCodeSequence = Sequence(codes)
    dataset.RequestAttributesSequence = Sequence([request])
    dataset.ProcedureCodeSequence = Sequence(codes)
    return dataset


def read(header: Dataset, key: RequestedKey, *, match_unknown: bool = True) -> Value | None:
    found = read_keys(encoded(header), EXPLICIT_VR_LE, [KeyReader(key_of(key), match_unknown)])
    return found[0] if found is not None else None


def code_key(**wanted: str) -> RequestedKey:
    tags = {"value": (0x00080100, "SH"), "meaning": (0x00080104, "LO")}
    return RequestedKey(
        0x00081032, "SQ", items=(tuple(RequestedKey(*tags[name], text) for name, text in wanted.items()),)
    )


def parsed(data: bytes, transfer_syntax: UID) -> DataSet:
    return DataSet.parse(data, encoding_of(transfer_syntax))


def scanned(data: bytes, transfer_syntax: UID) -> ScannedValues:
    tags = (0x00080005, 0x00080008, 0x00321032, 0x00280106, 0x00201041, 0x00280009, 0x00189087)
    return ScannedValues(data, transfer_syntax, frozenset(tags))


@pytest.mark.parametrize("read_by", [parsed, scanned])
@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_values_are_read_in_every_encoding(
    header: Dataset, transfer_syntax: UID, read_by: Callable[[bytes, UID], DataSet | ScannedValues]
) -> None:
    values = read_by(encoded(header, transfer_syntax), transfer_syntax)
    assert values.text(0x00080008, "CS") == "ORIGINAL\\PRIMARY"
    assert values.text(0x00321032, "PN") == "Müller^Jörg"
    assert values.text(0x00280106, "US") == "7"
    assert values.text(0x00201041, "DS") == "not a number"
    assert values.text(0x00280009, "AT") == "00181063"
    assert values.text(0x00189087, "FD") == "0.5"
    assert values.text(0x00100010, "PN") == ""


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_items_are_read_in_every_encoding(header: Dataset, transfer_syntax: UID) -> None:
    data_set = parsed(encoded(header, transfer_syntax), transfer_syntax)
    assert [item.text(0x00080104, "LO") for item in data_set.items(0x00081032)] == ["Schädel", "Thorax"]


def test_key_outside_the_columns_matches_its_value(header: Dataset) -> None:
    assert read(header, RequestedKey(0x00321032, "PN", "MÜLLER*")) == "Müller^Jörg"
    assert read(header, RequestedKey(0x00321032, "PN", "MEIER*")) is None
    assert read(header, RequestedKey(0x00181063, "DS", "33.30")) == "33.3"


def test_absent_attribute_matches_if_unknown_ones_do(header: Dataset) -> None:
    assert read(header, RequestedKey(0x00324000, "LT", "x")) == ""
    assert read(header, RequestedKey(0x00324000, "LT", "x"), match_unknown=False) is None
    assert read(header, RequestedKey(0x00324000, "LT", ""), match_unknown=False) == ""


def test_sequence_answers_the_matching_items_with_the_requested_attributes(header: Dataset) -> None:
    assert read(header, code_key(value="T-1", meaning="")) == (
        (Element(0x00080100, "SH", "T-1"), Element(0x00080104, "LO", "Schädel")),
    )


def test_all_keys_of_a_sequence_have_to_match_in_one_item(header: Dataset) -> None:
    assert read(header, code_key(value="T-1", meaning="Thorax")) is None
    assert read(header, code_key(value="T-3")) is None


def test_sequence_with_universal_keys_answers_all_items(header: Dataset) -> None:
    assert read(header, code_key(value="")) == (
        (Element(0x00080100, "SH", "T-1"),),
        (Element(0x00080100, "SH", "T-2"),),
    )


def test_empty_item_answers_the_whole_sequence(header: Dataset) -> None:
    whole = read(header, RequestedKey(0x00400275, "SQ", items=((),)))
    assert isinstance(whole, tuple)
    assert [element.tag for element in whole[0]] == [0x00400008, 0x00400009, 0x00401001]
    nested = whole[0][0].value
    assert isinstance(nested, tuple)
    assert nested[0][0] == Element(0x00080100, "SH", "T-1")


def test_sequence_in_a_sequence_is_matched(header: Dataset) -> None:
    def request(code: str) -> RequestedKey:
        nested = RequestedKey(0x00400008, "SQ", items=((RequestedKey(0x00080100, "SH", code),),))
        return RequestedKey(0x00400275, "SQ", items=((nested,),))

    assert read(header, request("T-2")) == (
        (Element(0x00400008, "SQ", ((Element(0x00080100, "SH", "T-2"),),)),),
    )
    assert read(header, request("T-9")) is None


def test_absent_sequence_is_unknown(header: Dataset) -> None:
    del header.ProcedureCodeSequence
    assert read(header, code_key(value="T-1")) == ()
    assert read(header, code_key(value="T-1"), match_unknown=False) is None


def test_header_that_cannot_be_read_is_without_values() -> None:
    key = key_of(RequestedKey(0x00321032, "PN", ""))
    assert read_keys(b"\x08\x00\x05\x00ZZ\xff\xff\xff\xff", EXPLICIT_VR_LE, [KeyReader(key, True)]) == [""]


def test_garbage_is_no_data_set() -> None:
    deep = b"\x08\x00\x32\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 3000
    with pytest.raises(CannotUnderstand):
        DataSet.parse(deep, encoding_of(EXPLICIT_VR_LE))
