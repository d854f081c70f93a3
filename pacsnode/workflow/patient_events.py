"""Changes of patients that HL7 tells: updates (ADT^A08, A31) and merges (ADT^A40) (IHE RAD-12).

The worklist changes at once; workflow.patients journals what it means for the archive.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

import structlog

from pacsnode.dicom.element import Element
from pacsnode.dicom.patient import PATIENT_ATTRIBUTES
from pacsnode.errors import MessageRefused, OperationError, PatientRefused
from pacsnode.workflow.database import Transaction
from pacsnode.workflow.hl7_mapping import PATIENT
from pacsnode.workflow.hl7_message import (
    REQUIRED_FIELD_MISSING,
    SEGMENT_SEQUENCE_ERROR,
    UNKNOWN_KEY,
    Message,
    Segment,
)
from pacsnode.workflow.hl7_reading import read, rows_of
from pacsnode.workflow.patients import Patients
from pacsnode.workflow.reconciled import Identity
from pacsnode.workflow.worklist import Worklist
from pacsnode.workflow.worklist_item import ISSUER_OF_PATIENT_ID, PATIENT_ID

# Events that tell all that is known of a patient now: admissions and registrations too.
UPDATES: Final = frozenset({"A01", "A04", "A05", "A08", "A28", "A31"})
MERGES: Final = frozenset({"A40"})
_ROWS: Final = rows_of(PATIENT)


class PatientEvents:
    """Carries changes of patients out on the worklist, and journals them."""

    def __init__(self, worklist: Worklist, patients: Patients) -> None:
        self._worklist = worklist
        self._patients = patients
        self._log = structlog.get_logger()

    async def update(self, transaction: Transaction, message: Message) -> None:
        """Raises MessageRefused."""
        for pid, others in _patients(message):
            elements = _attributes(message, pid, others)
            patient = _identity(elements)
            await self._worklist.update_patient(transaction, *patient, elements)
            try:
                await self._patients.update(transaction, patient, _told(elements), _source(message))
            except PatientRefused as error:
                raise MessageRefused(error.reason, UNKNOWN_KEY, "PID-3") from error

    async def merge(self, transaction: Transaction, message: Message) -> None:
        """The patient in MRG becomes the one in PID. Raises MessageRefused."""
        for pid, others in _patients(message):
            prior = next((segment for segment in others if segment.name == "MRG"), None)
            if prior is None or not prior.text(1):
                raise MessageRefused("no prior patient ID (MRG-1)", REQUIRED_FIELD_MISSING, "MRG-1")
            elements = _attributes(message, pid, others)
            ended = Identity(prior.text(1), prior.text(1, 4) or prior.text(1, 4, 2))
            patient = _identity(elements)
            await self._worklist.update_patient(transaction, *ended, elements)
            try:
                await self._patients.merge(transaction, ended, patient, _told(elements), _source(message))
            except PatientRefused as error:
                raise MessageRefused(error.reason, UNKNOWN_KEY, "MRG-1") from error

    async def follow(self) -> None:
        """Have the archive answer so before the sender hears of it; what fails is done later."""
        try:
            await self._patients.follow()
        except (OperationError, sqlite3.Error) as error:
            self._log.warning("patient.not_reconciled", reason=str(error))


def _patients(message: Message) -> list[tuple[Segment, list[Segment]]]:
    """Each PID with the segments behind it. Raises MessageRefused."""
    groups: list[tuple[Segment, list[Segment]]] = []
    for segment in message.segments[1:]:
        if segment.name == "PID":
            groups.append((segment, []))
        elif groups:
            groups[-1][1].append(segment)
    if not groups:
        raise MessageRefused("the message has no patient (PID)", SEGMENT_SEQUENCE_ERROR, "PID")
    return groups


def _attributes(message: Message, pid: Segment, others: Sequence[Segment]) -> list[Element]:
    segments: dict[str, list[Segment]] = {"PID": [pid]}
    for segment in others:
        segments.setdefault(segment.name, []).append(segment)
    elements = list(read(_ROWS, segments))
    if not _identity(elements).patient_id:
        raise MessageRefused("no patient ID (PID-3)", REQUIRED_FIELD_MISSING, "PID-3")
    return elements


def _identity(elements: Sequence[Element]) -> Identity:
    values = {element.tag: str(element.value) for element in elements}
    return Identity(values.get(PATIENT_ID, ""), values.get(ISSUER_OF_PATIENT_ID, ""))


def _told(elements: Sequence[Element]) -> dict[str, str]:
    """What objects say of a patient too, by keyword."""
    values = {element.tag: str(element.value) for element in elements}
    return {
        keyword: values[attribute.tag]
        for keyword, attribute in PATIENT_ATTRIBUTES.items()
        if attribute.tag in values
    }


def _source(message: Message) -> str:
    return f"{message.kind} {message.control_id}"
