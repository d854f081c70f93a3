"""HL7 fields read as values of DICOM attributes, as the tables of workflow.hl7_mapping say."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import dictionary_VR

from pacsnode.dicom.element import Element, Item, Value
from pacsnode.workflow.hl7_mapping import HEIGHTS, PREGNANT, PRIORITIES, SEXES, WEIGHTS
from pacsnode.workflow.hl7_message import Segment
from pacsnode.workflow.worklist_item import code_item

_MAX_LENGTH: Final = {"LO": 64, "PN": 194, "AS": 4}  # characters (PS3.5 6.2); identifiers are never cut
_MULTIPLE: Final = frozenset({"texts", "each"})
_IDENTIFIERS: Final = frozenset({0x00100020, 0x00402016, 0x00402017})

Segments = Mapping[str, Sequence[Segment]]
"""The segments one step is told in, by name."""


@dataclass(frozen=True, slots=True)
class Place:
    """`component` 0 is the whole field; `code` is the observation of an OBX."""

    segment: str
    field: int
    component: int = 0
    code: str = ""

    @classmethod
    def parse(cls, text: str) -> "Place":
        segment, _, number = text.partition("-")
        if segment == "OBX":
            return cls(segment, 5, code=number)
        field, _, component = number.partition(".")
        return cls(segment, int(field), int(component or 0))


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute and where it comes from."""

    tag: int
    places: tuple[Place, ...]
    reading: str

    @property
    def vr(self) -> str:
        return dictionary_VR(self.tag)


def rows_of(table: str) -> tuple[Row, ...]:
    """The rows of one of the tables of hl7_mapping."""
    lines = (line.split() for line in table.strip().splitlines())
    return tuple(Row(int(tag, 16), tuple(map(Place.parse, places)), how) for tag, *places, how in lines)


def read(rows: Sequence[Row], segments: Segments) -> Iterator[Element]:
    """The attributes that the segments tell something of; emptied ones where a field is null."""
    for row in rows:
        values = (_value(row, place, segments) for place in row.places)
        if value := next((value for value in values if value), None):
            yield Element(row.tag, row.vr, value)
        elif any(s.is_null(row.places[0].field) for s in segments.get(row.places[0].segment, ())):
            empty: Value = () if row.vr == "SQ" else ""
            yield Element(row.tag, row.vr, empty)


def _value(row: Row, place: Place, segments: Segments) -> Value:
    found = segments.get(place.segment, ())
    if row.reading in ("each", "notes"):
        texts = [text for segment in found if (text := segment.text(place.field, place.component or 1))]
        return "\r\n".join(texts) if row.reading == "notes" else _joined(texts, row)
    for segment in found:
        if place.code and segment.text(3).upper() != place.code:
            continue
        value = _READINGS[row.reading](segment, place)
        if value:
            return _fitting(value, row) if isinstance(value, str) else value
    return ""


def _joined(texts: Sequence[str], row: Row) -> str:
    return "\\".join(_fitting(text, row) for text in texts)


def _fitting(text: str, row: Row) -> str:
    """Text as the VR takes it: no control characters, no backslash but between values, not too long."""
    if row.reading not in _MULTIPLE:
        text = text.replace("\\", "/")
    text = "".join(character if character.isprintable() else " " for character in text).strip()
    length = _MAX_LENGTH.get(row.vr, len(text))
    return text if row.tag in _IDENTIFIERS else "\\".join(part[:length] for part in text.split("\\"))


# Readings: each makes the value of an attribute of one segment and one place.


def _text(segment: Segment, place: Place) -> str:
    return segment.text(place.field, place.component or 1)


def _texts(segment: Segment, place: Place) -> str:
    """All repetitions, as values."""
    found = [segment.text(place.field, 1, 1, number) for number in segment.repetitions(place.field)]
    return "\\".join(text.replace("\\", "/") for text in found if text)


def _whole(segment: Segment, place: Place) -> str:
    """All components, as they were: `WARD^12^B`."""
    return "^".join(segment.components(place.field)).rstrip("^")


def _authority(segment: Segment, place: Place) -> str:
    """The name of an assigning authority (HD), or its universal ID."""
    parts = (segment.text(place.field, place.component, number) for number in (1, 2))
    return next(filter(None, parts), "")


def _other_ids(segment: Segment, place: Place) -> tuple[Item, ...]:
    """The identifiers behind the first as items of Other Patient IDs Sequence (PS3.3 C.2.2)."""
    items = []
    for number in segment.repetitions(place.field)[1:]:
        identifier = segment.text(place.field, 1, 1, number)
        authority = segment.text(place.field, 4, 1, number) or segment.text(place.field, 4, 2, number)
        if identifier:
            parts = [Element(0x00100020, "LO", identifier), Element(0x00100022, "CS", "TEXT")]
            parts += [Element(0x00100021, "LO", authority)] if authority else []
            items.append(tuple(sorted(parts)))
    return tuple(items)


