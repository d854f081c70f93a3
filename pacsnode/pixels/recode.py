"""The elements of a data set, read in one encoding and written in another (PS3.5 7, A.1 to A.5). Pure.

pydicom is not used for this: it converts text and numbers, and what it writes back need not be what was
there. Here values stay the bytes they are; only their frame changes, and the words of big endian are turned
round. In the tree every value is little endian but that of Pixel Data, whose words `image` knows.
"""

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from pacsnode.dicom.header import Encoding
from pacsnode.dicom.vr import LONG_VRS, SHORT_VRS, WORD_LENGTHS
from pacsnode.errors import CannotUnderstand

Buffer = bytes | bytearray | memoryview

NESTING_LIMIT: Final = 100  # levels of sequences; real objects have less than 15, and reading recurses
PIXEL_DATA: Final = 0x7FE00010
PIXEL_REPRESENTATION: Final = 0x00280103
WAVEFORM_BITS_ALLOCATED: Final = 0x54001004

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_DELIMITATION: Final = 0xFFFEE00D
_SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
_SHORT_LIMIT: Final = 0xFFFE  # bytes; the longest value of even length with a length field of two bytes
_IMPLICIT: Final = Encoding(implicit=True, little_endian=True)
_TYPECODES: Final = {2: "H", 4: "I", 8: "Q"}


@dataclass(slots=True)
class Fragments:
    """Encapsulated pixel data (PS3.5 A.4): the Basic Offset Table and the fragments behind it.

    `starts` are the positions of their item tags, counted as the Basic Offset Table counts.
    """

    offset_table: Buffer
    values: list[memoryview] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Sequence:
    """The items of a sequence. `defined`: its length was; that of each item is told by the item."""

    items: list["DataSet"]
    defined: bool


Value = Buffer | Sequence | Fragments


@dataclass(slots=True)
class Element:
    """An element; `vr` is None when it was not encoded."""

    tag: int
    vr: bytes | None
    value: Value


@dataclass(slots=True)
class DataSet:
    """Elements in the order they were read; an item of a sequence when `parent` is there."""

    elements: list[Element] = field(default_factory=list)
    parent: "DataSet | None" = None
    defined: bool = False

    def find(self, tag: int) -> Element | None:
        return next((element for element in self.elements if element.tag == tag), None)

    def raw(self, tag: int) -> bytes | None:
        """The value of an element that is no sequence; None when it is absent."""
        element = self.find(tag)
        if element is None or isinstance(element.value, (Sequence, Fragments)):
            return None
        return bytes(element.value)

    def set(self, tag: int, vr: bytes, value: Value) -> None:
        """Give an element another value, or put a new one in its place among the others."""
        element = self.find(tag)
        if element is not None:
            element.vr, element.value = vr, value
            return
        place = next((n for n, other in enumerate(self.elements) if other.tag > tag), len(self.elements))
        self.elements.insert(place, Element(tag, vr, value))

    def remove(self, *tags: int) -> None:
        self.elements = [element for element in self.elements if element.tag not in tags]

    def inherited(self, tag: int) -> bytes | None:
        """The value here, or in the nearest data set around that has it."""
        data_set: DataSet | None = self
        while data_set is not None:
            raw = data_set.raw(tag)
            if raw:
                return raw
            data_set = data_set.parent
        return None


def read(data: memoryview, encoding: Encoding) -> DataSet:
    """Read an encoded data set; values are views of `data`. Raises CannotUnderstand."""
    data_set = DataSet()
    try:
        position = _Reader(data, encoding).elements(data_set, 0, len(data), encoding.implicit, 0)
    except struct.error:
        raise CannotUnderstand("the data set is cut off") from None
    if position != len(data):
        raise CannotUnderstand(f"the data set cannot be read beyond byte {position}")
    return data_set


