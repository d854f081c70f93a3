"""The DICOM JSON Model, written from the encoded bytes of a data set (PS3.18 F.2). Pure.

pydicom's own writes empty Value arrays, trailing NULs, and text cut at backslashes, and takes milliseconds
for a CT slice. Here bytes become text in one pass. The slices of a series share most of their elements, so
an encoder remembers them: keep one for a series.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache
from mmap import mmap
from typing import Final, NamedTuple

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from pacsnode.dicom.element import BINARY_VRS, Element, Value
from pacsnode.dicom.header import NESTING_LIMIT, Encoding, HeaderIncomplete
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET
from pacsnode.dicom.json_values import is_packed, packed_values, text_values
from pacsnode.dicom.text import Decoder, decoder
from pacsnode.dicom.vr import LONG_VRS, SHORT_VRS, WORD_LENGTHS
from pacsnode.errors import CannotUnderstand

TagPath = tuple[int, ...]
"""Where an element is: its tag; within sequences tag, number of the item from 1 on, tag, and so on."""

BulkUri = Callable[[TagPath], str]
"""The URI by which the value of an element can be had."""

Source = bytes | mmap
"""What is read: slices of both are bytes, and of a mapping only what is looked at comes into memory."""

INLINE_BINARY: Final = 4096  # bytes; a longer value of OB and the like goes by reference
INLINE_PALETTE: Final = 2**18  # bytes; look-up tables and ICC profiles: viewers ask for those again and again
INLINE_TEXT: Final = 2**18  # bytes; longer text and rows of numbers go by reference where F.2.2 allows it
PIXEL_DATA_GROUP: Final = 0x7FE0
ENCAPSULATED_DOCUMENT: Final = 0x00420011  # by reference at any length: viewers know no other way
_ALWAYS_INLINE: Final = frozenset(
    {0x00281201, 0x00281202, 0x00281203, 0x00281204, 0x00281221, 0x00281222, 0x00281223, 0x00282000}
)
_BY_REFERENCE: Final = frozenset(  # F.2.2; binary VRs apart
    {"DS", "FL", "FD", "IS", "LT", "SL", "SS", "ST", "SV", "UC", "UL", "US", "UT", "UV"}
)

_ITEM: Final = 0xFFFEE000
_DELIMITERS: Final = frozenset({0xFFFEE00D, 0xFFFEE0DD})
_UNDEFINED: Final = 0xFFFFFFFF
_PIXEL_REPRESENTATION: Final = 0x00280103
_LUT_DESCRIPTOR: Final = 0x00283002
_WAVEFORM_BITS: Final = 0x54001004
_SHORT_CODES: Final = frozenset(int.from_bytes(vr, "little") for vr in SHORT_VRS)
_REMEMBERED: Final = 64  # bytes; longer elements are seldom met twice
_MOST_REMEMBERED: Final = 20_000  # elements; some MB
_IMPLICIT: Final = Encoding(implicit=True, little_endian=True)
_PLAIN: Final = struct.Struct("<HHHH")
_STRUCTS: Final = {order: tuple(struct.Struct(order + form) for form in ("HH", "H", "I")) for order in "<>"}


class JsonEncoder:
    """Writes data sets as JSON objects."""

    def __init__(self) -> None:
        self._remembered: dict[Decoder, dict[bytes, str]] = {}

    def encode(self, data: Source, encoding: Encoding, bulk: BulkUri | None = None, start: int = 0) -> str:
        """The object of the data set that is `data` from `start` on.

        Without `bulk` every value is inline, pixel data too. Raises CannotUnderstand.
        """
        return self.encode_head(data, encoding, bulk, start, len(data))[0]

    def encode_head(
        self, data: Source, encoding: Encoding, bulk: BulkUri | None, start: int, size: int
    ) -> tuple[str, int]:
        """The object of a data set that ends at `size`, of which `data` has the beginning; and where it ends.

        That is before `size` where elements follow a value that goes by reference and ends behind `data`.
        Raises CannotUnderstand; HeaderIncomplete when `data` is too short to know.
        """
        try:
            return _Level(self._remembered, data, encoding, bulk, decoder(None), ()).read(start, size)
        except struct.error as error:
            if len(data) < size:
                raise HeaderIncomplete from error
            raise CannotUnderstand("the data set is cut off") from error


def element_json(element: Element) -> str:
    """A member of an object, of an element in the neutral form that queries answer in."""
    tag, vr, value = element
    if isinstance(value, tuple):
        items = ",".join("{" + ",".join(map(element_json, item)) + "}" for item in value)
        return f'"{tag:08X}":{{"vr":"{vr}"' + (f',"Value":[{items}]}}' if items else "}")
    return f'"{tag:08X}":{{"vr":"{vr}"{value_json(vr, value)}}}'


def value_json(vr: str, value: Value | int | None) -> str:
    """What follows the VR in the object of an attribute that is no sequence."""
    if value is None or value in ("", b""):
        return ""
    if isinstance(value, bytes):
        return f',"InlineBinary":"{b64encode(value).decode()}"'
    text = str(value)
    if is_packed(vr) and vr != "AT":
        return f',"Value":[{",".join(_decimal(part) for part in text.split(chr(92)))}]'
    return f',"Value":[{text_values(text, vr)}]'


def _decimal(text: str) -> str:
    return text_values(text, "DS") or "null"


class _Kind(NamedTuple):
    """What tag and VR say of an element. `head` is the beginning of its member."""

    tag: int
    vr: str
    head: str


class _Level:
    """One pass over a data set, or an item of one."""

    def __init__(
        self,
        remembered: dict[Decoder, dict[bytes, str]],
        data: Source,
        encoding: Encoding,
        bulk: BulkUri | None,
        coded: Decoder,
        path: TagPath,
        signed: bool | None = None,
    ) -> None:
        self._remembered = remembered
        self._data = data
        self._encoding = encoding
        self._bulk = bulk
        self._coded = coded
        self._path = path
        self._signed = signed  # Pixel Representation, here or around
        self._order = "<" if encoding.little_endian else ">"
        self._tag, self._short, self._long = _STRUCTS[self._order]
        self._creators: dict[int, str] = {}  # group and block -> private creator
        self._table_is_single = False  # LUT Descriptor tells one entry: LUT Data is then US
        self._bytes_only = False  # Waveform Bits Allocated is 8

    def read(self, position: int, end: int) -> tuple[str, int]:
        """The object of the elements up to `end` or an item delimitation, and where they ended."""
        members: list[str] = []
        data, unpack = self._data, _PLAIN.unpack_from
        plain_until = end - 8 if not self._encoding.implicit and self._encoding.little_endian else -1
        known = self._remembered.setdefault(self._coded, {})
        last = -1
        ordered = True
        while position < end:
            length = _UNDEFINED
            if position <= plain_until:
                group, number, vr, length = unpack(data, position)
            if length <= _REMEMBERED and vr in _SHORT_CODES:
                tag = group << 16 | number
                stop = position + 8 + length
                raw = data[position:stop]
                member = known.get(raw)
                if member is None:
                    member = self._short_member(tag, raw, stop, end)
                    if tag == SPECIFIC_CHARACTER_SET:
                        known = self._remembered.setdefault(self._coded, {})
                    elif len(known) < _MOST_REMEMBERED and _is_same_everywhere(tag, member):
                        known[raw] = member
                position = stop
            else:
                tag, member, position = self._any_member(position, end)
                if tag in _DELIMITERS:
                    break
                if position > len(data) and not self._path:  # behind a value that goes by reference
                    end = position
            if member:
                members.append(member)
                if tag <= last:
                    ordered = False
                last = tag
        if not ordered:  # against PS3.5 7.1, but met; of what is there twice the last is kept
            members = [member for _, member in sorted({member[:10]: member for member in members}.items())]
        return "{" + ",".join(members) + "}", position

    def _short_member(self, tag: int, raw: bytes, stop: int, end: int) -> str:
        if stop > end:
            raise CannotUnderstand(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) runs past the end")
        if stop > len(self._data):
            raise HeaderIncomplete
        return self._member(_kind(tag, raw[4:6].decode("ascii")), raw[8:], "<")

    def _any_member(self, position: int, end: int) -> tuple[int, str, int]:
        """Tag, member ("" for what has none) and end of any element, item delimiters included."""
        data = self._data
        group, number = self._tag.unpack_from(data, position)
        tag = group << 16 | number
        encoded = data[position + 4 : position + 6]
        if group == 0xFFFE:
            if tag not in _DELIMITERS:
                raise CannotUnderstand(f"an item is out of place, at byte {position}")
            return tag, "", position + 8
        if self._encoding.implicit or not (encoded.isalpha() and encoded.isupper()):
            vr, value = "", position + 8
            (length,) = self._long.unpack_from(data, position + 4)
        elif encoded in SHORT_VRS:
            vr, value = encoded.decode("ascii"), position + 8
            (length,) = self._short.unpack_from(data, position + 6)
        else:
            vr, value = encoded.decode("ascii"), position + 12
            (length,) = self._long.unpack_from(data, position + 8)
            if encoded not in LONG_VRS:
                vr = "UN"
        if length != _UNDEFINED and value + length > end:
            raise CannotUnderstand(f"({group:04X},{number:04X}) at byte {position} runs past the end")
        return self._element(tag, vr, value, length, end)

    def _element(self, tag: int, encoded_vr: str, value: int, length: int, end: int) -> tuple[int, str, int]:
        implicit = not encoded_vr or encoded_vr == "UN"
        vr = self._looked_up(tag, value, end) if implicit else encoded_vr
        if length == _UNDEFINED and vr not in ("SQ", "OB", "OW"):
            vr = "SQ"  # PS3.5 6.2.2 note: UN of undefined length is a sequence
        if vr == "SQ":
            encoding = _IMPLICIT if encoded_vr == "UN" else self._encoding
            items, stop = self._items(tag, value, length, end, encoding)
            return tag, self._sequence(tag, items), stop
        kind = _kind(tag, vr)
        if length == _UNDEFINED:
            return tag, self._by_reference(kind), self._behind_fragments(value, end)
        stop = value + length
        if self._goes_by_reference(kind, length):
            return tag, self._by_reference(kind), stop
        if stop > len(self._data):
            raise HeaderIncomplete
        order = "<" if encoded_vr == "UN" else self._order  # UN came from implicit VR (PS3.5 6.2.2)
        return tag, self._member(kind, self._data[value:stop], order), stop

    def _sequence(self, tag: int, items: list[str]) -> str:
        if not tag & 0xFFFF:
            return ""
        return f'"{tag:08X}":{{"vr":"SQ"' + (f',"Value":[{",".join(items)}]}}' if items else "}")

    def _items(
        self, tag: int, position: int, length: int, end: int, encoding: Encoding
    ) -> tuple[list[str], int]:
        """The objects of the items of a sequence (PS3.5 7.5), and where it ends."""
        stop = end if length == _UNDEFINED else position + length
        long, head = _STRUCTS["<" if encoding.little_endian else ">"][2], self._tag
        if len(self._path) // 2 >= NESTING_LIMIT:
            raise CannotUnderstand("sequences are nested too deep")
        items: list[str] = []
        while position < stop:
            group, number = head.unpack_from(self._data, position)
            item = group << 16 | number
            (item_length,) = long.unpack_from(self._data, position + 4)
            position += 8
            if item in _DELIMITERS:
                break
            if item != _ITEM:
                raise CannotUnderstand(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) holds what is no item")
            item_end = stop if item_length == _UNDEFINED else position + item_length
            if item_end > stop:
                raise CannotUnderstand(f"an item of ({tag >> 16:04X},{tag & 0xFFFF:04X}) is too long")
            level = _Level(
                self._remembered,
                self._data,
                self._items_encoding(encoding, position, item_end),
                self._bulk,
                self._coded,
                (*self._path, tag, len(items) + 1),
                self._signed,
            )
            member, position = level.read(position, item_end)
            items.append(member)
        return items, position

    def _items_encoding(self, encoding: Encoding, position: int, end: int) -> Encoding:
        """Items of UN have implicit VR (PS3.5 6.2.2), but writers that left them explicit are met."""
        if encoding is not _IMPLICIT or position + 6 > end or self._encoding.implicit:
            return encoding
        vr = self._data[position + 4 : position + 6]
        return self._encoding if vr in SHORT_VRS or vr in LONG_VRS else encoding

    def _behind_fragments(self, position: int, end: int) -> int:
        """Where encapsulated pixel data ends (PS3.5 A.4)."""
        while position < end:
            group, number = self._tag.unpack_from(self._data, position)
            (length,) = self._long.unpack_from(self._data, position + 4)
            position += 8
            if group << 16 | number in _DELIMITERS:
                return position
            if group << 16 | number != _ITEM:
                raise CannotUnderstand("encapsulated pixel data holds what is no fragment")
            position += length
        return end

    # Values

    def _goes_by_reference(self, kind: _Kind, length: int) -> bool:
        if self._bulk is None or not length:
            return False
        tag, vr, _ = kind
        if vr in BINARY_VRS:
            if tag >> 16 == PIXEL_DATA_GROUP or tag == ENCAPSULATED_DOCUMENT:
                return True
            return length > (INLINE_PALETTE if tag in _ALWAYS_INLINE else INLINE_BINARY)
        return length > INLINE_TEXT and vr in _BY_REFERENCE

    def _by_reference(self, kind: _Kind) -> str:
        if self._bulk is None:
            return kind.head + "}"
        return f'{kind.head},"BulkDataURI":"{self._bulk((*self._path, kind.tag))}"}}'

    def _member(self, kind: _Kind, raw: bytes, order: str) -> str:
        tag, vr, head = kind
        if not tag & 0xFFFF:  # group lengths are left out (F.2.2)
            return ""
        if tag in _WATCHED or (tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF):
            self._watch(tag, raw, order)
        if not raw:
            return head + "}"
        if tag == SPECIFIC_CHARACTER_SET:  # what is written here is UTF-8
            return head + (',"Value":["ISO_IR 192"]}' if raw.strip(b" \0") else "}")
        if vr in BINARY_VRS:
            return f'{head},"InlineBinary":"{b64encode(_little_endian(raw, vr, order)).decode()}"}}'
        if is_packed(vr):
            numbers = packed_values(raw, vr, order)
            if numbers is None:  # not a number, or infinite: JSON has no such numbers
                return self._by_reference(kind)
            values = numbers
        else:
            values = text_values(self._coded.text(raw, vr), vr)
        return f'{head},"Value":[{values}]}}' if values else head + "}"

    def _watch(self, tag: int, raw: bytes, order: str) -> None:
        """Take note of what later elements depend on."""
        if tag == SPECIFIC_CHARACTER_SET:
            if raw.strip(b" \0") or not self._path:
                self._coded = decoder(raw)
        elif tag == _PIXEL_REPRESENTATION:
            self._signed = raw[:2] == _STRUCTS[order][1].pack(1)
        elif tag == _LUT_DESCRIPTOR:
            self._table_is_single = raw[:2] == _STRUCTS[order][1].pack(1)
        elif tag == _WAVEFORM_BITS:
            self._bytes_only = raw[:2] == _STRUCTS[order][1].pack(8)
        else:
            self._creators[tag >> 16 << 16 | (tag & 0xFF) << 8] = raw.decode("latin_1").strip(" \0")

    # VRs that are not encoded

    def _looked_up(self, tag: int, value: int, end: int) -> str:
        """The VR by the dictionaries (PS3.6, pydicom's of private elements), UN when they lack it."""
        if tag >> 16 & 1:
            if 0x10 <= tag & 0xFFFF <= 0xFF:
                return "LO"
            creator = self._creators.get(tag & 0xFFFFFF00)
            return _private_vr(tag, creator) if creator else "UN"
        vr = _dictionary_vr(tag)
        if " or " not in vr:
            return vr
        if vr == "US or SS":
            if self._signed is None and not self._path:
                self._signed = self._is_signed(value, end)
            return "SS" if self._signed else "US"
        if vr == "OB or OW":
            return "OB" if self._bytes_only else "OW"
        return "US" if self._table_is_single else "OW"

    def _is_signed(self, position: int, end: int) -> bool:
        """Look ahead for Pixel Representation, which stands behind some elements that depend on it."""
        head = self._tag.pack(0x0028, 0x0103) + self._long.pack(2)  # as it is where VRs are not encoded
        reach = min(end, position + 4096)
        found = self._data.find(head, position, reach)
        if found < 0:
            if reach > len(self._data):
                raise HeaderIncomplete
            return False
        return self._data[found + 8 : found + 10] == self._short.pack(1)


_WATCHED: Final = frozenset({SPECIFIC_CHARACTER_SET, _PIXEL_REPRESENTATION, _LUT_DESCRIPTOR, _WAVEFORM_BITS})


def _is_same_everywhere(tag: int, member: str) -> bool:
    """Whether the same bytes mean the same in the next object, and nothing to the elements behind them."""
    is_creator = tag >> 16 & 1 and tag & 0xFFFF <= 0xFF
    return not is_creator and tag not in _WATCHED and '"BulkDataURI"' not in member


@lru_cache(maxsize=8192)
def _kind(tag: int, vr: str) -> _Kind:
    return _Kind(tag, vr, f'"{tag:08X}":{{"vr":"{vr}"')


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str:
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return vr if len(vr) == 2 or " or " in vr else "UN"


@lru_cache(maxsize=4096)
def _private_vr(tag: int, creator: str) -> str:
    try:
        vr = private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"
    return vr if len(vr) == 2 else "UN"


def _little_endian(raw: bytes, vr: str, order: str) -> bytes:
    size = WORD_LENGTHS.get(vr.encode("ascii"), 1)
    if order == "<" or size == 1 or len(raw) % size:
        return raw
    swapped = bytearray(len(raw))
    for offset in range(size):
        swapped[offset::size] = raw[size - 1 - offset :: size]
    return bytes(swapped)
