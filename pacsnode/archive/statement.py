"""From a Query to SQL (PS3.4 C.2.2.2), and which keys SQL cannot decide.

A query becomes a `Plan`, its shape without values, and the values. archive.sql writes the statement of a plan
once; queries of the same shape, which is what clients send, only bind.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from json import dumps
from typing import Final

from pacsnode.archive.names import is_narrowed_only, name_terms, pattern_term
from pacsnode.archive.plan import Alternatives, Bound, BoundPlan, Operator, Plan, Term, ZonedPair
from pacsnode.dicom.information_model import (
    BY_TAG,
    TIMEZONE_OFFSET_FROM_UTC,
    Attribute,
    KeyType,
    Level,
    key_type,
)
from pacsnode.dicom.matching import glob, number, single_keys
from pacsnode.dicom.query import NUMBER_VRS, Key, Matching, Query
from pacsnode.dicom.temporal import Range, days_around
from pacsnode.errors import InvalidIdentifier

_MOST_TERMS: Final = 900  # of one key; SQLite takes an OR of 1,000
_PADDED_DIGITS: Final = 6  # Series and Instance Numbers with leading zeros are met up to this length
_ZONES_APART: Final = 2  # days at most between two clocks: from -12:00 to +14:00 are 26 hours

_COLUMNS: Final = {
    attribute.tag: f"{attribute.level.table}.{attribute.column}" for attribute in BY_TAG.values()
}

# Attributes of a date that have one of the time beside them.
_PAIRS: Final = tuple(
    (attribute.tag, time.tag)
    for attribute in BY_TAG.values()
    for time in BY_TAG.values()
    if attribute.vr == "DA" and time.vr == "TM" and time.keyword == attribute.keyword.replace("Date", "Time")
)


@dataclass(slots=True)
class _Conditions:
    """Collects terms and, in the same order, what they bind."""

    terms: list[tuple[Term, ...]] = field(default_factory=list)
    bound: list[Bound] = field(default_factory=list)

    def add(self, alternatives: Alternatives) -> None:
        if alternatives:
            self.terms.append(tuple(term for term, _ in alternatives))
            for _, values in alternatives:
                self.bound.extend(values)


def plan_for(query: Query) -> BoundPlan:
    """The plan that finds the matches of `query` or, where keys are left over, few more.

    Raises InvalidIdentifier where a key is too much for one statement.
    """
    conditions = _Conditions()
    columns: list[str] = []
    residual: list[tuple[int, Key]] = []
    header_keys: list[Key] = []
    for key in query.keys:
        attribute = key.attribute
        if attribute is None:
            header_keys.append(key)
            continue
        if _is_only_narrowed(attribute, key):
            residual.append((len(columns), key))
        columns.append(_column(attribute))
    _add_conditions(query, conditions)
    answered = len(columns)
    zoned = tuple(_zoned_pairs(query, columns))
    is_exact = not (residual or zoned or header_keys)
    limited = (query.limit is not None or query.offset > 0) and is_exact
    parameters: dict[str, Bound] = {f"p{i}": value for i, value in enumerate(conditions.bound)}
    if limited:
        parameters |= {"limit": -1 if query.limit is None else query.limit, "offset": query.offset}
    plan = Plan(
        query.level, tuple(columns), tuple(conditions.terms), bool(header_keys), query.ordered, limited
    )
    return BoundPlan(plan, parameters, answered, tuple(residual), zoned, tuple(header_keys))


def _add_conditions(query: Query, conditions: _Conditions) -> None:
    combined = dict(_combined_pairs(query)) if query.combined_date_time else {}
    for key in query.keys:
        attribute = key.attribute
        if attribute is None or key.matching is Matching.UNIVERSAL:
            continue
        unknown = _may_be_unknown(attribute, query)
        if _is_zoned(key):
            conditions.add(_around(attribute, key, unknown))
        elif key.tag not in combined:
            for each in single_keys(key):
                alternatives = _alternatives(attribute, each, unknown)
                if len(alternatives) > _MOST_TERMS:
                    reason = f"{attribute.keyword} has more values than can be looked for at once"
                    raise InvalidIdentifier(reason, (key.tag,))
                conditions.add(alternatives)
    for time, date in combined.values():
        if not _is_zoned(time):
            _add_combined(conditions, date, time, query.match_unknown)


def _may_be_unknown(attribute: Attribute, query: Query) -> bool:
    """Whether an empty value matches: not for what the index computes, nor for Unique Keys (C.2.2.1.1)."""
    unique = key_type(attribute, query.model) is KeyType.UNIQUE
    return query.match_unknown and not attribute.computed and not unique


def _column(attribute: Attribute) -> str:
    return _COLUMNS[attribute.tag]


def _is_only_narrowed(attribute: Attribute, key: Key) -> bool:
    """Whether the terms of a key find more than its matches; of dates on another clock zones.py decides."""
    if key.matching in (Matching.UNIVERSAL, Matching.EMPTY) or _is_zoned(key):
        return False
    if attribute.vr == "PN":
        return is_narrowed_only(attribute, key)
    return attribute.multiple and not _is_list(attribute, key)


def _is_list(attribute: Attribute, key: Key) -> bool:
    """The index joins computed values itself, without padding, so that one can be found exactly."""
    return attribute.computed and key.matching is not Matching.WILDCARD


# Keys to terms


def _alternatives(attribute: Attribute, key: Key, match_unknown: bool) -> Alternatives:
    column = _column(attribute)
    unknown = Operator.UNKNOWN
    if key.matching is Matching.EMPTY:
        return [(Term(column, unknown), ())]
    if attribute.vr == "PN":
        found = name_terms(column, attribute, key)
        if not found:
            return []
        if not attribute.multiple:
            unknown = Operator.NO_NAME
    elif key.matching is Matching.RANGE:
        column = f"{column}_key"
        found = [_range(column, wanted) for wanted in key.ranges]
    elif attribute.multiple:
        found = [_one_of_several(attribute, key, value) for value in key.values]
    elif attribute.vr in NUMBER_VRS:
        found = [_number(column, attribute, value) for value in key.values]
    elif key.matching is Matching.WILDCARD:
        found = [pattern_term(column, value) for value in key.values]
    else:
        found = [_equal(column, key.values)]
    if match_unknown:
        found.append((Term(column, unknown), ()))
    return found


def _equal(column: str, values: tuple[str, ...]) -> tuple[Term, tuple[Bound, ...]]:
    if len(values) == 1:
        return Term(column, Operator.EQUAL), values
    return Term(column, Operator.ANY_OF), (dumps(values),)


def _range(column: str, wanted: Range) -> tuple[Term, tuple[Bound, ...]]:
    low, high = wanted.low, wanted.high
    if low is None:
        return Term(column, Operator.AT_MOST), (high or "",)
    if high is None:
        return Term(column, Operator.AT_LEAST), (low,)
    if low == high:
        return Term(column, Operator.EQUAL), (low,)
    return Term(column, Operator.BETWEEN), (low, high)


def _number(column: str, attribute: Attribute, text: str) -> tuple[Term, tuple[Bound, ...]]:
    """A number by value. Integers are looked up in the spellings that are met, which an index can serve."""
    value = number(text)
    if isinstance(value, str) or value != value or abs(value) == float("inf"):
        return Term(column, Operator.EQUAL), (text,)
    if attribute.computed or attribute.vr == "US":
        return Term(column, Operator.EQUAL), (value,)
    if attribute.vr == "IS" and value.is_integer() and value >= 0:
        digits = str(int(value))
        spellings = {digits.zfill(width) for width in range(_PADDED_DIGITS + 1)} | {f"+{digits}", text}
        return Term(column, Operator.ANY_OF), (dumps(sorted(spellings)),)
    return Term(column, Operator.NUMBER), (value,)


def _one_of_several(attribute: Attribute, key: Key, value: str) -> tuple[Term, tuple[Bound, ...]]:
    """A value among several: found exactly where the index joined them, else narrowed down."""
    column = _column(attribute)
    if _is_list(attribute, key):
        return Term(column, Operator.ELEMENT), (value,)
    if attribute.vr in NUMBER_VRS:
        value = value.lstrip("+0")
    return Term(column, Operator.GLOB), (glob(f"*{value}*"),)


# Combined date and time (PS3.4 C.2.2.2.5.4)


def _combined_pairs(query: Query) -> Iterator[tuple[int, tuple[Key, Key]]]:
    """The time keys that are one with their date key, both being ranges of the same form."""
    keys = {key.tag: key for key in query.keys if key.matching is Matching.RANGE and len(key.ranges) == 1}
    for date_tag, time_tag in _PAIRS:
        date, time = keys.get(date_tag), keys.get(time_tag)
        if date is not None and time is not None and date.ranges[0].form == time.ranges[0].form:
            yield time_tag, (time, date)


def _add_combined(conditions: _Conditions, date: Key, time: Key, match_unknown: bool) -> None:
    """The days at both ends are cut by the times; the range of dates is a condition of its own."""
    days, times = date.ranges[0], time.ranges[0]
    attributes = date.attribute, time.attribute
    if attributes[0] is None or attributes[1] is None:
        return
    day_column, time_column = (f"{_column(attribute)}_key" for attribute in attributes if attribute)
    ends = ((days.low, times.low, Operator.AT_LEAST), (days.high, times.high, Operator.AT_MOST))
    for day, moment, operator in ends:
        if day is None or moment is None:
            continue
        cut: Alternatives = [
            (Term(day_column, Operator.NOT_EQUAL), (day,)),
            (Term(time_column, operator), (moment,)),
        ]
        if match_unknown:
            cut.append((Term(time_column, Operator.UNKNOWN), ()))
        conditions.add(cut)


# Timezone adjustment (PS3.4 C.2.2.2.1.3)


def _is_zoned(key: Key) -> bool:
    """Whether a date or time has to be moved to the clock of the query.

    Nobody tells on which clock a patient was born.
    """
    if key.timezone is None:
        return False
    attribute = key.attribute
    return attribute is not None and attribute.level is not Level.PATIENT


def _around(attribute: Attribute, key: Key, match_unknown: bool) -> Alternatives:
    """The days on any clock for a date; nothing for a time, which may be any on another clock."""
    if attribute.vr != "DA":
        return []
    column = f"{_column(attribute)}_key"
    wide = [days_around(wanted, _ZONES_APART) for wanted in key.ranges]
    if any(wanted.low is None and wanted.high is None for wanted in wide):
        return []
    found: Alternatives = [_range(column, wanted) for wanted in wide]
    if match_unknown:
        found.append((Term(column, Operator.UNKNOWN), ()))
    return found


def _zoned_pairs(query: Query, columns: list[str]) -> Iterator[ZonedPair]:
    """The dates and times to move; what is needed beside the answer is appended to `columns`."""
    keys = {key.tag: key for key in query.keys if _is_zoned(key)}
    if not keys:
        return
    combined = set(dict(_combined_pairs(query))) if query.combined_date_time else set()
    for date_tag, time_tag in _PAIRS:
        date, time = keys.get(date_tag), keys.get(time_tag)
        timezone = next((key.timezone for key in (date, time) if key), None)
        if timezone is None:
            continue
        yield ZonedPair(
            date=_position(columns, date_tag),
            time=_position(columns, time_tag),
            offset=_position(columns, TIMEZONE_OFFSET_FROM_UTC),
            timezone=timezone,
            date_key=date,
            time_key=time,
            combined=time_tag in combined,
        )


def _position(columns: list[str], tag: int) -> int:
    column = _column(BY_TAG[tag])
    if column not in columns:
        columns.append(column)
    return columns.index(column)
