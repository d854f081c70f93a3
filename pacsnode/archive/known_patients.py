"""The patients of an index, for those who decide what becomes of them; in the node or beside it. Blocking."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacsnode.dicom.patient import PATIENT_ATTRIBUTES
from pacsnode.errors import ArchiveError

_COLUMNS: Final = ", ".join(attribute.column for attribute in PATIENT_ATTRIBUTES.values())
_IDENTITY: Final = ("PatientID", "IssuerOfPatientID")


@dataclass(frozen=True, slots=True)
class KnownPatient:
    """A patient of the index, and what else it says, by keyword."""

    patient_id: str
    issuer: str
    attributes: dict[str, str]
    studies: int


def known_patients(index: Path, patient_id: str) -> list[KnownPatient]:
    """Those of this ID, whoever issued it; none where there is no index. Raises ArchiveError."""
    if not index.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                f"SELECT n_studies, {_COLUMNS} FROM patient WHERE patient_id = ? AND scope = ''",
                (patient_id,),
            ).fetchall()
    except sqlite3.Error as error:
        raise ArchiveError(f"the index cannot be read: {error}") from error
    return [_known(studies, values) for studies, *values in rows]


def reconciled_up_to(index: Path) -> int:
    """The last reconciliation that an index follows. Raises ArchiveError."""
    try:
        with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT sequence FROM reconciliation").fetchone()
    except sqlite3.Error as error:
        raise ArchiveError(f"the index cannot be read: {error}") from error
    return int(row[0]) if row else 0


def _known(studies: int, values: list[str]) -> KnownPatient:
    said = dict(zip(PATIENT_ATTRIBUTES, values, strict=True))
    patient_id, issuer = (said.pop(keyword) for keyword in _IDENTITY)
    return KnownPatient(
        patient_id, issuer, {keyword: text for keyword, text in said.items() if text}, studies
    )
