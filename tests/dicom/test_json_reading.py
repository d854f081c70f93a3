"""JSON and XML back to data sets: real objects go round unchanged; hostile input is refused."""

import json
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.json_model import JsonEncoder
from pacsnode.dicom.json_reading import Dereference, elements_of, models_of
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.xml_model import model_of, native_model
from pacsnode.errors import CannotUnderstand
from tests.support.files import bundled
from tests.support.objects import encoded
from tests.support.truth import REFUSED

EXPLICIT = encoding_of("1.2.840.10008.1.2.1")
DEFLATED = "1.2.840.10008.1.2.1.99"


def nothing(uri: str, path: tuple[int, ...], vr: str) -> None:
    return None


def data_set_of(model: dict, dereference: Dereference) -> bytes:
    return b"".join(encoded for _, encoded in elements_of(model, dereference))


def model(path: Path) -> dict:
    data = path.read_bytes()
    meta = read_file_meta(data)
    text = JsonEncoder().encode(
        data[meta.data_offset :], encoding_of(meta.transfer_syntax), lambda path: f"{path[-1]:08X}"
    )
    (found,) = models_of(text.encode())
    return found


PLAIN = [
    path
    for path in bundled()
    if path.name not in REFUSED and read_file_meta(path.read_bytes()).transfer_syntax != DEFLATED
]


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.name)
def test_real_objects_go_round(path: Path) -> None:
    sent = model(path)
    data = data_set_of(sent, nothing)
    again = json.loads(JsonEncoder().encode(data, EXPLICIT))
    sent = {tag: one for tag, one in sent.items() if "BulkDataURI" not in one and tag != "00080005"}
    again.pop("00080005")
    assert without_references(again) == without_references(sent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_dataset(BytesIO(data), False, True).SOPInstanceUID == dcmread(path).SOPInstanceUID


def without_references(found: dict) -> dict:
    """Of what is nested too; FL and FD as they compare."""
    return {
        tag: {**one, "Value": [without_references(item) for item in one["Value"]]}
        if one["vr"] == "SQ" and "Value" in one
        else one
        for tag, one in found.items()
        if "BulkDataURI" not in one and tag != "00080005"
    }


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.name)
def test_xml_tells_the_same(path: Path) -> None:
    sent = without_open_ends(model(path))
    found = model_of(native_model(sent))
    assert found.keys() == sent.keys()
    assert data_set_of(found, nothing) == data_set_of(sent, nothing)


def without_open_ends(found: dict) -> dict:
    """XML has the components of a name apart: empty ones at its end are not there."""
    for one in found.values():
        for value in one.get("Value", ()) if one["vr"] in ("PN", "SQ") else ():
            if one["vr"] == "SQ":
                without_open_ends(value)
            elif value:
                value.update({group: name.rstrip("^") for group, name in value.items()})
    return found


def test_references_are_resolved_where_they_stand() -> None:
    item = Dataset()
    item.add_new(0x00282000, "OB", bytes(300_000))
    data_set = Dataset()
    data_set.add_new(0x00480105, "SQ", [item])
    (sent,) = models_of(
        JsonEncoder().encode(encoded(data_set), EXPLICIT, lambda path: "/".join(map(str, path))).encode()
    )
    asked = []

    def value(uri: str, path: tuple[int, ...], vr: str) -> bytes:
        asked.append((uri, path, vr))
        return b"icc!"

    found = read_dataset(BytesIO(data_set_of(sent, value)), False, True)
    assert asked == [(f"{0x00480105}/1/{0x00282000}", (0x00480105, 1, 0x00282000), "OB")]
    assert found[0x00480105].value[0][0x00282000].value == b"icc!"


def test_text_is_stored_as_utf_8() -> None:
    sent = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Wang^XiaoDong", "Ideographic": "王^小东"}]},
        "00020010": {"vr": "UI", "Value": ["1.2"]},
        "00280030": {"vr": "DS", "Value": [0.5, "0.25", None]},
    }
    found = read_dataset(BytesIO(data_set_of(sent, nothing)), False, True)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert str(found.PatientName) == "Wang^XiaoDong=王^小东"
    assert 0x00020010 not in found
    assert found.get_item(0x00280030).value == b"0.5\\0.25\\ "[: len(found.get_item(0x00280030).value)]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1]",
        b'{"nonsense": {"vr": "LO"}}',
        b'{"00100010": {"vr": "ZZ"}}',
        b'{"00100010": []}',
        b'{"00100020": {"vr": "LO", "Value": "x"}}',
        b'{"00100020": {"vr": "LO", "Value": [true]}}',
        b'{"00091001": {"vr": "OB", "InlineBinary": "*"}}',
        b'{"00091001": {"vr": "OB", "Value": ["AAAA"]}}',
        b'{"00280010": {"vr": "US", "Value": [65536]}}',
        b'{"00280010": {"vr": "US", "Value": [1.5]}}',
        b'{"00280010": {"vr": "US", "Value": ["one"]}}',
        b'{"00280009": {"vr": "AT", "Value": ["PatientID"]}}',
        b'{"00281050": {"vr": "DS", "Value": [NaN]}}',
        b'{"00100020": {"vr": "LO", "Value": ["\\ud800"]}}',
        b'{"00081110": {"vr": "SQ", "Value": [1]}}',
        b'{"00081110":{"vr":"SQ","Value":[' * 100 + b"{}" + b"]}}" * 100,
        b"[" * 100_000,
    ],
)
def test_what_is_no_metadata_is_refused(text: bytes) -> None:
    with pytest.raises(CannotUnderstand):
        read(text)


def test_nothing_of_a_value_is_lost_on_the_way() -> None:
    sent = {
        "00080060": {"vr": "CS", "Value": ["ÄÖ"]},  # against PS3.5 6.2, and stored all the same
        "00281050": {"vr": "DS", "Value": [0.1 + 0.2, "1.50", 40]},
        "00280010": {"vr": "US", "Value": [512.0]},
        "00200013": {"vr": "IS", "Value": ["0012"]},
        "00409096": {
            "vr": "SQ",
            "Value": [
                {
                    "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
                    "00400007": {"vr": "LO", "Value": ["東"]},
                },
                None,
            ],
        },
        "0018602C": {"vr": "FD", "Value": ["Infinity", -0.0]},
        "00282000": {"vr": "OB"},
    }
    found = read_dataset(BytesIO(data_set_of(sent, nothing)), False, True)
    assert found.get_item(0x00080060).value == "ÄÖ".encode()
    assert found.get_item(0x00281050).value == b"0.30000000000000\\1.50\\40"
    assert found.Rows == 512
    assert found.get_item(0x00200013).value == b"0012"
    assert found[0x00409096].value[0][0x00400007].value == "東"
    assert 0x00080005 not in found[0x00409096].value[0]
    assert len(found[0x00409096].value) == 2
    assert found[0x0018602C].value == [float("inf"), 0.0]
    assert 0x00282000 in found


def read(text: bytes) -> list[bytes]:
    return [data_set_of(found, nothing) for found in models_of(text)]


BOMB = b"""<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;">]>
<NativeDicomModel>&c;</NativeDicomModel>"""


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html/>",
        b"<NativeDicomModel>",
        BOMB,
        b"<NativeDicomModel><x/></NativeDicomModel>",
        b'<NativeDicomModel><DicomAttribute tag="xyz" vr="LO"/></NativeDicomModel>',
        b"<a>" * 1000 + b"</a>" * 1000,
    ],
)
def test_what_is_no_native_model_is_refused(document: bytes) -> None:
    with pytest.raises(CannotUnderstand):
        model_of(document)
