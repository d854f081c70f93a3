"""The worklist: scheduled procedure steps put in, moved by what happens, found (PS3.4 K, IHE RAD TF-2).

Orders (workflow.orders), files and the command line put items in; MPPS, the arrival of images and time move
them. What is answered to whom is decided in workflow.worklist_search.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from pacsnode.archive.changes import Grown
from pacsnode.config import Worklist as WorklistSettings
from pacsnode.dicom.element import Element
from pacsnode.workflow.database import Database, Row, Transaction, Value
from pacsnode.workflow.worklist_item import WorklistItem
from pacsnode.workflow.worklist_query import WorklistQuery
from pacsnode.workflow.worklist_search import Answer, View, answers
from pacsnode.workflow.worklist_state import TRANSITIONS, StepEvent, StepState

HOUR: Final = 3600.0  # seconds
EXPIRING: Final = 60.0  # seconds between looks for items that are too old
_STAMP_OF: Final = {
    StepEvent.STARTED: "started_at",
    StepEvent.COMPLETED: "finished_at",
    StepEvent.DISCONTINUED: "finished_at",
    StepEvent.ARRIVED: "arrived_at",
}
_CLEARED: Final = "started_at = NULL, finished_at = NULL, arrived_at = NULL"


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item as the worklist has it."""

    id: int
    origin: str
    state: StepState
    added_at: float
    changed_at: float
    item: WorklistItem

    @classmethod
    def of(cls, row: Row) -> "ListedItem":
        item = WorklistItem.decode(row["data"])
        return cls(
            row["id"], row["origin"], StepState(row["state"]), row["added_at"], row["changed_at"], item
        )


