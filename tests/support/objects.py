"""Objects to send: made ones, small and cheap, and the parts of real files."""

import hashlib
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacsnode.dicom.header import Encoding
from tests.support.raw import CT_IMAGE

ROOT = "1.2.826.0.1.3680043.10.1474"


@dataclass(frozen=True)
class Made:
    """A made CT image with its data set in Explicit VR Little Endian."""

    study: str
    series: str
    sop: str
    data: bytes


def made(number: int, *, study: int = 1, series: int = 1, pixels: int = 64, **values: object) -> Made:
    """The `number`th object; `values` are more attributes, by keyword, or others than usual."""
    uids = (f"{ROOT}.{study}", f"{ROOT}.{study}.{series}", f"{ROOT}.{study}.{series}.{number}")
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.SOPClassUID = CT_IMAGE
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID, data_set.SOPInstanceUID = uids
    data_set.StudyDate, data_set.StudyTime = "20240229", "101112"
    data_set.AccessionNumber = f"A{study}"
    data_set.Modality = "CT"
    data_set.PatientName, data_set.PatientID = f"Made^{study:05}", f"P{study}"
    data_set.StudyID, data_set.SeriesNumber, data_set.InstanceNumber = str(study), series, number
    data_set.Rows = data_set.Columns = 1
    data_set.BitsAllocated = 8
    set_values(data_set, values)
    data_set.add_new(0x7FE00010, "OB", bytes(pixels))
    return Made(*uids, encoded(data_set))


def set_values(data_set: Dataset, values: Mapping[str, object]) -> None:
    """Set attributes by keyword; wrong values are meant to be wrong, so pydicom does not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in values.items():
            setattr(data_set, keyword, value)


def encoded(data_set: Dataset, *, implicit: bool = False) -> bytes:
    """A data set in Explicit, or Implicit, VR Little Endian."""
    return encoded_as(data_set, Encoding(implicit, little_endian=True))


def encoded_as(data_set: Dataset, encoding: Encoding) -> bytes:
    """A data set as pydicom writes it."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little_endian
    write_dataset(buffer, data_set)
    return bytes(buffer.getvalue())


def identifier(level: str, *, implicit: bool = False, **keys: object) -> bytes:
    """A C-FIND identifier; keys by keyword, "" for what is to be returned."""
    data_set = Dataset()
    data_set.QueryRetrieveLevel = level
    set_values(data_set, keys)
    return encoded(data_set, implicit=implicit)


@dataclass(frozen=True)
class Part10:
    """A real file: what C-STORE needs of it, and the bytes of its data set."""

    path: Path
    sop_class: str
    sop: str
    study: str
    series: str
    transfer_syntax: str
    data: bytes


def part10(path: Path) -> Part10:
    found = dcmread(path, stop_before_pixels=True)
    return Part10(
        path,
        str(found.file_meta.MediaStorageSOPClassUID if "SOPClassUID" not in found else found.SOPClassUID),
        str(found.SOPInstanceUID),
        str(found.StudyInstanceUID),
        str(found.SeriesInstanceUID),
        str(found.file_meta.TransferSyntaxUID),
        data_set_bytes(path),
    )


def data_set_bytes(path: Path) -> bytes:
    """What follows the File Meta Information (PS3.10 7.1), walked by hand: group length may be wrong."""
    raw = path.read_bytes()
    assert raw[128:132] == b"DICM"
    offset = 132
    while raw[offset : offset + 2] == b"\x02\0":
        if raw[offset + 4 : offset + 6] in (b"OB", b"UN"):
            offset += 12 + struct.unpack_from("<I", raw, offset + 8)[0]
        else:
            offset += 8 + struct.unpack_from("<H", raw, offset + 6)[0]
    return raw[offset:]


def stored_files(root: Path) -> Iterator[Path]:
    yield from sorted((root / "objects").rglob("*.dcm"))


def digests(root: Path) -> list[str]:
    """Of every data set held, those kept aside included."""
    kept = [*stored_files(root), *sorted((root / "conflicts").rglob("*.dcm"))]
    return sorted(hashlib.sha256(data_set_bytes(path)).hexdigest() for path in kept)


def object_path(root: Path, item: Made | Part10) -> Path:
    return root / "objects" / item.study / item.series / f"{item.sop}.dcm"


def incoming(root: Path) -> list[Path]:
    return list((root / "incoming").iterdir())


def read_data_set(data: bytes) -> Dataset:
    """An Explicit VR Little Endian data set."""
    return read_dataset(BytesIO(data), False, True)
