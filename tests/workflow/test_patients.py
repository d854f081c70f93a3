"""What is decided about patients, how it is undone, and how an archive follows."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from pacsnode.archive.archive import Archive, ArchiveOptions
from pacsnode.archive.instance import IncomingRequest
from pacsnode.dicom.uid import UID
from pacsnode.errors import PatientRefused
from pacsnode.workflow.database import Database
from pacsnode.workflow.patients import Patients
from pacsnode.workflow.reconciled import Identity
from tests.support.objects import ROOT, Made, made
from tests.support.raw import CT_IMAGE

A, B, C = Identity("A", ""), Identity("B", ""), Identity("C", "")


def an_object(study: int, patient: str, name: str = "", series: int = 1, **values: str) -> Made:
    """The only object of a series."""
    return made(1, study=study, series=series, PatientID=patient, PatientName=name, **values)


@dataclass
class Scene:
    """An archive with a database beside it, as the node has them."""

    root: Path
    database: Database
    archive: Archive
    patients: Patients

    async def store(self, *objects: Made) -> None:
        for one in objects:
            syntax, title = UID("1.2.840.10008.1.2.1"), "TEST"
            request = IncomingRequest(UID(CT_IMAGE), UID(one.sop), syntax, title, title)
            incoming = self.archive.begin(request)
            incoming.write(memoryview(one.data))
            await self.archive.store(incoming)

    async def update(self, patient: Identity, **told: str) -> int | None:
        async with self.patients.transaction() as transaction:
            number = await self.patients.update(transaction, patient, told, "test")
        await self.patients.follow()
        return number

    async def merge(self, prior: Identity, patient: Identity, **told: str) -> int | None:
        async with self.patients.transaction() as transaction:
            number = await self.patients.merge(transaction, prior, patient, told, "test")
        await self.patients.follow()
        return number

    async def undo(self, number: int | None) -> None:
        assert number is not None
        async with self.patients.transaction() as transaction:
            await self.patients.undo(transaction, number, "test")
        await self.patients.follow()

    def index(self) -> dict[str, object]:
        """Whose the studies are, and all that is said of patients; without the numbers of rows."""
        with closing(sqlite3.connect(self.root / "index.sqlite")) as connection:
            connection.row_factory = sqlite3.Row
            patients = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM patient")}
            studies = connection.execute(
                "SELECT study_instance_uid, patient_fk FROM study ORDER BY 1"
            ).fetchall()
            found = connection.execute(
                "SELECT rowid FROM name_trigrams UNION SELECT rowid FROM name_words"
            ).fetchall()
        assert {row[0] for row in found} <= patients.keys(), "full-text rows of patients there are not"
        for row in patients.values():
            del row["id"]
        return {uid.removeprefix(f"{ROOT}."): patients[number] for uid, number in studies} | {
            "patients": sorted(map(str, patients.values()))
        }

    def said(self) -> dict[str, tuple[str, str]]:
        """Patient ID and name by study."""
        return {
            uid: (row["patient_id"], row["patient_name"])
            for uid, row in self.index().items()
            if isinstance(row, dict)
        }

    def coerced(self) -> list[str]:
        """The studies whose objects are changed when they leave."""
        with closing(sqlite3.connect(self.root / "index.sqlite")) as connection:
            rows = connection.execute(
                "SELECT study_instance_uid FROM study JOIN series ON study_fk = study.id WHERE coerced > 0"
            )
            return sorted(uid.removeprefix(f"{ROOT}.") for (uid,) in rows)


async def _open(root: Path) -> Scene:
    archive = await Archive.open(root, ArchiveOptions(sync="none", reserve=0))
    database = await Database.open(root)
    patients = Patients(database, archive.index, "PACSNODE", archive)
    await patients.follow()
    return Scene(root, database, archive, patients)


def _lose(root: Path) -> None:
    for path in root.glob("workflow.sqlite*"):
        path.unlink()


async def _close(scene: Scene) -> None:
    await scene.database.close()
    await scene.archive.close()


@pytest_asyncio.fixture
async def scene(root: Path) -> AsyncIterator[Scene]:
    opened = await _open(root)
    yield opened
    await _close(opened)


async def test_an_update_is_answered_and_undone_exactly(scene: Scene) -> None:
    await scene.store(an_object(1, "A", "Old^Name", OtherPatientNames="Other"), an_object(2, "B", "B"))
    before = scene.index()
    number = await scene.update(A, PatientName="Müller^Zoë", PatientSex="F")
    assert scene.said() == {"1": ("A", "Müller^Zoë"), "2": ("B", "B")}
    row = scene.index()["1"]
    assert isinstance(row, dict)
    assert (row["patient_name_key"], row["patient_sex"]) == ("müller^zoë", "F")
    assert "MLR" in str(row["patient_name_words"])
    assert scene.coerced() == ["1"]
    await scene.undo(number)
    assert scene.index() == before
    assert scene.coerced() == []


async def test_a_merge_takes_name_and_birth_date_of_the_other_and_is_undone_exactly(scene: Scene) -> None:
    await scene.store(
        an_object(1, "A", "Wrong^Name", EthnicGroup="x"),
        an_object(2, "A", "Wrong^Name"),
        an_object(3, "B", "Right^Name", PatientBirthDate="19700102"),
    )
    before = scene.index()
    number = await scene.merge(A, B)
    assert set(scene.said().values()) == {("B", "Right^Name")}
    row = scene.index()["1"]
    assert isinstance(row, dict)
    assert (row["n_studies"], row["n_series"], row["patient_birth_date"]) == (3, 3, "19700102")
    assert len(scene.index()["patients"]) == 1  # type: ignore[arg-type]
    assert scene.coerced() == ["1", "2"]
    await scene.undo(number)
    assert scene.index() == before


async def test_what_comes_later_is_treated_alike(scene: Scene) -> None:
    """Before anything of the patient is here, too: the usual order in an emergency."""
    await scene.merge(A, B, PatientName="Right^Name")
    await scene.store(an_object(1, "A", "Wrong^Name"), an_object(2, "B", "Wrong^Name"))
    await scene.store(an_object(3, "B", "Right^Name^^"), an_object(4, "C", "C"))
    assert scene.said() == {
        "1": ("B", "Right^Name"),
        "2": ("B", "Right^Name"),
        "3": ("B", "Right^Name"),
        "4": ("C", "C"),
    }
    assert scene.coerced() == ["1", "2"], "what says the right thing leaves as it is"
    await scene.undo(1)
    assert {uid: patient for uid, (patient, _) in scene.said().items()} == {
        "1": "A",
        "2": "B",
        "3": "B",
        "4": "C",
    }


async def test_a_second_series_of_a_study_says_something_else(scene: Scene) -> None:
    await scene.update(A, PatientName="Right^Name")
    await scene.store(an_object(1, "A", "Right^Name"))
    assert scene.coerced() == []
    await scene.store(an_object(1, "A", "Wrong^Name", series=2))
    assert scene.coerced() == ["1"]
    assert scene.said() == {"1": ("A", "Right^Name")}


async def test_a_chain_is_undone_from_its_end(scene: Scene) -> None:
    await scene.store(an_object(1, "A", "a"), an_object(2, "B", "b"), an_object(3, "C", "c"))
    states = [scene.index()]
    first = await scene.merge(A, B)
    states.append(scene.index())
    second = await scene.update(B, PatientName="bb")
    states.append(scene.index())
    third = await scene.merge(B, C)
    assert set(scene.said().values()) == {("C", "c")}
    for number in (first, second):
        with pytest.raises(PatientRefused, match=f"changed again by reconciliation {third}: undo that first"):
            await scene.undo(number)
    for number in (third, second, first):
        await scene.undo(number)
        assert scene.index() == states.pop()
    with pytest.raises(PatientRefused, match="was undone by"):
        await scene.undo(first)
    with pytest.raises(PatientRefused, match="undid"):
        await scene.undo(6)
    with pytest.raises(PatientRefused, match="there is no reconciliation 99"):
        await scene.undo(99)
    assert [entry.undone_by for entry in await scene.patients.history()] == [None, None, None, 4, 5, 6]


async def test_merges_that_cannot_be(scene: Scene) -> None:
    await scene.store(an_object(1, "A", "a"), an_object(2, "B", "b"))
    with pytest.raises(PatientRefused, match="into itself"):
        await scene.merge(A, Identity("A", "HOSP"))
    assert await scene.merge(A, B) == 1
    assert await scene.merge(A, B) is None, "it is so"
    for prior, patient in ((B, A), (A, C), (C, A)):
        with pytest.raises(PatientRefused, match="A was merged into B by reconciliation 1"):
            await scene.merge(prior, patient)
    with pytest.raises(PatientRefused, match="A was merged into B by reconciliation 1"):
        await scene.update(A, PatientName="x")
    assert await scene.update(B, PatientID="Z", IssuerOfPatientID="Z") is None, "that takes a merge"


async def test_issuers(scene: Scene) -> None:
    """Who is told with an issuer means objects without one, until another issuer is known."""
    await scene.store(an_object(1, "A", "a"), an_object(2, "A", "a", IssuerOfPatientID="HOSP"))
    await scene.update(Identity("A", "HOSP"), PatientName="x")
    assert scene.said() == {"1": ("A", "x"), "2": ("A", "x")}
    await scene.store(an_object(3, "A", "somebody", IssuerOfPatientID="ELSEWHERE"))
    await scene.update(Identity("A", "ELSEWHERE"), PatientName="y")
    await scene.update(Identity("A", "HOSP"), PatientName="z")
    assert scene.said() == {"1": ("A", "x"), "2": ("A", "z"), "3": ("A", "y")}


async def test_a_merge_across_issuers(scene: Scene) -> None:
    await scene.store(
        an_object(1, "T1", "temp", IssuerOfPatientID="TEMP"),
        an_object(2, "P9", "Real^Name"),
        an_object(3, "T1"),
    )
    await scene.merge(Identity("T1", "TEMP"), Identity("P9", "HOSP"))
    assert set(scene.said().values()) == {("P9", "Real^Name")}
    assert len(scene.index()["patients"]) == 1  # type: ignore[arg-type]  # one patient, not one an issuer


async def test_an_object_that_names_somebody_else_than_its_study_is_left_alone(scene: Scene) -> None:
    await scene.store(an_object(1, "A", "a"), an_object(1, "X", "x", series=2))
    before = scene.index()
    number = await scene.merge(A, B)
    assert scene.said() == {"1": ("B", "a")}
    await scene.undo(number)
    assert scene.index() == before


async def test_many_patients_without_objects(scene: Scene) -> None:
    """A feed of registrations: followed some at a time."""
    async with scene.patients.transaction() as transaction:
        for number in range(120):
            patient = Identity(f"P{number}", "")
            await scene.patients.update(transaction, patient, {"PatientName": "n"}, "test")
    await scene.patients.follow()
    assert await scene.archive.reconciled_up_to() == 120
    await scene.store(an_object(1, "P77", "old"))
    assert scene.said() == {"1": ("P77", "n")}


async def test_a_rebuilt_index_says_the_same(root: Path) -> None:
    scene = await _open(root)
    await scene.store(*(an_object(number, "ABC"[number % 3], f"name^{number % 3}") for number in range(6)))
    await scene.merge(A, B)
    await scene.undo(await scene.update(C, PatientName="no"))
    await scene.update(B, PatientSex="F")
    await scene.store(an_object(7, "A", "late"))
    before, coerced = scene.index(), scene.coerced()
    await _close(scene)
    await Archive.rebuild(root)
    scene = await _open(root)
    assert (scene.index(), scene.coerced()) == (before, coerced)
    await scene.undo(4)
    await _close(scene)


async def test_another_journal_is_followed_from_its_beginning(root: Path) -> None:
    """workflow.sqlite was lost: the index says again what the files say."""
    scene = await _open(root)
    await scene.store(an_object(1, "A", "a"), an_object(2, "B", "b"))
    before = scene.index()
    await scene.merge(A, B)
    await _close(scene)
    await asyncio.to_thread(_lose, root)
    scene = await _open(root)
    assert scene.index() == before
    assert scene.coerced() == []
    await _close(scene)
