"""Rows of the index, made of the header of an object (PS3.4 C.6, PS3.5 6.1)."""

import pytest

from pacsnode.archive.rows import RowBuilder, column_names
from pacsnode.dicom.header import Encoding, Header
from pacsnode.dicom.identifier import ResponseEncoder
from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.query import Query, key_of
from pacsnode.dicom.query import RequestedKey as Requested
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE

LITTLE_ENDIAN = Encoding(implicit=False, little_endian=True)
UIDS = {tag: b"1.2.3\0" for tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)}


def patient_row(**values: bytes) -> dict[str, object]:
    """The columns of the patient of an object with these elements, `T00100010=b"..."`."""
    elements = UIDS | {int(tag[1:], 16): value for tag, value in values.items()}
    row = RowBuilder().build(Header(EXPLICIT_VR_LE, LITTLE_ENDIAN, b"", elements))
    return dict(zip(column_names(Level.PATIENT), row.parents.patient, strict=True))


def test_name_is_kept_with_what_it_is_found_by() -> None:
    row = patient_row(T00080005=b"ISO_IR 100", T00100010=b"M\xdcLLER^J\xd6RG ", T00101001=b"SMITH^J\\DOE")
    assert row["patient_name"] == "MÜLLER^JÖRG"
    assert row["patient_name_key"] == "müller^jörg"
    assert row["patient_name_words"] == " muller jorg MLR JRK "
    assert row["other_patient_names_words"] == " smith j SM0 doe "


def test_name_without_characters_has_no_words() -> None:
    row = patient_row(T00100010=b"^^^^")
    assert (row["patient_name_key"], row["patient_name_words"]) == ("", "")


@pytest.mark.parametrize("raw", [b"\xc4 ", b"\xff\xfe", b"O "])
def test_bytes_that_a_vr_does_not_allow_are_answered_as_they_came(raw: bytes) -> None:
    sex = str(patient_row(T00100040=raw)["patient_sex"])
    keys = (key_of(Requested(0x00100040, "CS")),)
    query = Query(Level.PATIENT, InformationModel.PATIENT_ROOT, keys)
    assert raw in ResponseEncoder(query, LITTLE_ENDIAN, "NODE").encode([[sex]])[0]
