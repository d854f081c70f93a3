"""Where the elements of an encoded data set are: found without reading their values (PS3.5 7). Pure.

Bytes are asked for around the place that is looked at, so that of a file of 2 GB some pages are read, and
with reads that let other threads run: a mapping would hold them up at each page.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import dictionary_VR

from pacsnode.dicom.header import Encoding
from pacsnode.dicom.vr import LONG_VRS, SHORT_VRS
from pacsnode.errors import CannotUnderstand

Read = Callable[[int, int], bytes]
"""The bytes at a position, as many as asked for or, at the end, as there are."""

UNDEFINED: Final = 0xFFFFFFFF
WINDOW: Final = 64 * 1024  # bytes read at once where elements follow each other
DEPTH_LIMIT: Final = 10_000  # sequences of undefined length open at once; a few bytes each
LEAP: Final = 4 * 1024  # bytes read behind a long value: an item or two
ELEMENTS_LIMIT: Final = 4_000_000  # elements and items looked at in one data set

_ITEM: Final = 0xFFFEE000
_ITEM_DELIMITATION: Final = 0xFFFEE00D
_SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
_STRUCTS: Final = {order: tuple(struct.Struct(order + form) for form in ("HH", "H", "I")) for order in "<>"}
_PIXEL_DATA_GROUP: Final = 0x7FE0


@dataclass(frozen=True, slots=True)
class Place:
    """An element or item: where its value begins, and how long it is, maybe UNDEFINED.

    `vr` is None where none is encoded. `implicit`: so are the elements around it.
    """

    tag: int
    vr: bytes | None
    value: int
    length: int
    implicit: bool

    def __str__(self) -> str:
        return f"({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})"


class Places:
    """The elements of one data set."""

    def __init__(self, read: Read, start: int, size: int, encoding: Encoding) -> None:
        """The data set lies from `start` on up to `size`, the end of what `read` reads."""
        self._read = read
        self._start = start
        self._size = size
        self._implicit = encoding.implicit
        self._tag, self._short, self._long = _STRUCTS["<" if encoding.little_endian else ">"]
        self._window = b""
        self._window_at = 0
        self._left = ELEMENTS_LIMIT

    def elements(self) -> Iterator[Place]:
        """The elements of the top level. Raises CannotUnderstand."""
        return self._elements(self._start, self._size, self._implicit)

    def at(self, position: int) -> Place:
        """The element of the top level that is known to be at `position`. Raises CannotUnderstand."""
        return self._place(position, self._implicit)

    def find(self, path: tuple[int, ...]) -> Place | None:
        """The element at a path: its tag; within sequences tag, item from 1 on, tag and so on."""
        elements = self.elements()
        for tag, item in zip(path[:-1:2], path[1::2], strict=True):
            place = next((one for one in elements if one.tag == tag), None)
            held = None if place is None or not self.is_sequence(place) else self._item(place, item)
            if held is None:
                return None
            elements = held
        return next((one for one in elements if one.tag == path[-1]), None)

    def fragments(self, place: Place) -> Iterator[Place]:
        """The items of encapsulated pixel data, its Basic Offset Table first (PS3.5 A.4)."""
        return self._items(place, place.value, self._size)

    def items_between(self, start: int, end: int) -> Iterator[Place]:
        """The items from one position up to another, or to a delimiter. Raises CannotUnderstand."""
        while start < end:
            item = self._place(start, implicit=True)
            if item.tag == _SEQUENCE_DELIMITATION:
                return
            if item.tag != _ITEM or item.length == UNDEFINED or item.value + item.length > self._size:
                raise CannotUnderstand(f"no item at byte {start}")
            yield item
            start = item.value + item.length

    def is_sequence(self, place: Place) -> bool:
        """Tell whether an element holds items that hold elements."""
        if place.tag >> 16 == _PIXEL_DATA_GROUP or place.vr in (b"OB", b"OW"):
            return False
        if place.vr is None and place.length != UNDEFINED and place.tag >> 16 & 1 == 0:
            try:
                return dictionary_VR(place.tag) == "SQ"
            except KeyError:
                return False
        return place.vr == b"SQ" or place.length == UNDEFINED

    def _item(self, place: Place, number: int) -> Iterator[Place] | None:
        """The elements of an item of a sequence; None when there are fewer."""
        end = self._size if place.length == UNDEFINED else place.value + place.length
        implicit = self._holds_implicit(place)
        for count, item in enumerate(self._items(place, place.value, end), 1):
            if count == number:
                item_end = end if item.length == UNDEFINED else item.value + item.length
                return self._elements(item.value, item_end, implicit)
        return None

    def _items(self, place: Place, position: int, end: int) -> Iterator[Place]:
        implicit = self._holds_implicit(place)
        while position < end:
            item = self._place(position, implicit=True)
            if item.tag == _SEQUENCE_DELIMITATION:
                return
            if item.tag != _ITEM:
                raise CannotUnderstand(f"no item in {place}, at byte {position}")
            yield item
            position = self._end_of_item(item, implicit)

    def _elements(self, position: int, end: int, implicit: bool) -> Iterator[Place]:
        while position < end:
            place = self._place(position, implicit)
            if place.tag == _ITEM_DELIMITATION:
                return
            yield place
            position = self.end(place)

    def end(self, place: Place) -> int:
        """The position behind an element. Raises CannotUnderstand."""
        if place.length != UNDEFINED:
            return self._checked(place.value + place.length)
        return self._skipped([self._holds_implicit(place)], place.value, in_item=False)

    def _end_of_item(self, item: Place, implicit: bool) -> int:
        if item.length != UNDEFINED:
            return self._checked(item.value + item.length)
        return self._skipped([implicit], item.value, in_item=True)

    def _skipped(self, open_sequences: list[bool], position: int, in_item: bool) -> int:
        """The position behind the delimiter of a sequence or, if it begins `in_item`, of an item.

        No recursion: senders choose the depth.
        """
        ends_with_item = in_item
        while True:
            inner = self._place(position, open_sequences[-1])
            is_undefined = inner.length == UNDEFINED
            position = inner.value if is_undefined else self._checked(inner.value + inner.length)
            if in_item and inner.tag == _ITEM_DELIMITATION:
                in_item = False
                if ends_with_item and len(open_sequences) == 1:
                    return position
            elif not in_item and inner.tag == _ITEM:
                in_item = is_undefined
            elif not in_item and inner.tag == _SEQUENCE_DELIMITATION:
                open_sequences.pop()
                in_item = True
                if not open_sequences:
                    return position
            elif not in_item or inner.tag >> 16 == 0xFFFE:
                raise CannotUnderstand(f"{inner} is out of place, at byte {position}")
            elif is_undefined:
                open_sequences.append(self._holds_implicit(inner))
                in_item = False
                if len(open_sequences) > DEPTH_LIMIT:
                    raise CannotUnderstand("sequences are nested too deep")

    def _checked(self, end: int) -> int:
        if end > self._size:
            raise CannotUnderstand(f"the data set is cut off: it would go on to byte {end}")
        return end

    def _holds_implicit(self, place: Place) -> bool:
        """Tell whether the items have implicit VR: those of UN have, whatever is around (PS3.5 6.2.2)."""
        if place.vr != b"UN":
            return place.implicit or place.vr is None
        first = self._bytes(place.value + 12, 2)  # VR of the first element; writers left it explicit
        return first not in SHORT_VRS and first not in LONG_VRS

    def _place(self, position: int, implicit: bool) -> Place:
        """The head of the element or item at `position` (PS3.5 7.1, 7.5)."""
        self._left -= 1
        if self._left < 0:
            raise CannotUnderstand(f"the data set has more than {ELEMENTS_LIMIT} elements")
        start = position - self._window_at
        if start < 0 or start + 12 > len(self._window):
            start = self._move_to(position)
        window = self._window
        if start + 8 > len(window):
            raise CannotUnderstand(f"the data set is cut off at byte {position}")
        group, number = self._tag.unpack_from(window, start)
        tag = group << 16 | number
        vr = window[start + 4 : start + 6]
        if implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            return Place(tag, None, position + 8, self._long.unpack_from(window, start + 4)[0], implicit)
        (length,) = self._short.unpack_from(window, start + 6)
        if vr in LONG_VRS or (vr not in SHORT_VRS and length == 0):
            if start + 12 > len(window):
                raise CannotUnderstand(f"the data set is cut off at byte {position}")
            return Place(tag, vr, position + 12, self._long.unpack_from(window, start + 8)[0], implicit)
        return Place(tag, vr, position + 8, length, implicit)

    def _move_to(self, position: int) -> int:
        """Read around `position`, and return where it is in the window."""
        behind = self._window_at + len(self._window)
        follows = not self._window or 0 <= position - behind + 12 <= LEAP
        self._window = self._read(position, WINDOW if follows else LEAP)
        self._window_at = position
        return 0

    def _bytes(self, position: int, length: int) -> bytes:
        start = position - self._window_at
        if start >= 0 and start + length <= len(self._window):
            return self._window[start : start + length]
        return self._read(position, length)
