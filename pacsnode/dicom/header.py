"""The header of an encoded data set: the attributes for the index, everything but bulk (PS3.5 7). Pure.

Nothing is converted. A run of small elements in ascending order, little endian, goes through one of two tight
loops (`_explicit_run`, `_implicit_run`); they stop at whatever is not that plain. `_Walk` takes over for that
element and knows all of PS3.5 7: both byte orders, undefined lengths, encapsulated pixel data; and what is
met in the field: elements out of order, elements without VR among explicit ones, VRs nobody knows.

pydicom is not the fallback, since it is lenient where an archive must not be: it ends quietly at a value that
is cut off, and it recurses into nested sequences, of which 10,000 make one small object.
"""

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from typing import Final, NamedTuple, Protocol

from pydicom.datadict import dictionary_VR

from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES, EXPLICIT_VR_BE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.dicom.vr import BULK_VRS, LONG_VRS, SHORT_VRS
from pacsnode.errors import CannotUnderstand

Buffer = bytes | bytearray | memoryview | mmap

BULK_LIMIT: Final = 1024  # bytes; a longer value of a bulk VR (OB, OW, ..., UN) is not kept
ELEMENT_LIMIT: Final = 64 * 1024  # bytes; a longer element is not kept whatever it is, sequences included
KEPT_LIMIT: Final = 16 * 2**20  # bytes; with more the object is refused: a header must not fill memory
STEPS_LIMIT: Final = 4_000_000  # elements and items looked at one by one; a few seconds for a hostile object
NESTING_LIMIT: Final = 64  # levels; a deeper element is not kept, since pydicom could not read it back
INFLATE_LIMIT: Final = 64 * 2**20  # bytes; PS3.5 A.5 sets no limit, and deflate makes 1 MB out of 1 KB
WINDOW: Final = 64 * 1024  # bytes copied out of a mapping for the tight loops

_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_PIXEL_DATA_GROUP: Final = 0x7FE0
_ITEM_GROUP: Final = 0xFFFE
_ITEM: Final = 0xFFFEE000
_ITEM_DELIMITATION: Final = 0xFFFEE00D
_SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
_FOREIGN_GROUPS: Final = frozenset({0x0000, 0x0002})  # of command sets (PS3.7 6.3) and File Meta (PS3.10 7.1)

# The loops compare VRs as the integers that the header is unpacked to: cheaper than slicing bytes.
_SHORT_CODES: Final = frozenset(int.from_bytes(vr, "little") for vr in SHORT_VRS)
_LONG_CODES: Final = frozenset(int.from_bytes(vr, "little") for vr in LONG_VRS)
_EXPLICIT_HEADER: Final = struct.Struct("<HHHH")  # group, element, VR, length
_IMPLICIT_HEADER: Final = struct.Struct("<HHI")  # group, element, length
_LENGTH: Final = struct.Struct("<I")

_STRUCTS: Final = {
    little_endian: (struct.Struct(f"{order}HH"), struct.Struct(f"{order}I"), struct.Struct(f"{order}H"))
    for little_endian, order in ((True, "<"), (False, ">"))
}  # tag, long length, short length
_UNKNOWN_SIZE: Final = 2**63  # bytes; no data set is as long

_Wanted = dict[int, frozenset[int]]  # group -> elements
_NONE: Final[frozenset[int]] = frozenset()


class HeaderIncomplete(Exception):
    """The bytes given end before the header does; scan again with the whole data set."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a data set are encoded (PS3.5 10.1)."""

    implicit: bool
    little_endian: bool


_IMPLICIT_LE: Final = Encoding(implicit=True, little_endian=True)
_EXPLICIT_LE: Final = Encoding(implicit=False, little_endian=True)
_EXPLICIT_BE: Final = Encoding(implicit=False, little_endian=False)


def encoding_of(transfer_syntax: UID) -> Encoding:
    """The encoding of the elements in a transfer syntax: explicit little endian in all but two (PS3.5 A)."""
    if transfer_syntax == IMPLICIT_VR_LE:
        return _IMPLICIT_LE
    return _EXPLICIT_BE if transfer_syntax == EXPLICIT_VR_BE else _EXPLICIT_LE


class Form(Protocol):
    """What headers of a series have in common: all but the values of the elements `filled`."""

    @property
    def filled(self) -> frozenset[int]: ...


