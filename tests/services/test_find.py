"""C-FIND as SCP: the service on an archive, and the whole node against pynetdicom (PS3.4 C.4.1, C.6)."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import pytest_asyncio
import structlog
from pydicom import Dataset, Sequence
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from pacsnode.archive.archive import Archive, ArchiveOptions
from pacsnode.archive.instance import IncomingRequest
from pacsnode.config import Settings
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.sop_class import (
    EXPLICIT_VR_BE,
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    PATIENT_ROOT_FIND,
    PATIENT_STUDY_ONLY_FIND,
    STUDY_ROOT_FIND,
)
from pacsnode.dicom.uid import UID
from pacsnode.dimse.assembler import MemorySink
from pacsnode.dimse.command import CommandField, CommandSet
from pacsnode.errors import CannotUnderstand, InvalidIdentifier
from pacsnode.net.association import Association
from pacsnode.net.service import Request
from pacsnode.node import Node
from pacsnode.pixels.pool import Transcoder
from pacsnode.services.query import FindService
from pacsnode.services.room import Room
from pacsnode.ul.negotiation import AcceptedContext, Result
from pacsnode.workflow.workflow import Workflow

PENDING, PENDING_UNSUPPORTED_KEYS = 0xFF00, 0xFF01


def encoded(dataset: Dataset, transfer_syntax: UID = EXPLICIT_VR_LE) -> bytes:
    buffer = DicomBytesIO()
    encoding = encoding_of(transfer_syntax)
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little_endian
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def ct(study: str, series: str, number: int, **attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.Modality, dataset.InstanceNumber, dataset.Rows = "CT", number, 512
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def objects() -> list[Dataset]:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTHEAD", "LOCAL", "Schädel-CT"
    mueller = {"PatientName": "Müller^Jörg", "PatientID": "P1", "StudyDate": "20240105", "StudyTime": "2230"}
    mueller |= {"TimezoneOffsetFromUTC": "+0100", "AcquisitionDateTime": "20240105223015"}
    mueller |= {"ScheduledStudyStartDate": "20240105", "ScheduledStudyStartTime": "2200"}
    yamada = {"PatientName": "Yamada^Tarou=山田^太郎", "PatientID": "P2", "StudyDate": "20240210"}
    return [
        ct("1.1", "1.1.1", 1, AccessionNumber="A1", ProcedureCodeSequence=Sequence([code]), **mueller),
        ct("1.1", "1.1.1", 2, AccessionNumber="A1", **mueller),
        ct("1.1", "1.1.2", 1, AccessionNumber="A1", **mueller | {"Modality": "SR"}),
        ct("1.2", "1.2.1", 1, AccessionNumber="A2", **yamada),
    ]


async def store(archive: Archive, dataset: Dataset) -> None:
    incoming = archive.begin(
        IncomingRequest(
            sop_class=UID(dataset.SOPClassUID),
            sop_instance=UID(dataset.SOPInstanceUID),
            transfer_syntax=EXPLICIT_VR_LE,
            source_ae="TEST",
            receiving_ae="PACSNODE",
        )
    )
    incoming.write(encoded(dataset))
    await archive.store(incoming)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Archive]:
    """An archive with two studies, stored the way of every object."""
    options = ArchiveOptions(sync="none", reserve=0, workers=1, readers=2)
    archive = await Archive.open(tmp_path_factory.mktemp("archive") / "root", options)
    for dataset in objects():
        await store(archive, dataset)
    yield archive
    await archive.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


class Scu:
    """Asks the service what a peer would, and reads the answers with pydicom."""

    def __init__(self, archive: Archive, **settings: dict[str, object]) -> None:
        no_workflow = cast(Workflow, None)  # queries need none
        room = Room(archive, Transcoder(Path()), no_workflow, Settings.model_validate(settings))
        self.service = FindService(room)
        self.transfer_syntax = EXPLICIT_VR_LE
        self.model = STUDY_ROOT_FIND
        self.extended: dict[UID, bytes] = {}

    def request(self, data: bytes) -> Request:
        accept = SimpleNamespace(extended=self.extended)
        association = SimpleNamespace(accept=accept, log=structlog.get_logger())
        sink = MemorySink()
        sink.write(memoryview(data))
        return Request(
            association=cast(Association, association),
            context=AcceptedContext(1, Result(0), self.model, self.transfer_syntax),
            command=CommandSet({0x0100: int(CommandField.C_FIND_RQ).to_bytes(2, "little")}),
            data=sink,
        )

    async def find(self, level: str = "STUDY", **keys: object) -> list[tuple[int, Dataset]]:
        """Statuses and identifiers of all responses; `level` "" leaves it out."""
        identifier = Dataset()
        if level:
            identifier.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(identifier, keyword, value)
        return await self.send(identifier)

    async def send(self, identifier: Dataset) -> list[tuple[int, Dataset]]:
        encoding = encoding_of(self.transfer_syntax)
        found = []
        request = self.request(encoded(identifier, self.transfer_syntax))
        async for matches in self.service.c_find(request):
            for data in matches.data:
                answer = read_dataset(BytesIO(data), encoding.implicit, encoding.little_endian)
                answer.decode()
                found.append((matches.status, answer))
        return found


@pytest.fixture
def scu(archive: Archive) -> Scu:
    return Scu(archive)


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE])
async def test_answer_holds_what_was_asked_for_and_where_to_get_it(scu: Scu, transfer_syntax: UID) -> None:
    scu.transfer_syntax = transfer_syntax
    ((status, answer),) = await scu.find(
        SpecificCharacterSet="ISO_IR 100",
        StudyInstanceUID="1.1",
        PatientName="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedInstances="",
        NumberOfStudyRelatedSeries="",
        StudyDescription="",
    )
    assert status == PENDING
    assert answer.QueryRetrieveLevel == "STUDY"
    assert answer.RetrieveAETitle == "PACSNODE"
    assert answer.InstanceAvailability == "ONLINE"
    assert answer.SpecificCharacterSet == "ISO_IR 100"
    assert answer.PatientName == "Müller^Jörg"
    assert list(answer.ModalitiesInStudy) == ["CT", "SR"]
    assert (answer.NumberOfStudyRelatedSeries, answer.NumberOfStudyRelatedInstances) == (2, 3)
    assert answer.StudyDescription == ""
    assert len(answer) == 10


@pytest.mark.parametrize(
    "keys",
    [
        {"PatientName": "MÜLLER*", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientName": "müller^jörg", "SpecificCharacterSet": "ISO_IR 192"},
        {"PatientID": "P1"},
        {"AccessionNumber": "A1"},
        {"StudyDate": "20240101-20240131"},
        {"StudyTime": "223000"},
        {"ModalitiesInStudy": "SR"},
        {"StudyInstanceUID": ["1.1", "1.9"]},
        {"SOPClassesInStudy": CTImageStorage, "PatientID": "P1"},
        {"PatientName": "*Müller*", "SpecificCharacterSet": "ISO_IR 192", "StudyDate": "-20240131"},
    ],
    ids=str,
)
async def test_study_is_found(scu: Scu, keys: dict[str, object]) -> None:
    found = await scu.find(**{"StudyInstanceUID": "", "PatientName": "", **keys})
    # StudyTime of the other study is unknown and matches (C.2.2.1.2).
    assert "1.1" in [answer.StudyInstanceUID for _, answer in found]
    assert len(found) == (2 if "StudyTime" in keys else 1)


async def test_ideographic_name_is_found_and_answered_whole(scu: Scu) -> None:
    identifier = Dataset()
    identifier.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    identifier.QueryRetrieveLevel, identifier.PatientName = "STUDY", "=山田*"
    ((_, answer),) = await scu.send(identifier)
    assert str(answer.PatientName) == "Yamada^Tarou=山田^太郎"
    assert list(answer.SpecificCharacterSet) == ["", "ISO 2022 IR 87"]


async def test_no_match_has_no_pending_response(scu: Scu) -> None:
    assert await scu.find(PatientID="NOBODY") == []


@pytest.mark.parametrize(
    ("model", "level", "keys", "count"),
    [
        (PATIENT_ROOT_FIND, "PATIENT", {}, 2),
        (PATIENT_ROOT_FIND, "STUDY", {"PatientID": "P1"}, 1),
        (PATIENT_ROOT_FIND, "SERIES", {"PatientID": "P1", "StudyInstanceUID": "1.1"}, 2),
        (STUDY_ROOT_FIND, "SERIES", {"StudyInstanceUID": "1.1", "Modality": "CT"}, 1),
        (STUDY_ROOT_FIND, "IMAGE", {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}, 2),
        (PATIENT_STUDY_ONLY_FIND, "PATIENT", {"PatientName": "yamada*"}, 1),
        (PATIENT_STUDY_ONLY_FIND, "STUDY", {"PatientID": "P2"}, 1),
    ],
)
async def test_levels_of_each_model(
    scu: Scu, model: UID, level: str, keys: dict[str, object], count: int
) -> None:
    scu.model = model
    found = await scu.find(level, **keys)
    assert len(found) == count
    assert {answer.QueryRetrieveLevel for _, answer in found} == {level}


async def test_attribute_that_is_no_column_is_matched_and_answered(scu: Scu) -> None:
    code = Dataset()
    code.CodeValue, code.CodeMeaning = "CTHEAD", ""
    ((status, answer),) = await scu.find(ProcedureCodeSequence=Sequence([code]), StudyInstanceUID="1.1")
    assert status == PENDING
    assert answer.ProcedureCodeSequence[0].CodeMeaning == "Schädel-CT"
    assert "CodingSchemeDesignator" not in answer.ProcedureCodeSequence[0]
    assert answer.SpecificCharacterSet == "ISO_IR 192"


async def test_unsupported_key_is_left_out_and_told_by_the_status(scu: Scu) -> None:
    ((status, answer),) = await scu.find(PatientID="P1", SeriesDescription="", SliceThickness="", StudyID="")
    assert status == PENDING_UNSUPPORTED_KEYS
    assert "SeriesDescription" not in answer
    assert "SliceThickness" not in answer
    assert answer.StudyID == ""


async def test_group_length_and_timezone_are_no_keys(scu: Scu) -> None:
    identifier = Dataset()
    identifier.add_new(0x00080000, "UL", 20)
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.TimezoneOffsetFromUTC = "+0100"
    identifier.add_new(0x00100000, "UL", 20)
    identifier.PatientID = "P1"
    ((status, answer),) = await scu.send(identifier)
    assert status == PENDING
    assert sorted(map(int, answer.keys())) == [0x00080052, 0x00080054, 0x00080056, 0x00100020]


@pytest.mark.parametrize(
    ("level", "keys", "offending"),
    [
        ("", {"PatientID": ""}, 0x00080052),
        ("PATIENT", {}, 0x00080052),
        ("WORLD", {}, 0x00080052),
        ("SERIES", {"Modality": "CT"}, 0x0020000D),
        ("STUDY", {"StudyDate": "last week"}, 0x00080020),
        ("STUDY", {"ProcedureCodeSequence": Sequence([Dataset(), Dataset()])}, 0x00081032),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
async def test_identifier_against_the_rules_is_refused_with_its_element(
    scu: Scu, level: str, keys: dict[str, object], offending: int
) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        await scu.find(level, **keys)
    assert caught.value.offending == (offending,)


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00100010, "LO", "yamada*"),
        (0x00100010, "OB", b"YAMADA^*"),
        (0x00081032, "LO", ""),
        (0x00201208, "UL", 3),
        (0x00080020, "LO", "20240101-20240110"),
        (0x00080020, "SQ", []),
    ],
)
async def test_a_key_has_the_vr_of_its_attribute_however_it_is_encoded(
    scu: Scu, tag: int, vr: str, value: object
) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.PatientID = ""
    identifier.add_new(tag, vr, value)
    right = Dataset()
    right.update(identifier)
    text = value.decode() if isinstance(value, bytes) else str(value or "")
    right.add_new(tag, dictionary_VR(tag), [] if tag == 0x00081032 else text)
    answers = [answer for _, answer in await scu.send(identifier)]
    assert answers == [answer for _, answer in await scu.send(right)]
    assert answers
    assert dictionary_VR(tag) == answers[0][tag].VR


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [(0x00100010, "SQ", [Dataset()]), (0x00081032, "LO", "P1"), (0x0020000D, "SQ", [Dataset()])],
)
async def test_sequences_and_values_are_not_taken_for_each_other(
    scu: Scu, tag: int, vr: str, value: object
) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.add_new(tag, vr, value)
    with pytest.raises(InvalidIdentifier, match="is encoded as") as caught:
        await scu.send(identifier)
    assert caught.value.offending == (tag,)


async def test_unreadable_identifier_is_not_understood(scu: Scu) -> None:
    with pytest.raises(CannotUnderstand):
        async for _ in scu.service.c_find(scu.request(b"\x08\x00\x52\x00CS\x06\x00STU")):
            pass


async def test_lenient_configuration_takes_missing_unique_keys(archive: Archive) -> None:
    scu = Scu(archive, query={"lenient_hierarchy": True})
    ((_, answer),) = await scu.find("SERIES", Modality="SR", SeriesInstanceUID="")
    assert (answer.StudyInstanceUID, answer.SeriesInstanceUID) == ("1.1", "1.1.2")


async def test_relational_query_is_answered_when_negotiated(scu: Scu) -> None:
    scu.extended = {STUDY_ROOT_FIND: b"\1"}
    assert len(await scu.find("IMAGE", PatientID="P1", SOPInstanceUID="")) == 3


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (b"\1", b"\1"),
        (b"\0", b"\0"),
        (b"\1\1\1\1\1\1\1\1", b"\1\1\1\1\0\1\1\0"),
        (b"\0\1\1", b"\0\1\1"),
        (b"\2\1", b"\0\1"),
        (b"", b""),
    ],
)
async def test_extended_negotiation_answers_what_is_performed(
    scu: Scu, offered: bytes, answered: bytes
) -> None:
    assert scu.service.extended_negotiation(STUDY_ROOT_FIND, offered) == answered


@pytest.mark.parametrize("asked", ["MUELLER", "Muller^Jorg", "JÖRG^MÜLLER", "miller"])
async def test_fuzzy_names_are_found_when_negotiated(scu: Scu, asked: str) -> None:
    keys = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": asked}
    assert await scu.find(**keys) == []
    scu.extended = {STUDY_ROOT_FIND: b"\0\0\1"}
    ((_, answer),) = await scu.find(**keys)
    assert answer.PatientName == "Müller^Jörg"


async def test_times_are_on_the_clock_of_the_query_when_negotiated(scu: Scu) -> None:
    keys = {"TimezoneOffsetFromUTC": "-0500", "StudyDate": "20240105", "StudyTime": "1630"}
    header = {"AcquisitionDateTime": "20240105", "PatientID": "P1", "ScheduledStudyStartTime": ""}
    assert [answer.StudyDate for _, answer in await scu.find(PatientID="P1", **keys)] == []
    scu.extended = {STUDY_ROOT_FIND: b"\0\0\0\1"}
    ((_, answer),) = await scu.find(**keys, **header)
    assert (answer.StudyDate, answer.StudyTime) == ("20240105", "1630")
    assert answer.AcquisitionDateTime == "20240105163015"
    assert answer.ScheduledStudyStartTime == "1600"
    assert answer.TimezoneOffsetFromUTC == "-0500"


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
async def test_clock_that_is_none_is_refused(scu: Scu) -> None:
    scu.extended = {STUDY_ROOT_FIND: b"\0\0\0\1"}
    with pytest.raises(InvalidIdentifier) as caught:
        await scu.find(TimezoneOffsetFromUTC="CET", StudyTime="12")
    assert caught.value.offending == (0x00080201,)


async def test_view_of_multi_frame_images_is_ignored_unless_negotiated(scu: Scu) -> None:
    ((status, answer),) = await scu.find(QueryRetrieveView="ENHANCED", PatientID="P1")
    assert status == PENDING
    assert "QueryRetrieveView" not in answer


async def test_file_set_has_no_value_here(scu: Scu) -> None:
    ((status, answer),) = await scu.find(PatientID="P1", StorageMediaFileSetID="", StorageMediaFileSetUID="")
    assert status == PENDING
    assert (answer.StorageMediaFileSetID, answer.StorageMediaFileSetUID) == ("", "")
    assert answer.RetrieveAETitle == "PACSNODE"


PATIENT_COUNTS = {
    "NumberOfPatientRelatedStudies": 1,
    "NumberOfPatientRelatedSeries": 2,
    "NumberOfPatientRelatedInstances": 3,
}
STUDY_COUNTS = {"NumberOfStudyRelatedSeries": 2, "NumberOfStudyRelatedInstances": 3}


@pytest.mark.parametrize(
    ("level", "keys", "computed"),
    [
        ("PATIENT", {}, PATIENT_COUNTS),
        ("STUDY", {}, PATIENT_COUNTS | STUDY_COUNTS | {"ModalitiesInStudy": ["CT", "SR"]}),
        ("STUDY", {"ModalitiesInStudy": "SR"}, STUDY_COUNTS | {"SOPClassesInStudy": CTImageStorage}),
        ("STUDY", {"SOPClassesInStudy": CTImageStorage}, {"ModalitiesInStudy": ["CT", "SR"]}),
        ("SERIES", {"Modality": "CT"}, STUDY_COUNTS | {"NumberOfSeriesRelatedInstances": 2}),
        (
            "IMAGE",
            {"SOPInstanceUID": "1.1.1.2"},
            {"AvailableTransferSyntaxUID": EXPLICIT_VR_LE, "NumberOfSeriesRelatedInstances": 2},
        ),
    ],
)
async def test_computed_keys_are_answered(
    scu: Scu, level: str, keys: dict[str, str], computed: dict[str, object]
) -> None:
    scu.model = PATIENT_ROOT_FIND
    scu.extended = {PATIENT_ROOT_FIND: b"\1"}
    ((status, answer),) = await scu.find(level, PatientID="P1", **dict.fromkeys(computed, "") | keys)
    assert status == PENDING
    assert {keyword: answer[keyword].value for keyword in computed} == computed
    assert (answer.RetrieveAETitle, answer.InstanceAvailability) == ("PACSNODE", "ONLINE")


@pytest.mark.parametrize("keys", [{"ModalitiesInStudy": "MR"}, {"SOPClassesInStudy": "1.2.3"}], ids=str)
async def test_lists_of_the_study_are_matched(scu: Scu, keys: dict[str, str]) -> None:
    assert await scu.find(**keys) == []


@pytest.mark.parametrize("requested", ["", "ISO_IR 100", "ISO_IR 144", "GB18030", "ISO 2022 IR 87"])
async def test_no_character_of_an_answer_is_lost(scu: Scu, requested: str) -> None:
    keys = {"SpecificCharacterSet": requested} if requested else {}
    found = await scu.find(PatientName="", **keys)
    assert {str(answer.PatientName) for _, answer in found} == {"Müller^Jörg", "Yamada^Tarou=山田^太郎"}


async def test_closing_the_answers_ends_the_search(scu: Scu) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    answers = scu.service.c_find(scu.request(encoded(identifier)))
    async with aclosing(answers):
        await anext(answers)
    assert len(await scu.find()) == 2


# The whole node


def _find_all(port: int, model: str, identifier: Dataset, cancel_after: int | None = None) -> list[int]:
    """Statuses that pynetdicom receives; sends C-CANCEL after so many responses."""
    ae = AE(ae_title="FINDER")
    ae.add_requested_context(model)
    association = ae.associate("127.0.0.1", port)
    statuses = []
    try:
        for number, (status, _) in enumerate(association.send_c_find(identifier, model, msg_id=7), start=1):
            statuses.append(status.Status)
            if number == cancel_after:
                association.send_c_cancel(7, query_model=model)
    finally:
        association.release()
    return statuses


@pytest.mark.asyncio(loop_scope="function")
async def test_peer_receives_matches_and_success(node: Node) -> None:
    for dataset in objects():
        await store(node.archive, dataset)
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    model = StudyRootQueryRetrieveInformationModelFind
    assert await asyncio.to_thread(_find_all, node.dimse_port, model, identifier) == [0xFF00, 0xFF00, 0x0000]


@pytest.mark.asyncio(loop_scope="function")
async def test_peer_that_asks_wrongly_receives_a900(node: Node) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    model = PatientRootQueryRetrieveInformationModelFind
    assert await asyncio.to_thread(_find_all, node.dimse_port, model, identifier) == [0xA900]


@pytest.mark.asyncio(loop_scope="function")
async def test_peer_that_cancels_receives_fe00_instead_of_the_rest(node: Node, root: Path) -> None:
    count = 20_000
    with closing(sqlite3.connect(root / "index.sqlite")) as connection, connection:
        connection.execute("INSERT INTO patient (id, patient_id) VALUES (1, 'P')")
        rows = ((f"1.2.{number}",) for number in range(count))
        connection.executemany("INSERT INTO study (patient_fk, study_instance_uid) VALUES (1, ?)", rows)
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    model = StudyRootQueryRetrieveInformationModelFind
    statuses = await asyncio.to_thread(_find_all, node.dimse_port, model, identifier, 1)
    assert statuses[-1] == 0xFE00
    assert len(statuses) < count
