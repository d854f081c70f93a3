"""Queries against the Modality Worklist Information Model (PS3.4 K.6.1.2): the model, its keys."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from pacsnode.dicom import temporal
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET, TIMEZONE_OFFSET_FROM_UTC
from pacsnode.dicom.query import (
    FIRST_TAG,
    UNMATCHABLE_VRS,
    Key,
    Matching,
    Reading,
    RequestedKey,
    key_of,
)
from pacsnode.errors import InvalidIdentifier
from pacsnode.workflow.worklist_item import (
    START_DATE,
    START_TIME,
    STEP_SEQUENCE,
)

PERTINENT_DOCUMENTS: Final = 0x00380100
PROTOCOL_CONTEXT: Final = 0x00400440
DOCUMENT_REFERENCES: Final = 0x0040A390  # HL7 Structured Document Reference Sequence
_RETURN_ONLY: Final = frozenset({PERTINENT_DOCUMENTS, PROTOCOL_CONTEXT})  # never matched (Table K.6-1)

# The top level of the Modality Worklist Information Model, by group: its modules in PS3.3 C.2 to C.4. Groups
# 0010 (patient), 0032 (request) and 0038 (visit) belong to it whole.
_MODEL: Final = {
    0x0008: frozenset(
        {
            *(0x0020, 0x0030, 0x0050, 0x0051, 0x0080, 0x0081, 0x0082, 0x0090, 0x0092, 0x0094, 0x0096),
            *(0x009C, 0x009D, 0x1040, 0x1080, 0x1084, 0x1110, 0x1120),
        }
    ),
    0x0010: range(0x10000),
    0x0020: frozenset((0x000D,)),
    0x0032: range(0x10000),
    0x0038: range(0x10000),
    0x0040: frozenset((*range(0x0020, 0x0040), 0x0100, *range(0x0500, 0x0600), *range(0x1000, 0x3002))),
    0x2200: frozenset((0x0005,)),
}


@dataclass(frozen=True, slots=True)
class WorklistQuery:
    """What to look for and what to answer.

    `extra` are keys outside the model: answered for items that have them, else not supported (FF01). So are
    `unsupported` ones for all items. `combined` are the keys of start date and time that are one range.
    """

    keys: tuple[Key, ...]
    extra: frozenset[int]
    unsupported: tuple[int, ...]
    combined: tuple[Key, Key] | None
    character_set: str
    timezone: str


def worklist_query_of(
    requested: Iterable[RequestedKey],
    character_set: str = "",
    *,
    fuzzy_names: bool = False,
    adjust_timezone: bool = False,
) -> WorklistQuery:
    """Check an identifier against the model and compile it. Raises InvalidIdentifier."""
    requested = tuple(requested)
    timezone = next((r.text.strip(" \0") for r in requested if r.tag == TIMEZONE_OFFSET_FROM_UTC), "")
    timezone = timezone if adjust_timezone else ""
    reading = Reading(fuzzy_names, _minutes(timezone))
    keys, extra, unsupported = [], [], []
    for request in requested:
        tag = request.tag
        if tag in (SPECIFIC_CHARACTER_SET, TIMEZONE_OFFSET_FROM_UTC) or tag < FIRST_TAG or not tag & 0xFFFF:
            continue  # group lengths come from old senders and mean nothing
        if (tag >> 16) & 1 or request.vr in UNMATCHABLE_VRS:
            unsupported.append(tag)
            continue
        if (tag & 0xFFFF) not in _MODEL.get(tag >> 16, ()):
            extra.append(tag)
        keys.append(_without_values(key_of(request, reading)))
    combined = _combined(requested, keys)
    if combined is not None:
        keys = [_with_any_start(key) if key.tag == STEP_SEQUENCE else key for key in keys]
    keys.sort(key=lambda key: key.tag)
    return WorklistQuery(tuple(keys), frozenset(extra), tuple(unsupported), combined, character_set, timezone)


def _minutes(timezone: str) -> int | None:
    try:
        return temporal.offset_of(timezone) if timezone else None
    except ValueError as error:
        raise InvalidIdentifier(str(error), (TIMEZONE_OFFSET_FROM_UTC,)) from None


def _without_values(key: Key) -> Key:
    """The key with those universal in it that may not be matched."""
    if key.vr != "SQ" or not key.items:
        return key
    if key.tag in _RETURN_ONLY:
        return replace(key, matching=Matching.UNIVERSAL, items=tuple(map(_universal, key.items)))
    return _sequence(key, map(_without_values, key.items))


def _universal(key: Key) -> Key:
    items = tuple(map(_universal, key.items))
    return replace(key, matching=Matching.UNIVERSAL, values=(), ranges=(), items=items)


def _sequence(key: Key, items: Iterable[Key]) -> Key:
    """A sequence key with other keys in its item."""
    keys = tuple(items)
    restricting = any(item.matching is not Matching.UNIVERSAL for item in keys)
    return replace(key, matching=Matching.SEQUENCE if restricting else Matching.UNIVERSAL, items=keys)


def step_keys(keys: Iterable[Key]) -> dict[int, Key]:
    """The keys of the step, by tag."""
    return {item.tag: item for key in keys if key.tag == STEP_SEQUENCE for item in key.items}


def _combined(requested: Iterable[RequestedKey], keys: Iterable[Key]) -> tuple[Key, Key] | None:
    """Start date and time are one range when both are asked for by range (PS3.4 Table K.6-1)."""
    texts = {item.tag: item.text for r in requested if r.tag == STEP_SEQUENCE for i in r.items for item in i}
    if any("-" not in texts.get(tag, "") for tag in (START_DATE, START_TIME)):
        return None
    step = step_keys(keys)
    date, time = step[START_DATE], step[START_TIME]
    if not len(date.ranges) == len(time.ranges) == 1 or date.ranges[0].form != time.ranges[0].form:
        return None
    return date, time


def _with_any_start(step: Key) -> Key:
    """The step with a start that is read and decided later."""
    return _sequence(
        step, (_universal(item) if item.tag in (START_DATE, START_TIME) else item for item in step.items)
    )
