"""From a Query to SQL (PS3.4 C.2.2.2), and which keys SQL cannot decide.

A query becomes a `Plan`, its shape without values, and the values. archive.sql writes the statement of a plan
once; queries of the same shape, which is what clients send, only bind. Each condition is an OR of terms that
an index can serve one by one, so that "or the attribute is unknown" (C.2.2.1.2) costs no scan.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from json import dumps
from typing import Final

from pacsnode.archive.schema import NAME_GROUPS
from pacsnode.dicom.information_model import BY_TAG, Attribute, KeyType, Level, key_type
from pacsnode.dicom.matching import glob, name_groups, name_patterns, number
from pacsnode.dicom.query import NUMBER_VRS, Key, Matching, Query, has_wildcard
from pacsnode.dicom.temporal import Range

Bound = str | int | float

_LAST_CHARACTER: Final = "\U0010ffff"  # sorts after any character that follows a prefix
_PADDED_DIGITS: Final = 6  # Series and Instance Numbers with leading zeros are met up to this length


class Operator(Enum):
    """How a term compares its column with its bound values."""

    EQUAL = auto()
    NOT_EQUAL = auto()
    ANY_OF = auto()  # one value: a JSON array, so that a list of any length is one statement
    BETWEEN = auto()
    AT_LEAST = auto()
    AT_MOST = auto()
    PREFIX = auto()
    PREFIX_GLOB = auto()
    GLOB = auto()
    ELEMENT = auto()  # one of the values joined by a backslash
    NUMBER = auto()  # text that is this number
    UNKNOWN = auto()  # "", or NULL for numbers; binds nothing
    NO_NAME = auto()  # no component group at all; binds nothing


@dataclass(frozen=True, slots=True)
class Term:
    """`column` as `table.column`."""

    column: str
    operator: Operator


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of a statement. `conditions` are joined by AND, the terms of each by OR."""

    level: Level
    columns: tuple[str, ...]
    conditions: tuple[tuple[Term, ...], ...]
    with_header: bool
    ordered: bool
    limited: bool


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A plan with its values, and the keys the plan leaves to Python.

    `residual` keys were only narrowed down; with each goes the position of its column. `header_keys` are no
    columns. All others are columns of the plan, in the order of the query.
    """

    plan: Plan
    parameters: dict[str, Bound]
    residual: tuple[tuple[int, Key], ...]
    header_keys: tuple[Key, ...]


_Alternatives = list[tuple[Term, tuple[Bound, ...]]]


@dataclass(slots=True)
class _Conditions:
    """Collects terms and, in the same order, what they bind."""

    terms: list[tuple[Term, ...]] = field(default_factory=list)
    bound: list[Bound] = field(default_factory=list)

    def add(self, alternatives: _Alternatives) -> None:
        if alternatives:
            self.terms.append(tuple(term for term, _ in alternatives))
            for _, values in alternatives:
                self.bound.extend(values)


def plan_for(query: Query) -> BoundPlan:
    """The plan that finds the matches of `query` or, where keys are left over, few more."""
    conditions = _Conditions()
    columns: list[str] = []
    residual: list[tuple[int, Key]] = []
    header_keys: list[Key] = []
    combined = dict(_combined_pairs(query)) if query.combined_date_time else {}
    for key in query.keys:
        attribute = key.attribute
        if attribute is None:
            header_keys.append(key)
            continue
        if key.matching is not Matching.UNIVERSAL and key.tag not in combined:
            conditions.add(_alternatives(attribute, key, _may_be_unknown(attribute, query)))
            if _is_only_narrowed(attribute, key):
                residual.append((len(columns), key))
        columns.append(_column(attribute))
    for time, date in combined.values():
        _add_combined(conditions, date, time, query.match_unknown)
    limited = (query.limit is not None or query.offset > 0) and not residual and not header_keys
    parameters: dict[str, Bound] = {f"p{i}": value for i, value in enumerate(conditions.bound)}
    if limited:
        parameters |= {"limit": -1 if query.limit is None else query.limit, "offset": query.offset}
    plan = Plan(
        query.level, tuple(columns), tuple(conditions.terms), bool(header_keys), query.ordered, limited
    )
    return BoundPlan(plan, parameters, tuple(residual), tuple(header_keys))


def _may_be_unknown(attribute: Attribute, query: Query) -> bool:
    """Whether an empty value matches: not for what the index computes, nor for Unique Keys (C.2.2.1.1)."""
    unique = key_type(attribute, query.model) is KeyType.UNIQUE
    return query.match_unknown and not attribute.computed and not unique


def _column(attribute: Attribute) -> str:
    return f"{attribute.level.table}.{attribute.column}"


def _is_only_narrowed(attribute: Attribute, key: Key) -> bool:
    """Whether the terms of a key find more than its matches."""
    if attribute.vr == "PN":
        return attribute.multiple or not all(map(_is_exact_name, key.values))
    return attribute.multiple and not _is_list(attribute, key)


def _is_list(attribute: Attribute, key: Key) -> bool:
    """The index joins computed values itself, without padding, so that one can be found exactly."""
    return attribute.computed and key.matching is not Matching.WILDCARD


# Keys to terms


def _alternatives(attribute: Attribute, key: Key, match_unknown: bool) -> _Alternatives:
    column = _column(attribute)
    if attribute.vr == "PN" and not attribute.multiple:
        return _name(column, key, match_unknown)
    if key.matching is Matching.RANGE:
        column = f"{column}_key"
        found = [_range(column, wanted) for wanted in key.ranges]
    elif attribute.multiple:
        found = [_one_of_several(attribute, key, value) for value in key.values]
    elif attribute.vr in NUMBER_VRS:
        found = [_number(column, attribute, value) for value in key.values]
    elif key.matching is Matching.WILDCARD:
        found = [_pattern(column, value) for value in key.values]
    else:
        found = [_equal(column, key.values)]
    if match_unknown:
        found.append((Term(column, Operator.UNKNOWN), ()))
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


def _pattern(column: str, pattern: str) -> tuple[Term, tuple[Bound, ...]]:
    """A pattern that begins with characters is a range of an index; the rest is compared only within it."""
    if not has_wildcard(pattern):
        return Term(column, Operator.EQUAL), (pattern,)
    prefix = pattern[: next(i for i, character in enumerate(pattern) if character in "*?")]
    if not prefix:
        return Term(column, Operator.GLOB), (glob(pattern),)
    ends = (prefix, prefix + _LAST_CHARACTER)
    if set(pattern[len(prefix) :]) == {"*"}:
        return Term(column, Operator.PREFIX), ends
    return Term(column, Operator.PREFIX_GLOB), (*ends, glob(pattern))


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
    if attribute.vr == "PN":
        group = next((group for group in name_groups(value) if group), "")
        narrowest = min(name_patterns(group), key=len)  # what is left open at the end may be missing
        return Term(f"{column}_key", Operator.GLOB), (glob(f"*{narrowest}*"),)
    if attribute.vr in NUMBER_VRS:
        value = value.lstrip("+0")
    return Term(column, Operator.GLOB), (glob(f"*{value}*"),)


def _is_exact_name(value: str) -> bool:
    """Whether the terms of a name decide it: one group that begins with characters, or `*characters*`."""
    groups = name_groups(value)
    asked = [group for group in groups if group.strip("*")]
    return len(asked) == 1 and all(
        not has_wildcard(pattern[:1])
        or (len(groups) == 1 and pattern[-1] == "*" and not has_wildcard(pattern.strip("*")))
        for pattern in name_patterns(asked[0])
    )


def _name(column: str, key: Key, match_unknown: bool) -> _Alternatives:
    """A person name: one group may be met in any component group, several are narrowed down by the first.

    A pattern that begins with a wildcard is looked for in the whole folded name: one comparison for a row,
    not three of generated columns.
    """
    found: _Alternatives = []
    for value in key.values:
        groups = name_groups(value)
        position, group = next(((i, g) for i, g in enumerate(groups) if g.strip("*")), (0, ""))
        if not group:
            return []  # `^^` and `*=*` ask for nothing
        suffixes = NAME_GROUPS if len(groups) == 1 else NAME_GROUPS[position : position + 1]
        for pattern in name_patterns(group):
            if has_wildcard(pattern[:1]):
                found.append((Term(f"{column}_key", Operator.GLOB), (glob(f"*{pattern}*"),)))
            else:
                found += [_pattern(f"{column}_{suffix}", pattern) for suffix in suffixes]
    if match_unknown:
        found.append((Term(column, Operator.NO_NAME), ()))
    return found


# Combined date and time (PS3.4 C.2.2.2.5.4)

_PAIRS: Final = tuple(
    (attribute.tag, time.tag)
    for attribute in BY_TAG.values()
    for time in BY_TAG.values()
    if attribute.vr == "DA" and time.vr == "TM" and time.keyword == attribute.keyword.replace("Date", "Time")
)


def _combined_pairs(query: Query) -> Iterator[tuple[int, tuple[Key, Key]]]:
    """The time keys that are one with their date key, both being ranges of the same form."""
    keys = {key.tag: key for key in query.keys if key.matching is Matching.RANGE and len(key.ranges) == 1}
    for date_tag, time_tag in _PAIRS:
        date, time = keys.get(date_tag), keys.get(time_tag)
        if date is not None and time is not None and _form(date) == _form(time):
            yield time_tag, (time, date)


def _form(key: Key) -> tuple[bool, bool]:
    return key.ranges[0].low is None, key.ranges[0].high is None


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
        cut: _Alternatives = [
            (Term(day_column, Operator.NOT_EQUAL), (day,)),
            (Term(time_column, operator), (moment,)),
        ]
        if match_unknown:
            cut.append((Term(time_column, Operator.UNKNOWN), ()))
        conditions.add(cut)
