"""Encapsulated pixel data taken apart into frames, and put together from frames (PS3.5 A.4)."""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from pacsnode.dicom.header import Encoding
from pacsnode.errors import CannotTranscode, CannotUnderstand
from pacsnode.pixels.recode import PIXEL_DATA, Buffer, Fragments, element_head

_ITEM: Final = struct.Struct("<HHI")
_SEQUENCE_DELIMITATION: Final = _ITEM.pack(0xFFFE, 0xE0DD, 0)
_UNDEFINED: Final = 0xFFFFFFFF
_EXPLICIT_LE: Final = Encoding(implicit=False, little_endian=True)
# SOI of JPEG and JPEG-LS, SOC and SIZ of JPEG 2000, the signature box of JP2: how a frame begins
_BEGINNINGS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c\x6a\x50")


def encoded_frames(fragments: Fragments, frames: int, extended_offsets: bytes | None) -> Iterator[bytes]:
    """The encoded frames in their order, each joined from its fragments.

    Raises CannotUnderstand when there are fewer than `frames`, or nothing tells where one ends.
    """
    for span in fragments_of_frames(fragments, frames, extended_offsets):
        values = fragments.values[span]
        yield bytes(values[0]) if len(values) == 1 else b"".join(values)


def fragments_of_frames(
    fragments: Fragments, frames: int, extended_offsets: bytes | None
) -> "list[slice[int, int, None]]":
    """Which fragments make up each frame. Raises CannotUnderstand, see encoded_frames."""
    starts = _first_fragments(fragments, frames, extended_offsets)
    ends = [*starts[1:], len(fragments.values)]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)][:frames]


def _first_fragments(fragments: Fragments, frames: int, extended_offsets: bytes | None) -> list[int]:
    """The index of the first fragment of each frame."""
    count = len(fragments.values)
    if count < frames:
        raise CannotUnderstand(f"the pixel data holds {count} fragments for {frames} frames")
    if frames == 1:
        return [0]
    if count == frames:
        return list(range(count))
    for offsets in (_numbers(extended_offsets, "Q"), _numbers(fragments.offset_table, "I")):
        found = [bisect_right(fragments.starts, offset) - 1 for offset in offsets]
        if len(found) >= frames and found[0] == 0 and sorted(set(found)) == found:
            return found
    found = [n for n, value in enumerate(fragments.values) if bytes(value[:6]).startswith(_BEGINNINGS)]
    if len(found) >= frames and found[0] == 0:
        return found
    raise CannotUnderstand(f"nothing tells which of {count} fragments make up the {frames} frames")


def _numbers(table: Buffer | None, typecode: str) -> tuple[int, ...]:
    size = struct.calcsize(typecode)
    return (
        struct.unpack(f"<{len(table) // size}{typecode}", table[: len(table) // size * size]) if table else ()
    )


def packed(cells: Iterable[NDArray[np.integer]]) -> Iterator[bytes]:
    """Cells of one bit without a gap, between frames neither, padded to an even length (PS3.5 8.1.1, 8.2)."""
    rest = np.empty(0, np.uint8)
    total = 0
    for some in cells:
        bits = np.concatenate((rest, some.ravel() & 1))
        whole = len(bits) // 8 * 8
        yield np.packbits(bits[:whole].astype(np.uint8), bitorder="little").tobytes()
        total += whole // 8
        rest = bits[whole:].astype(np.uint8)
    last = np.packbits(rest, bitorder="little").tobytes()
    yield last + bytes((total + len(last)) & 1)


def write_encapsulated(out: BinaryIO, frames: Iterator[Buffer], count: int) -> None:
    """Write Pixel Data of one fragment a frame, with its Basic Offset Table (PS3.5 A.4).

    Raises CannotTranscode when a frame begins beyond 4 GiB, which the 32 bits of the table cannot say.
    """
    out.write(element_head(PIXEL_DATA, b"OB", _UNDEFINED, _EXPLICIT_LE))
    out.write(_ITEM.pack(0xFFFE, 0xE000, 4 * count))
    table = out.tell()
    out.write(bytes(4 * count))
    offsets = []
    offset = 0
    for frame in frames:
        offsets.append(offset)
        padding = len(frame) & 1
        out.write(_ITEM.pack(0xFFFE, 0xE000, len(frame) + padding))
        out.write(frame)
        out.write(bytes(padding))
        offset += 8 + len(frame) + padding
    out.write(_SEQUENCE_DELIMITATION)
    if offsets[-1] > _UNDEFINED:
        raise CannotTranscode("the encoded frames are longer than a Basic Offset Table can tell")
    out.seek(table)
    out.write(struct.pack(f"<{count}I", *offsets))
    out.seek(0, 2)
