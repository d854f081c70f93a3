"""Patients updated and merged, by HL7 or by hand, and that undone (IHE RAD TF-2 4.12, PIR).

What is decided belongs to the identity, Patient ID and issuer, that objects name. It is journalled here and
followed by the archive: the index answers it, objects are coerced when they leave, later ones too. A new or
rebuilt index follows from the beginning.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import structlog

from pacsnode.archive.archive import Archive
from pacsnode.archive.known_patients import KnownPatient, known_patients
from pacsnode.errors import PatientRefused
from pacsnode.workflow.database import Database, Transaction
from pacsnode.workflow.reconciled import (
    Attributes,
    Change,
    Identity,
    Reconciled,
    Reconciliation,
    write_entry,
    write_reconciled,
)

POLL: Final = 0.5  # seconds between looks for what commands beside the node have decided
AT_ONCE: Final = 50  # identities changed in one transaction of the index; arrivals wait for it
IDENTITY: Final = ("PatientID", "IssuerOfPatientID")
SAME_FOR_ALL: Final = ("PatientName", "PatientBirthDate", "PatientSex")  # in the objects of one patient
NOBODY: Final = Identity("")


class Patients:
    """Decides and journals; with an archive, has it follow."""

    def __init__(self, database: Database, index: Path, system: str, archive: Archive | None = None) -> None:
        """`index` is the file that knows the patients; `system` the AE title that objects will tell."""
        self._database = database
        self._index = index
        self._system = system
        self._archive = archive
        self._followed = -1
        self._following = asyncio.Lock()
        self._log = structlog.get_logger()

    # Deciding

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction for one decision; see Database.transaction."""
        return self._database.transaction()

    async def update(
        self, transaction: Transaction, patient: Identity, told: Mapping[str, str], source: str
    ) -> int | None:
        """Give a patient other attributes, by keyword; returns the number in the journal.

        None when nothing changes. Raises PatientRefused, ArchiveError.
        """
        mine = await self._identities(transaction, patient, await self._known(patient))
        attributes = _demographics(told)
        changes = [_changed(one, one.attributes | attributes) for one in mine]
        return await self._journal(transaction, "update", patient, NOBODY, attributes, changes, source)

    async def merge(
        self,
        transaction: Transaction,
        prior: Identity,
        patient: Identity,
        told: Mapping[str, str],
        source: str,
    ) -> int | None:
        """Have the patient `prior` be `patient`, whose attributes may be told; otherwise as update()."""
        if prior.may_be(patient):
            raise PatientRefused(
                f"{prior} cannot be merged into itself", "a patient cannot be merged into itself"
            )
        known = await self._known(patient)
        merged = await self._row(transaction, prior)
        if merged is not None and merged.has_moved and merged.current.may_be(patient):
            return None  # it was told before
        surviving = await self._identities(transaction, patient, known)
        ending = await self._identities(transaction, prior, await self._known(prior))
        attributes = _demographics(told)
        said: Attributes = {}
        for one in known:
            if Identity(one.patient_id, one.issuer).may_be(patient):
                said = _same_for_all(one.attributes) | said
        for row in surviving:
            said |= _demographics(row.attributes)
        changes = []
        for row in ending:
            target = _target(row.received, patient, known)
            new = row.attributes | said | attributes | dict(zip(IDENTITY, target, strict=True))
            changes.append(_changed(row, new))
        changes += [_changed(row, row.attributes | attributes) for row in surviving]
        return await self._journal(transaction, "merge", patient, prior, attributes, changes, source)

    async def undo(self, transaction: Transaction, number: int, source: str) -> int:
        """Have everything be as before an update or merge; returns the number. Raises PatientRefused."""
        entry = await _entry(transaction, number)
        if entry is None:
            raise _refused(f"there is no reconciliation {number}")
        if entry.kind == "undo":
            raise _refused(f"reconciliation {number} undid {entry.undoes}: do that again instead")
        if entry.undone_by is not None:
            raise _refused(f"reconciliation {number} was undone by {entry.undone_by}")
        for change in entry.changes:
            row = await self._row(transaction, change.received)
            if row is None or row.decided_by != number:
                later = "" if row is None else f" by reconciliation {row.decided_by}: undo that first"
                raise PatientRefused(f"{change.received} was changed again{later}", f"changed again{later}")
        back = tuple(Change(one.received, one.after, one.before, number) for one in entry.changes)
        undoing = Reconciliation(
            0, "undo", entry.patient, entry.prior, {}, back, source, time.time(), number, None
        )
        made = await write_entry(transaction, undoing)
        await transaction.execute("UPDATE reconciliation SET undone_by = ? WHERE id = ?", (made, number))
        for change in entry.changes:
            decided_by = change.decided_before_by
            former = await _entry(transaction, decided_by)
            await self._write(
                transaction, change.received, change.before, decided_by, made, former.at if former else 0.0
            )
        return made

    async def _journal(
        self,
        transaction: Transaction,
        kind: str,
        patient: Identity,
        prior: Identity,
        told: Attributes,
        changes: Iterable[Change],
        source: str,
    ) -> int | None:
        real = tuple(change for change in changes if change.after != change.before)
        if not real:
            return None
        entry = Reconciliation(0, kind, patient, prior, told, real, source, time.time(), None, None)
        number = await write_entry(transaction, entry)
        for change in real:
            await self._write(transaction, change.received, change.after, number, number, entry.at)
        return number

    async def _write(
        self,
        transaction: Transaction,
        received: Identity,
        attributes: Attributes,
        decided_by: int,
        sequence: int,
        at: float,
    ) -> None:
        current = Identity(*(attributes.get(key, old) for key, old in zip(IDENTITY, received, strict=True)))
        row = Reconciled(0, received, current, attributes, self._system, at, decided_by, sequence)
        await write_reconciled(transaction, row)

    # Who is meant

    async def _known(self, patient: Identity) -> list[KnownPatient]:
        return await asyncio.to_thread(known_patients, self._index, patient.patient_id)

    async def _identities(
        self, transaction: Transaction, patient: Identity, known: Iterable[KnownPatient]
    ) -> list[Reconciled]:
        """The identities that objects of a patient have or may come with. Raises PatientRefused.

        With and without the issuer, as long as one issuer only is known for the ID: with several nobody can
        tell whom an object means that has none.
        """
        own = await self._row(transaction, patient)
        if own is not None and own.has_moved:
            by = f"by reconciliation {own.decided_by}"
            raise PatientRefused(
                f"{patient} was merged into {own.current} {by}", f"the patient was merged into another {by}"
            )
        rows = await transaction.fetch(
            "SELECT * FROM reconciled_patient WHERE patient_id = ?1 OR current_patient_id = ?1",
            (patient.patient_id,),
        )
        found = [Reconciled.of(row) for row in rows]
        issuers = {one.issuer for one in known}
        issuers |= {row.received.issuer for row in found if row.received.patient_id == patient.patient_id}
        issuers = {*issuers, patient.issuer} - {""}
        wanted = {patient}
        if len(issuers) == 1:
            wanted |= {Identity(patient.patient_id, ""), Identity(patient.patient_id, *issuers)}
        mine = {row.received: row for row in found if row.current in wanted}
        moved = {row.received for row in found if row.has_moved}
        for identity in wanted - moved - mine.keys():
            mine[identity] = Reconciled(0, identity, identity, {}, "", 0.0, 0, 0)
        return sorted(mine.values(), key=lambda row: row.received)

    @staticmethod
    async def _row(transaction: Transaction, received: Identity) -> Reconciled | None:
        rows = await transaction.fetch(
            "SELECT * FROM reconciled_patient WHERE patient_id = ? AND issuer_of_patient_id = ?", received
        )
        return Reconciled.of(rows[0]) if rows else None

    # Looking

    async def is_known(self, patient: Identity) -> bool:
        """Whether the index has a patient, or something was decided about it."""
        known = await self._known(patient)
        if any(Identity(one.patient_id, one.issuer).may_be(patient) for one in known):
            return True
        rows = await self._database.fetch(
            "SELECT * FROM reconciled_patient WHERE patient_id = ?", (patient.patient_id,)
        )
        return any(Reconciled.of(row).received.may_be(patient) for row in rows)

    async def current(self, patient_id: str = "") -> list[Reconciled]:
        """What is to be said otherwise than objects do; of one patient, under the old or the new ID."""
        rows = await self._database.fetch(
            "SELECT * FROM reconciled_patient WHERE attributes <> '{}'"
            " AND (?1 = '' OR patient_id = ?1 OR current_patient_id = ?1) ORDER BY decided_by, id",
            (patient_id,),
        )
        return [Reconciled.of(row) for row in rows]

    async def history(self, patient_id: str = "", limit: int = 100) -> list[Reconciliation]:
        """The journal, newest first; of one patient, under the old or the new ID."""
        rows = await self._database.fetch(
            "SELECT * FROM reconciliation WHERE ?1 = '' OR patient_id = ?1 OR prior_patient_id = ?1"
            " ORDER BY id DESC LIMIT ?2",
            (patient_id, limit),
        )
        return [Reconciliation.of(row) for row in rows]

    # Following

    async def follow(self) -> None:
        """Have the archive do what was decided; when this returns it answers so. Raises sqlite3.Error, ..."""
        if self._archive is None:
            return
        async with self._following:
            newest = (await self._database.fetch("SELECT coalesce(max(id), 0) FROM reconciliation"))[0][0]
            if newest == self._followed:
                return
            follows = await self._archive.reconciled_up_to()
            if follows < newest:
                await self._follow_from(self._archive, follows, newest)
            elif follows > newest:  # workflow.sqlite is another one than the index followed
                rows = await self._database.fetch("SELECT * FROM reconciled_patient")
                aliases = [alias for row in rows if (alias := Reconciled.of(row).alias).attributes]
                await self._archive.change_aliases(aliases, newest, only=True)
            self._followed = newest

    async def _follow_from(self, archive: Archive, follows: int, newest: int) -> None:
        rows = await self._database.fetch(
            "SELECT * FROM reconciled_patient WHERE sequence > ? ORDER BY sequence, id", (follows,)
        )
        found = [Reconciled.of(row) for row in rows]
        for start in range(0, len(found), AT_ONCE):
            some = found[start : start + AT_ONCE]
            is_last = start + AT_ONCE >= len(found)
            done = newest if is_last else some[-1].sequence - 1
            await archive.change_aliases([row.alias for row in some], done)
        if not found:
            await archive.change_aliases((), newest)
        self._log.info("patient.reconciled", up_to=newest, identities=len(found))

    async def run(self) -> None:
        """Follow what other processes decide, and what could not be followed at once."""
        version = -1
        while True:
            if (now := await self._database.version()) != version or self._followed < 0:
                await self.follow()
                version = now
            await asyncio.sleep(POLL)


