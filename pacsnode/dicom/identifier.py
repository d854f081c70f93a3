"""Identifiers that answer a C-FIND, written (PS3.4 C.4.1.1.3.2, PS3.5 7.1). Pure.

By hand: a query may have 100,000 of them, of a dozen short elements each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import repeat
from typing import Final, cast

from pydicom.datadict import dictionary_VR

from pacsnode.dicom.element import BINARY_VRS, STRUCT_OF, Element, Item, Value
from pacsnode.dicom.header import Encoding
from pacsnode.dicom.information_model import (
    BY_TAG,
    INSTANCE_AVAILABILITY,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    SPECIFIC_CHARACTER_SET,
    TIMEZONE_OFFSET_FROM_UTC,
)
from pacsnode.dicom.query import Query
from pacsnode.dicom.text import charset_for, encode

# VRs with two reserved bytes and a length of four (PS3.5 Table 7.1-1).
_LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
CODED_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # by (0008,0005), PS3.5 6.1.2.2
_WORD_SIZE: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}  # bytes
_MAX_SHORT: Final = 0xFFFE  # bytes a length of two can tell
_KNOWN: Final = 64  # numbers kept of each key: most counts are small
_LENGTHS_AT_HAND: Final = 256  # the lengths of nearly all values, packed once
LAYOUTS: Final = 32  # of answers, kept: clients ask for the same keys again and again
KEYS_OF_LAYOUT: Final = 64  # of those kept, at most; each comes to 30 KB

RowValue = Value | int | None
"""A value of a match: None and "" are both sent with zero length."""


@cache
def _lengths(form: str) -> tuple[bytes, ...]:
    return tuple(struct.pack(form, length) for length in range(_LENGTHS_AT_HAND))


class ElementWriter:
    """Writes data elements in one encoding (PS3.5 7.1.2, 7.1.3)."""

    __slots__ = ("_implicit", "_order", "long_lengths", "short_lengths")

    def __init__(self, encoding: Encoding) -> None:
        self._implicit = encoding.implicit
        self._order = "<" if encoding.little_endian else ">"
        self.short_lengths = _lengths(f"{self._order}H")
        self.long_lengths = _lengths(f"{self._order}I")

    def is_long(self, vr: str) -> bool:
        """Whether the length of an element takes four bytes."""
        return self._implicit or vr in _LONG_VRS

    def head(self, tag: int, vr: str) -> bytes:
        """Everything before the length."""
        numbers = struct.pack(f"{self._order}HH", tag >> 16, tag & 0xFFFF)
        if self._implicit:
            return numbers
        return numbers + vr.encode("ascii") + (b"\0\0" if vr in _LONG_VRS else b"")

    def number_writer(self, vr: str) -> Callable[[int], bytes]:
        """What writes a number of the index: a count is text, the size of a matrix binary."""
        if vr in STRUCT_OF:
            return struct.Struct(self._order + STRUCT_OF[vr]).pack
        return lambda number: b"%d" % number

    def element(self, tag: int, vr: str, value: RowValue, charset: str) -> bytes:
        """One element, its text in `charset`, padded to an even length."""
        data = self._data(vr, value, charset)
        if len(data) & 1:
            data += pad_of(vr)
        if self.is_long(vr):
            return self.head(tag, vr) + struct.pack(f"{self._order}I", len(data)) + data
        if len(data) > _MAX_SHORT:  # more than the VR allows: PS3.5 6.2.2 note 4 has it sent as UN
            return self.element(tag, "UN", data, charset)
        return self.head(tag, vr) + struct.pack(f"{self._order}H", len(data)) + data

    def _data(self, vr: str, value: RowValue, charset: str) -> bytes:
        if value is None or value == "":
            return b""
        if isinstance(value, tuple):
            return b"".join(self._item(item, charset) for item in value)
        if isinstance(value, bytes):
            return value if self._order == "<" else _swapped(value, _WORD_SIZE.get(vr, 1))
        text = str(value)
        if _is_binary(vr):
            return self._packed(vr, text)
        return encode(text, charset, vr) if vr in CODED_VRS else text.encode("latin_1", "replace")

    def _item(self, item: Item, charset: str) -> bytes:
        """An item of explicit length (PS3.5 7.5.1)."""
        body = b"".join(self.element(tag, vr, value, charset) for tag, vr, value in item)
        return struct.pack(f"{self._order}HHI", 0xFFFE, 0xE000, len(body)) + body

    def _packed(self, vr: str, text: str) -> bytes:
        """Binary numbers; nothing when the text holds none that fit."""
        parts = text.split("\\")
        try:
            if vr == "AT":
                tags = [int(part, 16) for part in parts]
                return b"".join(struct.pack(f"{self._order}HH", tag >> 16, tag & 0xFFFF) for tag in tags)
            convert = float if vr in ("FL", "FD") else int
            return struct.pack(f"{self._order}{len(parts)}{STRUCT_OF[vr]}", *map(convert, parts))
        except (ValueError, struct.error, OverflowError):
            return b""


def _is_binary(vr: str) -> bool:
    return vr in STRUCT_OF or vr == "AT"


def pad_of(vr: str) -> bytes:
    """What makes a value of odd length even (PS3.5 6.2)."""
    return b"\0" if vr == "UI" or vr in BINARY_VRS else b" "


def _swapped(data: bytes, size: int) -> bytes:
    """Words of a kept little endian value for a big endian answer."""
    if size == 1 or len(data) % size:
        return data
    return b"".join(data[i : i + size][::-1] for i in range(0, len(data), size))


# What is neither text nor a number; what is not ASCII; what is long
_NOT_PLAIN: Final = (TypeError, UnicodeEncodeError, IndexError)


class _Heads(dict[int, str]):
    """What stands before the values of a key, by their lengths: constants, tag, VR and length.

    Raises IndexError for a value that is not short.
    """

    def __init__(self, before: str, lengths: Sequence[bytes]) -> None:
        self._before = before
        self._lengths = lengths

    def __missing__(self, length: int) -> str:
        head = self[length] = self._before + self._lengths[length + (length & 1)].decode("latin_1")
        return head


class _Numbers(dict[int | None, str]):
    """The elements of a key with numbers of the index; None is sent with zero length."""

    def __init__(self, heads: _Heads, pad: str, write: Callable[[int], bytes]) -> None:
        self._heads = heads
        self._pad = pad
        self._write = write

    def __missing__(self, number: int | None) -> str:
        text = "" if number is None else self._write(number).decode("latin_1")
        element = self._heads[len(text)] + text + self._pad * (len(text) & 1)
        if len(self) < _KNOWN:
            self[number] = element
        return element


class _Elements:
    """The elements of one key, of many matches at a time.

    They are text whose characters are bytes (Latin-1): so the interpreter does by itself, without a step of
    ours for every value, what is most of the work of an answer.
    """

    __slots__ = ("_heads", "_numbers", "_pads")

    def __init__(self, writer: ElementWriter, before: bytes, tag: int, vr: str) -> None:
        """`before`: constants that come before the key."""
        lengths = writer.long_lengths if writer.is_long(vr) else writer.short_lengths
        pad = pad_of(vr).decode("ascii")
        self._heads = _Heads((before + writer.head(tag, vr)).decode("latin_1"), lengths)
        self._pads = ("", pad) * (_LENGTHS_AT_HAND // 2)
        self._numbers = _Numbers(self._heads, pad, writer.number_writer(vr))

    def parts(self, values: Sequence[RowValue]) -> tuple[Iterable[str], ...]:
        """Iterables that give in turns what the elements consist of. Raises one of _NOT_PLAIN."""
        if not isinstance(values[0], str):
            return (map(self._numbers.__getitem__, cast("Sequence[int | None]", values)),)
        texts = cast("Sequence[str]", values)
        "".join(texts).encode("ascii")
        lengths = list(map(len, texts))
        return (map(self._heads.__getitem__, lengths), texts, map(self._pads.__getitem__, lengths))


@dataclass(frozen=True, slots=True)
class _Layout:
    """How answers with the same keys and constants are written.

    `between`: the constants that come before each key, then those behind the last. `is_plain`: unless its
    values are not, an answer consists of `elements`.
    """

    writer: ElementWriter
    keys: tuple[tuple[int, str], ...]
    between: tuple[bytes, ...]
    elements: tuple[_Elements, ...]
    is_plain: bool

    def encode(self, matches: Sequence[Sequence[RowValue]]) -> list[bytes]:
        """Answers whose values are plain, and one at least. Raises one of _NOT_PLAIN."""
        columns = zip(*matches, strict=True)
        keys = zip(self.elements, columns, strict=True)
        parts = [part for elements, values in keys for part in elements.parts(values)]
        end = self.between[-1].decode("latin_1")
        return ["".join(texts).encode("latin_1") for texts in zip(*parts, repeat(end))]


@lru_cache(maxsize=LAYOUTS)
def _layout_of(
    encoding: Encoding, constants: Sequence[tuple[int, str, str]], keys: tuple[tuple[int, str], ...]
) -> _Layout:
    writer = ElementWriter(encoding)
    between: list[bytes] = []
    for tag, _ in [*keys, (1 << 32, "")]:
        before = [constant for constant in constants if constant[0] < tag]
        constants = constants[len(before) :]
        between.append(b"".join(writer.element(*constant, charset="") for constant in before))
    elements = [_Elements(writer, at, tag, vr) for at, (tag, vr) in zip(between, keys, strict=False)]
    # Of a kept header, binary numbers come as text.
    is_plain = bool(keys) and all(tag in BY_TAG or not _is_binary(vr) for tag, vr in keys)
    return _Layout(writer, keys, tuple(between), tuple(elements), is_plain)


class ResponseEncoder:
    """Writes the identifiers that answer one query.

    An answer holds what was asked for and is supported, Query/Retrieve Level, Retrieve AE Title and Instance
    Availability, Specific Character Set when a value is not ASCII, and Timezone Offset From UTC when times
    were adjusted to it (PS3.4 C.4.1.1.3.2).
    """

    def __init__(self, query: Query, encoding: Encoding, retrieve_ae: str) -> None:
        constants = (
            (QUERY_RETRIEVE_LEVEL, "CS", query.level.value),
            (RETRIEVE_AE_TITLE, "AE", retrieve_ae),
            (INSTANCE_AVAILABILITY, "CS", "ONLINE"),
            *([(TIMEZONE_OFFSET_FROM_UTC, "SH", query.timezone)] if query.timezone else []),
            *((tag, dictionary_VR(tag), "") for tag in sorted(query.valueless)),
        )
        keys = tuple([(key.tag, key.vr) for key in query.keys])
        self._charset = query.character_set
        layout_of = _layout_of if len(keys) <= KEYS_OF_LAYOUT else _layout_of.__wrapped__
        self._layout = layout_of(encoding, constants, keys)
        self._form = (encoding, self._charset, constants, keys)

    @property
    def form(self) -> Hashable:
        """All that an answer depends on but its values."""
        return self._form

    def encode(self, matches: Sequence[Sequence[RowValue]]) -> list[bytes]:
        """The identifier of each match; its values are in the order of the keys of the query."""
        if not (self._layout.is_plain and matches):
            return [self._encode_any(values) for values in matches]
        try:
            return self._layout.encode(matches)
        except _NOT_PLAIN:
            return [self._encode_one(values) for values in matches]

    def _encode_one(self, values: Sequence[RowValue]) -> bytes:
        try:
            return self._layout.encode([values])[0]
        except _NOT_PLAIN:
            return self._encode_any(values)

    def _encode_any(self, values: Sequence[RowValue]) -> bytes:
        """Sequences, long values, text that is not ASCII."""
        layout, writer = self._layout, self._layout.writer
        charset = _charset_of(layout.keys, values, self._charset)
        parts = [writer.element(SPECIFIC_CHARACTER_SET, "CS", charset, "")] if charset else []
        for between, (tag, vr), value in zip(layout.between, layout.keys, values, strict=False):
            parts += (between, writer.element(tag, vr, value, charset))
        parts.append(layout.between[-1])
        return b"".join(parts)


def _charset_of(keys: Sequence[tuple[int, str]], values: Sequence[RowValue], requested: str) -> str:
    """The Specific Character Set that all text is written in; the `requested` one where that is possible."""
    texts = list(_texts(keys, values))
    names = (text for vr, text in texts if vr == "PN")
    return charset_for((text for _, text in texts), requested, names)[0]


def _texts(keys: Sequence[tuple[int, str]], values: Sequence[RowValue]) -> Iterator[tuple[str, str]]:
    """All text whose encoding depends on Specific Character Set, with its VR."""
    for (_, vr), value in zip(keys, values, strict=True):
        if isinstance(value, str) and vr in CODED_VRS:
            yield vr, value
        elif isinstance(value, tuple):
            for item in value:
                yield from _texts([(tag, vr) for tag, vr, _ in item], [element.value for element in item])


def encode_item(elements: Item, encoding: Encoding, requested: str = "") -> bytes:
    """A data set of any elements, in the order of their tags.

    Its Specific Character Set is the `requested` one where that can carry all text, none where all is ASCII.
    """
    tags = [(element.tag, element.vr) for element in elements]
    charset = _charset_of(tags, [element.value for element in elements], requested)
    found = [element for element in elements if element.tag != SPECIFIC_CHARACTER_SET]
    if charset:
        found.append(Element(SPECIFIC_CHARACTER_SET, "CS", charset))
    writer = ElementWriter(encoding)
    return b"".join(writer.element(*element, charset) for element in sorted(found, key=lambda e: e.tag))
