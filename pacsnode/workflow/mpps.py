"""Performed procedure steps: created, modified, ended, told of (PS3.4 F).

A change, what listeners make of it, and what is to be told to others become durable together. What others
are told goes through an outbox of its own, so that a peer hears of a step in the order things happened.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from pydicom import Dataset

from pacsnode.config import Mpps
from pacsnode.dicom.data_set import decode_data_set, encode_data_set, in_utf_8
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID, is_uid, new_uid
from pacsnode.errors import (
    DuplicateInstance,
    InvalidAttributeValue,
    InvalidInstance,
    MissingAttribute,
    MissingAttributeValue,
    NoLongerInProgress,
    NoSuchInstance,
)
from pacsnode.workflow import mpps_rules as rules
from pacsnode.workflow.database import Database, Row, Transaction
from pacsnode.workflow.mpps_outbox import Command, Outbox, Outgoing

_STATUS: Final = 0x00400252  # Performed Procedure Step Status
_CHARACTER_SET: Final = 0x00080005
_NO_LONGER: Final = "Performed Procedure Step Object may no longer be updated"  # PS3.4 Table F.7.2-2

_INSERT = """
    INSERT INTO mpps (sop_instance, state, source_ae, created_at, changed_at, data) VALUES (?, ?, ?, ?, ?, ?)
"""
_UPDATE = "UPDATE mpps SET state = ?, changed_at = ?, data = ? WHERE sop_instance = ?"
_OF_STUDY = """
    SELECT * FROM mpps WHERE sop_instance IN (SELECT sop_instance FROM mpps_study WHERE study = ?)
    ORDER BY created_at
"""


class StepState(StrEnum):
    """Performed Procedure Step Status (PS3.4 Table F.1-3)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class StepEvent(IntEnum):
    """Event Type IDs of the Notification SOP class (PS3.4 Table F.9.2-1)."""

    IN_PROGRESS = 1
    COMPLETED = 2
    DISCONTINUED = 3
    UPDATED = 4


_EVENT_OF: Final = {
    StepState.IN_PROGRESS: StepEvent.UPDATED,
    StepState.COMPLETED: StepEvent.COMPLETED,
    StepState.DISCONTINUED: StepEvent.DISCONTINUED,
}


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """What a performed step says it is of: one item of the Scheduled Step Attributes Sequence."""

    study: UID
    step_id: str
    accession_number: str


@dataclass(frozen=True, slots=True)
class Performed:
    """An instance made in the step."""

    series: UID
    sop_class: UID
    sop_instance: UID


@dataclass(frozen=True, slots=True)
class PerformedStep:
    """A step as it stands; its text in UTF-8. Times in seconds since the epoch."""

    sop_instance: UID
    state: StepState
    source_ae: str
    created_at: float
    changed_at: float
    attributes: Dataset

    @property
    def scheduled(self) -> list[ScheduledStep]:
        return [
            ScheduledStep(
                UID(str(item.get("StudyInstanceUID", ""))),
                str(item.get("ScheduledProcedureStepID") or ""),
                str(item.get("AccessionNumber") or ""),
            )
            for item in self.attributes.get("ScheduledStepAttributesSequence") or ()
        ]

    @property
    def performed(self) -> list[Performed]:
        """The instances it has told of so far."""
        return [
            Performed(
                UID(str(series.get("SeriesInstanceUID", ""))),
                UID(str(one.get("ReferencedSOPClassUID", ""))),
                UID(str(one.get("ReferencedSOPInstanceUID", ""))),
            )
            for series in self.attributes.get("PerformedSeriesSequence") or ()
            for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
            for one in series.get(keyword) or ()
        ]


@dataclass(frozen=True, slots=True)
class Received:
    """An attribute or modification list as it came: with values read, and as bytes to hand on."""

    attributes: Dataset
    encoded: bytes
    transfer_syntax: UID
    source_ae: str


Fetch = Callable[..., Awaitable[list[Row]]]
"""Of a transaction, or of the last committed state."""

Listener = Callable[[Transaction, PerformedStep, StepEvent], Awaitable[None]]


