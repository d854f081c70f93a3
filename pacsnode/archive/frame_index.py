"""Where the frames of a stored object lie in its file (PS3.5 8.1.1, 8.2, A.4; PS3.3 C.7.6.3).

Of native pixel data that is arithmetic; of encapsulated the offset tables tell, once they are seen to be
right, and otherwise the heads of the fragments. Blocking, for worker threads; no value is read but these.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from pacsnode.archive.object_file import Readable
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.places import UNDEFINED, Place, Places
from pacsnode.dicom.vr import WORD_LENGTHS
from pacsnode.errors import CannotUnderstand

PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_DATA: Final = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA: Final = 0x7FE00009
FRAMES_LIMIT: Final = 50_000_000  # more cannot be in a value of 32 bits length, nor in any memory of ours

_EXTENDED_OFFSETS: Final = 0x7FE00001
_EXTENDED_LENGTHS: Final = 0x7FE00002
_ROWS, _COLUMNS, _SAMPLES, _ALLOCATED = 0x00280010, 0x00280011, 0x00280002, 0x00280100
_PHOTOMETRIC, _FRAMES, _PLANAR, _STORED = 0x00280004, 0x00280008, 0x00280006, 0x00280101
_HIGH_BIT, _REPRESENTATION, _LOSSY = 0x00280102, 0x00280103, 0x00282110
_WANTED: Final = frozenset(
    {_ROWS, _COLUMNS, _SAMPLES, _ALLOCATED, _PHOTOMETRIC, _FRAMES, _PLANAR, _STORED, _HIGH_BIT}
    | {_REPRESENTATION, _LOSSY}
)
_IMAGE_GROUP: Final = 0x0028
_VALUE_LIMIT: Final = 256  # bytes; none of these is as long
_SUBSAMPLED: Final = ("YBR_FULL_422", "YBR_PARTIAL_422")
_TAGS: Final = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})
_ITEM: Final = b"\xfe\xff\x00\xe0"
# SOI of JPEG and JPEG-LS, SOC and SIZ of JPEG 2000, the signature box of JP2: how a frame begins
_BEGINNINGS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c\x6a\x50")


class Extent(NamedTuple):
    """Some bytes of a file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PixelData:
    """The pixel data of an object. `native` is None when it is encapsulated.

    `bits`: of one native frame; `word`: bytes that have to be turned round in each word, 1 for none.
    `starts` says where the items of each encapsulated frame begin, and where those of the last one end;
    `lengths` are those of the Extended Offset Table, which knows of the padding. `attributes` are the values
    that describe the pixels, as encoded.
    """

    tag: int
    frames: int
    bits: int
    native: Extent | None
    word: int = 1
    starts: array[int] | None = None
    lengths: array[int] | None = None
    attributes: Mapping[int, bytes] = field(default_factory=dict)

    def room(self, number: int) -> int:
        """How long a frame, counted from 1, is at most."""
        if self.starts is None:
            return (self.bits + 7) // 8
        return self.starts[number] - self.starts[number - 1]

    def native_extent(self, number: int) -> Extent | None:
        """The bytes of one frame, counted from 1; None where they cannot be sent as they are."""
        if self.native is None or self.word > 1 or self.bits % 8:
            return None
        length = self.bits // 8
        return Extent(self.native.offset + (number - 1) * length, length)


def read_frame(file: Readable, pixels: PixelData, number: int) -> memoryview | bytes:
    """One frame, counted from 1: encapsulated as stored, native in little endian, from bit 0 on.

    Raises OSError, CannotUnderstand when the pixel data ends before it does.
    """
    if pixels.starts is None:
        extent = pixels.native_extent(number)
        return _exactly(file, extent) if extent is not None else _converted(file, pixels, number)
    start = pixels.starts[number - 1]
    items = memoryview(_exactly(file, Extent(start, pixels.room(number))))
    values = list(_values(items))
    frame = values[0] if len(values) == 1 else b"".join(values)
    return frame if pixels.lengths is None else frame[: pixels.lengths[number - 1]]


def _values(items: memoryview) -> Iterator[memoryview]:
    position = 0
    while position < len(items):
        head, begin = items[position : position + 8], position + 8
        position = begin + int.from_bytes(head[4:], "little")
        if bytes(head[:4]) != _ITEM or position > len(items):
            raise CannotUnderstand("a frame does not end where the next one begins")
        yield items[begin:position]


