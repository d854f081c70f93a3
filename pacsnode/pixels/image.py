"""The attributes that describe Pixel Data, read from a data set and kept true (PS3.3 C.7.6.3, PS3.5 8.1)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.recode import Buffer, DataSet, swapped

SAMPLES_PER_PIXEL: Final = 0x00280002
PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
PLANAR_CONFIGURATION: Final = 0x00280006
NUMBER_OF_FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
HIGH_BIT: Final = 0x00280102
PIXEL_REPRESENTATION: Final = 0x00280103
LOSSY_IMAGE_COMPRESSION: Final = 0x00282110
LOSSY_IMAGE_COMPRESSION_RATIO: Final = 0x00282112
LOSSY_IMAGE_COMPRESSION_METHOD: Final = 0x00282114
EXTENDED_OFFSET_TABLE: Final = 0x7FE00001
EXTENDED_OFFSET_TABLE_LENGTHS: Final = 0x7FE00002
ENCAPSULATED_PIXEL_DATA_TOTAL_LENGTH: Final = 0x7FE00003
FLOAT_PIXEL_DATA: Final = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA: Final = 0x7FE00009

_CHUNK: Final = 2**20  # bytes turned round at a time; a multiple of every word


@dataclass(frozen=True, slots=True)
class Image:
    """What the attributes say. `planar`: the samples of a pixel lie apart, each colour in its own plane."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: bool
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    frames: int

    @property
    def bits_per_frame(self) -> int:
        """In the native format; YBR_FULL_422 has two colour samples for two pixels (PS3.3 C.7.6.3.1.2)."""
        samples = 2 if self.is_subsampled else self.samples
        return self.rows * self.columns * samples * self.allocated

    @property
    def is_subsampled(self) -> bool:
        return self.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422")

    @property
    def is_color(self) -> bool:
        return self.samples > 1


def describe(data_set: DataSet) -> Image:
    """Read the attributes of the Image Pixel Module. Raises CannotUnderstand when one is missing or wrong."""
    allocated = _number(data_set, BITS_ALLOCATED)
    stored = _number(data_set, BITS_STORED, allocated)
    image = Image(
        rows=_number(data_set, ROWS),
        columns=_number(data_set, COLUMNS),
        samples=_number(data_set, SAMPLES_PER_PIXEL, 1),
        photometric=(data_set.raw(PHOTOMETRIC_INTERPRETATION) or b"").decode("ascii", "replace").strip(" \0"),
        planar=_number(data_set, PLANAR_CONFIGURATION, 0) == 1,
        allocated=allocated,
        stored=stored,
        high_bit=_number(data_set, HIGH_BIT, stored - 1),
        signed=_number(data_set, PIXEL_REPRESENTATION, 0) == 1,
        frames=_frames(data_set),
    )
    if not (image.rows and image.columns and image.samples and 0 < stored <= allocated):
        raise CannotUnderstand("the attributes of the pixel data contradict each other")
    return image


def allocated_bits(data_set: DataSet) -> int:
    """Bits Allocated, or 16 where it is missing: the words of OW."""
    return _number(data_set, BITS_ALLOCATED, 16)


def has_embedded_overlay(data_set: DataSet) -> bool:
    """Tell whether overlay planes lie in the unused bits of the cells (PS3.5-2004 8.1.2, retired)."""
    planes = (data_set.raw(0x60000102 + (group << 16)) for group in range(0, 0x20, 2))
    return any(position and int.from_bytes(position[:2], "little") for position in planes)


def set_color(data_set: DataSet, image: Image, photometric: str) -> None:
    """Say that the samples are colour by pixel, and in which colour space."""
    if photometric != image.photometric:
        set_text(data_set, PHOTOMETRIC_INTERPRETATION, b"CS", photometric)
    if image.is_color:
        _set_number(data_set, PLANAR_CONFIGURATION, 0)


def set_bits(data_set: DataSet, image: Image) -> None:
    _set_number(data_set, BITS_ALLOCATED, image.allocated)
    _set_number(data_set, BITS_STORED, image.stored)
    _set_number(data_set, HIGH_BIT, image.high_bit)


