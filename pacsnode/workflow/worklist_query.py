"""Queries against the Modality Worklist Information Model (PS3.4 K.6.1.2), and who may see what.

SQL narrows by the columns, dicom.element decides on the kept data set, in a worker thread. An attribute that
is unknown matches no key that has a value (K.2.2.1.1.1), unlike in Query/Retrieve.
"""

import asyncio
import fnmatch
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pacsnode.archive.zones import combined_test
from pacsnode.config import Worklist as WorklistSettings
from pacsnode.dicom import temporal
from pacsnode.dicom.element import DataSet, Element, Item, KeyReader
from pacsnode.dicom.element import Value as ElementValue
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET, TIMEZONE_OFFSET_FROM_UTC
from pacsnode.dicom.query import (
    FIRST_TAG,
    UNMATCHABLE_VRS,
    Key,
    Matching,
    Reading,
    RequestedKey,
    has_wildcard,
    key_of,
)
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.text import person_name_key
from pacsnode.errors import InvalidIdentifier
from pacsnode.workflow.database import Database, Row, Value
from pacsnode.workflow.worklist_item import (
    ACCESSION_NUMBER,
    MODALITY,
    PATIENT_ID,
    PATIENT_NAME,
    START_DATE,
    START_TIME,
    STATION_AE,
    STEP_SEQUENCE,
    STEP_STATUS,
    STUDY_UID,
    WorklistItem,
)
from pacsnode.workflow.worklist_state import NEVER_ANSWERED, STATUS_OF, StepState

CHUNK: Final = 50  # items read and decided in one go: some 20 ms of a worker thread
_ENCODING: Final = encoding_of(EXPLICIT_VR_LE)

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


@dataclass(frozen=True, slots=True)
class Answer:
    """The elements that answer one item; `complete` unless a key is not supported for it."""

    elements: Item
    complete: bool


@dataclass(frozen=True, slots=True)
class View:
    """What a calling AE may see, and by which title it called."""

    sql: str
    values: tuple[str, ...]
    called_ae: str


def view_of(rules: Iterable[str], calling_ae: str, called_ae: str) -> View:
    """The first of `worklist.visibility` for a calling AE; everything when there is none."""
    for rule in rules:
        pattern, _, text = rule.partition("=")
        if not fnmatch.fnmatchcase(calling_ae, pattern.strip()):
            continue
        kind, _, names = text.strip().partition(" ")
        values = tuple(name.strip() for name in names.split("/"))
        match kind:
            case "none":
                return View("0", (), called_ae)
            case "station":
                return View("instr(stations, ?)", (f"\\{calling_ae}\\",), called_ae)
            case "modality" | "location":
                return View(f"{kind} IN ({', '.join('?' * len(values))})", values, called_ae)
            case _:
                break
    return View("1", (), called_ae)


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


def _step_keys(keys: Iterable[Key]) -> dict[int, Key]:
    return {item.tag: item for key in keys if key.tag == STEP_SEQUENCE for item in key.items}


def _combined(requested: Iterable[RequestedKey], keys: Iterable[Key]) -> tuple[Key, Key] | None:
    """Start date and time are one range when both are asked for by range (PS3.4 Table K.6-1)."""
    texts = {item.tag: item.text for r in requested if r.tag == STEP_SEQUENCE for i in r.items for item in i}
    if any("-" not in texts.get(tag, "") for tag in (START_DATE, START_TIME)):
        return None
    step = _step_keys(keys)
    date, time = step[START_DATE], step[START_TIME]
    return (date, time) if len(date.ranges) == len(time.ranges) == 1 else None


def _with_any_start(step: Key) -> Key:
    """The step with a start that is read and decided later."""
    return _sequence(
        step, (_universal(item) if item.tag in (START_DATE, START_TIME) else item for item in step.items)
    )


async def answers(
    database: Database, query: WorklistQuery, view: View, settings: WorklistSettings
) -> AsyncGenerator[list[Answer], None]:
    """Yield the answers, some at a time, in the order of the scheduled start."""
    conditions, values = _narrowed(query, view, settings)
    decide = _decision(query, settings.match_unknown)
    statement = (
        f"SELECT id, start_date, start_time, data FROM worklist_item WHERE {' AND '.join(conditions)}"
        " AND (start_date, start_time, id) > (?, ?, ?) ORDER BY start_date, start_time, id LIMIT ?"
    )
    place: tuple[str, str, int] = ("", "", 0)
    while True:
        rows = await database.fetch(statement, (*values, *place, CHUNK))
        if rows and (found := await asyncio.to_thread(decide, rows)):
            yield found
        if len(rows) < CHUNK:
            return
        place = rows[-1]["start_date"], rows[-1]["start_time"], rows[-1]["id"]


_Condition = tuple[str, tuple[Value, ...]]