def _name(segment: Segment, place: Place) -> str:
    """XPN as PN: family, given, middle, prefix, suffix; representations A, I, P are the component groups."""
    groups = {"A": "", "I": "", "P": ""}
    for number in segment.repetitions(place.field):
        family, given, middle, suffix, prefix = (
            segment.text(place.field, component, 1, number).replace("^", " ").replace("=", " ")
            for component in range(1, 6)
        )
        code = segment.text(place.field, 8, 1, number) or "A"
        name = "^".join((family, given, middle, prefix, suffix)).rstrip("^")
        if code in groups and not groups[code]:
            groups[code] = name
    return "=".join(groups.values()).rstrip("=")


def _physician(segment: Segment, place: Place) -> str:
    """XCN as PN: the name stands behind the identifier. One without a name is told by that."""
    parts = [segment.text(place.field, component) for component in range(1, 7)]
    number, family, given, middle, suffix, prefix = (part.replace("^", " ") for part in parts)
    return "^".join((family, given, middle, prefix, suffix)).rstrip("^") or number


def _technician(segment: Segment, place: Place) -> str:
    """NDL as PN: identifier, family and given name are subcomponents of the first component."""
    parts = [segment.text(place.field, 1, number) for number in range(1, 7)]
    number, family, given, middle, suffix, prefix = (part.replace("^", " ") for part in parts)
    if not family:
        return _physician(segment, place)
    return "^".join((family, given, middle, prefix, suffix)).rstrip("^") or number


def _date(segment: Segment, place: Place) -> str:
    digits = _moment(segment, place)[:8]
    return digits if len(digits) == 8 else ""


def _time(segment: Segment, place: Place) -> str:
    """The time of a time stamp; midnight of one that has a day only."""
    moment = _moment(segment, place)
    return (moment[8:14] or "0000") if len(moment) >= 8 else ""


def _moment(segment: Segment, place: Place) -> str:
    """The digits of a time stamp (TS); "" when it is none."""
    text = segment.text(place.field, place.component or 1).partition(".")[0]
    digits = text.partition("+")[0].partition("-")[0]
    return digits if digits.isdigit() and len(digits) in (8, 10, 12, 14) else ""


def _sex(segment: Segment, place: Place) -> str:
    return SEXES.get(segment.text(place.field).upper(), "")


def _address(segment: Segment, place: Place) -> str:
    return ", ".join(part for part in segment.components(place.field)[:6] if part)


def _pregnancy(segment: Segment, place: Place) -> str:
    return "3" if PREGNANT in _texts(segment, place).split("\\") else ""


def _priority(segment: Segment, place: Place) -> str:
    return PRIORITIES.get(segment.text(place.field, place.component).upper()[:1], "")


def _code(segment: Segment, place: Place) -> tuple[Item, ...]:
    """CE as the item of a code sequence."""
    value, meaning, scheme = (segment.text(place.field, component) for component in (1, 2, 3))
    return tuple(code_item(value, scheme, meaning))


def _protocol(segment: Segment, place: Place) -> tuple[Item, ...]:
    """The protocol is the alternate code of OBR-4, and the code of IPC-6."""
    value, meaning, scheme = (segment.text(place.field, component) for component in (4, 5, 6))
    return tuple(code_item(value, scheme, meaning)) or _code(segment, place)


def _weight(segment: Segment, _place: Place) -> str:
    return _measure(segment, WEIGHTS)


def _height(segment: Segment, _place: Place) -> str:
    return _measure(segment, HEIGHTS)


def _measure(segment: Segment, units: Mapping[str, float]) -> str:
    try:
        number = float(segment.text(5)) * units[(segment.text(6) or next(iter(units))).upper()]
    except (ValueError, KeyError):
        return ""
    return f"{number:.6g}"


_READINGS: Final[Mapping[str, Callable[[Segment, Place], Value]]] = {
    "text": _text,
    "texts": _texts,
    "whole": _whole,
    "authority": _authority,
    "other_ids": _other_ids,
    "name": _name,
    "physician": _physician,
    "technician": _technician,
    "date": _date,
    "time": _time,
    "sex": _sex,
    "address": _address,
    "pregnancy": _pregnancy,
    "priority": _priority,
    "code": _code,
    "protocol": _protocol,
    "weight": _weight,
    "height": _height,
}