class PerformedSteps:
    """All steps this node manages."""

    def __init__(self, database: Database, outbox: Outbox, settings: Mpps) -> None:
        self._database = database
        self._outbox = outbox
        self._settings = settings
        self._listeners: list[Listener] = []

    def on_change(self, listener: Listener) -> None:
        """Have `listener(transaction, step, event)` called in the transaction of each change."""
        self._listeners.append(listener)

    async def create(self, sop_instance: UID | None, received: Received) -> PerformedStep:
        """Create a step, with a UID of ours if it comes without one (PS3.4 F.7.2.1.3, PS3.7 10.1.5.1.4).

        Raises InvalidInstance, DuplicateInstance, MissingAttribute, MissingAttributeValue,
        InvalidAttributeValue.
        """
        if sop_instance is not None and not is_uid(sop_instance):
            raise InvalidInstance("the SOP Instance UID is none")
        attributes = received.attributes
        self._refuse(rules.at_creation(attributes), creating=True)
        if attributes.PerformedProcedureStepStatus != StepState.IN_PROGRESS:
            raise InvalidAttributeValue("a step is created IN PROGRESS", (_STATUS,))
        rules.complete(attributes)
        now = time.time()
        step = PerformedStep(
            sop_instance or new_uid(), StepState.IN_PROGRESS, received.source_ae, now, now, attributes
        )
        async with self._database.transaction() as transaction:
            if await transaction.fetch("SELECT 1 FROM mpps WHERE sop_instance = ?", (step.sop_instance,)):
                raise DuplicateInstance(f"step {step.sop_instance} exists")
            values = (step.sop_instance, step.state, step.source_ae, now, now, _encoded(attributes))
            await transaction.execute(_INSERT, values)
            await transaction.execute_many(
                "INSERT OR IGNORE INTO mpps_study (study, sop_instance) VALUES (?, ?)",
                [(one.study, step.sop_instance) for one in step.scheduled],
            )
            await self._tell(transaction, step, StepEvent.IN_PROGRESS, received, Command.N_CREATE)
        return step

    async def modify(self, sop_instance: UID, received: Received) -> tuple[PerformedStep, tuple[int, ...]]:
        """Set attributes (PS3.4 F.7.2.2.3); the step as it is then, and the tags that N-SET may not change.

        Raises NoSuchInstance, NoLongerInProgress, MissingAttributeValue, InvalidAttributeValue.
        """
        async with self._database.transaction() as transaction:
            step = await _get(transaction.fetch, sop_instance)
            if step.state is not StepState.IN_PROGRESS:
                raise NoLongerInProgress(_NO_LONGER)
            modifications = received.attributes
            ignored = tuple(e.tag for e in modifications if e.tag in rules.NOT_SETTABLE)
            for tag in ignored:
                del modifications[tag]
            step = self._modified(step, modifications)
            values = (step.state, step.changed_at, _encoded(step.attributes), sop_instance)
            await transaction.execute(_UPDATE, values)
            await self._tell(transaction, step, _EVENT_OF[step.state], received, Command.N_SET)
        return step, ignored

    async def get(self, sop_instance: UID) -> PerformedStep:
        """Raises NoSuchInstance."""
        return await _get(self._database.fetch, sop_instance)

    async def of_study(self, study: UID) -> list[PerformedStep]:
        """The steps performed for a study, the oldest first."""
        return await steps_of(self._database.fetch, study)

    async def all(self, state: StepState | None = None, limit: int = 100) -> list[PerformedStep]:
        """The steps changed last first."""
        sql = "SELECT * FROM mpps WHERE ? IS NULL OR state = ? ORDER BY changed_at DESC LIMIT ?"
        return [_step(row) for row in await self._database.fetch(sql, (state, state, limit))]

    def _modified(self, step: PerformedStep, modifications: Dataset) -> PerformedStep:
        """Sequences are replaced whole; each attribute keeps its text, whatever character set it came in."""
        faults = rules.in_modifications(modifications)
        self._refuse(faults, creating=False)
        modifications.pop(_CHARACTER_SET, None)
        attributes = step.attributes
        attributes.update(modifications)
        try:
            state = StepState(attributes.PerformedProcedureStepStatus)
        except ValueError:
            raise InvalidAttributeValue("no Performed Procedure Step Status", (_STATUS,)) from None
        if state is not StepState.IN_PROGRESS:
            self._refuse(rules.in_final_state(attributes), creating=False)
        rules.complete(attributes)
        return PerformedStep(
            step.sop_instance, state, step.source_ae, step.created_at, time.time(), attributes
        )

    def _refuse(self, faults: rules.Faults, *, creating: bool) -> None:
        """Raise for what is wrong. N-SET has no status for missing attributes but that for missing values."""
        if self._settings.lenient:
            faults = faults.indispensable()
        if faults.missing and creating:
            raise MissingAttribute(f"missing: {_listed(faults.missing)}", _unique(faults.missing))
        if absent := [*faults.missing, *faults.empty]:
            raise MissingAttributeValue(f"without value: {_listed(absent)}", _unique(absent))
        if faults.invalid:
            raise InvalidAttributeValue(f"invalid: {_listed(faults.invalid)}", _unique(faults.invalid))

    async def _tell(
        self,
        transaction: Transaction,
        step: PerformedStep,
        event: StepEvent,
        received: Received,
        command: Command,
    ) -> None:
        for listener in self._listeners:
            await listener(transaction, step, event)
        handed_on = Outgoing(step.sop_instance, command, 0, received.transfer_syntax, received.encoded)
        for peer in self._settings.forward:
            if peer != received.source_ae:  # else two managers would hand a step to and fro
                await self._outbox.add(transaction, peer, handed_on)
        for peer in self._settings.notify:
            told = Outgoing(step.sop_instance, Command.N_EVENT_REPORT, event, EXPLICIT_VR_LE, b"")
            await self._outbox.add(transaction, peer, told)


async def steps_of(fetch: Fetch, study: UID) -> list[PerformedStep]:
    """The steps performed for a study, the oldest first."""
    return [_step(row) for row in await fetch(_OF_STUDY, (study,))]


async def _get(fetch: Fetch, sop_instance: UID) -> PerformedStep:
    rows = await fetch("SELECT * FROM mpps WHERE sop_instance = ?", (sop_instance,))
    if not rows:
        raise NoSuchInstance(f"there is no step {sop_instance[:64]}")
    return _step(rows[0])


def _step(row: Row) -> PerformedStep:
    attributes = decode_data_set(row["data"], EXPLICIT_VR_LE)
    attributes.decode()
    return PerformedStep(
        UID(row["sop_instance"]),
        StepState(row["state"]),
        row["source_ae"],
        row["created_at"],
        row["changed_at"],
        attributes,
    )


def _encoded(attributes: Dataset) -> bytes:
    in_utf_8(attributes)
    return encode_data_set(attributes, EXPLICIT_VR_LE)


def _unique(tags: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(tags)))


def _listed(tags: Iterable[int]) -> str:
    return " ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in _unique(tags))
