from io import BytesIO
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.errors import InvalidDicomError

from pacsnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacsnode.dicom.part10 import FileMeta, file_meta, read_file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

CT = UID("1.2.840.10008.5.1.4.1.1.2")
BUNDLED = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))


@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34", "9" * 64])
@pytest.mark.parametrize(("source", "receiver"), [("STORESCU", "PACSNODE"), ("ODD", None), ("", None)])
def test_what_is_written_is_what_pydicom_reads(instance: str, source: str, receiver: str | None) -> None:
    head = file_meta(CT, UID(instance), EXPLICIT_VR_LE, source, receiver)

    meta = pydicom.dcmread(BytesIO(head)).file_meta

    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.MediaStorageSOPClassUID == CT
    assert meta.MediaStorageSOPInstanceUID == instance
    assert meta.TransferSyntaxUID == EXPLICIT_VR_LE
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.get("SourceApplicationEntityTitle", "") == source
    assert meta.get("ReceivingApplicationEntityTitle") == receiver
    assert meta.FileMetaInformationGroupLength == len(head) - 144  # preamble, prefix and its own element
    assert len(head) % 2 == 0


@pytest.mark.parametrize("transfer_syntax", TRANSFER_SYNTAXES)
def test_what_is_written_is_read_back(transfer_syntax: UID) -> None:
    head = file_meta(CT, UID("1.2.3"), transfer_syntax, "STORESCU")
    assert read_file_meta(head + b"data") == FileMeta(
        transfer_syntax, CT, UID("1.2.3"), "STORESCU", len(head)
    )


def test_an_ae_title_outside_ascii_does_not_stop_a_file_from_being_written() -> None:
    assert read_file_meta(file_meta(CT, UID("1.2"), EXPLICIT_VR_LE, "ÄRZTE")).source_ae == "?RZTE"


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.name)
def test_the_meta_of_a_foreign_file_is_what_pydicom_reads(path: Path) -> None:
    data = path.read_bytes()
    try:
        expected = pydicom.dcmread(path, stop_before_pixels=True).file_meta
        expected["TransferSyntaxUID"]
    except (InvalidDicomError, KeyError):
        with pytest.raises(CannotUnderstand):
            read_file_meta(data)
        return

    meta = read_file_meta(memoryview(data))

    assert meta.transfer_syntax == expected.TransferSyntaxUID
    assert meta.sop_class == (expected.get("MediaStorageSOPClassUID") or None)
    assert meta.sop_instance == (expected.get("MediaStorageSOPInstanceUID") or None)
    assert meta.source_ae == (expected.get("SourceApplicationEntityTitle") or None)


def test_a_missing_group_length_is_tolerated() -> None:
    head = file_meta(CT, UID("1.2.3"), EXPLICIT_VR_LE, "STORESCU")
    without = head[:132] + head[144:]
    assert read_file_meta(without).data_offset == len(without)


def test_a_file_cut_off_in_its_meta_is_refused_at_every_byte() -> None:
    head = file_meta(CT, UID("1.2.3"), EXPLICIT_VR_LE, "STORESCU")
    after_transfer_syntax = head.index(b"\x02\x00\x12\x00")
    for length in range(after_transfer_syntax):
        with pytest.raises(CannotUnderstand):
            read_file_meta(head[:length])


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_prefix_are_meta_or_refused(data: bytes) -> None:
    try:
        meta = read_file_meta(bytes(128) + b"DICM\x02\x00" + data)
    except CannotUnderstand:
        return
    assert meta.data_offset <= 134 + len(data)
