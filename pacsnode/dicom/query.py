"""A query against an information model, and the kinds of matching its keys ask for (PS3.4 C.2.2.2, C.4.1).

C-FIND identifiers and QIDO parameters both become `RequestedKey`s and then, checked against the model, a
`Query`. The archive turns it into SQL; dicom.matching decides keys that are no column on the kept header.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from pydicom.datadict import dictionary_has_tag, dictionary_VM

from pacsnode.dicom import temporal
from pacsnode.dicom.information_model import (
    BY_TAG,
    IDENTIFIER_TAGS,
    QUERY_RETRIEVE_LEVEL,
    STORAGE_MEDIA_TAGS,
    TIMEZONE_OFFSET_FROM_UTC,
    UNIQUE_KEYS,
    Attribute,
    InformationModel,
    Level,
    unique_keys_above,
)
from pacsnode.dicom.temporal import Range
from pacsnode.errors import InvalidIdentifier


class Matching(Enum):
    """Types of matching (PS3.4 C.2.2.2)."""

    UNIVERSAL = "Universal Matching"
    SINGLE = "Single Value Matching"
    UID_LIST = "List of UID Matching"
    WILDCARD = "Wild Card Matching"
    RANGE = "Range Matching"
    SEQUENCE = "Sequence Matching"
    EMPTY = "Empty Value Matching"
    MULTIPLE = "Multiple Value Matching"


WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})  # C.2.2.2.4
RANGE_VRS: Final = frozenset({"DA", "TM", "DT"})
NUMBER_VRS: Final = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"})
SINGLE_VALUED_VRS: Final = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is text there (PS3.5 6.4)
MULTIPLE_VALUE_VRS: Final = frozenset({"AE", "AS", "AT", "CS", "LO", "PN", "SH", "UC"})  # C.2.2.2.8
# Bulk is not kept in the index and is no key (PS3.4 C.2.2.2 matches strings, dates, UIDs and sequences).
UNMATCHABLE_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
# Where the attributes of patients, studies, visits, orders and procedures are (PS3.6). The others tell how
# an image was acquired and is presented: a study has as many Slice Thicknesses as images.
STUDY_GROUPS: Final = frozenset({0x0008, 0x0010, 0x0012, 0x0032, 0x0038, 0x0040})

FIRST_TAG: Final = 0x00080005  # nothing an identifier may hold comes before it (PS3.4 C.4.1.1.3)
MAX_DEPTH: Final = 16  # nested sequences in an identifier; codes and requests need three
MAX_PATTERN: Final = 1024  # characters; 64 is the most a VR with wildcards has use for, UT and LT aside
_WILDCARDS: Final = frozenset("*?")
EMPTY_VALUE: Final = '""'  # two QUOTATION MARKs ask for attributes without a value (C.2.2.2.7)


@dataclass(frozen=True, slots=True)
class RequestedKey:
    """A key as it was asked for: decoded text, or the items of a sequence."""

    tag: int
    vr: str
    text: str = ""
    items: tuple[tuple[RequestedKey, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """A key and how it is matched.

    `values` are alternatives: any of them has to match any value of the attribute (C.2.2.3); with Multiple
    Value Matching each of them has to. `items` are the
    keys of the one item of a sequence; none of them means the whole sequence is wanted (C.2.2.2.6). `fuzzy`
    is for person names (C.2.2.2.1.1). `timezone` is the clock that dates and times are asked for and answered
    on, in minutes from UTC; None is the clock of each object.
    """

    tag: int
    vr: str
    matching: Matching
    values: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()
    items: tuple[Key, ...] = ()
    fuzzy: bool = False
    timezone: int | None = None

    @property
    def attribute(self) -> Attribute | None:
        """The column of the index; None when the kept header has to be asked."""
        return BY_TAG.get(self.tag)


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What was negotiated (PS3.4 C.5.1.1) or configured.

    `relational` and `lenient_hierarchy` both allow the unique keys of upper levels to be missing: by
    negotiation or because many clients never send them. `match_unknown`: an attribute that is empty in the
    archive matches every key (C.2.2.1.2).
    """

    relational: bool = False
    combined_date_time: bool = False
    fuzzy_names: bool = False
    adjust_timezone: bool = False
    empty_values: bool = False
    multiple_values: bool = False
    match_unknown: bool = True
    lenient_hierarchy: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """How the keys of one identifier are understood; `timezone` in minutes from UTC, see Key."""

    fuzzy_names: bool = False
    timezone: int | None = None
    empty_values: bool = False
    multiple_values: bool = False