def _narrowed(query: WorklistQuery, view: View, settings: WorklistSettings) -> tuple[list[str], list[Value]]:
    """Conditions in SQL that no match fails, and their values."""
    found = [*_visible(settings), (view.sql, view.values), ("called_ae IN ('', ?)", (view.called_ae,))]
    step = _step_keys(query.keys)
    date = query.combined[0] if query.combined else step.get(START_DATE)
    top = {key.tag: key for key in query.keys}
    named = [
        *_one_of("modality", step.get(MODALITY)),
        *_any_station(step.get(STATION_AE)),
        *_within("start_date", date),
        *_one_of("patient_id", top.get(PATIENT_ID)),
        *_one_of("accession_number", top.get(ACCESSION_NUMBER)),
        *_one_of("study_instance_uid", top.get(STUDY_UID)),
        *_containing("patient_name_key", top.get(PATIENT_NAME)),
    ]
    if not settings.match_unknown:
        found += named
    return [sql for sql, _ in found], [value for _, values in found for value in values]


def _visible(settings: WorklistSettings) -> list[_Condition]:
    """What `worklist.remove_on` and the states leave."""
    stamps = {"started": "started_at", "completed": "finished_at", "arrived": "arrived_at"}
    gone = tuple(state.value for state in NEVER_ANSWERED)
    conditions: list[_Condition] = [(f"state NOT IN ({', '.join('?' * len(gone))})", gone)]
    return conditions + [(f"{stamps[event]} IS NULL", ()) for event in settings.remove_on]


def _one_of(column: str, key: Key | None) -> list[_Condition]:
    if key is None or key.matching not in (Matching.SINGLE, Matching.UID_LIST):
        return []
    return [(f"{column} IN ({', '.join('?' * len(key.values))})", key.values)]


def _any_station(key: Key | None) -> list[_Condition]:
    if key is None or key.matching is not Matching.SINGLE or len(key.values) != 1:
        return []
    return [("instr(stations, ?)", (f"\\{key.values[0]}\\",))]


def _within(column: str, key: Key | None) -> list[_Condition]:
    if key is None or key.matching is not Matching.RANGE or len(key.ranges) != 1:
        return []
    wanted = key.ranges[0] if key.timezone is None else temporal.days_around(key.ranges[0], 1)
    low: list[_Condition] = [] if wanted.low is None else [(f"{column} >= ?", (wanted.low,))]
    high: list[_Condition] = [] if wanted.high is None else [(f"{column} <= ?", (wanted.high,))]
    return low + high


def _containing(column: str, key: Key | None) -> list[_Condition]:
    """The longest piece of a name between its wildcards."""
    if key is None or key.fuzzy or len(key.values) != 1:
        return []
    text = person_name_key(key.values[0])
    pieces = text.replace("=", "*").replace("?", "*").split("*") if has_wildcard(text) else text.split("=")
    piece = max((piece.strip("^ ") for piece in pieces), key=len)
    return [(f"instr({column}, ?)", (piece,))] if piece else []


def _decision(query: WorklistQuery, match_unknown: bool) -> Callable[[Sequence[Row]], list[Answer]]:
    """A function from rows to the answers of those that match."""
    readers = [KeyReader(key, match_unknown) for key in query.keys]
    start_test = combined_test(*query.combined, match_unknown) if query.combined else None
    asks_documents = any(key.tag == PERTINENT_DOCUMENTS for key in query.keys)

    asks_status = STEP_STATUS in _step_keys(query.keys)

    def answer(row: Row) -> Answer | None:
        data_set = DataSet.parse(_with_status(row["data"]) if asks_status else row["data"], _ENCODING)
        clock = data_set.text(TIMEZONE_OFFSET_FROM_UTC, "SH")
        offset = temporal.known_offset(clock)
        present = frozenset(data_set.tags())
        complete = not query.unsupported
        elements = []
        # Not asked for, but part of an answer where they apply (K.4.1.1.3.2).
        if query.timezone or clock:
            elements.append(Element(TIMEZONE_OFFSET_FROM_UTC, "SH", query.timezone or clock))
        if asks_documents and DOCUMENT_REFERENCES in present and DOCUMENT_REFERENCES not in query.extra:
            elements.append(data_set.element(DOCUMENT_REFERENCES))
        for key, reader in zip(query.keys, readers, strict=True):
            if key.tag in query.extra and key.tag not in present:
                complete = False
                continue
            value = reader.read(data_set, offset)
            if key.tag == STEP_SEQUENCE and start_test is not None and isinstance(value, tuple):
                value = tuple(
                    step for step in value if start_test(_at(step, START_DATE), _at(step, START_TIME))
                )
                value = value or None
            if value is None:
                return None
            elements.append(Element(key.tag, key.vr, value))
        return Answer(tuple(elements), complete)

    return lambda rows: [found for row in rows if (found := answer(row)) is not None]


def _with_status(data: bytes) -> bytes:
    """An item whose step tells its status; files seldom do, and modalities ask for it by name."""
    item = WorklistItem.decode(data)
    if item.step_text(STEP_STATUS):
        return data
    item.put_in_step(STEP_STATUS, STATUS_OF[StepState.SCHEDULED][0])
    return item.encoded()


def _at(step: Item, tag: int) -> str:
    value: ElementValue = next((element.value for element in step if element.tag == tag), "")
    return value if isinstance(value, str) else ""
