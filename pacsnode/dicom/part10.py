"""The head of a DICOM file: preamble, prefix and File Meta Information (PS3.10 7.1). Pure."""

import struct
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap

from pacsnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacsnode.dicom.uid import UID, AETitle, uid_of
from pacsnode.dicom.vr import LONG_VRS
from pacsnode.errors import CannotUnderstand

PREAMBLE_LENGTH = 128  # bytes, free for the application; ours are zero (PS3.10 7.1)
MAX_META_LENGTH = 1 << 20  # bytes; ours has about 350, a foreign one may hold private information

_SHORT = struct.Struct("<HH2sH")  # group, element, VR, length of the value
_LONG_LENGTH = struct.Struct("<I")

_HEAD_LENGTH = PREAMBLE_LENGTH + 4
_HEAD = bytes(PREAMBLE_LENGTH) + b"DICM"
_GROUP_LENGTH = struct.Struct("<HH2sHI")
_PREFIX = b"DICM" + _SHORT.pack(0x0002, 0x0000, b"UL", 4)
_VERSION = _SHORT.pack(0x0002, 0x0001, b"OB", 0) + _LONG_LENGTH.pack(2) + b"\x00\x01"


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What a file says of its data set. Some writers leave the UIDs of the object out: None."""

    transfer_syntax: UID
    sop_class: UID | None
    sop_instance: UID | None
    source_ae: AETitle | None
    data_offset: int  # bytes from the start of the file to the data set


def file_meta(
    sop_class: UID,
    sop_instance: UID,
    transfer_syntax: UID,
    source_ae: str,
    receiving_ae: str | None = None,
) -> bytes:
    """Everything before the data set in a file of ours: preamble, prefix, group 0002 (PS3.10 Table 7.1-1)."""
    before, after = _constants(sop_class, transfer_syntax, source_ae, receiving_ae)
    elements = before + _uid_element(0x0003, sop_instance) + after
    return _HEAD + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(elements)) + elements


@lru_cache(maxsize=256)
def _constants(
    sop_class: UID, transfer_syntax: UID, source_ae: str, receiving_ae: str | None
) -> tuple[bytes, bytes]:
    """What the files of an association have in common, around what differs."""
    before = _VERSION + _uid_element(0x0002, sop_class)
    after = _uid_element(0x0010, transfer_syntax) + _IMPLEMENTATION
    after += _text_element(0x0016, b"AE", source_ae)
    return before, after + _text_element(0x0018, b"AE", receiving_ae)


def read_file_meta(start: bytes | bytearray | memoryview | mmap) -> FileMeta:
    """Read the File Meta Information at the head of a file (PS3.10 7.1).

    The group is walked element by element, since (0002,0000) may be missing or wrong. Raises CannotUnderstand
    when this is no DICOM file, the group is cut off, or it names no transfer syntax.
    """
    if bytes(start[PREAMBLE_LENGTH:_HEAD_LENGTH]) != b"DICM":
        raise CannotUnderstand("no DICOM file: DICM is not at byte 128")
    view = bytes(start[:MAX_META_LENGTH])
    values, data_offset = _group_2(view)
    if 0x0010 not in values:
        raise CannotUnderstand("file meta information without Transfer Syntax UID (0002,0010)")
    source_ae = values.get(0x0016, b"").strip(b"\0 ").decode("ascii", "replace")
    return FileMeta(
        transfer_syntax=uid_of(values[0x0010]),
        sop_class=_uid_or_none(values.get(0x0002)),
        sop_instance=_uid_or_none(values.get(0x0003)),
        source_ae=AETitle(source_ae) if source_ae else None,
        data_offset=data_offset,
    )


def data_offset_of(start: bytes) -> int:
    """Bytes from the start of a file to its data set, by the group length where there is one.

    Raises CannotUnderstand.
    """
    begin = _HEAD_LENGTH + _GROUP_LENGTH.size
    if len(start) >= begin and start[PREAMBLE_LENGTH : begin - 4] == _PREFIX:
        return begin + int.from_bytes(start[begin - 4 : begin], "little")
    return read_file_meta(start).data_offset


def _group_2(view: bytes) -> tuple[dict[int, bytes], int]:
    """The values of group 0002 by element number, and the position behind the group."""
    values: dict[int, bytes] = {}
    position = _HEAD_LENGTH
    while position < len(view) and view[position : position + 2] == b"\x02\x00":
        try:
            _, element, vr, length = _SHORT.unpack_from(view, position)
            position += 8
            if vr in LONG_VRS:
                (length,) = _LONG_LENGTH.unpack_from(view, position)
                position += 4
        except struct.error:
            raise CannotUnderstand("file meta information is cut off") from None
        if position + length > len(view):
            raise CannotUnderstand("file meta information is cut off")
        values[element] = view[position : position + length]
        position += length
    return values, position


def _uid_or_none(raw: bytes | None) -> UID | None:
    return uid_of(raw) if raw else None


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    if len(value) & 1:
        value += b"\0"
    return _SHORT.pack(0x0002, element, b"UI", len(value)) + value


def _text_element(element: int, vr: bytes, text: str | None) -> bytes:
    """An element padded with a space; none at all when there is nothing to say (all of these are type 3)."""
    if not text:
        return b""
    value = text.encode("ascii", "replace")
    if len(value) & 1:
        value += b" "
    return _SHORT.pack(0x0002, element, vr, len(value)) + value


_IMPLEMENTATION = _uid_element(0x0012, IMPLEMENTATION_CLASS_UID) + _text_element(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME
)