LITERAL: Final = Reading()


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for and what to answer.

    `keys` are in the order of their tags; every one is answered. `unsupported` are the tags that were asked
    for but are no attributes of the level: left out of the answer, whose status then is FF01 (C.4.1.1.4).
    `valueless` are asked for and supported, but no entity here has a value. `character_set` is the
    requestor's Specific Character Set, `timezone` the Timezone Offset From UTC that answers are given in.
    `ordered`, `limit` and `offset` serve paging.
    """

    level: Level
    model: InformationModel
    keys: tuple[Key, ...]
    unsupported: tuple[int, ...] = ()
    valueless: tuple[int, ...] = ()
    character_set: str = ""
    timezone: str = ""
    match_unknown: bool = True
    combined_date_time: bool = False
    ordered: bool = False
    limit: int | None = None
    offset: int = 0


def query_of(
    level: Level,
    model: InformationModel,
    requested: Iterable[RequestedKey],
    options: QueryOptions,
    character_set: str = "",
) -> Query:
    """Check an identifier against its information model (PS3.4 C.4.1.2.1) and compile it.

    Unique keys of the levels above are answered even if they were not asked for (C.4.1.3.1.1).
    Raises InvalidIdentifier with the offending element.
    """
    if level not in model.levels:
        raise InvalidIdentifier(
            f"level {level.value} is not in the {model.value} model", (QUERY_RETRIEVE_LEVEL,)
        )
    requested = tuple(requested)
    timezone = _timezone_of(requested) if options.adjust_timezone else None
    reading = Reading(
        options.fuzzy_names,
        timezone.minutes if timezone else None,
        options.empty_values,
        options.multiple_values,
    )
    keys: dict[int, Key] = {}
    valueless: list[int] = []
    unsupported: list[int] = []
    for request in requested:
        if request.tag in IDENTIFIER_TAGS or request.tag < FIRST_TAG or request.tag & 0xFFFF == 0:
            continue  # group lengths come from old senders and mean nothing
        if request.tag in STORAGE_MEDIA_TAGS:
            valueless.append(request.tag)
        elif is_supported(request, level):
            keys[request.tag] = key_of(request, reading)
        else:
            unsupported.append(request.tag)
    _check_hierarchy(level, model, keys, options)
    for unique in unique_keys_above(level, model):
        keys.setdefault(unique.tag, Key(unique.tag, unique.vr, Matching.UNIVERSAL))
    return Query(
        level=level,
        model=model,
        keys=tuple(keys[tag] for tag in sorted(keys)),
        unsupported=tuple(unsupported),
        valueless=tuple(valueless),
        character_set=character_set,
        timezone=timezone.text if timezone else "",
        match_unknown=options.match_unknown,
        combined_date_time=options.combined_date_time,
    )


@dataclass(frozen=True, slots=True)
class _Timezone:
    text: str
    minutes: int


def _timezone_of(requested: Iterable[RequestedKey]) -> _Timezone | None:
    """The clock a query was made by (PS3.4 C.2.2.2.1.3); None when it tells none."""
    found = (request.text.strip(" \0") for request in requested if request.tag == TIMEZONE_OFFSET_FROM_UTC)
    text = next(found, "")
    if not text:
        return None
    try:
        return _Timezone(text, temporal.offset_of(text))
    except ValueError as error:
        raise InvalidIdentifier(str(error), (TIMEZONE_OFFSET_FROM_UTC,)) from None


def level_of(text: str) -> Level:
    """The level an identifier names. Raises InvalidIdentifier."""
    try:
        return Level(text.strip())
    except ValueError:
        reason = f"Query/Retrieve Level {text!r} is unknown" if text else "Query/Retrieve Level is missing"
        raise InvalidIdentifier(reason, (QUERY_RETRIEVE_LEVEL,)) from None


def is_supported(request: RequestedKey, level: Level) -> bool:
    """Whether the attribute exists for entities of `level`.

    Attributes of a lower level have many values for one entity: outside the columns their group tells.
    Private ones cannot be recognized without their creator's dictionary. The rest is in the kept header.
    """
    attribute = BY_TAG.get(request.tag)
    if attribute is not None:
        return attribute.level.depth <= level.depth
    group = request.tag >> 16
    if group & 1 or request.vr in UNMATCHABLE_VRS:
        return False
    return level.depth > Level.STUDY.depth or group in STUDY_GROUPS


def key_of(request: RequestedKey, reading: Reading = LITERAL) -> Key:
    """The kind of matching a requested key asks for (PS3.4 C.2.2.2). Raises InvalidIdentifier."""
    return _key_of(request, reading, 0)


def _key_of(request: RequestedKey, reading: Reading, depth: int) -> Key:
    tag, vr = request.tag, request.vr
    if vr == "SQ":
        return _sequence_key(request, reading, depth)
    if not request.text and reading.timezone is None:
        return _universal(tag, vr)
    text = request.text.strip(" \0")
    if reading.empty_values and text == EMPTY_VALUE:
        return Key(tag, vr, Matching.EMPTY)
    timezone = reading.timezone if vr in RANGE_VRS else None
    if not text or set(text) == {"*"}:  # `*` alone is universal (C.2.2.2.4); some send it for any VR
        return Key(tag, vr, Matching.UNIVERSAL, timezone=timezone)
    if vr in RANGE_VRS:
        return Key(tag, vr, Matching.RANGE, ranges=_ranges(request, text, timezone), timezone=timezone)
    values = (text,) if vr in SINGLE_VALUED_VRS else _split(text)
    if not values:
        return Key(tag, vr, Matching.UNIVERSAL)
    if vr == "UI":
        return Key(tag, vr, Matching.SINGLE if len(values) == 1 else Matching.UID_LIST, values)
    fuzzy = reading.fuzzy_names and vr == "PN"
    if reading.multiple_values and len(values) > 1 and vr in MULTIPLE_VALUE_VRS and _may_have_several(tag):
        return Key(tag, vr, Matching.MULTIPLE, values, fuzzy=fuzzy)
    if vr in WILDCARD_VRS and any(map(has_wildcard, values)):
        if len(text) > MAX_PATTERN:
            raise InvalidIdentifier(f"({_name(tag)}): the pattern is too long", (tag,))
        return Key(tag, vr, Matching.WILDCARD, values, fuzzy=fuzzy)
    return Key(tag, vr, Matching.SINGLE, values, fuzzy=fuzzy)


@lru_cache(maxsize=4096)
def _universal(tag: int, vr: str) -> Key:
    return Key(tag, vr, Matching.UNIVERSAL)


def _may_have_several(tag: int) -> bool:
    return dictionary_has_tag(tag) and dictionary_VM(tag) != "1"


def has_wildcard(text: str) -> bool:
    return not _WILDCARDS.isdisjoint(text)


def _split(text: str) -> tuple[str, ...]:
    return tuple(value for value in (part.strip(" \0") for part in text.split("\\")) if value)


def _ranges(request: RequestedKey, text: str, timezone: int | None) -> tuple[Range, ...]:
    """A single date or time is the range of all it can mean, so that it is compared by meaning."""
    try:
        return tuple(_range(request.vr, part, timezone) for part in _split(text))
    except ValueError as error:
        raise InvalidIdentifier(f"({_name(request.tag)}): {error}", (request.tag,)) from None


def _range(vr: str, text: str, timezone: int | None) -> Range:
    match vr:
        case "DA":
            return temporal.date_range(text)
        case "TM":
            return temporal.time_range(text)
    return temporal.date_time_range(text, timezone)


def _sequence_key(request: RequestedKey, reading: Reading, depth: int) -> Key:
    if len(request.items) > 1:
        raise InvalidIdentifier(f"({_name(request.tag)}) has more than one item", (request.tag,))
    if depth >= MAX_DEPTH:
        raise InvalidIdentifier(f"({_name(request.tag)}) is nested too deep", (request.tag,))
    item = request.items[0] if request.items else ()
    keys = tuple(_key_of(nested, reading, depth + 1) for nested in item if nested.tag & 0xFFFF)
    restricting = any(key.matching is not Matching.UNIVERSAL for key in keys)
    return Key(request.tag, "SQ", Matching.SEQUENCE if restricting else Matching.UNIVERSAL, items=keys)


def _check_hierarchy(
    level: Level, model: InformationModel, keys: dict[int, Key], options: QueryOptions
) -> None:
    """A single value in the unique key of every level above (PS3.4 C.4.1.2.1), unless relational."""
    if options.relational or options.lenient_hierarchy:
        return
    for unique in unique_keys_above(level, model):
        key = keys.get(unique.tag)
        if key is None or key.matching is not Matching.SINGLE or len(key.values) != 1:
            raise InvalidIdentifier(f"{unique.keyword} needs a single value at {level.value}", (unique.tag,))


def unique_key_values(query: Query) -> Sequence[str]:
    """The values of the unique key of the query's own level; empty when it is universal."""
    tag = UNIQUE_KEYS[query.level].tag
    return next((key.values for key in query.keys if key.tag == tag), ())


def _name(tag: int) -> str:
    return f"{tag >> 16:04X},{tag & 0xFFFF:04X}"
