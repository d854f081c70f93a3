"""Some frames cut out of pixel data; nothing is decoded (PS3.5 8.1.1, A.4). Worker processes only.

Frame indexes count from 0 and ascend.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotExtractFrames
from pacsnode.pixels.frames import fragments_of_frames, packed
from pacsnode.pixels.image import (
    DOUBLE_FLOAT_PIXEL_DATA,
    ENCAPSULATED_PIXEL_DATA_TOTAL_LENGTH,
    EXTENDED_OFFSET_TABLE,
    EXTENDED_OFFSET_TABLE_LENGTHS,
    FLOAT_PIXEL_DATA,
    describe,
    in_other_order,
)
from pacsnode.pixels.recode import PIXEL_DATA, Buffer, DataSet, Element, Fragments
from pacsnode.pixels.recode import Sequence as Items

_ITEM_HEAD: Final = 8  # bytes
_LIMIT: Final = 0xFFFFFFFF  # the highest offset of a Basic Offset Table
# A stream whose frames need each other: MPEG, H.264, H.265, JPEG 2000 Part 2, JPIP
_STREAMS: Final = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.93")


def pixel_data_of(data_set: DataSet) -> Element | None:
    """Pixel Data, Float Pixel Data or Double Float Pixel Data."""
    tags = (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA)
    return next((element for tag in tags if (element := data_set.find(tag)) is not None), None)


def cut_pixel_data(data_set: DataSet, stored: UID, frames: Sequence[int], count: int) -> None:
    """Leave `frames` of the `count` in the pixel data of a data set in the transfer syntax `stored`.

    Raises CannotExtractFrames and CannotUnderstand.
    """
    element = pixel_data_of(data_set)
    if element is None:
        raise CannotExtractFrames("there is no pixel data to cut")
    if isinstance(element.value, Fragments):
        if stored.startswith(_STREAMS):
            raise CannotExtractFrames("the pixel data is a stream whose frames need each other")
        element.value = _cut_fragments(data_set, element.value, frames, count)
        return
    if isinstance(element.value, Items):
        raise CannotExtractFrames("the pixel data is a sequence")
    image = describe(data_set)
    if len(element.value) * 8 < image.bits_per_frame * count:
        raise CannotExtractFrames(f"{len(element.value)} bytes of pixel data are less than {count} frames")
    # What lies in words of the other order is cut as it was meant, then turned back
    swaps = element.tag == PIXEL_DATA and not encoding_of(stored).little_endian
    value: Buffer = element.value
    if swaps:
        value = b"".join(in_other_order(value, image.allocated, element.vr))
    value = cut_bits(value, image.bits_per_frame, frames)
    element.value = b"".join(in_other_order(value, image.allocated, element.vr)) if swaps else value


def cut_bits(value: Buffer, bits: int, frames: Sequence[int]) -> Buffer:
    """Some of the frames of `bits` each that lie in `value` without a gap, padded to an even length."""
    if bits % 8:
        return b"".join(packed(_cells(value, bits, frames)))
    view, length = memoryview(value), bits // 8
    if frames[-1] - frames[0] + 1 == len(frames):
        run = view[frames[0] * length : (frames[-1] + 1) * length]
        return bytes(run) + b"\0" if len(run) & 1 else run
    cut = b"".join(view[frame * length : (frame + 1) * length] for frame in frames)
    return cut + bytes(len(cut) & 1)


def _cells(value: Buffer, bits: int, frames: Sequence[int]) -> Iterator[NDArray[np.integer]]:
    """The bits of frames that need not begin with a byte."""
    view = memoryview(value)
    for frame in frames:
        start = frame * bits
        some = np.frombuffer(view[start // 8 : (start + bits + 7) // 8], np.uint8)
        yield np.unpackbits(some, bitorder="little")[start % 8 : start % 8 + bits]


def _cut_fragments(data_set: DataSet, fragments: Fragments, frames: Sequence[int], count: int) -> Fragments:
    """The fragments of some frames; the tables that tell where these begin are made again (PS3.5 A.4).

    An Extended Offset Table stays one, and any other object has a Basic Offset Table afterwards.
    """
    spans = fragments_of_frames(fragments, count, data_set.raw(EXTENDED_OFFSET_TABLE))
    cut = Fragments(b"")
    offsets: list[int] = []
    position = 0
    for frame in frames:
        offsets.append(position)
        for value in fragments.values[spans[frame]]:
            cut.values.append(value)
            cut.starts.append(position)
            position += _ITEM_HEAD + len(value)
    if data_set.raw(EXTENDED_OFFSET_TABLE):
        data_set.set(EXTENDED_OFFSET_TABLE, b"OV", struct.pack(f"<{len(offsets)}Q", *offsets))
        _cut_lengths(data_set, cut, frames, count)
    elif offsets[-1] <= _LIMIT:
        cut.offset_table = struct.pack(f"<{len(offsets)}I", *offsets)
    if data_set.find(ENCAPSULATED_PIXEL_DATA_TOTAL_LENGTH) is not None:
        total = sum(map(len, cut.values))
        data_set.set(ENCAPSULATED_PIXEL_DATA_TOTAL_LENGTH, b"UV", total.to_bytes(8, "little"))
    return cut


def _cut_lengths(data_set: DataSet, cut: Fragments, frames: Sequence[int], count: int) -> None:
    """The Extended Offset Table Lengths: without padding, so taken from the old ones (PS3.3 C.7.6.3.1.8)."""
    lengths = data_set.raw(EXTENDED_OFFSET_TABLE_LENGTHS) or b""
    if len(lengths) == 8 * count:
        kept = b"".join(lengths[8 * frame : 8 * frame + 8] for frame in frames)
    else:
        kept = struct.pack(f"<{len(cut.values)}Q", *map(len, cut.values))
    data_set.set(EXTENDED_OFFSET_TABLE_LENGTHS, b"OV", kept)
