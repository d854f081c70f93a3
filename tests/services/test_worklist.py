"""Modality Worklist as SCP, the whole node against pynetdicom (PS3.4 K)."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import ModalityWorklistInformationFind

from pacsnode.node import Node
from tests.conftest import settings_for
from tests.support.worklist import code, nested, schedule, scheduled

PENDING, PENDING_UNSUPPORTED_KEYS = 0xFF00, 0xFF01

pytestmark = pytest.mark.asyncio(loop_scope="module")

ITEMS = (
    scheduled(
        1,
        PatientName="Müller^Jörg",
        ScheduledProtocolCodeSequence=[code("P1", "Schädel"), code("P2", "Hals")],
        ScheduledPerformingPhysicianName="Erring^Ref",
        ScheduledStationName="Raum 1",
        MedicalAlerts=["Latex", "Jod"],
        ProtocolName="not in the model",
    ),
    scheduled(2, PatientName="Yamada^Tarou=山田^太郎", Modality="MR", ScheduledStationAETitle=["MR1", "MR2"]),
    scheduled(3, ScheduledProcedureStepStartDate="20260106", ScheduledProcedureStepStartTime="070000"),
    scheduled(4, ScheduledProcedureStepStartDate="20260107", ScheduledProcedureStepStartTime="1830"),
    scheduled(
        5,
        Modality="US",
        ScheduledStationAETitle="",
        ScheduledProcedureStepLocation="ROOM 5",
        ScheduledProcedureStepStartDate="20260301",
        PatientName="Smyth^John",
        TimezoneOffsetFromUTC="+0100",
    ),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    visibility = ["ROOM5 = location ROOM 5", "MR? = station", "SONO = modality US/MR", "NOBODY = none"]
    settings = settings_for(tmp_path_factory.mktemp("root"), worklist={"visibility": visibility})
    async with Node(settings) as running:
        await schedule(running, *ITEMS)
        yield running


class Scu:
    """pynetdicom as a modality."""

    def __init__(self, node: Node) -> None:
        self.port = node.dimse_port
        self.title = "CT1"
        self.extended = b""

    async def find(self, **keys: object) -> list[tuple[int, Dataset]]:
        return await self.send(nested(**keys))

    async def send(self, identifier: Dataset) -> list[tuple[int, Dataset]]:
        return await asyncio.to_thread(self._find, identifier)

    def _find(self, identifier: Dataset) -> list[tuple[int, Dataset]]:
        ae = AE(self.title)
        ae.add_requested_context(ModalityWorklistInformationFind)
        negotiation = []
        if self.extended:
            item = SOPClassExtendedNegotiation()
            item.sop_class_uid = ModalityWorklistInformationFind
            item.service_class_application_information = self.extended
            negotiation.append(item)
        association = ae.associate("127.0.0.1", self.port, ext_neg=negotiation)
        assert association.is_established
        try:
            self.answered = association.acceptor.sop_class_extended
            responses = list(association.send_c_find(identifier, ModalityWorklistInformationFind))
        finally:
            association.release()
        (*pending, (final, nothing)) = responses
        assert nothing is None
        self.final = final
        return [(status.Status, answer) for status, answer in pending]


@pytest.fixture
def scu(node: Node) -> Scu:
    return Scu(node)


async def accessions(scu: Scu, **keys: object) -> list[str]:
    found = await scu.find(**{"AccessionNumber": "", **keys})
    assert {status for status, _ in found} <= {PENDING}
    assert scu.final.Status == 0
    return [answer.AccessionNumber for _, answer in found]


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        ({}, "12345"),
        ({"ScheduledStationAETitle": "CT1"}, "134"),
        ({"ScheduledStationAETitle": "MR2"}, "2"),  # one of several
        ({"ScheduledStationAETitle": "MR"}, ""),
        ({"Modality": "MR"}, "2"),
        ({"Modality": "XA"}, ""),
        ({"ScheduledProcedureStepStartDate": "20260105"}, "12"),
        ({"ScheduledProcedureStepStartDate": "20260106-"}, "345"),
        ({"ScheduledProcedureStepStartDate": "-20260106"}, "123"),
        ({"ScheduledProcedureStepStartDate": "20260106-20260107"}, "34"),
        ({"ScheduledProcedureStepStartTime": "10"}, "125"),
        ({"ScheduledProcedureStepStartTime": "0600-0800"}, "3"),
        ({"ScheduledProcedureStepStartTime": "183000"}, "4"),
        ({"ScheduledPerformingPhysicianName": "err*"}, "1"),  # unknown ones do not match: K.2.2.1.1.1
        ({"ScheduledPerformingPhysicianName": "*"}, "12345"),
        ({"PatientName": "Patient*"}, "34"),
        ({"PatientName": "PATIENT^NUMBER3"}, "3"),
        ({"PatientName": "müller^jörg", "SpecificCharacterSet": "ISO_IR 100"}, "1"),
        ({"PatientName": "=山田*", "SpecificCharacterSet": ["", "ISO 2022 IR 87"]}, "2"),
        ({"PatientName": "*^J*"}, "15"),
        ({"PatientName": "Smith^John"}, ""),
        ({"PatientID": "P4"}, "4"),
        ({"PatientID": "p4"}, ""),
        ({"PatientID": "P*"}, "12345"),
        ({"StudyInstanceUID": ["1.2.840.1", "1.2.840.5"]}, "15"),
        ({"RequestedProcedureID": "RP3"}, "3"),
        ({"ScheduledProcedureStepID": "S3"}, "3"),
        ({"ScheduledProcedureStepStatus": "SCHEDULED"}, "12345"),
        ({"ScheduledProcedureStepLocation": "ROOM*"}, "5"),
        ({"MedicalAlerts": "Jod"}, "1"),
        ({"ScheduledProtocolCodeSequence": [code("P2", "")]}, "1"),
        ({"ScheduledProtocolCodeSequence": [code("P9", "")]}, ""),
        ({"PatientID": "P1", "Modality": "MR"}, ""),
    ],
    ids=str,
)
async def test_matching(scu: Scu, keys: dict[str, object], numbers: str) -> None:
    assert await accessions(scu, **keys) == [f"A{number}" for number in numbers]


@pytest.mark.parametrize(
    ("date", "time", "numbers"),
    [
        ("20260105-20260107", "0900-1900", "1234"),  # 07:00 on the day between is inside
        ("20260105-20260107", "1000-1800", "123"),
        ("20260105-20260106", "1030-0659", ""),
        ("20260106-", "0730-", "45"),
        ("-20260107", "-1800", "123"),
        ("20260105-20260105", "0900-0959", ""),
        ("20260105-20260107", "1000", "12"),  # a single time is one on each day
        ("20260106-", "-0730", "3"),  # ranges of two forms are two
    ],
)
async def test_start_date_and_time_are_one_range(scu: Scu, date: str, time: str, numbers: str) -> None:
    keys = {"ScheduledProcedureStepStartDate": date, "ScheduledProcedureStepStartTime": time}
    assert await accessions(scu, **keys) == [f"A{number}" for number in numbers]


async def test_an_answer_holds_what_was_asked_for_and_empty_what_is_unknown(scu: Scu) -> None:
    ((status, answer),) = await scu.find(
        SpecificCharacterSet="ISO_IR 100",
        PatientID="P1",
        PatientName="",
        PregnancyStatus=None,
        ReferencedStudySequence=[],
        ReferringPhysicianName="",
        MedicalAlerts="",
        Modality="",
        ScheduledStationName="",
        ScheduledProcedureStepLocation="",
        ScheduledProtocolCodeSequence=[nested(CodeMeaning="")],
    )
    assert status == PENDING
    assert answer.SpecificCharacterSet == "ISO_IR 100"
    assert answer.PatientName == "Müller^Jörg"
    assert list(answer.MedicalAlerts) == ["Latex", "Jod"]
    assert (answer.PregnancyStatus, answer.ReferringPhysicianName) == (None, "")
    assert list(answer.ReferencedStudySequence) == []
    (step,) = answer.ScheduledProcedureStepSequence
    assert (step.Modality, step.ScheduledStationName, step.ScheduledProcedureStepLocation) == (
        "CT",
        "Raum 1",
        "",
    )
    meanings = [[element.value for element in item] for item in step.ScheduledProtocolCodeSequence]
    assert meanings == [["Schädel"], ["Hals"]]
    assert len(answer) == 8
    assert len(step) == 4


@pytest.mark.parametrize("items", [[], [Dataset()]])
async def test_an_empty_step_key_returns_the_step_whole(scu: Scu, items: list[Dataset]) -> None:
    identifier = Dataset()
    identifier.PatientID, identifier.ScheduledProcedureStepSequence = "P2", items
    ((_, answer),) = await scu.send(identifier)
    (step,) = answer.ScheduledProcedureStepSequence
    assert list(step.ScheduledStationAETitle) == ["MR1", "MR2"]
    assert len(step) == 6


async def test_text_goes_out_as_utf_8_where_the_asked_character_set_lacks_it(scu: Scu) -> None:
    ((_, answer),) = await scu.find(PatientID="P2", PatientName="", SpecificCharacterSet="ISO_IR 100")
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert answer.PatientName == "Yamada^Tarou=山田^太郎"


async def test_text_goes_out_as_latin_1_where_no_character_set_is_asked_for(scu: Scu) -> None:
    ((_, answer),) = await scu.find(PatientID="P1", PatientName="")
    assert answer.SpecificCharacterSet == "ISO_IR 100"
    assert answer.PatientName == "Müller^Jörg"
    ((_, answer),) = await scu.find(PatientID="P2", PatientName="")
    assert answer.SpecificCharacterSet == "ISO_IR 192"


async def test_ascii_answers_have_no_character_set(scu: Scu) -> None:
    ((_, answer),) = await scu.find(PatientID="P3", PatientName="", SpecificCharacterSet="ISO_IR 100")
    assert "SpecificCharacterSet" not in answer


async def test_keys_outside_the_model_are_told_by_the_status(scu: Scu) -> None:
    identifier = nested(AccessionNumber="", QueryRetrieveLevel="STUDY", ProtocolName="", SeriesInstanceUID="")
    identifier.add_new(0x00091001, "LO", "private")
    found = {answer.AccessionNumber: (status, answer) for status, answer in await scu.send(identifier)}
    assert {status for status, _ in found.values()} == {PENDING_UNSUPPORTED_KEYS}
    assert found["A1"][1].ProtocolName == "not in the model"
    assert [element.keyword for element in found["A2"][1]] == ["AccessionNumber"]


async def test_pertinent_documents_and_protocol_context_are_returned_not_matched(scu: Scu) -> None:
    document = Dataset()
    document.DocumentTitle = "nobody has this"
    protocol = code("P1", "")
    protocol.ProtocolContextSequence = [nested(ValueType="TEXT")]
    keys = {"PertinentDocumentsSequence": [document], "ScheduledProtocolCodeSequence": [protocol]}
    assert await accessions(scu, **keys) == ["A1"]


@pytest.mark.parametrize(
    ("title", "numbers"),
    [
        ("ANY", "12345"),
        ("MR1", "2"),
        ("MR2", "2"),
        ("MR3", ""),
        ("SONO", "25"),
        ("ROOM5", "5"),
        ("NOBODY", ""),
    ],
)
async def test_a_modality_sees_what_the_configuration_lets_it_see(scu: Scu, title: str, numbers: str) -> None:
    scu.title = title
    assert await accessions(scu) == [f"A{number}" for number in numbers]


@pytest.mark.parametrize(("offered", "answered"), [(b"\1\1\1", b"\1\1\1"), (b"\1\1\0\1\1", b"\1\1\0\1\0")])
async def test_extended_negotiation(scu: Scu, offered: bytes, answered: bytes) -> None:
    scu.extended = offered
    await scu.find(PatientID="P1")
    assert scu.answered == {ModalityWorklistInformationFind: answered}


async def test_fuzzy_names_when_negotiated(scu: Scu) -> None:
    scu.extended = b"\1\1\1"
    assert await accessions(scu, PatientName="Smith^John") == ["A5"]


async def test_times_on_the_clock_of_the_query_when_negotiated(scu: Scu) -> None:
    scu.extended = b"\1\1\0\1"
    keys = {"TimezoneOffsetFromUTC": "+0000", "ScheduledProcedureStepStartDate": ""}
    ((_, answer),) = await scu.find(**keys, PatientID="P5", ScheduledProcedureStepStartTime="0900")
    assert answer.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime == "0900"
    assert answer.TimezoneOffsetFromUTC == "+0000"
    assert await accessions(scu, **keys, PatientID="P5", ScheduledProcedureStepStartTime="1000") == []


@pytest.mark.parametrize(
    "identifier",
    [
        nested(ScheduledProcedureStepStartDate="tomorrow"),
        nested(ScheduledProcedureStepStartTime="9 o'clock"),
    ],
    ids=["date", "time"],
)
async def test_a_key_that_is_no_value_is_refused(scu: Scu, identifier: Dataset) -> None:
    assert await scu.send(identifier) == []
    assert scu.final.Status == 0xA900
    assert "0040,000" in scu.final.ErrorComment


async def test_what_answers_hold_unasked(scu: Scu, node: Node) -> None:
    """The clock of the item, and the documents that it references (PS3.4 K.4.1.1.3.2)."""
    reference, document = Dataset(), Dataset()
    reference.HL7InstanceIdentifier, document.DocumentTitle = "1.2^3", "Letter"
    await schedule(
        node,
        scheduled(
            77,
            PatientID="DOCUMENTED",
            TimezoneOffsetFromUTC="+0200",
            PertinentDocumentsSequence=[document],
            HL7StructuredDocumentReferenceSequence=[reference],
        ),
    )
    ((_, plain),) = await scu.find(PatientID="DOCUMENTED")
    assert [element.keyword for element in plain] == ["TimezoneOffsetFromUTC", "PatientID"]
    ((status, answer),) = await scu.find(PatientID="DOCUMENTED", PertinentDocumentsSequence=[])
    assert status == PENDING
    assert answer.PertinentDocumentsSequence[0].DocumentTitle == "Letter"
    assert answer.HL7StructuredDocumentReferenceSequence[0].HL7InstanceIdentifier == "1.2^3"
    (number,) = [
        listed.id
        for listed in await node.workflow.worklist.items()
        if listed.item.text(0x00100020) == "DOCUMENTED"
    ]
    await node.workflow.worklist.remove([number])


async def test_two_items_in_the_step_key_are_refused(scu: Scu) -> None:
    identifier = Dataset()
    identifier.ScheduledProcedureStepSequence = [nested(CodeValue="1"), nested(CodeValue="2")]
    assert await scu.send(identifier) == []
    assert scu.final.Status == 0xA900
    assert scu.final.OffendingElement == 0x00400100
