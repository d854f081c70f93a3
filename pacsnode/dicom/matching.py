"""Whether values match a key (PS3.4 C.2.2.2), decided in Python. Pure.

The index decides most keys in SQL; this module decides those that are no column and those SQL can only narrow
down, and holds what both share: how patterns and person names are read.

Person names are compared without regard to case; a name without `=` may be met in any component group, a name
with `=` is compared group by group; trailing empty components do not count (PS3.5 6.2.1.2). Where fuzzy
matching was negotiated, dicom.fuzzy finds more.
All other text is compared as it is encoded, case included (C.2.2.2.1).
"""

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from pacsnode.dicom import fuzzy, temporal
from pacsnode.dicom.query import NUMBER_VRS, Key, Matching, has_wildcard
from pacsnode.dicom.text import person_name_key

Predicate = Callable[[Sequence[str]], bool]

_KEY_OF_STORED: Final = {
    "DA": temporal.date_key,
    "TM": temporal.time_key,
}
# An end that names no given name, or any: `DOE^*` also finds the patient stored as `DOE`.
_OPEN_END: Final = re.compile(r"\^[\^*]*\*[\^*]*$")


def glob(pattern: str) -> str:
    """A DICOM pattern for GLOB and fnmatch: `[` is a character there, runs of `*` are one."""
    return re.sub(r"\*+", "*", pattern.replace("[", "[[]"))


def name_groups(text: str) -> tuple[str, ...]:
    """The folded component groups of a person name key; one group when it may be met in any."""
    return tuple(person_name_key(text).split("="))


def name_patterns(group: str) -> tuple[str, ...]:
    """What a folded group of a key may look like when stored: itself, and without an end left open."""
    shortened = _OPEN_END.sub("", group)
    return (group,) if shortened == group or not shortened else (group, shortened)


def predicate(key: Key, match_unknown: bool) -> Predicate:
    """A function from the values of an attribute to whether they match `key`.

    No value at all matches when `match_unknown` (PS3.4 C.2.2.1.2). Sequences are for `dicom.element`.
    """
    if key.matching is Matching.UNIVERSAL:
        return _always
    if key.matching is Matching.EMPTY:
        return lambda values: not any(values)
    tests = [_test_of(each) for each in single_keys(key)]

    is_known = person_name_key if key.vr == "PN" else str  # `^^` names nobody, as no value at all

    def matches(values: Sequence[str]) -> bool:
        known = [value for value in values if is_known(value)]
        return all(any(map(test, known)) for test in tests) if known else match_unknown

    return matches


def single_keys(key: Key) -> tuple[Key, ...]:
    """The keys that have to match all of them: of Multiple Value Matching one for each value."""
    if key.matching is not Matching.MULTIPLE:
        return (key,)
    return tuple(replace(key, matching=Matching.SINGLE, values=(value,)) for value in key.values)


def _always(_values: Sequence[str]) -> bool:
    return True


def _test_of(key: Key) -> Callable[[str], bool]:
    """The test of a single stored value."""
    if key.matching is Matching.RANGE:
        return _range_test(key)
    if key.vr == "PN":
        tests = [_name_test(value) for value in key.values]
        if key.fuzzy:  # what matches as it is written does so in any case
            tests += [fuzzy.name_test(value) for value in key.values]
        return lambda stored: any(test(stored) for test in tests)
    if key.vr in NUMBER_VRS:
        return _number_test(key)
    if key.matching is Matching.WILDCARD:
        return _pattern(key.values)
    wanted = frozenset(key.values)
    return lambda stored: stored.strip(" \0") in wanted


def _range_test(key: Key) -> Callable[[str], bool]:
    comparable = _KEY_OF_STORED.get(key.vr) or partial(temporal.date_time_key, timezone=key.timezone)

    def inside(stored: str) -> bool:
        value = comparable(stored)
        return bool(value) and any(value in wanted for wanted in key.ranges)

    return inside


def _number_test(key: Key) -> Callable[[str], bool]:
    """Numbers by value: `1`, `+1` and `01` are the same Instance Number; what is no number by its text."""
    wanted = {number(value) for value in key.values}
    return lambda stored: number(stored) in wanted


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip(" \0")


def _pattern(values: Sequence[str]) -> Callable[[str], bool]:
    """Any of several patterns; without wildcards one is the value itself."""
    compiled = [re.compile(fnmatch.translate(glob(value))) for value in values]
    return lambda stored: any(pattern.match(stored.strip(" \0")) for pattern in compiled)


def _name_test(text: str) -> Callable[[str], bool]:
    groups = [_group_test(group) for group in name_groups(text)]
    if len(groups) == 1:
        return lambda stored: any(groups[0](group) for group in person_name_key(stored).split("="))

    def group_by_group(stored: str) -> bool:
        found = person_name_key(stored).split("=")
        found += [""] * (len(groups) - len(found))
        return all(test(group) for test, group in zip(groups, found, strict=False))

    return group_by_group


def _group_test(group: str) -> Callable[[str], bool]:
    if not group:
        return lambda _stored: True  # this group is not asked for
    if has_wildcard(group):
        return _pattern(name_patterns(group))
    return lambda stored: stored == group