class _Reader:
    def __init__(self, data: memoryview, encoding: Encoding) -> None:
        order = "<" if encoding.little_endian else ">"
        self._data = data
        self._swaps = not encoding.little_endian
        self._tag = struct.Struct(f"{order}HH")
        self._long = struct.Struct(f"{order}I")
        self._short = struct.Struct(f"{order}H")

    def elements(self, into: DataSet, position: int, end: int, implicit: bool, depth: int) -> int:
        """Read elements up to `end`, or to the delimiter of an item; return the position behind."""
        while position < end:
            tag, vr, length, value = self._head(position, implicit)
            if tag == _ITEM_DELIMITATION:
                return value
            if tag >> 16 == 0xFFFE:
                raise CannotUnderstand(f"an item out of place, at byte {position}")
            read_value: Value
            if length == _UNDEFINED and (tag == PIXEL_DATA or vr in (b"OB", b"OW")):
                read_value, position = self._fragments(value, end)
            elif length == _UNDEFINED or self._is_sequence(tag, vr):
                read_value, position = self._sequence(into, tag, vr, length, value, end, implicit, depth)
            else:
                position = value + length
                if position > end:
                    raise CannotUnderstand(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is cut off")
                read_value = self._value(into, tag, vr, self._data[value:position])
            into.elements.append(Element(tag, vr, read_value))
        return position

    def _head(self, position: int, implicit: bool) -> tuple[int, bytes | None, int, int]:
        """Tag, VR, length and the position of the value (PS3.5 7.1)."""
        group, number = self._tag.unpack_from(self._data, position)
        tag = group << 16 | number
        vr = bytes(self._data[position + 4 : position + 6])
        if implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            return tag, None, self._long.unpack_from(self._data, position + 4)[0], position + 8
        (length,) = self._short.unpack_from(self._data, position + 6)
        if vr in LONG_VRS or (vr not in SHORT_VRS and length == 0):
            return tag, vr, self._long.unpack_from(self._data, position + 8)[0], position + 12
        return tag, vr, length, position + 8

    def _is_sequence(self, tag: int, vr: bytes | None) -> bool:
        return vr == b"SQ" or (vr is None and not tag >> 16 & 1 and _dictionary_vr(tag) == "SQ")

    def _sequence(
        self,
        parent: DataSet,
        tag: int,
        vr: bytes | None,
        length: int,
        position: int,
        limit: int,
        implicit: bool,
        depth: int,
    ) -> tuple[Sequence, int]:
        """Read the items of a sequence (PS3.5 7.5)."""
        if depth >= NESTING_LIMIT:
            raise CannotUnderstand(f"sequences are nested deeper than {NESTING_LIMIT} levels")
        defined = length != _UNDEFINED
        end = position + length if defined else limit
        if end > limit:
            raise CannotUnderstand(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is cut off")
        items_implicit = self._items_implicit(vr, position, implicit)
        sequence = Sequence([], defined)
        while position < end:
            item, _, item_length, position = self._head(position, implicit=True)
            if item == _SEQUENCE_DELIMITATION and not defined:
                return sequence, position
            if item != _ITEM:
                raise CannotUnderstand(f"no item in a sequence, at byte {position - 8}")
            data_set = DataSet(parent=parent, defined=item_length != _UNDEFINED)
            item_end = position + item_length if data_set.defined else end
            if item_end > end:
                raise CannotUnderstand(f"an item is cut off, at byte {position - 8}")
            position = self.elements(data_set, position, item_end, items_implicit, depth + 1)
            sequence.items.append(data_set)
        if not defined:
            raise CannotUnderstand("a sequence without its delimiter")
        return sequence, position

    def _items_implicit(self, vr: bytes | None, position: int, implicit: bool) -> bool:
        """Items of UN have implicit VR (PS3.5 6.2.2); writers that left them explicit are met."""
        if vr != b"UN":
            return implicit
        first = bytes(self._data[position + 12 : position + 14])
        return first not in SHORT_VRS and first not in LONG_VRS

    def _fragments(self, position: int, limit: int) -> tuple[Fragments, int]:
        """Read the items of encapsulated pixel data (PS3.5 A.4)."""
        found: Fragments | None = None
        first = 0
        while position < limit:
            tag, _, length, value = self._head(position, implicit=True)
            if tag == _SEQUENCE_DELIMITATION:
                return found or Fragments(b""), value
            if tag != _ITEM or value + length > limit:
                raise CannotUnderstand(f"a fragment of the pixel data is cut off, at byte {position}")
            if found is None:
                found, first = Fragments(self._data[value : value + length]), value + length
            else:
                found.values.append(self._data[value : value + length])
                found.starts.append(position - first)
            position = value + length
        raise CannotUnderstand("the pixel data is cut off")

    def _value(self, data_set: DataSet, tag: int, vr: bytes | None, value: memoryview) -> Buffer:
        if not self._swaps or tag == PIXEL_DATA:
            return value
        return swapped(value, WORD_LENGTHS.get(vr or vr_of(data_set, tag), 1))


def write(data_set: DataSet, encoding: Encoding) -> Iterator[Buffer]:
    """Encode a data set, element by element."""
    for element in data_set.elements:
        yield from written(data_set, element, encoding)


def element_head(tag: int, vr: bytes, length: int, encoding: Encoding) -> bytes:
    """The head of an element; a VR of the short form with a long value becomes UN (PS3.5 6.2.2)."""
    order = "<" if encoding.little_endian else ">"
    if encoding.implicit:
        return struct.pack(f"{order}HHI", tag >> 16, tag & 0xFFFF, length)
    if vr not in LONG_VRS:
        if length <= _SHORT_LIMIT + 1:
            return struct.pack(f"{order}HH2sH", tag >> 16, tag & 0xFFFF, vr, length)
        vr = b"UN"
    return struct.pack(f"{order}HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)


def written(data_set: DataSet, element: Element, encoding: Encoding) -> Iterator[Buffer]:
    """Encode one element of a data set; a group length not at all: it would be wrong (PS3.5 7.2, retired)."""
    value = element.value
    if not element.tag & 0xFFFF:
        return
    if isinstance(value, Sequence):
        yield from _written_sequence(element, value, encoding)
        return
    if isinstance(value, Fragments):
        yield from _written_fragments(element.tag, value, encoding)
        return
    vr = element.vr or vr_of(data_set, element.tag)
    yield element_head(element.tag, vr, len(value), encoding)
    if not encoding.little_endian and element.tag != PIXEL_DATA:
        value = swapped(value, WORD_LENGTHS.get(vr, 1))
    yield value


def _written_sequence(element: Element, sequence: Sequence, encoding: Encoding) -> Iterator[Buffer]:
    vr = b"UN" if element.vr == b"UN" else b"SQ"
    # What UN holds is implicit little endian whatever is around it (PS3.5 6.2.2)
    inner = encoding if vr == b"SQ" or encoding.implicit else _IMPLICIT
    parts = [part for item in sequence.items for part in _written_item(item, inner)]
    if sequence.defined:
        yield element_head(element.tag, vr, sum(map(len, parts)), encoding)
        yield from parts
        return
    yield element_head(element.tag, vr, _UNDEFINED, encoding)
    yield from parts
    yield _delimiter(_SEQUENCE_DELIMITATION, 0, inner)


def _written_item(item: DataSet, encoding: Encoding) -> Iterator[Buffer]:
    parts = list(write(item, encoding))
    if item.defined:
        yield _delimiter(_ITEM, sum(map(len, parts)), encoding)
        yield from parts
        return
    yield _delimiter(_ITEM, _UNDEFINED, encoding)
    yield from parts
    yield _delimiter(_ITEM_DELIMITATION, 0, encoding)


def _written_fragments(tag: int, fragments: Fragments, encoding: Encoding) -> Iterator[Buffer]:
    yield element_head(tag, b"OB", _UNDEFINED, encoding)
    for value in (fragments.offset_table, *fragments.values):
        yield _delimiter(_ITEM, len(value), encoding)
        yield value
    yield _delimiter(_SEQUENCE_DELIMITATION, 0, encoding)


def _delimiter(tag: int, length: int, encoding: Encoding) -> bytes:
    return struct.pack("<HHI" if encoding.little_endian else ">HHI", tag >> 16, tag & 0xFFFF, length)


def swapped(value: Buffer, word_length: int) -> Buffer:
    """The bytes of each word in the other order; what is left behind the last whole word stays."""
    typecode = _TYPECODES.get(word_length)
    if typecode is None:
        return value
    whole = len(value) - len(value) % word_length
    words = array(typecode, bytes(value[:whole]))
    words.byteswap()
    return words.tobytes() + bytes(value[whole:])


def vr_of(data_set: DataSet, tag: int) -> bytes:
    """The VR of an element that came without one (PS3.5 A.1, PS3.6)."""
    group, number = tag >> 16, tag & 0xFFFF
    if number == 0:
        return b"UL"
    if group & 1:
        return _private_vr(data_set, tag)
    vr = _dictionary_vr(tag)
    if vr == "US or SS":
        signed = data_set.inherited(PIXEL_REPRESENTATION)
        return b"SS" if signed and signed[0] == 1 else b"US"
    if vr == "OB or OW":
        is_waveform = group == 0x5400 and (data_set.inherited(WAVEFORM_BITS_ALLOCATED) or b"")[:1] == b"\x08"
        return b"OB" if is_waveform else b"OW"
    return b"OW" if " or " in vr else vr.encode("ascii")


def _dictionary_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _private_vr(data_set: DataSet, tag: int) -> bytes:
    """The VR of a private element, where its creator is known (PS3.5 7.8)."""
    group, number = tag >> 16, tag & 0xFFFF
    if 0x10 <= number <= 0xFF:
        return b"LO"
    creator = data_set.raw(group << 16 | number >> 8) or b""
    try:
        return private_dictionary_VR(tag, creator.decode("latin-1").strip(" \0")).encode("ascii")
    except KeyError:
        return b"UN"
