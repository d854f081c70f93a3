"""De-identification, over every real object: what the table removes is nowhere in what comes out."""

import re
import subprocess
from io import BytesIO
from itertools import chain
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.part10 import file_meta, read_file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID, pseudonymous_uid
from pacsnode.errors import CannotDeidentify
from pacsnode.pixels.confidentiality_profile import ACTIONS
from pacsnode.pixels.deidentify import deidentify
from pacsnode.pixels.recode import DataSet, Element, Fragments, read
from pacsnode.pixels.transcode import opened, write_as
from tests.conftest import needs, real_objects
from tests.support.objects import encoded, read_data_set
from tests.support.truth import REFUSED

KEY = b"k" * 32
REAL = [path for path in real_objects() if path.name not in REFUSED]
ACTION_OF = {int(tag, 16): action for action, tags in ACTIONS.items() for tag in tags.split()}
TEXTS = {"AE", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"}


def deidentified(path: Path) -> bytes:
    """The file of the object, de-identified, in Explicit VR Little Endian where it was native."""
    data = path.read_bytes()
    meta = read_file_meta(data)
    tree = opened(memoryview(data)[meta.data_offset :], meta.transfer_syntax)
    sop_class = UID((tree.raw(0x00080016) or b"").decode().strip(" \0"))
    sop_instance = UID((tree.raw(0x00080018) or b"").decode().strip(" \0"))
    deidentify(tree, KEY)
    native = meta.transfer_syntax == IMPLICIT_VR_LE
    target = EXPLICIT_VR_LE if native else meta.transfer_syntax
    out = BytesIO()
    write_as(tree, meta.transfer_syntax, target, out)
    return file_meta(sop_class, pseudonymous_uid(sop_instance, KEY), target, "TEST") + out.getvalue()


def identifying(data_set: Dataset) -> set[str]:
    """The values of attributes that the table does not keep, at every level; short ones prove nothing."""
    found = set()
    for element in data_set.iterall():
        if element.tag not in ACTION_OF or element.VR not in TEXTS or element.value in (None, ""):
            continue
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        found |= {str(value) for value in values if not str(value).startswith("1.2.840.10008.")}
    return {value for value in found if len(value) > 5 and re.sub("[0. ]", "", value)} - {"19000101"}


def elements_of(data_set: Dataset) -> str:
    """All values but pixels, as text."""
    return "\n".join(
        f"{element.tag} {element.value}"
        for element in data_set.iterall()
        if element.VR not in ("SQ", "OB", "OW", "OF", "OB or OW")
    )


def is_refused(path: Path) -> bool:
    try:
        deidentified(path)
    except CannotDeidentify:
        return True
    return False


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_what_identifies_is_nowhere_in_a_real_object(path: Path) -> None:
    if is_refused(path):
        original = dcmread(path, stop_before_pixels=True)
        assert original.get("BurnedInAnnotation") != "NO" or "EncapsulatedDocument" in original
        return
    original = dcmread(path)
    cleaned = dcmread(BytesIO(deidentified(path)))
    kept = "\n".join(
        str(element.value)
        for element in original.iterall()
        if element.tag not in ACTION_OF and element.VR in TEXTS
    )
    text = elements_of(cleaned)
    for value in identifying(original):
        assert value in kept or value not in text, value
    for element in cleaned.iterall():
        assert not element.tag.is_private
        assert ACTION_OF.get(element.tag) != "X"
        assert element.tag.group & 0xFF00 not in (0x5000, 0x6000)
    assert cleaned.PatientIdentityRemoved == "YES"
    assert cleaned.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert cleaned.SOPInstanceUID == pseudonymous_uid(UID(original.SOPInstanceUID), KEY)
    assert cleaned.SOPInstanceUID == cleaned.file_meta.MediaStorageSOPInstanceUID
    assert cleaned.get("Rows") == original.get("Rows")
    if "PixelData" in original and not original.file_meta.TransferSyntaxUID.is_implicit_VR:
        assert cleaned.PixelData == original.PixelData


def test_the_table_speaks_of_attributes_once() -> None:
    tags = list(chain.from_iterable(tags.split() for tags in ACTIONS.values()))
    assert len(tags) == len(set(tags)) > 600
    for keyword, action in (
        ("00100010", "Z"),  # Patient's Name
        ("00100020", "Z/D"),  # Patient ID
        ("00100040", "Z"),  # Patient's Sex
        ("00101010", "X"),  # Patient's Age
        ("00080080", "X/Z/D"),  # Institution Name
        ("00081140", "X/Z/U*"),  # Referenced Image Sequence
        ("0020000D", "U"),  # Study Instance UID
        ("0040A730", "D"),  # Content Sequence
        ("00081030", "X"),  # Study Description
        ("00080020", "Z"),  # Study Date
    ):
        assert keyword in ACTIONS[action].split()
    for tag in ACTIONS["U"].split():
        assert dictionary_VR(int(tag, 16)) == "UI"


def tree_of(data_set: Dataset) -> DataSet:

    return read(memoryview(encoded(data_set)), encoding_of(EXPLICIT_VR_LE))


def minimal(**values: object) -> Dataset:
    data_set = Dataset()
    data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data_set.SOPInstanceUID = "1.2.3"
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


def cleaned(data_set: Dataset, key: bytes = KEY) -> Dataset:

    tree = tree_of(data_set)
    deidentify(tree, key)
    out = BytesIO()
    write_as(tree, EXPLICIT_VR_LE, EXPLICIT_VR_LE, out)
    return read_data_set(out.getvalue())


def test_references_between_objects_stay_together_under_one_key() -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    referring = cleaned(minimal(SOPInstanceUID="1.2.4", ReferencedImageSequence=[item]))
    referred = cleaned(minimal())
    reference = referring.ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == referred.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == item.ReferencedSOPClassUID
    assert cleaned(minimal(), b"other").SOPInstanceUID != referred.SOPInstanceUID


def test_patients_stay_apart_and_well_known_uids_stay() -> None:
    one, other, again = (cleaned(minimal(PatientID=name)) for name in ("P1", "P2", "P1"))
    assert one.PatientID == again.PatientID != other.PatientID
    assert cleaned(minimal(FrameOfReferenceUID="1.2.840.10008.1.4.1.1")).FrameOfReferenceUID.startswith(
        "1.2.8"
    )


def test_a_report_keeps_its_skeleton_and_none_of_its_words() -> None:
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121071", "DCM", "Finding"
    diagnosis = Dataset()
    diagnosis.CodeValue, diagnosis.CodingSchemeDesignator, diagnosis.CodeMeaning = "X1", "99X", "Rare disease"
    text, code = Dataset(), Dataset()
    text.ValueType, text.ConceptNameCodeSequence, text.TextValue = "TEXT", [name], "Mr Smith of Boston"
    code.ValueType, code.ConceptNameCodeSequence, code.ConceptCodeSequence = "CODE", [name], [diagnosis]
    report = cleaned(minimal(ContentSequence=[text, code]))
    first, second = report.ContentSequence
    assert (first.ValueType, first.ConceptNameCodeSequence[0].CodeMeaning) == ("TEXT", "Finding")
    assert first.TextValue == "ANONYMIZED"
    assert "Rare" not in str(second)
    assert second.ConceptCodeSequence[0].CodeValue == "ANONYMIZED"


@pytest.mark.parametrize(
    "values",
    [
        {"PixelData": b"\0\0", "BurnedInAnnotation": "YES"},
        {"PixelData": b"\0\0", "SOPClassUID": SecondaryCaptureImageStorage},
        {"PixelData": b"\0\0", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4.1"},
        {"EncapsulatedDocument": b"%PDF", "SOPClassUID": EncapsulatedPDFStorage},
    ],
    ids=["burned in", "secondary capture", "video", "document"],
)
def test_what_nobody_can_clean_is_refused(values: dict[str, object]) -> None:
    data_set = minimal(**values)
    if "PixelData" in values:
        data_set["PixelData"].VR = "OW"
    with pytest.raises(CannotDeidentify):
        deidentify(tree_of(data_set), KEY)


def test_a_secondary_capture_that_says_no_is_cleaned() -> None:
    data_set = minimal(SOPClassUID=SecondaryCaptureImageStorage, BurnedInAnnotation="NO", PixelData=b"\0\0")
    data_set["PixelData"].VR = "OW"
    assert cleaned(data_set).PixelData == b"\0\0"


def test_sequences_that_cannot_be_read_go() -> None:
    tree = tree_of(minimal())
    tree.set(0x00081140, b"UN", b"\xfe\xff\x00\xe0\x04\x00\x00\x00John")
    tree.set(0x00291010, b"LO", b"John")
    tree.set(0x60003000, b"OW", b"John")
    tree.set(0x00100010, b"UN", b"John")
    tree.set(0x0020000D, b"LO", b"John")  # with a wrong VR
    tree.set(0x00082112, b"OB", b"John")
    tree.set(0x00089215, b"OB", Fragments(b"", [memoryview(b"John")]))
    tree.elements.append(Element(0x00081070, None, b"John"))
    deidentify(tree, KEY)
    out = BytesIO()
    write_as(tree, EXPLICIT_VR_LE, EXPLICIT_VR_LE, out)
    assert b"John" not in out.getvalue()


@needs("dciodvfy")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_foreign_validator_finds_nothing_new(path: Path, tmp_path: Path) -> None:
    if is_refused(path):
        return
    out = tmp_path / "cleaned.dcm"
    out.write_bytes(deidentified(path))
    assert errors_of(out) <= errors_of(path)


def errors_of(path: Path) -> set[str]:
    """What dicom3tools objects to, without the values it names."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    lines = done.stderr.decode("latin-1").splitlines()
    return {re.sub(r"[0-9.]+", "", line) for line in lines if line.startswith("Error")}