def fragments_of(file: Readable) -> list[Extent]:
    """All fragments of the encapsulated pixel data: a video is one stream in them (PS3.5 8.2.5).

    Raises OSError, CannotUnderstand.
    """
    places = _places(file)
    place = next((one for one in places.elements() if one.tag == PIXEL_DATA), None)
    if place is None or place.length != UNDEFINED:
        raise CannotUnderstand("there is no encapsulated pixel data")
    return [Extent(item.value, item.length) for item in places.fragments(place)][1:]


def _exactly(file: Readable, extent: Extent) -> bytes:
    data = file.read(extent.offset, extent.length)
    if len(data) != extent.length:
        raise CannotUnderstand("the file ends within a frame")
    return data


def _converted(file: Readable, pixels: PixelData, number: int) -> bytes:
    """A native frame that begins within a byte or whose words are big endian (PS3.5 8.1.1, 7.3)."""
    assert pixels.native is not None
    begin, end = (number - 1) * pixels.bits, number * pixels.bits
    first = begin // 8 // pixels.word * pixels.word
    last = min(-(-end // 8 // pixels.word) * pixels.word, pixels.native.length)
    data = swapped(_exactly(file, Extent(pixels.native.offset + first, last - first)), pixels.word)
    skipped = begin - 8 * first
    if not skipped % 8:
        data = data[skipped // 8 : skipped // 8 + (pixels.bits + 7) // 8]
    else:
        data = (int.from_bytes(data, "little") >> skipped).to_bytes(len(data), "little")
        data = data[: (pixels.bits + 7) // 8]
    spare = -pixels.bits % 8
    return data[:-1] + bytes((data[-1] & 0xFF >> spare,)) if spare else data


def swapped(data: bytes, word: int) -> bytes:
    """The bytes of each word in the other order; what is left behind the last whole word stays."""
    typecode = {2: "H", 4: "I", 8: "Q"}.get(word)
    if typecode is None:
        return data
    whole = len(data) // word * word
    words = array(typecode, data[:whole])
    words.byteswap()
    return words.tobytes() + data[whole:]


def index_frames(file: Readable, *, trust_tables: bool = True) -> PixelData | None:
    """Find the pixel data of an object and its frames; None when there is none.

    Offset tables are believed until a frame turns out not to be where they say: then call it without
    `trust_tables`. Raises OSError, CannotUnderstand.
    """
    places = _places(file)
    order = "<" if encoding_of(file.located.transfer_syntax).little_endian else ">"
    values: dict[int, bytes] = {}
    tables: dict[int, Extent] = {}
    for place in places.elements():
        if place.tag in _WANTED and place.length <= _VALUE_LIMIT:
            values[place.tag] = file.read(place.value, place.length)
        elif place.tag in (_EXTENDED_OFFSETS, _EXTENDED_LENGTHS) and place.length != UNDEFINED:
            tables[place.tag] = Extent(place.value, place.length)
        elif place.length == UNDEFINED and place.tag >> 16 > _IMAGE_GROUP and place.tag not in _TAGS:
            # Functional groups of thousands of frames, maybe: their end has to be looked for
            if (last := _last_element(file, places, _Image(values, order), order)) is not None:
                return _native(last, _Image(values, order), order, file.size)
        elif place.tag in _TAGS:
            image = _Image(values, order)
            if place.length != UNDEFINED:
                return _native(place, image, order, file.size)
            return _encapsulated(file, places, place, image, tables if trust_tables else None)
    return None


def _places(file: Readable) -> Places:
    return Places(file.read, file.data_offset(), file.size, encoding_of(file.located.transfer_syntax))


class _Image:
    """What the attributes say of the frames."""

    def __init__(self, values: dict[int, bytes], order: str) -> None:
        def number(tag: int, default: int = 0) -> int:
            raw = values.get(tag, b"")
            return int(struct.unpack(f"{order}H", raw[:2])[0]) if len(raw) >= 2 else default

        self.values = values
        frames = values.get(_FRAMES, b"").strip(b" \0")
        if frames and not frames.isdigit():
            raise CannotUnderstand(f"Number of Frames is {frames[:16]!r}")
        self.frames = min(max(int(frames or b"1"), 1), FRAMES_LIMIT)  # 0 is met where 1 is meant
        self.allocated = number(_ALLOCATED)
        photometric = values.get(_PHOTOMETRIC, b"").strip(b" \0").decode("ascii", "replace")
        samples = 2 if photometric in _SUBSAMPLED else number(_SAMPLES, 1)
        self.bits = number(_ROWS) * number(_COLUMNS) * samples * self.allocated


def _last_element(file: Readable, places: Places, image: _Image, order: str) -> Place | None:
    """Native pixel data, if it is what the file ends with, and as long as the attributes say."""
    length = (image.frames * image.bits + 15) // 16 * 2
    for head_length in (12, 8):  # explicit VR and implicit
        position = file.size - length - head_length
        head = file.read(position, 4) if length and position > 0 else b""
        if len(head) == 4 and struct.unpack(f"{order}HH", head) == (PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF):
            place = places.at(position)
            if (place.value, place.length) == (position + head_length, length):
                return place
    return None


def _native(place: Place, image: _Image, order: str, size: int) -> PixelData:
    if place.value + place.length > size:
        raise CannotUnderstand("the pixel data is cut off")
    word = 1
    if order == ">":
        # Whole cells, of OB too, which the standard forbids: so do pydicom and GDCM
        word = image.allocated // 8 if image.allocated > 8 else WORD_LENGTHS.get(place.vr or b"OW", 1)
    frames = min(image.frames, 8 * place.length // image.bits) if image.bits else 0
    return PixelData(place.tag, frames, image.bits, Extent(place.value, place.length), word)


def _encapsulated(
    file: Readable, places: Places, place: Place, image: _Image, tables: dict[int, Extent] | None
) -> PixelData:
    table = next(places.fragments(place), None)
    if table is None:
        raise CannotUnderstand("the pixel data has no fragments")
    begin = table.value + table.length
    lengths = None
    starts = None
    if tables is not None and image.frames > 1:
        starts, lengths = _by_extended_table(file, begin, image.frames, tables)
        starts = starts or _by_basic_table(file, begin, image.frames, table)
    if starts is None:
        starts = _by_fragments(file, places, begin, image.frames)
    else:
        starts.append(_end_of_items(places, starts[-1], file.size))
    return PixelData(
        place.tag, len(starts) - 1, image.bits, None, starts=starts, lengths=lengths, attributes=image.values
    )


def _by_extended_table(
    file: Readable, begin: int, frames: int, tables: dict[int, Extent]
) -> tuple[array[int] | None, array[int] | None]:
    """A fragment a frame, where the Extended Offset Table says (PS3.3 C.7.6.3.1.8)."""
    offsets, lengths = (_numbers(file, tables.get(tag)) for tag in (_EXTENDED_OFFSETS, _EXTENDED_LENGTHS))
    starts = _starts(file, begin, frames, offsets)
    return (starts, lengths) if starts is not None and len(lengths) == frames else (None, None)


def _numbers(file: Readable, extent: Extent | None) -> array[int]:
    numbers = array("Q")
    if extent is not None:
        data = file.read(extent.offset, extent.length)
        numbers.frombytes(data[: len(data) // 8 * 8])
    return numbers


def _by_basic_table(file: Readable, begin: int, frames: int, table: Place) -> array[int] | None:
    data = file.read(table.value, min(table.length, 4 * frames))
    return _starts(file, begin, frames, array("I", data[: len(data) // 4 * 4]))


def _starts(file: Readable, begin: int, frames: int, offsets: array[int]) -> array[int] | None:
    """Where the frames begin by a table; None if it cannot be right."""
    if len(offsets) != frames or offsets[0] != 0 or any(a >= b for a, b in pairwise(offsets)):
        return None
    if offsets[-1] >= file.size:
        return None
    starts = array("Q", [begin + offset for offset in offsets])
    return starts if file.read(starts[-1], 4) == _ITEM else None


def _end_of_items(places: Places, start: int, size: int) -> int:
    for item in places.items_between(start, size):
        start = item.value + item.length
    return start


def _by_fragments(file: Readable, places: Places, begin: int, frames: int) -> array[int]:
    """Where the frames begin, by all fragments: as many as there are, should they be too few."""
    starts = array("Q", [begin])
    for item in places.items_between(begin, file.size):
        starts.append(item.value + item.length)
    count = len(starts) - 1
    if not count:
        raise CannotUnderstand("the pixel data has no fragments")
    if count <= frames:
        return starts
    if frames == 1:
        return array("Q", [begin, starts[-1]])
    first = [start for start in starts[:-1] if file.read(start + 8, 6).startswith(_BEGINNINGS)]
    if len(first) >= frames and first[0] == begin:
        return array("Q", [*first[:frames], starts[-1] if len(first) == frames else first[frames]])
    raise CannotUnderstand(f"nothing tells which of {count} fragments make up the {frames} frames")
