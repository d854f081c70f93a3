"""Orders: the worklist items that ORM^O01, OMG^O19 and OMI^O23 put in, change, take back (IHE RAD-4, 13).

Every ORC begins an order; every IPC in it, or the OBR where there is none, is a scheduled procedure step.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pacsnode.dicom.element import Element
from pacsnode.errors import IncompleteItem, MessageRefused
from pacsnode.workflow.database import Row, Transaction
from pacsnode.workflow.hl7_mapping import PATIENT, REQUEST, STEP, VISIT
from pacsnode.workflow.hl7_message import (
    INTERNAL_ERROR,
    REQUIRED_FIELD_MISSING,
    SEGMENT_SEQUENCE_ERROR,
    UNKNOWN_KEY,
    VALUE_NOT_FOUND,
    Message,
    Segment,
)
from pacsnode.workflow.hl7_reading import Segments, read, rows_of
from pacsnode.workflow.worklist import Worklist
from pacsnode.workflow.worklist_item import (
    MODALITY,
    PROCEDURE_ID,
    PROTOCOL_CODES,
    START_DATE,
    START_TIME,
    STATION_AE,
    STEP_ID,
    STEP_STATUS,
    STUDY_UID,
    WorklistItem,
)
from pacsnode.workflow.worklist_state import StepEvent, StepState

_PATIENT, _VISIT, _REQUEST, _STEP = map(rows_of, (PATIENT, VISIT, REQUEST, STEP))
_NAMESPACE: Final = uuid.UUID("5c4b2c5e-9d1b-4c57-9c53-2f9f1c6f5d0e")


MAX_ORDERS: Final = 500  # in a message; they are one transaction, and others wait for it


class Control(Enum):
    """What is to be done with an order."""

    PUT = auto()
    CANCEL = auto()
    DISCONTINUE = auto()
    STATUS = auto()


# Order Control, ORC-1 (HL7 table 0119; IHE RAD TF-2 Table 4.4-3). What is not here is refused.
CONTROLS: Final = {
    "NW": Control.PUT,
    "SN": Control.PUT,
    "XO": Control.PUT,
    "XX": Control.PUT,
    "RO": Control.PUT,
    "CA": Control.CANCEL,
    "OC": Control.CANCEL,
    "DC": Control.DISCONTINUE,
    "OD": Control.DISCONTINUE,
    "SC": Control.STATUS,
}
# Order Status, ORC-5 (HL7 table 0038), that comes with SC; others change data only.
STATUSES: Final = {
    "IP": StepEvent.STARTED,
    "CM": StepEvent.COMPLETED,
    "CA": StepEvent.CANCELLED,
    "DC": StepEvent.DISCONTINUED,
}
_ENDED: Final = (StepState.IN_PROGRESS.value, StepState.COMPLETED.value)
_OF_PATIENT: Final = frozenset({"PID", "PV1", "AL1"})


@dataclass(frozen=True, slots=True)
class Order:
    """One ORC and what belongs to it."""

    orc: Segment
    segments: Segments

    @property
    def placer(self) -> str:
        return self.orc.text(2) or self._of_detail(2)

    @property
    def filler(self) -> str:
        return self.orc.text(3) or self._of_detail(3)

    def _of_detail(self, field: int) -> str:
        return next((obr.text(field) for obr in self.segments.get("OBR", ())), "")

    def steps(self) -> Iterator[Segments]:
        """The segments of each step: with one IPC each, or with one OBR each."""
        for name in ("IPC", "OBR"):
            if self.segments.get(name):
                for segment in self.segments[name]:
                    yield {**self.segments, name: (segment,)}
                return


def orders_of(message: Message) -> list[Order]:
    """The orders of a message, each with the segments of its patient. Raises MessageRefused."""
    shared: dict[str, list[Segment]] = {}
    groups: list[tuple[Segment, dict[str, list[Segment]]]] = []
    for segment in message.segments[1:]:
        if segment.name == "ORC":
            groups.append((segment, {"ORC": [segment]}))
            continue
        of_order = groups and segment.name not in _OF_PATIENT
        (groups[-1][1] if of_order else shared).setdefault(segment.name, []).append(segment)
    if len(groups) > MAX_ORDERS:
        raise MessageRefused(f"more than {MAX_ORDERS} orders", SEGMENT_SEQUENCE_ERROR, "ORC")
    if not groups:
        raise MessageRefused("the message has no order (ORC)", SEGMENT_SEQUENCE_ERROR, "ORC")
    if "PID" not in shared:
        raise MessageRefused("the message has no patient (PID)", SEGMENT_SEQUENCE_ERROR, "PID")
    if len({pid.text(3) for pid in shared["PID"]}) > 1:
        raise MessageRefused("the orders are of more than one patient", SEGMENT_SEQUENCE_ERROR, "PID")
    studies = {"ZDS": list(message.named("ZDS"))[:1]}  # some senders put it behind the last order only
    return [Order(orc, {**studies, **shared, **group}) for orc, group in groups]


class Orders:
    """Carries orders out on the worklist."""

    def __init__(self, worklist: Worklist, stations: Sequence[str]) -> None:
        """`stations` as in the settings: "CT = CT1/CT2"."""
        self._worklist = worklist
        self._stations = _stations_of(stations)

    async def carry_out(self, transaction: Transaction, message: Message) -> None:
        """Do what the orders of a message want, all or nothing. Raises MessageRefused."""
        touched: dict[int, WorklistItem] = {}
        for order in orders_of(message):
            code = order.orc.text(1).upper()
            control = CONTROLS.get(code)
            if control is None:
                raise MessageRefused(f"order control {code!r} is not supported", VALUE_NOT_FOUND, "ORC-1")
            if not order.placer and not order.filler:
                reason = "neither a placer (ORC-2) nor a filler order number (ORC-3)"
                raise MessageRefused(reason, REQUIRED_FIELD_MISSING, "ORC-2")
            match control:
                case Control.CANCEL:
                    await self._take_back(transaction, order, StepEvent.CANCELLED)
                case Control.DISCONTINUE:
                    await self._take_back(transaction, order, StepEvent.DISCONTINUED)
                case Control.STATUS:
                    await self._tell_status(transaction, order)
                case Control.PUT:
                    await self._put(transaction, message, order, touched)

    async def _put(
        self, transaction: Transaction, message: Message, order: Order, touched: dict[int, WorklistItem]
    ) -> None:
        if not order.segments.get("OBR"):
            raise MessageRefused("the order has no detail (OBR)", SEGMENT_SEQUENCE_ERROR, "OBR")
        for segments in order.steps():
            step_id = next((e.value for e in read(_STEP, segments) if e.tag == STEP_ID), "")
            rows = [row for row in await self._known(transaction, order) if row["sps_id"] == step_id]
            item = WorklistItem.decode(rows[0]["data"]) if rows else WorklistItem((), ())
            codes = item.step.get(PROTOCOL_CODES) if rows and rows[0]["id"] in touched else None
            self._fill(item, message, order, segments)
            if codes is not None and item.step.get(PROTOCOL_CODES) != codes:
                _add_codes(item, codes)  # one more protocol of a step that the same message has told before
            try:
                item.check()
            except IncompleteItem as error:
                raise MessageRefused(str(error), REQUIRED_FIELD_MISSING, "OBR") from None
            origin = rows[0]["origin"] if rows else _origin(message, order, str(step_id))
            number = await self._worklist.put(transaction, item, origin)
            touched[number] = item

    def _fill(self, item: WorklistItem, message: Message, order: Order, segments: Segments) -> None:
        """What the message tells, and what a modality must be told where it does not."""
        item.top |= {e.tag: e for rows in (_PATIENT, _VISIT, _REQUEST) for e in read(rows, segments)}
        item.step |= {e.tag: e for e in read(_STEP, segments)}
        if not item.text(STUDY_UID):
            item.put(STUDY_UID, _study_uid(message, order, item.text(PROCEDURE_ID)))
        if not item.step_text(START_DATE):  # it is to be done now
            moment = message.header.text(7).partition(".")[0]
            if moment[:8].isdigit() and len(moment) >= 8:
                item.put_in_step(START_DATE, moment[:8])
                item.put_in_step(START_TIME, moment[8:14] if moment[8:12].isdigit() else "0000")
        if not item.step_text(STEP_STATUS):
            item.put_in_step(STEP_STATUS, "SCHEDULED")
        if not item.step_text(STATION_AE):
            item.put_in_step(STATION_AE, self._stations.get(item.step_text(MODALITY), ""))

    async def _take_back(self, transaction: Transaction, order: Order, event: StepEvent) -> None:
        """Cancel or discontinue; what a modality has begun is its own to discontinue."""
        rows = await self._wanted(transaction, order)
        under_way = sorted({row["state"] for row in rows if row["state"] in _ENDED})
        if under_way and event is StepEvent.CANCELLED:
            raise MessageRefused(f"the procedure step is {under_way[0]}", INTERNAL_ERROR, "ORC-1")
        await self._worklist.move(transaction, rows, event)

    async def _tell_status(self, transaction: Transaction, order: Order) -> None:
        status = order.orc.text(5).upper()
        rows = await self._wanted(transaction, order)
        if event := STATUSES.get(status):
            await self._worklist.move(transaction, rows, event)

    async def _wanted(self, transaction: Transaction, order: Order) -> list[Row]:
        """The steps of a known order: those it names, or all. Raises MessageRefused."""
        rows = await self._known(transaction, order)
        if not rows:
            raise MessageRefused(f"order {order.placer or order.filler} is not known", UNKNOWN_KEY, "ORC-2")
        names = {
            text
            for name, field in (("IPC", 4), ("OBR", 20))
            for segment in order.segments.get(name, ())
            if (text := segment.text(field))
        }
        return [row for row in rows if row["sps_id"] in names] or rows

    async def _known(self, transaction: Transaction, order: Order) -> list[Row]:
        """The steps of an order that are in the worklist, whatever their state."""
        return await transaction.fetch(
            "SELECT * FROM worklist_item WHERE (filler_order = ? AND filler_order != '')"
            " OR (placer_order = ? AND placer_order != '' AND (filler_order = '' OR ? = ''))",
            (order.filler, order.placer, order.filler),
        )


def _origin(message: Message, order: Order, step_id: str) -> str:
    return f"order:{message.sender}/{order.filler or order.placer}/{step_id}"


def _study_uid(message: Message, order: Order, procedure_id: str) -> str:
    """A UID for a study that the sender did not name, the same whenever the order comes (PS3.5 B.2)."""
    name = f"{message.sender}/{order.filler or order.placer}/{procedure_id}"
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def _add_codes(item: WorklistItem, codes: Element) -> None:
    found = item.step[PROTOCOL_CODES].value if PROTOCOL_CODES in item.step else ()
    before = codes.value
    if isinstance(before, tuple) and isinstance(found, tuple):
        item.put_in_step(PROTOCOL_CODES, (*before, *(code for code in found if code not in before)))


def _stations_of(entries: Sequence[str]) -> Mapping[str, str]:
    """Station AE titles by modality, as values of the attribute."""
    pairs = (entry.partition("=") for entry in entries)
    return {
        modality.strip(): "\\".join(title.strip() for title in titles.split("/"))
        for modality, _, titles in pairs
    }