async def _entry(transaction: Transaction, number: int) -> Reconciliation | None:
    rows = await transaction.fetch("SELECT * FROM reconciliation WHERE id = ?", (number,))
    return Reconciliation.of(rows[0]) if rows else None


def _refused(reason: str) -> PatientRefused:
    return PatientRefused(reason, reason)


def _changed(row: Reconciled, attributes: Attributes) -> Change:
    return Change(row.received, row.attributes, attributes, row.decided_by)


def _demographics(attributes: Mapping[str, str]) -> Attributes:
    """Without the identity, which only a merge changes."""
    return {keyword: value for keyword, value in attributes.items() if keyword not in IDENTITY}


def _same_for_all(attributes: Mapping[str, str]) -> Attributes:
    """What objects take over from the patient they are merged into, where that says it."""
    return {keyword: attributes[keyword] for keyword in SAME_FOR_ALL if attributes.get(keyword)}


def _target(received: Identity, patient: Identity, known: Iterable[KnownPatient]) -> Identity:
    """The identity that objects get in a merge: one the index has, with an issuer where they have one."""
    there = {Identity(one.patient_id, one.issuer) for one in known}
    plain = Identity(patient.patient_id)
    wanted = (patient, plain) if received.issuer else (plain, patient)
    return next((identity for identity in wanted if identity in there), wanted[0])
