"""Patients coerced in real objects, read by pydicom: nothing else changes (PS3.3 C.12.1.1.9)."""

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite

from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.patient import Coercion
from pacsnode.errors import CannotTranscode
from pacsnode.pixels.coerce import coerce
from pacsnode.pixels.transcode import opened, write_as
from tests.conftest import real_objects
from tests.support.truth import REFUSED

MOMENT = "20260105093000.000000+0000"
PATIENT = ("PatientID", "IssuerOfPatientID")


def coerced(path: Path, told: dict[str, str], *, patient: tuple[str, str] | None = None) -> Dataset:
    """What becomes of a file."""
    content = path.read_bytes()
    meta = read_file_meta(content)
    received = patient or _identity(dcmread(path))
    data_set = opened(memoryview(content)[meta.data_offset :], meta.transfer_syntax)
    coerce(data_set, Coercion(*received, tuple(told.items()), MOMENT, "PACSNODE"))
    out = BytesIO(content[: meta.data_offset])
    out.seek(0, 2)
    write_as(data_set, meta.transfer_syntax, meta.transfer_syntax, out)
    out.seek(0)
    return dcmread(out)


def _identity(data_set: Dataset) -> tuple[str, str]:
    return tuple(str(data_set.get(keyword) or "") for keyword in PATIENT)


def differing(before: Dataset, after: Dataset) -> set[str]:
    """Keywords of elements that are not the same; group lengths say nothing."""
    tags = {element.tag for data_set in (before, after) for element in data_set if element.tag.element}
    return {
        (after if tag in after else before)[tag].keyword
        for tag in tags
        if tag not in before or tag not in after or _value(before, tag) != _value(after, tag)
    }


def _value(data_set: Dataset, tag: int) -> object:
    element = data_set[tag]
    if element.VR == "SQ":
        return [{inner.tag: _value(item, inner.tag) for inner in item} for item in element.value]
    return element.value if element.value is not None else ""


def _readable() -> list[Path]:
    return [path for path in real_objects() if path.stat().st_size < 2**20 and path.name not in REFUSED]


@pytest.mark.parametrize("name", ["DOE^JANE", "Müller^Jörg", "Yamada^Tarou=山田^太郎=やまだ^たろう"])
def test_nothing_else_changes_in_real_objects(name: str) -> None:
    told = {"PatientID": "NEW 1", "PatientName": name, "PatientSex": "", "PatientComments": "merged"}
    seen = 0
    for path in _readable():
        before = dcmread(path)
        after = coerced(path, told)
        seen += 1
        changed = differing(before, after) - {"SpecificCharacterSet"}
        assert changed <= {*told, "OriginalAttributesSequence"}, path
        assert (str(after.PatientName), after.PatientID, after.PatientComments) == (name, "NEW 1", "merged")
        assert after.get("PatientSex") in ("", None)
        original = after.OriginalAttributesSequence[-1]
        (previous,) = original.ModifiedAttributesSequence
        for keyword in changed & told.keys():
            assert keyword in previous, "what was not there has no value"
            assert (previous[keyword].value or "") == (before.get(keyword) or ""), path
        assert (original.ReasonForTheAttributeModification, original.ModifyingSystem) == (
            "COERCE",
            "PACSNODE",
        )
        assert original.AttributeModificationDateTime == MOMENT
        assert "SourceOfPreviousValues" in original
    assert seen > 60


def object_with(path: Path, **values: object) -> Path:
    """A small object of its own, Explicit VR Little Endian."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    data_set.PatientID = "P1"
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    dcmwrite(path, data_set, enforce_file_format=True)
    return path


def test_a_character_the_set_lacks_makes_all_text_utf_8(tmp_path: Path) -> None:
    item = Dataset()
    item.CodeMeaning = "Schädel"
    foreign = Dataset()
    foreign.SpecificCharacterSet = "ISO_IR 144"
    foreign.CodeMeaning = "Череп"
    path = object_with(
        tmp_path / "in.dcm",
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Grün^Zoë",
        StudyDescription="Schädel",
        ProcedureCodeSequence=[item, foreign],
    )
    after = coerced(path, {"PatientName": "Šimić^Ana"})
    assert after.SpecificCharacterSet == "ISO_IR 192"
    assert (str(after.PatientName), after.StudyDescription) == ("Šimić^Ana", "Schädel")
    assert [one.CodeMeaning for one in after.ProcedureCodeSequence] == ["Schädel", "Череп"]
    (previous,) = after.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert str(previous.PatientName) == "Grün^Zoë"


def test_text_that_cannot_be_read_is_not_changed_to_other_text(tmp_path: Path) -> None:
    path = object_with(tmp_path / "in.dcm", SpecificCharacterSet="ISO_IR 192", StudyDescription="abcd")
    path.write_bytes(path.read_bytes().replace(b"abcd", b"ab\xff\xfe").replace(b"ISO_IR 192", b"ISO_IR 13 "))
    with pytest.raises(CannotTranscode, match=r"\(0008,1030\)"):
        coerced(path, {"PatientName": "Šimić^Ana"})
    assert str(coerced(path, {"PatientName": "SIMIC^ANA"}).PatientName) == "SIMIC^ANA"


def test_an_issuer_that_changes_takes_its_qualifiers_with_it(tmp_path: Path) -> None:
    qualifiers = Dataset()
    qualifiers.UniversalEntityID, qualifiers.UniversalEntityIDType = "1.2.3", "ISO"
    earlier = Dataset()
    earlier.ReasonForTheAttributeModification = "CORRECT"
    path = object_with(
        tmp_path / "in.dcm",
        IssuerOfPatientID="TEMP",
        IssuerOfPatientIDQualifiersSequence=[qualifiers],
        OriginalAttributesSequence=[earlier],
    )
    after = coerced(path, {"PatientID": "P9", "IssuerOfPatientID": ""})
    assert after.PatientID == "P9"
    assert "IssuerOfPatientID" not in after
    assert "IssuerOfPatientIDQualifiersSequence" not in after
    first, second = after.OriginalAttributesSequence
    assert first.ReasonForTheAttributeModification == "CORRECT", "what was noted before stays"
    (previous,) = second.ModifiedAttributesSequence
    assert (previous.PatientID, previous.IssuerOfPatientID) == ("P1", "TEMP")
    assert previous.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.3"


@pytest.mark.parametrize(
    ("told", "patient"),
    [
        ({"PatientName": "DOE^JANE"}, ("P1", "")),
        ({"PatientName": "DOE^JANE^^"}, ("P1", "")),
        ({"PatientName": "OTHER"}, ("P2", "")),
        ({"PatientName": "OTHER"}, ("P1", "HOSP")),
    ],
    ids=["says so", "but for delimiters", "another ID", "another issuer"],
)
def test_what_needs_no_change_gets_none(
    tmp_path: Path, told: dict[str, str], patient: tuple[str, str]
) -> None:
    path = object_with(tmp_path / "in.dcm", PatientName="DOE^JANE")
    assert differing(dcmread(path), coerced(path, told, patient=patient)) == set()
