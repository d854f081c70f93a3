"""Rows of `reconciled_patient`, what is to be said of patients that objects name, and of their journal."""

import json
from dataclasses import dataclass
from typing import NamedTuple, Self

from pacsnode.archive.aliases import Alias
from pacsnode.workflow.database import Row, Transaction

Attributes = dict[str, str]
"""Values by keyword."""


class Identity(NamedTuple):
    """Patient ID and Issuer of Patient ID."""

    patient_id: str
    issuer: str = ""

    def __str__(self) -> str:
        return f"{self.patient_id} of {self.issuer}" if self.issuer else self.patient_id

    def may_be(self, other: "Identity") -> bool:
        """Whether they mean the same patient; many objects tell no issuer."""
        return self.patient_id == other.patient_id and (
            self.issuer == other.issuer or not (self.issuer and other.issuer)
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the objects that name a patient, and of whom that was decided before."""

    received: Identity
    before: Attributes
    after: Attributes
    decided_before_by: int

    def to_json(self) -> dict[str, object]:
        return {
            "received": list(self.received),
            "before": self.before,
            "after": self.after,
            "decided_before_by": self.decided_before_by,
        }


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """An entry of the journal."""

    id: int
    kind: str
    patient: Identity
    prior: Identity
    attributes: Attributes
    changes: tuple[Change, ...]
    source: str
    at: float
    undoes: int | None
    undone_by: int | None

    @classmethod
    def of(cls, row: Row) -> Self:
        changes = (
            Change(Identity(*one["received"]), one["before"], one["after"], one["decided_before_by"])
            for one in json.loads(row["changes"])
        )
        return cls(
            row["id"],
            row["kind"],
            Identity(row["patient_id"], row["issuer_of_patient_id"]),
            Identity(row["prior_patient_id"], row["prior_issuer_of_patient_id"]),
            json.loads(row["attributes"]),
            tuple(changes),
            row["source"],
            row["at"],
            row["undoes"],
            row["undone_by"],
        )


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What is to be said of the patient that objects name; no attributes: what they say."""

    id: int
    received: Identity
    current: Identity
    attributes: Attributes
    system: str
    changed_at: float
    decided_by: int
    sequence: int

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(
            row["id"],
            Identity(row["patient_id"], row["issuer_of_patient_id"]),
            Identity(row["current_patient_id"], row["current_issuer_of_patient_id"]),
            json.loads(row["attributes"]),
            row["system"],
            row["changed_at"],
            row["decided_by"],
            row["sequence"],
        )

    @property
    def alias(self) -> Alias:
        """As the archive takes it."""
        return Alias(self.id, *self.received, self.attributes, self.system, self.changed_at)

    @property
    def has_moved(self) -> bool:
        return not self.current.may_be(self.received)


async def write_entry(transaction: Transaction, entry: Reconciliation) -> int:
    """Append to the journal; returns the number of the entry."""
    return await transaction.insert(
        "INSERT INTO reconciliation (kind, patient_id, issuer_of_patient_id, prior_patient_id,"
        " prior_issuer_of_patient_id, attributes, changes, source, at, undoes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            entry.kind,
            *entry.patient,
            *entry.prior,
            json.dumps(entry.attributes, ensure_ascii=False),
            json.dumps([change.to_json() for change in entry.changes], ensure_ascii=False),
            entry.source,
            entry.at,
            entry.undoes,
        ),
    )


async def write_reconciled(transaction: Transaction, row: Reconciled) -> None:
    """Put a row in the place of the one before, under a new number."""
    await transaction.execute(
        "INSERT OR REPLACE INTO reconciled_patient (patient_id, issuer_of_patient_id, current_patient_id,"
        " current_issuer_of_patient_id, attributes, system, changed_at, decided_by, sequence)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *row.received,
            *row.current,
            json.dumps(row.attributes, ensure_ascii=False),
            row.system,
            row.changed_at,
            row.decided_by,
            row.sequence,
        ),
    )