class Worklist:
    """All items. What belongs to a transaction of others takes it as its first argument."""

    def __init__(self, database: Database, settings: WorklistSettings) -> None:
        self._database = database
        self._settings = settings
        self._log = structlog.get_logger()

    # Putting in and taking out

    async def put(
        self,
        transaction: Transaction,
        item: WorklistItem,
        origin: str,
        *,
        called_ae: str = "",
        version: str = "",
        renews: bool = True,
    ) -> int:
        """Add an item, or take its new data when `origin` is known; returns its number.

        One that was cancelled, discontinued or has expired is scheduled again if this `renews` it.
        """
        now = time.time()
        found = await transaction.fetch("SELECT * FROM worklist_item WHERE origin = ?", (origin,))
        state = StepState(found[0]["state"]) if found else StepState.SCHEDULED
        if renews:
            state = TRANSITIONS.get((state, StepEvent.RESCHEDULED), state)
        item.show_state(state)
        columns = {
            **item.columns(),
            "origin": origin,
            "called_ae": called_ae,
            "version": version,
            "state": state.value,
            "changed_at": now,
        }
        if not found:
            return await _insert(transaction, {**columns, "added_at": now})
        await _update(transaction, found[0]["id"], columns)
        if state.value != found[0]["state"]:
            await transaction.execute(f"UPDATE worklist_item SET {_CLEARED} WHERE id = ?", (found[0]["id"],))
        return int(found[0]["id"])

    async def add(self, items: Iterable[tuple[str, WorklistItem]]) -> list[int]:
        """Put in several, each with its origin, all or none."""
        async with self._database.transaction() as transaction:
            return [await self.put(transaction, item, origin) for origin, item in items]

    async def remove(self, numbers: Sequence[int]) -> list[int]:
        """Forget items; returns the numbers of those there were."""
        async with self._database.transaction() as transaction:
            return [
                number
                for number in numbers
                if await transaction.execute("DELETE FROM worklist_item WHERE id = ?", (number,))
            ]

    # What happens to steps

    async def step_started(
        self, transaction: Transaction, *, study_uid: str, sps_id: str = "", accession: str = ""
    ) -> list[int]:
        """An MPPS is in progress (PS3.4 F.7.2.1); returns the numbers of its steps, none if unscheduled."""
        rows = await self._steps(transaction, study_uid, sps_id, accession)
        return await self.move(transaction, rows, StepEvent.STARTED)

    async def step_finished(
        self,
        transaction: Transaction,
        *,
        study_uid: str,
        sps_id: str = "",
        accession: str = "",
        discontinued: bool = False,
    ) -> list[int]:
        """The MPPS has reached a final state (PS3.4 F.7.2.2); as step_started."""
        rows = await self._steps(transaction, study_uid, sps_id, accession)
        event = StepEvent.DISCONTINUED if discontinued else StepEvent.COMPLETED
        return await self.move(transaction, rows, event)

    async def arrived(self, transaction: Transaction, grown: Sequence[Grown]) -> None:
        """Objects have been stored: they end the steps of their study and modality that had no MPPS."""
        for study, modality in {(series.study, series.modality) for series in grown}:
            rows = await transaction.fetch(
                "SELECT * FROM worklist_item"
                " WHERE study_instance_uid = ? AND modality = ? AND arrived_at IS NULL",
                (study, modality),
            )
            await self.move(transaction, rows, StepEvent.ARRIVED)

    async def expire(self) -> int:
        """Let the items go that are too old (`worklist.expire_hours`); returns how many they were."""
        if not self._settings.expire_hours:
            return 0
        before = time.time() - self._settings.expire_hours * HOUR
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch(
                "SELECT * FROM worklist_item WHERE state IN ('SCHEDULED', 'IN PROGRESS')"
                " AND max(changed_at, coalesce(starts_at, 0)) < ?",
                (before,),
            )
            expired = await self.move(transaction, rows, StepEvent.EXPIRED)
        if expired:
            self._log.info("worklist.expired", items=len(expired))
        return len(expired)

    async def move(self, transaction: Transaction, rows: Sequence[Row], event: StepEvent) -> list[int]:
        """Let an event happen to items; returns the numbers of all of them, moved or not."""
        now = time.time()
        for row in rows:
            columns: dict[str, Value] = {}
            if stamp := _STAMP_OF.get(event):
                columns[stamp] = now
            state = TRANSITIONS.get((StepState(row["state"]), event))
            if state is not None:
                item = WorklistItem.decode(row["data"])
                item.show_state(state)
                columns |= {"state": state.value, "changed_at": now, "data": item.encoded()}
                if event is StepEvent.STARTED:
                    columns["finished_at"] = None
                self._log.debug("worklist.moved", item=row["id"], state=state.value, reason=event.value)
            if columns:
                await _update(transaction, row["id"], columns)
        return [row["id"] for row in rows]

    async def _steps(self, transaction: Transaction, study: str, sps_id: str, accession: str) -> list[Row]:
        """The steps an MPPS names: by study and step, by order and step, by the study of a single step."""
        for where, values in (
            ("study_instance_uid = ? AND sps_id = ?", (study, sps_id)),
            ("accession_number = ? AND sps_id = ?", (accession, sps_id)),
            ("study_instance_uid = ? AND ? = ''", (study, sps_id)),
        ):
            if not values[0]:
                continue
            rows = await transaction.fetch(f"SELECT * FROM worklist_item WHERE {where}", values)
            if rows and (values[1] or len(rows) == 1):
                return rows
        return []

    # Patients

    async def update_patient(
        self, transaction: Transaction, patient_id: str, issuer: str, elements: Iterable[Element]
    ) -> int:
        """Give the items of a patient other patient attributes; returns how many items that are.

        An item without an issuer is of the patient of that ID, whoever issued it.
        """
        changed = list(elements)
        rows = await transaction.fetch(
            "SELECT * FROM worklist_item WHERE patient_id = ?"
            " AND (issuer_of_patient_id = ? OR issuer_of_patient_id = '' OR ? = '')",
            (patient_id, issuer, issuer),
        )
        for row in rows:
            item = WorklistItem.decode(row["data"])
            item.top |= {element.tag: element for element in changed}
            await _update(transaction, row["id"], item.columns())
        return len(rows)

    # What runs by itself

    async def run(self) -> None:
        """Let old items go, now and then."""
        while True:
            await self.expire()
            await asyncio.sleep(EXPIRING)

    # Looking

    async def find(self, query: WorklistQuery, view: View) -> AsyncGenerator[list[Answer], None]:
        """Yield the items that match and may be seen, some at a time, in the order of their start."""
        async for found in answers(self._database, query, view, self._settings):
            yield found

    async def items(self, states: Sequence[StepState] = tuple(StepState)) -> list[ListedItem]:
        """All items in these states, in the order of their start."""
        marks = ", ".join("?" * len(states))
        rows = await self._database.fetch(
            f"SELECT * FROM worklist_item WHERE state IN ({marks}) ORDER BY start_date, start_time, id",
            [state.value for state in states],
        )
        return [ListedItem.of(row) for row in rows]

    async def item(self, number: int) -> ListedItem | None:
        rows = await self._database.fetch("SELECT * FROM worklist_item WHERE id = ?", (number,))
        return ListedItem.of(rows[0]) if rows else None


async def _insert(transaction: Transaction, columns: Mapping[str, Value]) -> int:
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    return await transaction.insert(
        f"INSERT INTO worklist_item ({names}) VALUES ({marks})", list(columns.values())
    )


async def _update(transaction: Transaction, number: int, columns: Mapping[str, Value]) -> None:
    assignments = ", ".join(f"{name} = ?" for name in columns)
    await transaction.execute(
        f"UPDATE worklist_item SET {assignments} WHERE id = ?", [*columns.values(), number]
    )
