"""Data elements in the neutral form that identifiers, the kept header and answers share. Pure.

Text is Unicode, numbers are their decimal text, several values are joined by a backslash, a sequence is a
tuple of items. Reading is pydicom's; nothing is converted that is not asked for. What is malformed is absent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Final, NamedTuple

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue

from pacsnode.dicom import temporal
from pacsnode.dicom.header import Encoding, encoding_of, scan
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET, TIMEZONE_OFFSET_FROM_UTC
from pacsnode.dicom.matching import predicate
from pacsnode.dicom.query import SINGLE_VALUED_VRS, Key, Matching
from pacsnode.dicom.text import Decoder, decoder
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

Value = str | bytes | tuple["Item", ...]
"""Text, the bytes of an OB-like element, or the items of a sequence."""


class Element(NamedTuple):
    tag: int
    vr: str
    value: Value


Item = tuple[Element, ...]

BINARY_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
STRUCT_OF: Final = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d",
}  # fmt: skip
_AMBIGUOUS: Final = {"US or SS": "US", "OB or OW": "OW", "US or OW": "US", "US or SS or OW": "US"}


class DataSet:
    """A parsed data set, or an item of one, read element by element."""

    __slots__ = ("_coded", "_dataset")

    def __init__(self, dataset: Dataset, coded: Decoder | None = None) -> None:
        """`coded` is the decoder of the enclosing data set, which an item inherits (PS3.5 7.5.3)."""
        self._dataset = dataset
        own = (
            dataset.get_item(SPECIFIC_CHARACTER_SET, keep_deferred=True)
            if SPECIFIC_CHARACTER_SET in dataset
            else None
        )
        raw = own.value if isinstance(own, RawDataElement) else None
        self._coded = coded if coded is not None and not raw else decoder(raw)

    @classmethod
    def parse(cls, data: bytes, encoding: Encoding) -> DataSet:
        """Read an encoded data set. Raises CannotUnderstand."""
        try:
            return cls(read_dataset(BytesIO(data), encoding.implicit, encoding.little_endian))
        except Exception as error:  # pydicom has no base class for what malformed bytes make it raise
            raise CannotUnderstand(f"the data set cannot be read: {error}") from error

    def tags(self) -> Iterator[int]:
        return map(int, self._dataset.keys())

    def vr_of(self, tag: int) -> str:
        """The VR as encoded, or as the dictionary has it; UN when neither knows."""
        vr = self._dataset.get_item(tag, keep_deferred=True).VR
        if not vr or vr == "UN" or not vr.isascii():  # two wild bytes of a peer are no VR
            try:
                vr = dictionary_VR(tag)
            except KeyError:
                return "UN"
        return _AMBIGUOUS.get(vr, vr)

    def text(self, tag: int, vr: str) -> str:
        """The value of an element that is no sequence and not binary; "" when absent."""
        if tag not in self._dataset:
            return ""
        if vr in STRUCT_OF or vr == "AT":
            element = self._converted(tag)
            return _numbers(element) if element is not None else ""
        raw = self._dataset.get_item(tag, keep_deferred=True).value
        if not raw:
            return ""
        return self._coded.text(raw, vr) if isinstance(raw, bytes) else str(raw)

    def is_empty(self, tag: int) -> bool:
        """Whether an element has no value; of a sequence, no item."""
        return not self._dataset.get_item(tag, keep_deferred=True).value

    def items(self, tag: int) -> Iterator[DataSet]:
        """The items of a sequence; none when it is absent."""
        element = self._converted(tag) if tag in self._dataset else None
        if element is not None and element.VR == "SQ":
            for item in element.value:
                yield DataSet(item, self._coded)

    def _converted(self, tag: int) -> DataElement | None:
        try:
            return self._dataset[tag]
        except Exception:  # see parse()
            return None

    def element(self, tag: int) -> Element:
        """One element with all that is in it."""
        vr = self.vr_of(tag)
        if vr == "SQ":
            return Element(tag, vr, tuple(item.elements() for item in self.items(tag)))
        if vr in BINARY_VRS:
            raw = self._dataset.get_item(tag, keep_deferred=True).value
            return Element(tag, vr, raw if isinstance(raw, bytes) else b"")
        return Element(tag, vr, self.text(tag, vr))

    def elements(self) -> Item:
        """All elements of an item, without group lengths and its own Specific Character Set."""
        wanted = (tag for tag in self.tags() if tag & 0xFFFF and tag != SPECIFIC_CHARACTER_SET)
        return tuple(self.element(tag) for tag in sorted(wanted))


class ScannedValues:
    """Elements of the top level found by the header scan: a fraction of the cost of parsing them all."""

    __slots__ = ("_coded", "_order", "_values")

    def __init__(self, data: bytes, transfer_syntax: UID, wanted: frozenset[int]) -> None:
        """Raises CannotUnderstand. `wanted` holds Specific Character Set, and no sequences."""
        header = scan(data, transfer_syntax, len(data), wanted)
        self._values = header.values
        self._order = "<" if header.encoding.little_endian else ">"
        self._coded = decoder(header.values.get(SPECIFIC_CHARACTER_SET))

    def text(self, tag: int, vr: str) -> str:
        """As DataSet.text."""
        raw = self._values.get(tag)
        if not raw:
            return ""
        if vr == "AT":
            tags = _unpacked(raw, f"{self._order}HH")
            return "\\".join(f"{group:04X}{number:04X}" for group, number in tags)
        if vr in STRUCT_OF:
            return "\\".join(str(number) for (number,) in _unpacked(raw, self._order + STRUCT_OF[vr]))
        return self._coded.text(raw, vr)


def _unpacked(raw: bytes, layout: str) -> Iterator[tuple[int, ...]]:
    """All whole records in `raw`; what is left over of a broken value is dropped."""
    record = struct.Struct(layout)
    return record.iter_unpack(raw[: len(raw) // record.size * record.size])


def _numbers(element: DataElement) -> str:
    """Binary numbers as text; an attribute tag as eight hexadecimal digits."""
    value = element.value
    if value is None:
        return ""
    values = value if isinstance(value, (MultiValue, list)) else [value]
    if element.VR == "AT":
        return "\\".join(f"{int(number):08X}" for number in values)
    return "\\".join(map(str, values))


def split_values(text: str, vr: str) -> list[str]:
    return [text] if vr in SINGLE_VALUED_VRS else [value.strip(" \0") for value in text.split("\\")]


class KeyReader:
    """Decides one key on a data set, and reads what the answer says about it."""

    __slots__ = ("_items", "_key", "_match_unknown", "_matches")

    def __init__(self, key: Key, match_unknown: bool) -> None:
        self._key = key
        self._match_unknown = match_unknown
        self._items = tuple(KeyReader(item, match_unknown) for item in key.items)
        self._matches: Callable[[list[str]], bool] = (
            predicate(key, match_unknown) if key.vr != "SQ" else lambda _values: True
        )

    @property
    def tag(self) -> int:
        return self._key.tag

    @property
    def is_sequence(self) -> bool:
        return self._key.vr == "SQ"

    @property
    def is_zoned(self) -> bool:
        """Whether it, or a key of its item, depends on the object's offset from UTC."""
        return self._key.timezone is not None or any(item.is_zoned for item in self._items)

    def may_be_in(self, data: bytes, encoding: Encoding) -> bool:
        """False when an encoded data set surely lacks the attribute: most lack most sequences."""
        order = "<" if encoding.little_endian else ">"
        return struct.pack(f"{order}HH", self.tag >> 16, self.tag & 0xFFFF) in data

    def read(self, data_set: DataSet | ScannedValues, offset: int | None = None) -> Value | None:
        """The value to answer, or None when the key does not match; sequences need a DataSet.

        `offset` is that of the object's dates and times from UTC, in minutes, where it is known.
        """
        key = self._key
        if isinstance(data_set, DataSet) and self.is_sequence:
            return self._read_sequence(data_set, offset)
        text = data_set.text(key.tag, key.vr)
        if key.timezone is not None and offset is not None:
            text = _moved(data_set, key, text, key.timezone - offset)
        return text if self._matches(split_values(text, key.vr)) else None

    def _read_sequence(self, data_set: DataSet, offset: int | None) -> Value | None:
        """The matching items with the requested attributes only, or the whole sequence (PS3.4 C.2.2.2.6)."""
        if not self._items:
            return tuple(item.elements() for item in data_set.items(self._key.tag))
        restricting = self._key.matching is Matching.SEQUENCE
        found = []
        empty = True
        for item in data_set.items(self._key.tag):
            empty = False
            values = [reader.read(item, offset) for reader in self._items]
            if None not in values:
                found.append(self._item(values))
        if restricting and not found and not (empty and self._match_unknown):
            return None
        return tuple(found)

    def _item(self, values: list[Value | None]) -> Item:
        keys = self._key.items
        return tuple(
            Element(key.tag, key.vr, value)
            for key, value in sorted(zip(keys, values, strict=True), key=lambda pair: pair[0].tag)
            if value is not None
        )


