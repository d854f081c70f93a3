"""archive.writer, index and parents: what the rows say, however the objects came."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pacsnode.archive.archive import Archive
from pacsnode.archive.files import Layout
from pacsnode.archive.index import Index
from pacsnode.archive.instance import SMALL, Outcome
from pacsnode.archive.reconcile import verify
from pacsnode.dicom.uid import UID
from pacsnode.errors import OutOfResources
from tests.archive.conftest import OpenArchive, receive, store
from tests.support.objects import data_set_bytes, incoming, made, object_path, stored_files
from tests.support.waiting import eventually

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"

# What the counts and lists have to be, told by the rows themselves.
RECOUNTED = {
    "series": "SELECT id, (SELECT count(*) FROM instance WHERE series_fk = series.id) FROM series",
    "study": "SELECT id, (SELECT count(*) FROM series WHERE study_fk = study.id) FROM study",
    "patient": "SELECT id, (SELECT count(*) FROM study WHERE patient_fk = patient.id),"
    " (SELECT count(*) FROM series JOIN study ON study.id = study_fk WHERE patient_fk = patient.id)"
    " FROM patient",
}
KEPT_COUNTS = {
    "series": "SELECT id, n_instances FROM series",
    "study": "SELECT id, n_series FROM study",
    "patient": "SELECT id, n_studies, n_series FROM patient",
}


def rows(root: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(root / "index.sqlite")) as connection:
        return connection.execute(sql).fetchall()


def assert_counts_are_right(root: Path) -> None:
    for table, recount in RECOUNTED.items():
        assert sorted(rows(root, KEPT_COUNTS[table])) == sorted(rows(root, recount)), table
    for study, modalities, sop_classes in rows(root, "SELECT id, modalities, sop_classes FROM study"):
        found = rows(
            root, f"SELECT DISTINCT modality FROM series WHERE study_fk = {study} AND modality <> ''"
        )
        assert modalities == "\\".join(sorted(str(modality) for (modality,) in found))
        found = rows(
            root,
            "SELECT DISTINCT sop_class_uid FROM instance JOIN series ON series.id = series_fk"
            f" WHERE study_fk = {study}",
        )
        assert sop_classes == "\\".join(sorted(str(sop_class) for (sop_class,) in found))
    assert rows(root, "SELECT id FROM instance EXCEPT SELECT instance_id FROM header") == []
    assert rows(root, "SELECT instance_id FROM header EXCEPT SELECT id FROM instance") == []


@pytest.mark.parametrize("policy", ["keep", "replace"])
async def test_counts_and_lists_equal_a_recount(open_archive: OpenArchive, root: Path, policy: str) -> None:
    async def send(archive: Archive, number: int) -> None:
        series = number % 3 + 1
        mr = series == 3
        await store(
            archive,
            made(
                number % 50 + 1,
                study=number % 4 + 1,
                series=series,
                pixels=64 + 2 * (number % 5),
                Modality="MR" if mr else "CT",
                SOPClassUID=MR_IMAGE if mr else "1.2.840.10008.5.1.4.1.1.2",
                PatientID=f"P{number % 4 % 2}",
            ),
            sop_class=MR_IMAGE if mr else "1.2.840.10008.5.1.4.1.1.2",
        )

    for _ in range(2):  # the second time with nothing remembered
        async with open_archive(duplicates=policy, workers=4) as archive:
            await asyncio.gather(*(send(archive, number) for number in range(120)))
        assert_counts_are_right(root)


async def test_one_bad_arrival_does_not_spoil_its_group(
    archive: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Index.add_instance

    def fragile(self: Index, token: int, row: object) -> None:
        if row.sop_instance == made(5).sop:  # type: ignore[attr-defined]
            raise sqlite3.OperationalError("database or disk is full")
        add(self, token, row)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "add_instance", fragile)
    results = await asyncio.gather(
        *(store(archive, made(number)) for number in range(1, 11)), return_exceptions=True
    )
    assert [type(result) for result in results].count(OutOfResources) == 1
    assert isinstance(results[4], OutOfResources)
    assert len(list(stored_files(root))) == 9
    assert incoming(root) == []
    assert_counts_are_right(root)


async def test_an_index_that_somebody_holds_refuses_a_group_at_once(
    archive: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive._writer._index._connection.execute("PRAGMA busy_timeout = 300")
    with (
        closing(sqlite3.connect(root / "index.sqlite", isolation_level=None)) as other,
        capture_logs() as logs,
    ):
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            *(store(archive, made(number)) for number in range(1, 31)), return_exceptions=True
        )
        other.execute("ROLLBACK")
    assert {type(result) for result in results} == {OutOfResources}
    failures = [log for log in logs if log["event"] == "index.failed"]
    assert len(failures) < 10, "not one after the other"
    assert incoming(root) == []
    assert (await store(archive, made(1))).outcome is Outcome.STORED


async def test_a_damaged_index_refuses_and_says_what_to_do(
    archive: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = sqlite3.DatabaseError("database disk image is malformed")
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def damaged(*_: object) -> None:
        raise damage

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(Index, "begin", damaged)
        with pytest.raises(OutOfResources):
            await store(archive, made(1))
    assert [log["event"] for log in logs] == ["index.failed"]
    assert "`pacsnode index rebuild`" in logs[0]["error"]


async def test_a_rename_that_fails_is_done_by_the_next_group(
    archive: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: object, source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr("pacsnode.archive.files.Layout.place", failing)
        assert (await store(archive, made(1, pixels=SMALL))).outcome is Outcome.STORED
    assert [log["event"] for log in logs] == ["instance.unsettled"]
    assert len(incoming(root)) == 1
    await store(archive, made(2))
    assert incoming(root) == []
    assert len(list(stored_files(root))) == 2


@pytest.mark.parametrize("pixels", [64, SMALL])
async def test_what_cannot_leave_its_place_is_not_written_over(
    open_archive: OpenArchive, root: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    move = Layout.move

    def failing(self: Layout, source: str, target: str) -> None:
        if target.startswith("conflicts/"):
            raise OSError(28, "No space left on device")
        move(self, source, target)

    versions = [made(1, pixels=pixels + more) for more in (0, 2, 4)]
    async with open_archive(duplicates="replace", sync="file") as archive:
        await store(archive, versions[0])
        with monkeypatch.context() as patched:
            patched.setattr(Layout, "move", failing)
            for version in versions[1:]:
                assert (await store(archive, version)).outcome is Outcome.REPLACED
        await store(archive, made(2))
        await eventually(lambda: not incoming(root), "what waited has its place")
    assert verify(root, deep=True).agrees
    assert data_set_bytes(object_path(root, made(1))) == versions[2].data
    assert sorted(len(data_set_bytes(aside)) for aside in (root / "conflicts").iterdir()) == [
        len(version.data) for version in versions[:2]
    ]


async def test_a_replaced_object_that_somebody_removed_holds_nothing_up(
    open_archive: OpenArchive, root: Path
) -> None:
    async with open_archive(duplicates="replace") as archive:
        stored = await store(archive, made(1))
        (root / stored.path).unlink()
        await store(archive, made(1, pixels=66))
        await store(archive, made(2, pixels=SMALL))
    assert incoming(root) == []
    assert data_set_bytes(root / stored.path) == made(1, pixels=66).data


@pytest.mark.parametrize("pixels", [64, SMALL])
@pytest.mark.parametrize(("damage", "sync"), [("gone", "none"), ("gone", "file"), ("cut", "none")])
async def test_an_object_whose_file_was_lost_comes_back_when_it_is_sent_again(
    open_archive: OpenArchive, root: Path, pixels: int, damage: str, sync: str
) -> None:
    item = made(1, pixels=pixels)
    uids = (UID(item.study), UID(item.series), UID(item.sop))
    async with open_archive(sync=sync) as archive:
        stored = await store(archive, item)
        file = root / stored.path
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-1])
        assert await archive.lookup.one(uids) is not None
        with capture_logs() as logs:
            again = await asyncio.gather(*(store(archive, item, source_ae="ANOTHER") for _ in range(3)))
        assert Outcome.RESTORED in [one.outcome for one in again]
        assert "instance.restored" in [log["event"] for log in logs]
        held = await archive.lookup.one(uids)
        assert held is not None
        assert held.located.size == file.stat().st_size, "its File Meta names another sender"
        assert (await store(archive, item)).outcome is Outcome.DUPLICATE
    assert incoming(root) == []
    assert data_set_bytes(file) == item.data
    assert [problem.path for problem in verify(root, deep=True).problems if "objects" in problem.path] == []
    assert_counts_are_right(root)


@pytest.mark.parametrize("pixels", [64, SMALL])
async def test_what_is_left_of_a_file_that_comes_again_is_not_kept(
    open_archive: OpenArchive, root: Path, pixels: int
) -> None:
    """A `pacsnode index rebuild` would take half an object for another one."""
    item = made(1, pixels=pixels)
    async with open_archive() as archive:
        file = root / (await store(archive, item)).path
        file.write_bytes(file.read_bytes()[:-1])
        assert (await store(archive, item)).outcome is Outcome.RESTORED
    assert list((root / "conflicts").iterdir()) == []
    assert verify(root, deep=True).agrees


async def test_a_study_under_another_patient_is_stored_and_logged_once(archive: Archive, root: Path) -> None:
    await store(archive, made(1, PatientID="FIRST"))
    with capture_logs() as logs:
        for number in (2, 3, 4):
            await store(archive, made(number, PatientID="SECOND", InstanceNumber=number))
    assert [(log["event"], log["log_level"], log["attributes"]) for log in logs] == [
        ("study.conflict", "warning", ("PatientID",))
    ]
    assert not any("FIRST" in str(log) or "SECOND" in str(log) for log in logs)
    assert rows(root, "SELECT patient_id, n_instances FROM patient, series") == [("FIRST", 4)]


async def test_the_issuer_makes_another_patient(archive: Archive, root: Path) -> None:
    await store(archive, made(1, study=1, PatientID="1", IssuerOfPatientID="A"))
    await store(archive, made(1, study=2, PatientID="1", IssuerOfPatientID="B"))
    await store(archive, made(1, study=3, PatientID="1", IssuerOfPatientID="A"))
    assert sorted(rows(root, "SELECT issuer_of_patient_id, n_studies FROM patient")) == [("A", 2), ("B", 1)]


async def test_strangers_without_an_id_are_not_merged(archive: Archive, root: Path) -> None:
    for study in (1, 2):
        await store(archive, made(1, study=study, PatientID="", PatientName=f"Doe^{study}"))
    assert len(rows(root, "SELECT * FROM patient")) == 2


async def test_a_stranger_is_recognised_when_the_id_comes(archive: Archive, root: Path) -> None:
    await store(archive, made(1, study=9, PatientID="KNOWN"))
    await store(archive, made(1, PatientID=""))
    await store(archive, made(2, PatientID="KNOWN"))
    assert rows(root, "SELECT patient_id, n_studies, n_series FROM patient") == [("KNOWN", 2, 2)]
    assert_counts_are_right(root)


async def test_what_was_empty_is_filled_by_a_later_instance(archive: Archive, root: Path) -> None:
    await store(archive, made(1, StudyDescription="", ReferringPhysicianName="", Modality=""))
    await store(
        archive, made(2, StudyDescription="Chest", ReferringPhysicianName="Ref^Doctor", Modality="CT")
    )
    await store(archive, made(3, StudyDescription=""))
    assert rows(
        root,
        "SELECT study_description, referring_physician_name, referring_physician_name_key, modalities"
        " FROM study",
    ) == [("Chest", "Ref^Doctor", "ref^doctor", "CT")]


async def test_the_first_value_stays_when_two_differ(archive: Archive, root: Path) -> None:
    await store(archive, made(1, StudyDescription="First", SeriesDescription="One"))
    with capture_logs() as logs:
        await store(archive, made(2, StudyDescription="Second", SeriesDescription="Two"))
    assert rows(root, "SELECT study_description, series_description FROM study, series") == [("First", "One")]
    assert [log["attributes"] for log in logs] == [("StudyDescription", "SeriesDescription")]


async def test_a_series_uid_in_two_studies_is_two_series(archive: Archive, root: Path) -> None:
    await store(archive, made(1, study=1, SeriesInstanceUID="1.2.3"))
    await store(archive, made(1, study=2, SeriesInstanceUID="1.2.3"))
    assert rows(root, "SELECT series_instance_uid, n_instances FROM series") == [("1.2.3", 1)] * 2


async def test_text_is_kept_as_unicode_and_numbers_as_numbers(archive: Archive, root: Path) -> None:
    await store(
        archive,
        made(1, SpecificCharacterSet="ISO_IR 126", PatientName="Διονυσιος", Rows=512, NumberOfFrames="1"),
    )
    assert rows(root, "SELECT patient_name, patient_name_key FROM patient") == [("Διονυσιος", "διονυσιοσ")]
    assert rows(root, "SELECT rows, number_of_frames, image_type FROM instance") == [(512, "1", "")]


async def test_more_arrivals_than_one_group_takes(archive: Archive, root: Path) -> None:
    arriving = [receive(archive, made(number)) for number in range(1, 301)]
    await asyncio.gather(*(archive.store(instance) for instance in arriving))
    assert rows(root, "SELECT n_instances FROM series") == [(300,)]
    assert_counts_are_right(root)
