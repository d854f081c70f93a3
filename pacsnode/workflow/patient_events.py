"""Changes of patients that HL7 tells: updates (ADT^A08, A31) and merges (ADT^A40) (IHE RAD-12).

The worklist changes at once. What it means for the archive is journalled in `patient_event`, for
workflow.patients to apply.
"""

import time
from collections.abc import Sequence
from io import BytesIO
from typing import Final

from pydicom.filereader import read_dataset

from pacsnode.dicom.element import Element
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import encode_item
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.errors import MessageRefused
from pacsnode.workflow.database import Transaction
from pacsnode.workflow.hl7_mapping import PATIENT
from pacsnode.workflow.hl7_message import REQUIRED_FIELD_MISSING, SEGMENT_SEQUENCE_ERROR, Message, Segment
from pacsnode.workflow.hl7_reading import read, rows_of
from pacsnode.workflow.worklist import Worklist
from pacsnode.workflow.worklist_item import ISSUER_OF_PATIENT_ID, PATIENT_ID

# Events that tell all that is known of a patient now: admissions and registrations too.
UPDATES: Final = frozenset({"A01", "A04", "A05", "A08", "A28", "A31"})
MERGES: Final = frozenset({"A40"})
_ROWS: Final = rows_of(PATIENT)
_ENCODING: Final = encoding_of(EXPLICIT_VR_LE)


class PatientEvents:
    """Carries changes of patients out on the worklist, and journals them."""

    def __init__(self, worklist: Worklist) -> None:
        self._worklist = worklist

    async def update(self, transaction: Transaction, message: Message) -> None:
        """Raises MessageRefused."""
        for pid, others in _patients(message):
            elements = _attributes(message, pid, others)
            patient_id, issuer = _key(elements)
            await self._worklist.update_patient(transaction, patient_id, issuer, elements)
            await _journal(transaction, message, "update", elements, ("", ""))

    async def merge(self, transaction: Transaction, message: Message) -> None:
        """The patient in MRG becomes the one in PID. Raises MessageRefused."""
        for pid, others in _patients(message):
            prior = next((segment for segment in others if segment.name == "MRG"), None)
            if prior is None or not prior.text(1):
                raise MessageRefused("no prior patient ID (MRG-1)", REQUIRED_FIELD_MISSING, "MRG-1")
            elements = _attributes(message, pid, others)
            prior_id, prior_issuer = prior.text(1), prior.text(1, 4) or prior.text(1, 4, 2)
            await self._worklist.update_patient(transaction, prior_id, prior_issuer, elements)
            await _journal(transaction, message, "merge", elements, (prior_id, prior_issuer))


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
    if not _key(elements)[0]:
        raise MessageRefused("no patient ID (PID-3)", REQUIRED_FIELD_MISSING, "PID-3")
    return elements


def _key(elements: Sequence[Element]) -> tuple[str, str]:
    values = {element.tag: str(element.value) for element in elements}
    return values.get(PATIENT_ID, ""), values.get(ISSUER_OF_PATIENT_ID, "")


async def _journal(
    transaction: Transaction, message: Message, kind: str, elements: Sequence[Element], prior: tuple[str, str]
) -> None:
    data = encode_item(tuple(sorted(elements, key=lambda e: e.tag)), _ENCODING, "ISO_IR 192")
    json = read_dataset(BytesIO(data), _ENCODING.implicit, _ENCODING.little_endian).to_json()
    await transaction.execute(
        "INSERT INTO patient_event (kind, patient_id, issuer_of_patient_id, prior_patient_id,"
        " prior_issuer_of_patient_id, data, source, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (kind, *_key(elements), *prior, json, f"{message.kind} {message.control_id}", time.time()),
    )