def _moved(data_set: DataSet | ScannedValues, key: Key, text: str, minutes: int) -> str:
    """A date or time read on a clock so many minutes ahead; a DA needs its TM for that, and the reverse."""
    if key.vr == "DT":
        return "\\".join(temporal.moved_date_time(value, minutes) for value in split_values(text, key.vr))
    partner = partner_of(key.tag)
    if partner is None:
        return text
    if key.vr == "DA":
        return temporal.moved(text, data_set.text(partner, "TM"), minutes)[0]
    return temporal.moved(data_set.text(partner, "DA"), text, minutes)[1]


@lru_cache(maxsize=256)
def partner_of(tag: int) -> int | None:
    """The TM that tells the time of a DA, or the reverse: their keywords differ in that word alone."""
    keyword = keyword_for_tag(tag)
    other = keyword.replace("Date", "Time") if "Date" in keyword else keyword.replace("Time", "Date")
    return tag_for_keyword(other) if other != keyword else None


def read_keys(data: bytes, transfer_syntax: UID, readers: Sequence[KeyReader]) -> list[Value] | None:
    """The values of the keys in a kept header, or None when one of them does not match."""
    source: DataSet | ScannedValues
    encoding = encoding_of(transfer_syntax)
    sequences = [reader for reader in readers if reader.is_sequence]
    absent = frozenset(reader for reader in sequences if not reader.may_be_in(data, encoding))
    try:
        if len(absent) < len(sequences):
            source = DataSet.parse(data, encoding)
        else:
            source = ScannedValues(data, transfer_syntax, _wanted(readers))
    except CannotUnderstand:
        source = DataSet(Dataset())  # it was read once, at ingest; columns still answer
    zoned = any(reader.is_zoned for reader in readers)
    offset = temporal.known_offset(source.text(TIMEZONE_OFFSET_FROM_UTC, "SH")) if zoned else None
    values = []
    for reader in readers:
        value = reader.read(_NOTHING if reader in absent else source, offset)
        if value is None:
            return None
        values.append(value)
    return values


_NOTHING: Final = DataSet(Dataset())


def _wanted(readers: Sequence[KeyReader]) -> frozenset[int]:
    """The elements that the readers will look at."""
    tags = [SPECIFIC_CHARACTER_SET, *(reader.tag for reader in readers if not reader.is_sequence)]
    if any(reader.is_zoned for reader in readers):
        partners = (partner_of(reader.tag) for reader in readers if reader.is_zoned)
        tags += [TIMEZONE_OFFSET_FROM_UTC, *(partner for partner in partners if partner is not None)]
    return frozenset(tags)
