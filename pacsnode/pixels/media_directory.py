"""The DICOMDIR of a File-set: the Basic Directory IOD (PS3.3 F, PS3.10 8). Worker processes only.

It is made of the metadata of the objects. What a record must have and an object lacks is made up, as DCMTK's
dcmmkdir does when it is told to invent; an object of which no record can be made is left out, which its file
may be (PS3.10 8.6).
"""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, BinaryIO, Final
from uuid import NAMESPACE_OID, uuid5

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.fileset import DIRECTORY_RECORDERS, _four_level_record_type
from pydicom.filewriter import write_dataset

from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.pixels.job import Directory

MEDIA_STORAGE_DIRECTORY: Final = UID("1.2.840.10008.1.3.10")

_MADE_UP: Final = {
    "PatientID": "UNKNOWN", "StudyDate": "19000101", "StudyTime": "000000", "StudyID": "0",
    "Modality": "OT", "SeriesNumber": 0, "InstanceNumber": 0,
}  # fmt: skip
_IN_USE: Final = 0xFFFF
_OF_THE_IMAGE: Final = frozenset({"0018", "0028", "5200", "7FE0"})  # no record holds any of it
_UPPER: Final = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}
_OFFSET: Final = struct.Struct("<I")
_NEXT_AT, _LOWER_AT = 16, 38  # bytes from the beginning of an item to its two offsets, which come first


@dataclass(slots=True)
class _Record:
    """A directory record, encoded as an item, and those below it, by what tells them apart.

    `position`: in the file, from its first byte on (PS3.3 F.2.2.2).
    """

    item: bytearray = field(default_factory=bytearray)
    lower: dict[str, "_Record"] = field(default_factory=dict)
    position: int = 0


def write_directory(directory: Directory, metadata: Iterable[bytes], out: BinaryIO) -> None:
    """Write the file. `metadata`: a JSON array of objects in each line."""
    with open(directory.files, "rb") as file:
        files: dict[str, tuple[str, str]] = json.load(file)
    root = _Record()
    for line in metadata:
        for model in json.loads(line):
            _add(root, model, files)
    sop_instance = UID(f"2.25.{uuid5(NAMESPACE_OID, json.dumps(files)).int}")
    head = file_meta(MEDIA_STORAGE_DIRECTORY, sop_instance, EXPLICIT_VR_LE, directory.source)
    records = list(_in_order(root))
    position = len(head) + len(_beginning(root, 0))
    begin = position
    for record in records:
        record.position = position
        position += len(record.item)
    _link(root)
    out.write(head + _beginning(root, position - begin))
    for record in records:
        out.write(record.item)


def _add(root: _Record, model: dict[str, Any], files: dict[str, tuple[str, str]]) -> None:
    """The records of an object, as far as they are not there yet (PS3.3 F.4, F.5)."""
    data_set = _data_set(model)
    if (known := files.get(str(data_set.get("SOPInstanceUID")))) is None:
        return
    for keyword, value in _MADE_UP.items():
        if data_set.get(keyword) in (None, ""):
            setattr(data_set, keyword, value)
    try:
        kind = _four_level_record_type(data_set)
        leaf = DIRECTORY_RECORDERS[kind](data_set)
        level = root
        for upper, keyword in _UPPER.items():
            name = str(data_set[keyword].value)
            if name not in level.lower:
                level.lower[name] = _Record(_item(upper, DIRECTORY_RECORDERS[upper](data_set)))
            level = level.lower[name]
    except ValueError:  # pydicom misses what the record of such an object must have
        return
    leaf.ReferencedFileID = known[0].split("/")
    leaf.ReferencedSOPClassUIDInFile = data_set.SOPClassUID
    leaf.ReferencedSOPInstanceUIDInFile = data_set.SOPInstanceUID
    leaf.ReferencedTransferSyntaxUIDInFile = known[1]
    level.lower[str(data_set.SOPInstanceUID)] = _Record(_item(kind, leaf))


def _data_set(model: dict[str, Any]) -> Dataset:
    """The attributes, but those of the image, and but those that are against their VR."""
    found = Dataset()
    for tag, attribute in model.items():
        if tag[:4] in _OF_THE_IMAGE:
            continue
        try:
            found.update(Dataset.from_json({tag: attribute}, lambda *_: b""))
        except Exception:
            continue
    return found


def _item(kind: str, record: Dataset) -> bytearray:
    """A record as an item, its offsets still zero."""
    record.OffsetOfTheNextDirectoryRecord = 0
    record.RecordInUseFlag = _IN_USE
    record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.DirectoryRecordType = kind
    record.SpecificCharacterSet = "ISO_IR 192"
    data = _encoded(record)
    return bytearray(struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data)


def _encoded(data_set: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def _in_order(record: _Record) -> Iterator[_Record]:
    """All records below one, each before those below it."""
    for lower in record.lower.values():
        yield lower
        yield from _in_order(lower)


def _link(record: _Record) -> None:
    """Write the offsets of the records below one: the next of its level, the first of the level below."""
    level = list(record.lower.values())
    for one, following in pairwise(level):
        _OFFSET.pack_into(one.item, _NEXT_AT, following.position)
    for one in level:
        if one.lower:
            _OFFSET.pack_into(one.item, _LOWER_AT, next(iter(one.lower.values())).position)
        _link(one)


def _beginning(root: _Record, length: int) -> bytes:
    """The data set up to the first record (PS3.3 F.3.2.1, F.3.2.2); `length` of all records, in bytes."""
    tops = [record.position for record in root.lower.values()] or [0]
    data_set = Dataset()
    data_set.FileSetID = ""
    data_set.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = tops[0]
    data_set.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = tops[-1]
    data_set.FileSetConsistencyFlag = 0
    return _encoded(data_set) + struct.pack("<HH2sHI", 0x0004, 0x1220, b"SQ", 0, length)