def mark_lossy(data_set: DataSet, ratio: float, method: str) -> None:
    """Say that the pixels have been through a lossy compression, where it is not said (PS3.3 C.7.6.1.1.5)."""
    if (data_set.raw(LOSSY_IMAGE_COMPRESSION) or b"").strip(b" \0") != b"01":
        set_text(data_set, LOSSY_IMAGE_COMPRESSION, b"CS", "01")
    if not data_set.raw(LOSSY_IMAGE_COMPRESSION_RATIO):
        set_text(data_set, LOSSY_IMAGE_COMPRESSION_RATIO, b"DS", f"{ratio:.2f}")
    if not data_set.raw(LOSSY_IMAGE_COMPRESSION_METHOD):
        set_text(data_set, LOSSY_IMAGE_COMPRESSION_METHOD, b"CS", method)


def says_lossless(data_set: DataSet) -> bool:
    return (data_set.raw(LOSSY_IMAGE_COMPRESSION) or b"").strip(b" \0") == b"00"


def forget_offset_tables(data_set: DataSet) -> None:
    """Leave out what told where the encoded frames were (PS3.3 C.7.6.3.1.8)."""
    data_set.remove(
        EXTENDED_OFFSET_TABLE, EXTENDED_OFFSET_TABLE_LENGTHS, ENCAPSULATED_PIXEL_DATA_TOTAL_LENGTH
    )


def in_other_order(value: Buffer, allocated: int, vr: bytes | None) -> Iterator[Buffer]:
    """Native Pixel Data with the bytes of its words turned round, piece by piece (PS3.5 7.3).

    Cells of 8 bits and less are turned as the words of OW. Longer ones as whole cells, also those of 32 bits
    and those in OB, which the standard leaves open or forbids: so do GDCM and pydicom.
    """
    word_length = allocated // 8 if allocated > 8 else 1 if vr == b"OB" else 2
    view = memoryview(value)
    for start in range(0, len(view), _CHUNK):
        yield swapped(view[start : start + _CHUNK], word_length)


def _set_number(data_set: DataSet, tag: int, value: int) -> None:
    data_set.set(tag, b"US", value.to_bytes(2, "little"))


def _number(data_set: DataSet, tag: int, default: int | None = None) -> int:
    raw = data_set.raw(tag)
    if raw is not None and len(raw) >= 2:
        return int.from_bytes(raw[:2], "little")
    if default is None:
        raise CannotUnderstand(f"pixel data without ({tag >> 16:04X},{tag & 0xFFFF:04X})")
    return default


def _frames(data_set: DataSet) -> int:
    raw = (data_set.raw(NUMBER_OF_FRAMES) or b"").strip(b" \0")
    if not raw:
        return 1
    if not raw.isdigit():
        raise CannotUnderstand(f"Number of Frames is {raw[:16]!r}")
    return max(int(raw), 1)  # 0 is met where 1 is meant


def set_text(data_set: DataSet, tag: int, vr: bytes, text: str) -> None:
    """Set ASCII text, padded to an even length, a UID with a zero byte (PS3.5 6.2)."""
    padding = ("\0" if vr == b"UI" else " ") * (len(text) & 1)
    data_set.set(tag, vr, (text + padding).encode("ascii"))


def numbers_of(data_set: DataSet, tag: int) -> list[float]:
    """The values of a DS or IS; none when it is absent or holds what is no number."""
    try:
        texts = (data_set.raw(tag) or b"").decode("ascii").split("\\")
        return [float(text.strip(" \0")) for text in texts if text.strip(" \0")]
    except ValueError:
        return []


def set_numbers(data_set: DataSet, tag: int, vr: bytes, values: Iterable[float]) -> None:
    """Set a DS or IS; six places and ten digits keep a DS below its 16 characters."""
    set_text(data_set, tag, vr, "\\".join(f"{round(value, 6) + 0.0:.10g}" for value in values))
