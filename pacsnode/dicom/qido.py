"""Query parameters of a search, compiled to a Query (PS3.18 8.3.4, 10.6.1.2, 10.6.3.3). Pure.

The keys that come of them are those of C-FIND, so that both answer alike. What a parameter says wrongly is
refused with a sentence that names it; nothing that restricts a search is ever left out in silence.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_keyword, dictionary_VR, tag_for_keyword

from pacsnode.dicom import temporal
from pacsnode.dicom.information_model import (
    BY_TAG,
    INSTANCE_AVAILABILITY,
    SPECIFIC_CHARACTER_SET,
    TIMEZONE_OFFSET_FROM_UTC,
    UNIQUE_KEYS,
    Attribute,
    InformationModel,
    Level,
)
from pacsnode.dicom.query import (
    UNMATCHABLE_VRS,
    Key,
    Matching,
    Query,
    Reading,
    RequestedKey,
    key_of,
)
from pacsnode.dicom.uid import is_uid
from pacsnode.errors import InvalidIdentifier

RETRIEVE_URL: Final = 0x00081190
STUDY_UID: Final = 0x0020000D
SERIES_UID: Final = 0x0020000E
INSTANCE_UID: Final = 0x00080018
REQUEST_ATTRIBUTES: Final = 0x00400275

PARAMETERS_LIMIT: Final = 256
_AMBIGUOUS: Final = {"US or SS": "US", "US or OW": "OW", "OB or OW": "OW", "US or SS or OW": "OW"}

# PS3.18 Tables 10.6.3-3 to 10.6.3-5, with what viewers expect of everybody: descriptions, SOP classes.
_DEFAULTS: Final = {
    Level.STUDY: (
        0x00080020, 0x00080030, 0x00080050, 0x00080061, 0x00080062, 0x00080090, 0x00080201, 0x00081030,
        0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x0020000D, 0x00200010, 0x00201206, 0x00201208,
    ),
    Level.SERIES: (
        0x00080021, 0x00080031, 0x00080060, 0x00080201, 0x0008103E, 0x0020000E, 0x00200011, 0x00201209,
        0x00400244, 0x00400245, REQUEST_ATTRIBUTES,
    ),
    Level.IMAGE: (
        0x00080016, 0x00080018, 0x00080201, 0x00083002, 0x00200013, 0x00280008, 0x00280010, 0x00280011,
        0x00280100,
    ),
}  # fmt: skip
# "Shall be present if known": absent rather than empty, unless they were asked for. Modalities in Study too,
# which only objects without the required Modality leave empty: OHIF shows no list at all for one empty value.
IF_KNOWN: Final = frozenset(
    {
        0x00080021, 0x00080031, 0x00080061, 0x00080062, 0x00080201, 0x0008103E, 0x00083002, 0x00280008,
        0x00280010, 0x00280011, 0x00280100, 0x00400244, 0x00400245, REQUEST_ATTRIBUTES,
    }
)  # fmt: skip
_IN_REQUEST: Final = (0x00400009, 0x00401001)  # of Request Attributes Sequence, Table 10.6.3-4
_ANSWERED_BY_RULE: Final = frozenset({INSTANCE_AVAILABILITY, SPECIFIC_CHARACTER_SET, RETRIEVE_URL})


class Resource(Enum):
    """Search resources (PS3.18 Table 10.6.1-1): what is listed, and from which level on it is described."""

    STUDIES = (Level.STUDY, Level.STUDY)
    SERIES = (Level.SERIES, Level.STUDY)
    STUDY_SERIES = (Level.SERIES, Level.SERIES)
    INSTANCES = (Level.IMAGE, Level.STUDY)
    STUDY_INSTANCES = (Level.IMAGE, Level.SERIES)
    SERIES_INSTANCES = (Level.IMAGE, Level.IMAGE)

    @property
    def level(self) -> Level:
        return self.value[0]

    @property
    def described(self) -> tuple[Level, ...]:
        """The levels whose default attributes are answered."""
        lowest, topmost = self.value
        return tuple(level for level in _DEFAULTS if topmost.depth <= level.depth <= lowest.depth)


@dataclass(frozen=True, slots=True)
class WebQuery:
    """A query and what answers to it say beside.

    `optional` are the tags left out where they have no value; `exhausted` means that nothing can match, since
    parameters contradict the path; `ignored` are parameters that mean nothing here.
    """

    query: Query
    optional: frozenset[int]
    with_availability: bool
    exhausted: bool = False
    ignored: tuple[str, ...] = ()


@dataclass(slots=True)
class _Node:
    """A key and the keys of its item."""

    tag: int
    vr: str
    text: str = ""
    items: dict[int, "_Node"] = field(default_factory=dict)

    def requested(self) -> RequestedKey:
        inner = tuple(self.items[tag].requested() for tag in sorted(self.items))
        return RequestedKey(self.tag, self.vr, self.text, (inner,) if inner else ())


@dataclass(slots=True)
class _Parameters:
    """Query parameters, sorted by what they are."""

    keys: dict[int, _Node] = field(default_factory=dict)
    matched: set[tuple[int, ...]] = field(default_factory=set)
    includes_all: bool = False
    fuzzy: bool = False
    empty: bool = False
    multiple: bool = False
    paging: dict[str, int] = field(default_factory=dict)
    timezone: str = ""
    ignored: list[str] = field(default_factory=list)


def query_of_parameters(
    resource: Resource,
    path: Mapping[int, str],
    parameters: Iterable[tuple[str, str]],
    *,
    max_results: int,
) -> WebQuery:
    """The query of a request. `path`: the UIDs its path names, by tag.

    Empty values match where `emptyvaluematching` asks for them, and not every key as in C-FIND (PS3.4
    C.2.2.1.2): a viewer that filters by a Patient ID does not want patients without one.
    Raises InvalidIdentifier.
    """
    found = _Parameters()
    for number, (name, value) in enumerate(parameters):
        if number >= PARAMETERS_LIMIT:
            raise InvalidIdentifier(f"there are more than {PARAMETERS_LIMIT} query parameters")
        _take(found, name, value, resource.level)
    reading = _reading_of(found)
    keys = {tag: _key(node, reading) for tag, node in found.keys.items()}
    exhausted = not all(_narrow(keys, tag, uid) for tag, uid in path.items())
    asked = set(keys)
    for tag in _default_tags(resource, found.includes_all):
        keys.setdefault(tag, _universal(tag))
    query = Query(
        level=resource.level,
        model=InformationModel.STUDY_ROOT,
        keys=tuple(keys[tag] for tag in sorted(keys)),
        timezone=found.timezone,
        match_unknown=False,
        combined_date_time=True,  # 8.3.4.1.1
        ordered=True,
        limit=min(found.paging.get("limit", max_results), max_results),
        offset=found.paging.get("offset", 0),
    )
    with_availability = resource is not Resource.STUDY_SERIES
    return WebQuery(query, IF_KNOWN - asked, with_availability, exhausted, tuple(found.ignored))


def _take(found: _Parameters, name: str, value: str, level: Level) -> None:
    """Take in one parameter."""
    match name.lower():
        case "limit" | "offset":
            if name.lower() in found.paging:
                raise InvalidIdentifier(f"{name} is there twice")
            found.paging[name.lower()] = _number(name, value)
        case "fuzzymatching":
            found.fuzzy = _boolean(name, value)
        case "emptyvaluematching":
            found.empty = _boolean(name, value)
        case "multiplevaluematching":
            found.multiple = _boolean(name, value)
        case "includefield":
            for part in filter(None, map(str.strip, value.split(","))):
                _include(found, part, level)
        case "accept" | "charset" | "_":  # of the representation; "_" is how scripts get past caches
            pass
        case _ if _means_nothing(name):
            found.ignored.append(name)
        case _:
            _match(found, name, value, level)


def _means_nothing(name: str) -> bool:
    """Whether a name is one of a query parameter that this server has not, to be ignored (8.3).

    Keywords begin with a capital. One that was written without is refused: without it too much were found.
    """
    return _OTHER_PARAMETER.fullmatch(name) is not None and name.lower() not in _KEYWORD_OF


def _include(found: _Parameters, name: str, level: Level) -> None:
    if name.lower() == "all":
        found.includes_all = True
        return
    path = _path(name)
    tag = path[0]
    attribute = BY_TAG.get(tag)
    # Attributes of lower levels shall not be returned (10.6.3.3); binary and private ones are none we keep.
    if tag in _ANSWERED_BY_RULE or (attribute is not None and attribute.level.depth > level.depth):
        return
    if not tag >> 16 & 1 and _vr(path[-1]) not in UNMATCHABLE_VRS:
        _node(found, path)


def _match(found: _Parameters, name: str, value: str, level: Level) -> None:
    path = _path(name)
    if path in found.matched:
        raise InvalidIdentifier(f"{name}: the attribute is repeated; give a list of UIDs as one value", path)
    found.matched.add(path)
    if path == (TIMEZONE_OFFSET_FROM_UTC,):
        found.timezone = value.strip()
        return
    if path[0] in _ANSWERED_BY_RULE:
        return
    attribute = BY_TAG.get(path[0])
    if attribute is not None and attribute.level.depth > level.depth:
        raise InvalidIdentifier(_too_low(attribute, level), path)
    vr = _vr(path[-1])
    if path[0] >> 16 & 1 or vr in UNMATCHABLE_VRS or vr == "SQ":
        raise InvalidIdentifier(f"{name}: attributes of this kind cannot be matched", path)
    # In a UID a comma is no character; nor is it in CS, where viewers list modalities that way.
    _node(found, path).text = value.replace(",", "\\") if vr in ("UI", "CS") else value


def _too_low(attribute: Attribute, level: Level) -> str:
    instead = "; ModalitiesInStudy tells those of a study" if attribute.keyword == "Modality" else ""
    kind = attribute.level.value.lower()
    return f"{attribute.keyword} is an attribute of the level {kind}, below {level.value.lower()}{instead}"


def _node(found: _Parameters, path: tuple[int, ...]) -> _Node:
    """The key at a path, made where it is not there yet."""
    level = found.keys
    for tag in path[:-1]:
        node = level.setdefault(tag, _Node(tag, _vr(tag)))
        if node.vr != "SQ":
            raise InvalidIdentifier(f"{_name(tag)} is no sequence", path)
        level = node.items
    return level.setdefault(path[-1], _Node(path[-1], _vr(path[-1])))


def _path(name: str) -> tuple[int, ...]:
    """Tags of a dotted path of keywords and tags (8.3.4.1). Raises InvalidIdentifier."""
    return tuple(_tag(step) for step in name.split("."))


def _tag(text: str) -> int:
    if len(text) == 8:
        try:
            return int(text, 16)
        except ValueError:
            pass
    tag = tag_for_keyword(text)
    if tag is None:
        near = _KEYWORD_OF.get(text.lower()) or next(
            iter(difflib.get_close_matches(text, _KEYWORDS, n=1) if len(text) <= 64 else []), ""
        )
        hint = f"; did you mean {near}?" if near else ""
        raise InvalidIdentifier(f"{text[:64]!r} is no keyword and no tag of eight hexadecimal digits{hint}")
    return tag


_KEYWORDS: Final = tuple(row[4] for row in DicomDictionary.values() if row[4])
_KEYWORD_OF: Final = {keyword.lower(): keyword for keyword in _KEYWORDS}
_OTHER_PARAMETER: Final = re.compile(r"(?![0-9A-Fa-f]{8}\Z)[a-z_][A-Za-z0-9_]{0,63}")


def _vr(tag: int) -> str:
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return _AMBIGUOUS.get(vr, vr)


def _name(tag: int) -> str:
    try:
        return dictionary_keyword(tag)
    except KeyError:
        return f"{tag:08X}"


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise InvalidIdentifier(f"{name} = {value[:32]!r}: an unsigned integer is wanted")
    return int(value)


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise InvalidIdentifier(f"{name} = {value[:32]!r}: true or false is wanted")
    return value.lower() == "true"


def _reading_of(found: _Parameters) -> Reading:
    try:
        timezone = temporal.offset_of(found.timezone) if found.timezone else None
    except ValueError as error:
        raise InvalidIdentifier(f"TimezoneOffsetFromUTC: {error}", (TIMEZONE_OFFSET_FROM_UTC,)) from None
    return Reading(found.fuzzy, timezone, found.empty, found.multiple)


def _key(node: _Node, reading: Reading) -> Key:
    if node.tag == REQUEST_ATTRIBUTES:
        for tag in _IN_REQUEST:
            node.items.setdefault(tag, _Node(tag, _vr(tag)))
    key = key_of(node.requested(), reading)
    if key.tag in (STUDY_UID, SERIES_UID, INSTANCE_UID) and not all(map(is_uid, key.values)):
        raise InvalidIdentifier(f"{_name(key.tag)}: that is no UID", (key.tag,))
    return key


def _narrow(keys: dict[int, Key], tag: int, uid: str) -> bool:
    """Restrict a key to the UID of the path; False when the parameters ask for another one."""
    if not is_uid(uid):
        raise InvalidIdentifier(f"{uid[:64]!r} is no UID", (tag,))
    asked = keys.get(tag)
    keys[tag] = Key(tag, "UI", Matching.SINGLE, (uid,))
    return asked is None or not asked.values or uid in asked.values


def _default_tags(resource: Resource, includes_all: bool) -> Iterable[int]:
    """What is answered without being asked for."""
    for level in resource.described:
        yield from _DEFAULTS[level]
    for level, unique in UNIQUE_KEYS.items():  # RetrieveURL is made of them
        if Level.PATIENT.depth < level.depth <= resource.level.depth:
            yield unique.tag
    if includes_all:
        levels = {resource.level, *resource.described}
        levels |= {Level.PATIENT} if Level.STUDY in levels else set()
        yield from (attribute.tag for attribute in BY_TAG.values() if attribute.level in levels)


def _universal(tag: int) -> Key:
    if tag == REQUEST_ATTRIBUTES:
        items = tuple(Key(inner, _vr(inner), Matching.UNIVERSAL) for inner in _IN_REQUEST)
        return Key(tag, "SQ", Matching.UNIVERSAL, items=items)
    return Key(tag, BY_TAG[tag].vr, Matching.UNIVERSAL)
