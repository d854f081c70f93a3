"""Every real object at hand, sent byte for byte: what is stored, indexed and answered is what was sent."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread

from pacsnode.node import Node
from tests.conftest import real_objects, settings_for
from tests.support.objects import (
    Part10,
    data_set_bytes,
    digests,
    identifier,
    incoming,
    object_path,
    part10,
    read_data_set,
)
from tests.support.raw import EXPLICIT, PATIENT_ROOT_FIND, STUDY_ROOT_FIND, RawPeer
from tests.support.sending import send_files
from tests.support.truth import REFUSED, Truth
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]


@dataclass
class Archive:
    """A node that was sent everything, with the statuses it answered."""

    root: Path
    port: int
    truth: Truth
    sent: list[Part10] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def find(self, level: str, sop_class: str = STUDY_ROOT_FIND, **keys: object) -> list[Dataset]:
        async with await RawPeer.associated(self.port, (sop_class, [EXPLICIT])) as peer:
            replies = await peer.find(identifier(level, **keys), sop_class=sop_class)
            await peer.release()
        assert replies.pop().status == 0x0000
        return [read_data_set(reply.data) for reply in replies]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Archive]:
    root = tmp_path_factory.mktemp("real") / "root"
    async with Node(settings_for(root)) as node:
        archive = Archive(root, node.dimse_port, Truth.of(real_objects()))
        archive.sent = [part10(path) for path in real_objects()]
        archive.statuses = await send_files(node.dimse_port, archive.sent)
        yield archive


async def test_whole_objects_are_taken_and_damaged_ones_refused(archive: Archive) -> None:
    found = {
        item.path.name: status for item, status in zip(archive.sent, archive.statuses, strict=True) if status
    }
    assert found == {name: status for name, status in REFUSED.items() if name in found}
    assert {"MR_truncated.dcm", "rtplan_truncated.dcm"} <= found.keys()


async def test_the_first_object_of_a_uid_is_stored_byte_for_byte_under_its_uids(archive: Archive) -> None:
    for item in archive.truth.items:
        path = object_path(archive.root, item)
        assert data_set_bytes(path) == item.data, item.path


async def test_no_object_is_lost_where_several_have_one_uid(archive: Archive) -> None:
    taken = {hashlib.sha256(item.data).hexdigest() for item in archive.sent if item.path.name not in REFUSED}
    assert digests(archive.root) == sorted(taken)


async def test_nothing_is_left_in_incoming(archive: Archive) -> None:
    await eventually(lambda: not incoming(archive.root), "incoming/ is empty")


async def test_stored_files_have_a_true_file_meta_information(archive: Archive) -> None:
    for item in archive.truth.items:
        meta = dcmread(object_path(archive.root, item), stop_before_pixels=True).file_meta
        assert meta.MediaStorageSOPClassUID == item.sop_class
        assert meta.MediaStorageSOPInstanceUID == item.sop
        assert meta.TransferSyntaxUID == item.transfer_syntax
        assert meta.SourceApplicationEntityTitle == "RAW"
        assert meta.FileMetaInformationVersion == b"\0\1"


async def test_pydicom_reads_the_same_elements_from_both(archive: Archive) -> None:
    for item in archive.truth.items:
        stored, sent = dcmread(object_path(archive.root, item)), dcmread(item.path)
        assert stored == sent, item.path


async def test_every_instance_is_found_by_its_uids(archive: Archive) -> None:
    wanted = dict.fromkeys(("SOPClassUID", "InstanceNumber", "Rows", "Columns"), "")
    for item in archive.truth.items:
        found = await archive.find(
            "IMAGE",
            StudyInstanceUID=item.study,
            SeriesInstanceUID=item.series,
            SOPInstanceUID=item.sop,
            **wanted,
        )
        assert len(found) == 1, item.path
        assert found[0].SOPInstanceUID == item.sop
        header = archive.truth.headers[item.sop]
        for keyword in wanted:
            expected, answered = header.get(keyword, ""), found[0].get(keyword, "")
            assert str(answered or "") == str(expected or ""), (item.path, keyword)


async def test_every_study_is_answered_with_its_truth(archive: Archive) -> None:
    keys = (
        "StudyInstanceUID",
        "StudyDate",
        "AccessionNumber",
        "StudyID",
        "PatientID",
        "ModalitiesInStudy",
        "SOPClassesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    )
    found = {row.StudyInstanceUID: row for row in await archive.find("STUDY", **dict.fromkeys(keys, ""))}
    assert found.keys() == archive.truth.studies.keys()
    for study, items in archive.truth.studies.items():
        row = found[study]
        assert row.NumberOfStudyRelatedInstances == len(items)
        assert row.NumberOfStudyRelatedSeries == len({item.series for item in items})
        assert set(_multiple(row.ModalitiesInStudy)) == archive.truth.values(items, "Modality")
        assert set(_multiple(row.SOPClassesInStudy)) == {item.sop_class for item in items}
        for keyword in ("StudyDate", "AccessionNumber", "StudyID", "PatientID"):
            expected = archive.truth.values(items, keyword) or {""}
            assert str(row.get(keyword) or "") in expected, (study, keyword)


async def test_every_series_is_answered_with_its_truth(archive: Archive) -> None:
    for study in archive.truth.studies:
        rows = await archive.find(
            "SERIES",
            StudyInstanceUID=study,
            SeriesInstanceUID="",
            Modality="",
            NumberOfSeriesRelatedInstances="",
        )
        found = {(study, row.SeriesInstanceUID): row for row in rows}
        expected = {key: items for key, items in archive.truth.series.items() if key[0] == study}
        assert found.keys() == expected.keys()
        for key, items in expected.items():
            assert found[key].NumberOfSeriesRelatedInstances == len(items)
            assert {found[key].Modality} & (archive.truth.values(items, "Modality") or {""})


async def test_every_patient_is_answered_once_with_its_studies(archive: Archive) -> None:
    rows = await archive.find(
        "PATIENT",
        PATIENT_ROOT_FIND,
        PatientID="",
        PatientName="",
        NumberOfPatientRelatedStudies="",
        NumberOfPatientRelatedInstances="",
    )
    patients = archive.truth.patients
    assert len(rows) == len(patients)
    assert sorted(row.PatientID for row in rows) == sorted(patient_id for patient_id, _ in patients)
    assert sorted(row.NumberOfPatientRelatedStudies for row in rows) == sorted(map(len, patients.values()))
    assert sum(row.NumberOfPatientRelatedInstances for row in rows) == len(archive.truth.items)


def _multiple(value: object) -> list[str]:
    if value in (None, ""):
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]