@dataclass(slots=True)
class Header:
    """`kept` are the top-level elements but bulk ones, as encoded; `values` the raw values that were wanted.

    An absent attribute is no key of `values`, one without a value has b"". `form`: by which it was read
    (header_form.py).
    """

    transfer_syntax: UID
    encoding: Encoding
    kept: bytes
    values: dict[int, bytes]
    form: Form | None = None


class Place(NamedTuple):
    """Where a top-level element of a header is: its length, its value, its end.

    `is_open`: the length is undefined.
    """

    tag: int
    length: int
    value: int
    end: int
    is_open: bool


def places_of(header: Header) -> list[Place]:
    """The elements of what is kept, in the order in which they are encoded; little endian."""
    kept, implicit = header.kept, header.encoding.implicit
    walk = _Walk(kept, len(kept), header.encoding, _NONE)
    places = []
    position = 0
    while position < len(kept):
        element, end = walk.step(position)
        is_short = (
            not implicit and element.value - position == _IMPLICIT_HEADER.size and element.vr is not None
        )
        length = element.value - (2 if is_short else 4)
        places.append(Place(element.tag, length, element.value, end, element.length == _UNDEFINED_LENGTH))
        position = end
    return places


def scan(start: Buffer, transfer_syntax: UID, size: int, wanted: frozenset[int]) -> Header:
    """Read the header of a data set of `size` bytes, of which `start` is the first part or all.

    The structure is followed to the end, as far as lengths tell it. Raises CannotUnderstand when it is
    broken, HeaderIncomplete when `start` is too short to know.
    """
    encoding = encoding_of(transfer_syntax)
    if transfer_syntax in DEFLATED_TRANSFER_SYNTAXES:
        walk = _inflated(start, size, encoding, wanted)
    else:
        walk = _Walk(start, size, encoding, wanted)
        walk.run()
    return Header(transfer_syntax, encoding, walk.kept(), walk.values)


def early_values(start: bytes, transfer_syntax: UID, wanted: frozenset[int]) -> dict[int, bytes]:
    """Raw values among the plain elements a data set begins with; none of a big endian or deflated one."""
    values: dict[int, bytes] = {}
    encoding = encoding_of(transfer_syntax)
    if encoding.little_endian and transfer_syntax not in DEFLATED_TRANSFER_SYNTAXES:
        run = _implicit_run if encoding.implicit else _explicit_run
        run(start, 0, _by_group(wanted), values)
    return values


