"""What objects are to say of their patient since it was updated or merged (IHE RAD PIR).

An alias belongs to the Patient ID and issuer that objects name. Files stay as they came: the index follows
the alias (archive.patients), and the objects are coerced when they leave. Aliases are copies of what
workflow.patients has decided; they come again after a rebuild.
"""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from pacsnode.archive.locate import Located
from pacsnode.archive.readers import Readers
from pacsnode.archive.rows import Value, Values, column_names
from pacsnode.dicom.fuzzy import name_words
from pacsnode.dicom.information_model import Level
from pacsnode.dicom.patient import PATIENT_ATTRIBUTES, Coercion, says_the_same
from pacsnode.dicom.text import person_name_key
from pacsnode.errors import OutOfResources

REMEMBERED: Final = 1000  # aliases
ALIAS_COLUMNS: Final = "id, patient_id, issuer_of_patient_id, attributes, system, changed_at"

_COLUMNS: Final = column_names(Level.PATIENT)
_POSITION: Final = {keyword: position for position, keyword in enumerate(PATIENT_ATTRIBUTES)}
_PATIENT_ID: Final = _POSITION["PatientID"]
_ISSUER: Final = _POSITION["IssuerOfPatientID"]
# The alias of an instance as it is now: what was located before may have been changed meanwhile
_OF_INSTANCE: Final = (
    "SELECT a.id, a.patient_id, a.issuer_of_patient_id, a.attributes, a.system, a.changed_at"
    " FROM instance i JOIN series s ON s.id = i.series_fk JOIN patient_alias a ON a.id = s.coerced"
    " WHERE i.id = ?"
)

Identity = tuple[Value, Value]
"""Patient ID and its issuer."""


@dataclass(frozen=True, slots=True)
class Alias:
    """Objects that name the patient `patient_id` of `issuer` are to have `attributes`, by keyword.

    Without attributes: they stay as they came. An `id` never means anything else again. `system`: the AE
    title that decided it, at `changed_at`, in seconds since the epoch.
    """

    id: int
    patient_id: str
    issuer: str
    attributes: Mapping[str, str]
    system: str
    changed_at: float

    @classmethod
    def of(cls, row: tuple[int, str, str, str, str, float]) -> Self:
        """An alias of its ALIAS_COLUMNS."""
        number, patient_id, issuer, attributes, system, changed_at = row
        return cls(number, patient_id, issuer, json.loads(attributes), system, changed_at)

    @property
    def identity(self) -> tuple[str, str]:
        """The Patient ID and issuer the objects are to have."""
        get = self.attributes.get
        return get("PatientID", self.patient_id), get("IssuerOfPatientID", self.issuer)

    @property
    def coercion(self) -> Coercion:
        """What is done to its objects when they leave; the same whenever it is done."""
        moment = datetime.fromtimestamp(self.changed_at, UTC).strftime("%Y%m%d%H%M%S.%f%z")
        attributes = tuple(sorted(self.attributes.items()))
        return Coercion(self.patient_id, self.issuer, attributes, moment, self.system)

    def concerns(self, patient: Values) -> bool:
        """Whether it is for an object that says this of its patient; a study may hold others."""
        return identity_of(patient) == (self.patient_id, self.issuer)

    def overlaid(self, patient: Values) -> Values:
        """The columns of a patient as they are to be; the same object when nothing changes."""
        told: list[Value] = list(patient)
        changed = False
        for keyword, value in self.attributes.items():
            attribute, position = PATIENT_ATTRIBUTES[keyword], _POSITION[keyword]
            if says_the_same(attribute.vr, str(told[position]), value):
                continue
            changed = True
            told[position] = value
            if attribute.key_column is not None and attribute.words_column is not None:
                told[_COLUMNS.index(attribute.key_column)] = person_name_key(value) if value else ""
                told[_COLUMNS.index(attribute.words_column)] = name_words(value) if value else ""
        return tuple(told) if changed else patient


def identity_of(patient: Values) -> Identity:
    return patient[_PATIENT_ID], patient[_ISSUER]


class Aliases:
    """Aliases of located instances, for those who send them."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._remembered: OrderedDict[int, Alias] = OrderedDict()

    async def of(self, located: Located) -> Alias | None:
        """How an instance is coerced; None when it goes as it is. Raises OutOfResources."""
        if not located.coerced:
            return None
        alias = self._remembered.get(located.coerced)
        if alias is None:
            alias = await self._find(located)
            if alias is None:
                return None  # undone since it was located
            self._remembered[alias.id] = alias
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return alias

    async def _find(self, located: Located) -> Alias | None:
        rows = await self._fetch(_OF_INSTANCE, (located.token,))
        return Alias.of(rows[0]) if rows else None  # type: ignore[arg-type]  # its columns

    async def sequence(self) -> int:
        """What was told with the last change; 0 in a new index. Raises OutOfResources."""
        rows = await self._fetch("SELECT sequence FROM reconciliation", ())
        return int(rows[0][0]) if rows else 0

    async def _fetch(self, sql: str, parameters: tuple[int, ...]) -> list[tuple[str | int | float, ...]]:
        connection = await self._readers.acquire()
        usable = False
        try:
            rows = list(await connection.execute_fetchall(sql, parameters))
            usable = True
        except sqlite3.Error as error:
            raise OutOfResources(f"the index cannot be read: {error}") from error
        finally:
            self._readers.release(connection, usable=usable)
        return [tuple(row) for row in rows]
