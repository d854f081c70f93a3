"""The rows of patients made to follow their aliases. Blocking; belongs to the writer of the index.

A patient is made again from the kept headers of its studies, the first of each series, so that what is undone
leaves nothing behind, and a rebuilt index says the same as one that was changed.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from pacsnode.archive.aliases import ALIAS_COLUMNS, Alias, Identity, identity_of
from pacsnode.archive.kept import restored
from pacsnode.archive.rows import Value, Values, column_names, patient_values
from pacsnode.archive.search import ENCODINGS
from pacsnode.dicom.header import scan
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET, Level, columns_of
from pacsnode.errors import CannotUnderstand

_COLUMNS: Final = column_names(Level.PATIENT)
_WANTED: Final = frozenset({SPECIFIC_CHARACTER_SET, *(one.tag for one in columns_of(Level.PATIENT))})
_FIRST_HEADERS: Final = (
    "SELECT s.id, t.alias, h.encoding, h.kept FROM study t JOIN series s ON s.study_fk = t.id JOIN header h"
    " ON h.instance_id = (SELECT min(i.id) FROM instance i WHERE i.series_fk = s.id)"
    " WHERE {condition} ORDER BY h.instance_id"
)
_OF_STUDY: Final = _FIRST_HEADERS.format(condition="t.id = ?")
_OF_PATIENT: Final = _FIRST_HEADERS.format(condition="t.patient_fk = ?")
_IDENTIFIED: Final = "patient_id = ? AND issuer_of_patient_id = ? AND scope = ''"


class PatientAliases:
    """The aliases as the writer asks for them: once for each series that begins."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._are_any: bool | None = None

    def forget(self) -> None:
        """They were changed, or the change was rolled back."""
        self._are_any = None

    def of(self, patient: Values) -> Alias | None:
        """The alias for the patient that an object names."""
        if self._are_any is None:
            self._are_any = self._execute("SELECT 1 FROM patient_alias LIMIT 1").fetchone() is not None
        if not self._are_any:
            return None
        row = self._execute(
            f"SELECT {ALIAS_COLUMNS} FROM patient_alias WHERE patient_id = ? AND issuer_of_patient_id = ?",
            identity_of(patient),
        ).fetchone()
        return None if row is None else Alias.of(row)


def change_aliases(
    connection: sqlite3.Connection, aliases: Sequence[Alias], sequence: int, *, only: bool = False
) -> set[int]:
    """Take over aliases, and have the index follow; `sequence` is noted. `only`: there are no others.

    Returns the numbers of the patients that were touched: all studies they had or have are under one of them.
    """
    touched: dict[int, None] = {}
    if only:
        kept = {alias.id for alias in aliases}
        rows = connection.execute(f"SELECT {ALIAS_COLUMNS} FROM patient_alias").fetchall()
        for row in rows:
            if row[0] not in kept:
                _change(connection, Alias.of((*row[:3], "{}", *row[4:])), touched)
    for alias in aliases:
        _change(connection, alias, touched)
    for patient in touched:
        _make_again(connection, patient)
    connection.execute(
        "INSERT INTO reconciliation (id, sequence) VALUES (1, ?1)"
        " ON CONFLICT (id) DO UPDATE SET sequence = ?1",
        (sequence,),
    )
    return set(touched)


def _change(connection: sqlite3.Connection, alias: Alias, touched: dict[int, None]) -> None:
    """Put an alias in the place of the one before, and its studies under their patient."""
    execute = connection.execute
    received = (alias.patient_id, alias.issuer)
    former = execute(
        "SELECT id FROM patient_alias WHERE patient_id = ? AND issuer_of_patient_id = ?", received
    ).fetchone()
    if (former[0] if former else None) == (alias.id if alias.attributes else None):
        return  # it is so already
    studies = execute(
        "SELECT id, patient_fk FROM study WHERE alias = ? AND alias <> 0"
        " UNION SELECT id, patient_fk FROM study WHERE alias = 0"
        f" AND patient_fk IN (SELECT id FROM patient WHERE {_IDENTIFIED})",
        (former[0] if former else 0, *received),
    ).fetchall()
    if former is not None:
        execute("DELETE FROM patient_alias WHERE id = ?", former)
    if alias.attributes:
        execute(
            f"INSERT INTO patient_alias ({ALIAS_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            (alias.id, *received, json.dumps(alias.attributes), alias.system, alias.changed_at),
        )
    patient = _patient_row(connection, alias.identity) if studies else 0
    number = alias.id if alias.attributes else 0
    for study, patient_before in studies:
        touched[patient_before] = touched[patient] = None
        execute("UPDATE study SET patient_fk = ?, alias = ? WHERE id = ?", (patient, number, study))
        for series, _, encoding, kept in execute(_OF_STUDY, (study,)).fetchall():
            values = _values(encoding, kept)
            is_coerced = alias.concerns(values) and alias.overlaid(values) is not values
            execute("UPDATE series SET coerced = ? WHERE id = ?", (number if is_coerced else 0, series))


def _patient_row(connection: sqlite3.Connection, identity: Identity) -> int:
    """The row of a patient, found or made; what it says is filled in by _make_again."""
    row = connection.execute(f"SELECT id FROM patient WHERE {_IDENTIFIED}", identity).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO patient (patient_id, issuer_of_patient_id) VALUES (?, ?) RETURNING id", identity
        ).fetchone()
    return int(row[0])


def _make_again(connection: sqlite3.Connection, patient: int) -> None:
    """Have a patient say what the first objects of its series say, as their aliases have it; or remove it."""
    execute = connection.execute
    row = execute(f"SELECT {', '.join(_COLUMNS)} FROM patient WHERE id = ?", (patient,)).fetchone()
    series = execute(_OF_PATIENT, (patient,)).fetchall()
    if row is None or not series:
        execute("DELETE FROM patient WHERE id = ?", (patient,))
        return
    identity = identity_of(row)
    aliases: dict[int, Alias] = {}
    made: dict[str, Value] = dict(zip(("patient_id", "issuer_of_patient_id"), identity, strict=True))
    for _, number, encoding, kept in series:
        values = _values(encoding, kept)
        if number:
            alias = aliases.get(number) or _alias(connection, number)
            aliases[number] = alias
            values = alias.overlaid(values) if alias.concerns(values) else values
        if identity_of(values) != identity:
            continue  # it names nobody, or somebody else than its study does
        for name, value in zip(_COLUMNS, values, strict=True):
            made[name] = made.get(name) or value
    assignments = ", ".join(f"{name} = ?" for name in made)
    execute(f"UPDATE patient SET {assignments} WHERE id = ?", (*made.values(), patient))
    execute(
        "UPDATE patient SET (n_studies, n_series) = (SELECT count(*), coalesce(sum(n_series), 0)"
        " FROM study WHERE patient_fk = patient.id) WHERE id = ?",
        (patient,),
    )


def _alias(connection: sqlite3.Connection, number: int) -> Alias:
    row = connection.execute(f"SELECT {ALIAS_COLUMNS} FROM patient_alias WHERE id = ?", (number,)).fetchone()
    return Alias.of(row)


def _values(encoding: int, kept: bytes) -> Values:
    """What an object says of its patient, by its kept header."""
    data = restored(kept)
    try:
        return patient_values(scan(data, ENCODINGS[encoding], len(data), _WANTED))
    except CannotUnderstand:  # it was read once, at ingest
        return ("",) * len(_COLUMNS)
