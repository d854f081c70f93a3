"""The worklist searched: who may see what, and which items match (PS3.4 K.4.1.3).

SQL narrows by the columns, dicom.element decides on the kept data set, in a worker thread. An attribute that
is unknown matches no key that has a value (K.2.2.1.1.1), unlike in Query/Retrieve.
"""

import asyncio
import fnmatch
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pacsnode.archive.zones import combined_test
from pacsnode.config import Worklist as WorklistSettings
from pacsnode.dicom import temporal
from pacsnode.dicom.element import DataSet, Element, Item, KeyReader
from pacsnode.dicom.element import Value as ElementValue
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.information_model import TIMEZONE_OFFSET_FROM_UTC
from pacsnode.dicom.query import Key, Matching, has_wildcard
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.text import person_name_key
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
from pacsnode.workflow.worklist_query import (
    DOCUMENT_REFERENCES,
    PERTINENT_DOCUMENTS,
    WorklistQuery,
    step_keys,
)
from pacsnode.workflow.worklist_state import NEVER_ANSWERED, STATUS_OF, StepState

CHUNK: Final = 50  # items read and decided in one go: some 20 ms of a worker thread
_ENCODING: Final = encoding_of(EXPLICIT_VR_LE)


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
    step = step_keys(query.keys)
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

    asks_status = STEP_STATUS in step_keys(query.keys)

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
