"""Which transfer syntax leaves over the web, and the media types that say so (PS3.18 8.7.3)."""

from collections.abc import Sequence
from typing import Final

from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.pixels import plan
from pacsnode.web.media import AS_STORED, OCTETS

FORBIDDEN: Final = frozenset({IMPLICIT_VR_LE, EXPLICIT_VR_BE})  # 8.7.3, 8.7.3.4

_IMAGE_TYPES: Final = {
    "image/jpeg": ("4.50", "4.51", "4.57", "4.70", *(f"4.{number}" for number in (52, 53, 54, 55, 56))),
    "image/dicom-rle": ("5",),
    "image/jls": ("4.80", "4.81"),
    "image/jp2": ("4.90", "4.91"),
    "image/jpx": ("4.92", "4.93"),
    "image/jphc": ("4.201", "4.202", "4.203"),
    "image/jxl": ("4.110", "4.111", "4.112"),
}
_VIDEO_TYPES: Final = {
    "video/mpeg": ("4.100", "4.100.1", "4.101", "4.101.1"),
    "video/mp4": tuple(f"4.{number}{part}" for number in range(102, 107) for part in ("", ".1")),
    "video/H265": ("4.107", "4.108"),
}

MEDIA_TYPE_OF: Final[dict[UID, str]] = {
    UID(f"1.2.840.10008.1.2.{suffix}"): media_type
    for types in (_IMAGE_TYPES, _VIDEO_TYPES)
    for media_type, suffixes in types.items()
    for suffix in suffixes
}
"""Table 8.7.3-5. What is encapsulated and not here is sent as octets with its transfer syntax."""

ENCODED_TYPES: Final = frozenset(media_type.lower() for media_type in MEDIA_TYPE_OF.values())


def media_type_of(stored: UID) -> str:
    """The type of the encoded frames of a transfer syntax."""
    return MEDIA_TYPE_OF.get(stored, OCTETS)


def named(media_type: str, transfer_syntax: UID) -> str:
    """A media type with its transfer syntax (8.7.3.5.2)."""
    return f"{media_type}; transfer-syntax={transfer_syntax}"


def instance_syntax(stored: UID, wanted: Sequence[str]) -> UID | None:
    """The transfer syntax to send an instance in, None when none of those wanted can be had.

    `wanted` as Acceptable.transfer_syntaxes has it: "" is the default, Explicit VR Little Endian, but what is
    lossy, or cannot be decoded here, goes as stored (8.7.3.4).
    """
    for one in wanted:
        if one in (AS_STORED, stored):
            if stored not in FORBIDDEN:
                return stored
            if one == AS_STORED:
                return EXPLICIT_VR_LE
        elif one == "":
            is_lossless = stored in plan.NATIVE or stored in plan.DECODABLE_LOSSLESS
            return EXPLICIT_VR_LE if is_lossless else stored
        elif UID(one) in plan.targets_of(stored, recompress_lossy=True) and UID(one) not in FORBIDDEN:
            return UID(one)
    return None


def frame_syntax(stored: UID, media_type: str, wanted: Sequence[str]) -> UID | None:
    """The transfer syntax to send frames in as `media_type`: as stored or, of octets, uncompressed."""
    for one in wanted:
        if stored in plan.NATIVE or (media_type == OCTETS and one in ("", EXPLICIT_VR_LE)):
            if one in ("", AS_STORED, EXPLICIT_VR_LE):
                return EXPLICIT_VR_LE
        elif one in ("", AS_STORED, stored):
            return stored
        elif plan.is_renamed(stored, UID(one)):
            return UID(one)
    return None
