"""Headers read by comparison: objects of a series differ in a few values, most bytes are the same. Pure.

A form is a header with blanks where objects of a series had different values. Whether one fits is told by
comparing the stretches between the blanks, a handful of comparisons instead of a hundred elements taken
apart; what does not fit is scanned as ever (header.py), and may widen the form. Only what is plain has a
form: little endian, with nothing left out of the header but Pixel Data of a known length at its end.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from pacsnode.dicom.header import BULK_LIMIT, WINDOW, Buffer, Header, places_of, scan
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID

FORMS: Final = 16  # tried one after the other; with more series at a time some are scanned
SERIES: Final = 64  # whose first header is kept, 64 KiB at most of each
WIDENED: Final = 8  # times; where each object is different in something else a form gains nothing
BLANKS: Final = 48

_SERIES_INSTANCE_UID: Final = 0x0020000E
_PIXEL_DATA: Final = struct.pack("<HH", 0x7FE0, 0x0010)
_SHORT: Final = struct.Struct("<H")
_LONG: Final = struct.Struct("<I")


class _Blank(NamedTuple):
    """A value that differs. `before` is the same, up to its length; that has `size` bytes."""

    before: bytes
    size: int
    length_from: Callable[[bytes, int], tuple[int]]
    tag: int
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class _Sample:
    """A header that was scanned, with the data set up to the value of Pixel Data, which has `bulk` bytes."""

    header: Header
    head: bytes
    bulk: int

    @classmethod
    def of(cls, header: Header, head: bytes, size: int) -> Self | None:
        """None where that is not plain."""
        if not header.encoding.little_endian or header.transfer_syntax in DEFLATED_TRANSFER_SYNTAXES:
            return None
        end = len(header.kept)
        if not head.startswith(header.kept):
            return None
        if end < size:
            length = end + (4 if header.encoding.implicit else 8)  # of Pixel Data (PS3.5 7.1)
            if head[end : end + 4] != _PIXEL_DATA or length + 4 > len(head):
                return None
            end = length + 4
            if end + _LONG.unpack_from(head, length)[0] != size:
                return None
        return cls(header, head[:end], size - end)

    def differences(self, other: "_Sample") -> frozenset[int] | None:
        """The tags of elements with other values; None where more than values is different."""
        places, others = places_of(self.header), places_of(other.header)
        if len(places) != len(others) or self.bulk != other.bulk:
            return None
        tags = set()
        mine_from = its_from = 0
        for mine, its in zip(places, others, strict=True):
            if self.head[mine_from : mine.end] != other.head[its_from : its.end]:
                if self.head[mine_from : mine.length] != other.head[its_from : its.length]:
                    return None
                if mine.is_open or its.is_open:
                    return None
                tags.add(mine.tag)
            mine_from, its_from = mine.end, its.end
        is_same_end = self.head[mine_from:] == other.head[its_from:]
        return frozenset(tags) if is_same_end else None


@dataclass(frozen=True, slots=True, eq=False)
class HeaderForm:
    """The form of the headers of one series, in one transfer syntax.

    `end` is what is the same behind the last blank; its first bytes, without the head of Pixel Data, belong
    to the header. `values` are those that are the same, of those wanted; `filled` the tags of the blanks.
    """

    sample: Header
    blanks: tuple[_Blank, ...]
    end: bytes
    end_in_header: int
    bulk: int
    values: dict[int, bytes]
    filled: frozenset[int]

    @classmethod
    def of(cls, sample: _Sample, tags: frozenset[int], wanted: Collection[int]) -> Self:
        """The form of a header in which these elements are left blank."""
        blanks, at = [], 0
        for place in places_of(sample.header):
            if place.tag in tags:
                length = _SHORT if place.value - place.length == _SHORT.size else _LONG
                before = sample.head[at : place.length]
                blanks.append(_Blank(before, length.size, length.unpack_from, place.tag, place.tag in wanted))
                at = place.end
        header = sample.header
        values = {tag: value for tag, value in header.values.items() if tag not in tags}
        return cls(header, tuple(blanks), sample.head[at:], len(header.kept) - at, sample.bulk, values, tags)

    def read(self, head: bytes, size: int) -> Header | None:
        """The header of a data set of `size` bytes that begins with `head`; None when it does not fit."""
        at = 0
        filled = []
        for before, size_of_length, length_from, tag, is_wanted in self.blanks:
            start = at + len(before) + size_of_length
            if start > len(head) or not head.startswith(before, at):
                return None
            (length,) = length_from(head, start - size_of_length)
            at = start + length
            if length > BULK_LIMIT or at > len(head):
                return None
            if is_wanted:
                filled.append((tag, head[start:at]))
        if at + len(self.end) + self.bulk != size or not head.startswith(self.end, at):
            return None
        values = self.values | dict(filled)
        kept = head[: at + self.end_in_header]
        return Header(self.sample.transfer_syntax, self.sample.encoding, kept, values, self)


@dataclass(slots=True)
class _Known:
    """What is known of a series. `left`: how often its form may be widened."""

    sample: _Sample
    form: HeaderForm | None = None
    left: int = WIDENED


class HeaderReader:
    """Reads headers; remembers the last series. Shared by threads: a race only scans once more."""

    def __init__(self, wanted: frozenset[int]) -> None:
        self._wanted = wanted
        self._forms: list[HeaderForm] = []  # the newest first
        self._series: OrderedDict[tuple[UID, bytes], _Known] = OrderedDict()

    def read(self, start: Buffer, transfer_syntax: UID, size: int) -> Header:
        """As header.scan()."""
        head = bytes(start[:WINDOW])
        for form in self._forms:
            if form.sample.transfer_syntax == transfer_syntax:
                header = form.read(head, size)
                if header is not None:
                    return header
        header = scan(start, transfer_syntax, size, self._wanted)
        self._learn(head, header, size)
        return header

    def _learn(self, head: bytes, header: Header, size: int) -> None:
        """Remember the first header of a series; with another one make its form, or widen that."""
        key = (header.transfer_syntax, header.values.get(_SERIES_INSTANCE_UID, b""))
        known = self._series.get(key)
        if known is not None and not known.left:
            return
        sample = _Sample.of(header, head, size)
        if sample is None:
            return
        if known is None:
            if len(self._series) >= SERIES:
                self._series.popitem(last=False)
            self._series[key] = _Known(sample)
            return
        known.left -= 1
        self._widen(known, sample)

    def _widen(self, known: _Known, sample: _Sample) -> None:
        former = known.form
        tags = known.sample.differences(sample)
        if tags is None:
            known.sample, known.form = sample, None  # perhaps those that follow are like this one
        else:
            tags |= frozenset() if former is None else former.filled
            if len(tags) <= BLANKS:
                known.form = HeaderForm.of(known.sample, tags, self._wanted)
        others = [form for form in self._forms if form is not former]
        self._forms = [known.form, *others][:FORMS] if known.form is not None else others