def _inflated(start: Buffer, size: int, encoding: Encoding, wanted: frozenset[int]) -> "_Walk":
    """Walk a deflated data set (PS3.5 A.5): all of it, or INFLATE_LIMIT bytes that reach its pixel data."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(start, INFLATE_LIMIT)
    except zlib.error as error:
        raise CannotUnderstand("the deflated data set is damaged") from error
    if inflater.eof:
        walk = _Walk(data, len(data), encoding, wanted)
        walk.run()
        return walk
    if len(data) < INFLATE_LIMIT:
        if len(start) < size:
            raise HeaderIncomplete
        raise CannotUnderstand("the deflated data set is cut off")
    walk = _Walk(data, _UNKNOWN_SIZE, encoding, wanted)
    try:
        walk.run()
    except HeaderIncomplete:
        if not walk.has_reached_pixel_data:
            raise CannotUnderstand("the deflated data set is too long before its pixel data") from None
    return walk


@lru_cache(maxsize=16)
def _by_group(wanted: frozenset[int]) -> _Wanted:
    groups: dict[int, set[int]] = {}
    for tag in wanted:
        groups.setdefault(tag >> 16, set()).add(tag & 0xFFFF)
    return {group: frozenset(elements) for group, elements in groups.items()}


def _explicit_run(head: bytes, position: int, wanted: _Wanted, values: dict[int, bytes]) -> int:
    """Pass plain elements with explicit VR; return the position of the first that is not (PS3.5 7.1.2)."""
    unpack, unpack_length = _EXPLICIT_HEADER.unpack_from, _LENGTH.unpack_from
    short_codes, long_codes = _SHORT_CODES, _LONG_CODES
    size = len(head)
    last = size - 12  # bytes of the longer header
    group = previous = -1
    wanted_here = _NONE
    while position <= last:
        this_group, element, vr, length = unpack(head, position)
        if this_group != group:
            if not group < this_group < _PIXEL_DATA_GROUP or this_group in _FOREIGN_GROUPS:
                break
            group = this_group
            wanted_here = wanted.get(group, _NONE)
        elif element <= previous:
            break
        previous = element
        if vr in short_codes:
            value = position + 8
        elif vr in long_codes:
            (length,) = unpack_length(head, position + 8)
            if length > BULK_LIMIT:
                break
            value = position + 12
        else:
            break
        end = value + length
        if end > size:
            break
        if element in wanted_here:
            values[group << 16 | element] = head[value:end]
        position = end
    return position


def _implicit_run(head: bytes, position: int, wanted: _Wanted, values: dict[int, bytes]) -> int:
    """Pass plain elements with implicit VR; return the position of the first that is not (PS3.5 7.1.3)."""
    unpack = _IMPLICIT_HEADER.unpack_from
    size = len(head)
    last = size - 8
    group = previous = -1
    wanted_here = _NONE
    while position <= last:
        this_group, element, length = unpack(head, position)
        if this_group != group:
            if not group < this_group < _PIXEL_DATA_GROUP or this_group in _FOREIGN_GROUPS:
                break
            group = this_group
            wanted_here = wanted.get(group, _NONE)
        elif element <= previous:
            break
        previous = element
        value = position + 8
        end = value + length
        if length > BULK_LIMIT or end > size:
            break
        if element in wanted_here:
            values[group << 16 | element] = head[value:end]
        position = end
    return position


class _Element(NamedTuple):
    """The head of an element. `vr` is None when it is not encoded: implicit VR, items and delimiters."""

    tag: int
    vr: bytes | None
    length: int
    value: int  # position of the value

    @property
    def group(self) -> int:
        return self.tag >> 16

    def __str__(self) -> str:
        return f"({self.group:04X},{self.tag & 0xFFFF:04X})"


class _Walk:
    """One pass over a data set, element by element at the top level."""

    def __init__(self, data: Buffer, size: int, encoding: Encoding, wanted: frozenset[int]) -> None:
        self.values: dict[int, bytes] = {}
        self.has_reached_pixel_data = False
        self._data = data
        self._size = size
        self._head = data if isinstance(data, bytes) else bytes(data[:WINDOW])
        self._reach = len(self._head) if encoding.little_endian else 0
        self._encoding = encoding
        self._tag, self._long, self._short = _STRUCTS[encoding.little_endian]
        self._wanted = wanted
        self._steps = 0
        self._parts: list[bytes] = []  # what is kept, up to the last element that is not
        self._kept_length = 0
        self._kept_from = 0

    def run(self) -> None:
        """Walk to the end of the data set."""
        size, wanted = self._size, _by_group(self._wanted)
        position = 0
        while position < size:
            position = self._hurry(position, self._encoding.implicit, wanted, self.values)
            if position == size:
                break
            if self._kept_length + position - self._kept_from > KEPT_LIMIT:
                raise CannotUnderstand(f"the header is longer than {KEPT_LIMIT} bytes")
            position = self._pass(position)
        self._keep_until(position, position)

    def kept(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _hurry(self, position: int, implicit: bool, wanted: _Wanted, values: dict[int, bytes]) -> int:
        """Pass the plain elements from `position` on, as far as the tight loops reach."""
        if position >= self._reach:
            return position
        return (_implicit_run if implicit else _explicit_run)(self._head, position, wanted, values)

    def step(self, position: int) -> "tuple[_Element, int]":
        """The element at `position` and where it ends."""
        element = self._element(position, self._encoding.implicit)
        if element.length == _UNDEFINED_LENGTH:
            return element, self._skip_items(element)[0]
        return element, element.value + element.length

    def _pass(self, position: int) -> int:
        """Take in the element at `position`; return the position behind it."""
        element = self._element(position, self._encoding.implicit)
        if element.group in _FOREIGN_GROUPS or element.group == _ITEM_GROUP:
            raise CannotUnderstand(f"{element} cannot stand in a data set, at byte {position}")
        if element.group == _PIXEL_DATA_GROUP and not self.has_reached_pixel_data:
            self.has_reached_pixel_data = True
            self._keep_until(position, position)
        depth = 0
        if element.length == _UNDEFINED_LENGTH:
            end, depth = self._skip_items(element)
            length = end - element.value - 8  # the sequence delimitation item is no part of the value
        else:
            length = element.length
            end = element.value + length
            if end > self._size:
                raise CannotUnderstand(f"{element} at byte {position} runs past the end of the data set")
        if _is_bulk(element, length) or depth > NESTING_LIMIT:
            self._keep_until(position, end)
        elif end > len(self._data):
            raise HeaderIncomplete
        elif element.tag in self._wanted:
            self.values[element.tag] = bytes(self._data[element.value : element.value + length])
        return end

    def _keep_until(self, position: int, resume: int) -> None:
        """Keep what was not yet kept before `position`, and nothing then before `resume`."""
        if position > self._kept_from:
            part = bytes(self._data[self._kept_from : position])
            self._parts.append(part)
            self._kept_length += len(part)
        self._kept_from = resume

    def _element(self, position: int, implicit: bool) -> _Element:
        """The head of the element, item or delimiter at `position` (PS3.5 7.1, 7.5)."""
        self._steps += 1
        if self._steps > STEPS_LIMIT:
            raise CannotUnderstand(f"the data set has more than {STEPS_LIMIT} elements")
        head = bytes(self._data[position : position + 12])
        if len(head) < 8:
            raise self._short_of(position + 8)
        group, number = self._tag.unpack_from(head)
        tag = group << 16 | number
        vr = head[4:6]
        # An element without VR among others with one is met, inside sequences of unknown VR above all.
        if implicit or group == _ITEM_GROUP or not (vr.isalpha() and vr.isupper()):
            return _Element(tag, None, self._long.unpack_from(head, 4)[0], position + 8)
        (length,) = self._short.unpack_from(head, 6)
        is_new = vr not in SHORT_VRS and length == 0  # every VR to come is of the long form (PS3.5 6.2)
        if vr in LONG_VRS or is_new:
            if len(head) < 12:
                raise self._short_of(position + 12)
            return _Element(tag, vr, self._long.unpack_from(head, 8)[0], position + 12)
        return _Element(tag, vr, length, position + 8)

    def _short_of(self, needed: int) -> Exception:
        """The error for bytes that are not there: in the data set or in the part of it that was given."""
        if needed > self._size:
            return CannotUnderstand("the data set is cut off")
        return HeaderIncomplete()

    def _skip_items(self, outer: _Element) -> tuple[int, int]:
        """Walk the items of an element of undefined length (PS3.5 7.5, A.4).

        Returns the position behind its sequence delimitation item and how many such elements were open at
        once. Items and elements of defined length are jumped over. No recursion: peers choose the depth.
        """
        open_sequences = [self._holds_implicit(outer, self._encoding.implicit)]
        in_item = False
        depth = 1
        position = outer.value
        while open_sequences:
            if in_item:
                position = self._hurry(position, open_sequences[-1], {}, {})
            inner = self._element(position, open_sequences[-1])
            is_undefined = inner.length == _UNDEFINED_LENGTH
            position = inner.value if is_undefined else inner.value + inner.length
            if position > self._size:
                raise CannotUnderstand(f"{outer} runs past the end of the data set")
            if in_item and inner.tag == _ITEM_DELIMITATION:
                in_item = False
            elif not in_item and inner.tag == _ITEM:
                in_item = is_undefined
            elif not in_item and inner.tag == _SEQUENCE_DELIMITATION:
                open_sequences.pop()
                in_item = True
            elif not in_item or inner.group == _ITEM_GROUP:
                raise CannotUnderstand(f"{inner} in {outer} is out of place, at byte {position}")
            elif is_undefined:
                open_sequences.append(self._holds_implicit(inner, open_sequences[-1]))
                depth = max(depth, len(open_sequences))
                in_item = False
        return position, depth

    def _holds_implicit(self, element: _Element, implicit: bool) -> bool:
        """Tell whether the items have implicit VR: those of UN have, whatever is around (PS3.5 6.2.2)."""
        if element.vr != b"UN":
            return implicit or element.vr is None
        vr = bytes(
            self._data[element.value + 12 : element.value + 14]
        )  # of the first element in the first item
        return vr not in SHORT_VRS and vr not in LONG_VRS  # writers that left them explicit are met


def _is_bulk(element: _Element, length: int) -> bool:
    """Tell whether an element is left out of the header."""
    if element.group == _PIXEL_DATA_GROUP or length > ELEMENT_LIMIT:
        return True
    if element.vr is not None and element.vr not in SHORT_VRS and element.vr not in LONG_VRS:
        return True  # pydicom takes every VR it does not know for the short form
    if length <= BULK_LIMIT or element.length == _UNDEFINED_LENGTH:
        return False
    if element.vr is not None:
        return element.vr in BULK_VRS
    try:
        vr = dictionary_VR(element.tag)
    except KeyError:  # private or unknown: UN
        return True
    return vr.split(" or ")[-1].startswith("O")  # "US or OW" is a look-up table
