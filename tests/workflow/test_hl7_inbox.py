"""What HL7 messages do to the worklist, and how they are answered (IHE RAD-4, RAD-12, RAD-13)."""

import asyncio
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset

from pacsnode.config import Settings
from pacsnode.workflow.database import Database
from pacsnode.workflow.hl7_inbox import DAY, Hl7Inbox
from pacsnode.workflow.patients import Patients
from pacsnode.workflow.worklist import Worklist
from tests.support.hl7 import adt, message, msh, omi, orm
from tests.support.worklist import data_set_of


class Scene:
    """An inbox on a worklist; stations as an administrator would name them."""

    def __init__(self, database: Database, root: Path) -> None:
        settings = Settings.model_validate({"worklist": {"stations": ["CT = CT1/CT2"]}})
        self.database = database
        self.worklist = Worklist(database, settings.worklist)
        self.patients = Patients(database, root / "index.sqlite", "PACSNODE")
        self.inbox = Hl7Inbox(database, self.worklist, self.patients, settings)

    async def send(self, text: str | bytes, codec: str = "utf_8") -> dict[str, list[str]]:
        """The segments of the acknowledgement, by name, split into fields."""
        body = text if isinstance(text, bytes) else text.encode(codec)
        answer = (await self.inbox.receive(body, "192.0.2.1")).decode(codec)
        return {line[:3]: line.split("|") for line in answer.split("\r") if line}

    async def code(self, text: str | bytes) -> str:
        return (await self.send(text))["MSA"][1]

    async def data_sets(self) -> list[Dataset]:
        return [data_set_of(listed.item) for listed in await self.worklist.items()]

    async def states(self) -> list[str]:
        return [listed.state.value for listed in await self.worklist.items()]


@pytest_asyncio.fixture
async def scene(opened: Database, tmp_path: Path) -> Scene:
    return Scene(opened, tmp_path)


async def test_orm_is_a_complete_item(scene: Scene) -> None:
    assert await scene.code(orm()) == "AA"
    ((data_set),) = await scene.data_sets()
    assert data_set.PatientName == "Patient^Number1"
    assert (data_set.PatientID, data_set.IssuerOfPatientID) == ("P1", "HOSP")
    assert (data_set.PatientBirthDate, data_set.PatientSex) == ("19700102", "F")
    assert data_set.ReferringPhysicianName == "Referring^Ada^^Dr."
    assert data_set.CurrentPatientLocation == "WARD^12^B"
    assert (data_set.PlacerOrderNumberImagingServiceRequest, data_set.AccessionNumber) == ("PL1", "A1")
    assert data_set.FillerOrderNumberImagingServiceRequest == "FI1"
    assert (data_set.RequestedProcedureID, data_set.StudyInstanceUID) == ("RP1", "1.2.840.1")
    assert (data_set.RequestedProcedurePriority, data_set.RequestingService) == ("STAT", "Radiology")
    assert (data_set.MedicalAlerts, data_set.ReasonForTheRequestedProcedure) == ("Allergic", "Pain")
    assert data_set.RequestedProcedureCodeSequence[0].CodeValue == "R1"
    (step,) = data_set.ScheduledProcedureStepSequence
    assert (step.Modality, list(step.ScheduledStationAETitle)) == ("CT", ["CT1", "CT2"])
    start = step.ScheduledProcedureStepStartDate + step.ScheduledProcedureStepStartTime
    assert (start, step.ScheduledProcedureStepID) == ("20260105100000", "S1")
    assert step.ScheduledProtocolCodeSequence[0].CodeMeaning == "Abdomen native"
    assert step.ScheduledProcedureStepStatus == "SCHEDULED"


async def test_omi_has_an_item_for_each_step(scene: Scene) -> None:
    assert await scene.code(omi(steps=("1", "2"))) == "AA"
    first, second = await scene.data_sets()
    assert first.StudyInstanceUID == second.StudyInstanceUID == "1.2.840.1"
    assert first.PatientName == "Müller^Jörg^^Dr.=山田^太郎"
    (other,) = first.OtherPatientIDsSequence
    assert (other.PatientID, other.IssuerOfPatientID) == ("X1", "OTHER")
    assert (first.PatientSize, first.PatientWeight, first.PregnancyStatus) == (1.72, 70.5, 3)
    assert first.RequestingPhysician == "Orderer^Otto"
    assert (first.RequestedProcedurePriority, first.PatientTransportArrangements) == ("HIGH", "WALK")
    assert (first.AdmissionID, first.ConfidentialityConstraintOnPatientDataDescription) == ("VISIT1", "V")
    assert first.ReasonForRequestedProcedureCodeSequence[0].CodeValue == "R52"
    steps = [data_set.ScheduledProcedureStepSequence[0] for data_set in (first, second)]
    assert [step.ScheduledProcedureStepID for step in steps] == ["S1.1", "S1.2"]
    assert [step.ScheduledProtocolCodeSequence[0].CodeValue for step in steps] == ["X1", "X2"]
    assert steps[0].ScheduledStationAETitle == "MR1"
    assert (steps[0].ScheduledStationName, steps[0].ScheduledProcedureStepLocation) == ("MR-ROOM", "ROOM 1")
    assert steps[0].ScheduledProcedureStepStartTime == "113000"


async def test_omg_is_read_as_orm(scene: Scene) -> None:
    assert await scene.code(orm().replace("ORM^O01", "OMG^O19^OMG_O19").replace("|2.3.1", "|2.5.1")) == "AA"
    assert len(await scene.data_sets()) == 1


async def test_several_orders_in_a_message_and_protocols_of_a_step(scene: Scene) -> None:
    first, second = orm(1), orm(2)
    protocol = first[first.index("ORC|") :].replace("X1^Abdomen native", "X9^Late phase")
    both = first + protocol + second[second.index("ORC|") :].replace("P2^^^HOSP", "P1^^^HOSP")
    assert await scene.code(both) == "AA"
    data_sets = await scene.data_sets()
    assert [data_set.AccessionNumber for data_set in data_sets] == ["A1", "A2"]
    codes = data_sets[0].ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence
    assert [item.CodeValue for item in codes] == ["X1", "X9"]


async def test_update_changes_and_keeps_the_rest(scene: Scene) -> None:
    await scene.code(orm())
    changed = orm(control="XO").replace("|A1|", "||").replace("20260105100000", "20260106120000")
    assert await scene.code(changed.replace("|Pain", '|""')) == "AA"
    (data_set,) = await scene.data_sets()
    step = data_set.ScheduledProcedureStepSequence[0]
    assert (step.ScheduledProcedureStepStartDate, data_set.ReasonForTheRequestedProcedure) == ("20260106", "")
    assert data_set.AccessionNumber == "FI1", "OBR-18 is empty: the filler order number stands in"


@pytest.mark.parametrize("make", [orm, omi])
async def test_cancel_takes_the_item_off_the_list_and_a_new_order_brings_it_back(scene: Scene, make) -> None:
    await scene.code(make())
    assert await scene.code(make(control="CA")) == "AA"
    assert await scene.states() == ["CANCELLED"]
    assert await scene.code(make(control="CA", control_id="again")) == "AA"
    assert await scene.code(make(control_id="new")) == "AA"
    assert await scene.states() == ["SCHEDULED"]


async def test_what_is_under_way_cannot_be_cancelled_but_discontinued(scene: Scene) -> None:
    await scene.code(orm())
    async with scene.database.transaction() as transaction:
        await scene.worklist.step_started(transaction, study_uid="1.2.840.1")
    answer = await scene.send(orm(control="CA"))
    assert answer["MSA"][1:] == ["AE", "orm-1-CA", "the procedure step is IN PROGRESS"]
    assert await scene.code(orm(control="DC")) == "AA"
    assert await scene.states() == ["DISCONTINUED"]


@pytest.mark.parametrize(
    ("status", "state"),
    [("IP", "IN PROGRESS"), ("CM", "COMPLETED"), ("CA", "CANCELLED"), ("HD", "SCHEDULED")],
)
async def test_status_changes(scene: Scene, status: str, state: str) -> None:
    await scene.code(orm())
    assert await scene.code(orm(control="SC").replace("|FI1||||", f"|FI1||{status}||", 1)) == "AA"
    assert await scene.states() == [state]


async def test_what_an_order_leaves_out_is_made_up_for(scene: Scene) -> None:
    text = message(
        msh("ORM^O01", version="2.3"),
        "PID|||P7||Doe^Jane",
        "ORC|NW|PL7",
        "OBR||PL7||XR^Thorax|||||||||||||||||||RAD|DX",
    )
    assert await scene.code(text.replace("|||RAD|DX", "||||DX")) == "AA"
    (data_set,) = await scene.data_sets()
    step = data_set.ScheduledProcedureStepSequence[0]
    assert (step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime) == (
        "20260105",
        "093000",
    )
    assert (data_set.RequestedProcedureID, step.ScheduledProcedureStepID) == ("PL7", "PL7")
    assert data_set.StudyInstanceUID.startswith("2.25.")
    study = data_set.StudyInstanceUID
    await scene.code(text.replace("|||RAD|DX", "||||DX").replace("Doe^Jane", "Roe^Jane"))
    assert [(d.StudyInstanceUID, d.PatientName) for d in await scene.data_sets()] == [(study, "Roe^Jane")]


async def test_the_same_message_again_is_answered_and_does_nothing(scene: Scene) -> None:
    first = await scene.inbox.receive(orm().encode(), "x")
    await scene.code(orm(control="CA"))
    assert await scene.inbox.receive(orm().encode(), "x") == first
    assert await scene.states() == ["CANCELLED"]


async def test_the_same_message_twice_at_once_is_done_once(scene: Scene) -> None:
    body = adt("A40", "m1", "PID|||P9^^^HOSP||Right^Name", "MRG|P1^^^HOSP").encode()
    first, second = await asyncio.gather(*(scene.inbox.receive(body, "x") for _ in range(2)))
    assert first == second
    assert len(await scene.patients.history()) == 1


async def test_a_control_id_used_again_is_harmless(scene: Scene) -> None:
    assert [await scene.code(orm(number, control_id="1")) for number in (1, 2)] == ["AA", "AA"]
    assert len(await scene.data_sets()) == 2


# Character sets, separators, line ends


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("8859/1", "latin_1", "Müller^Jörg"),
        ("8859/2", "iso8859_2", "Łukasz^Żak"),
        ("8859/5", "iso8859_5", "Иванов^Иван"),
        ("8859/7", "iso8859_7", "Διονυσιος"),
        ("8859/15", "iso8859_15", "Œuvre^Zoë"),
        ("UNICODE UTF-8", "utf_8", "山田^太郎"),
        ("UNICODE UTF-8", "utf_8_sig", "山田^太郎"),
        ("~ISO IR87", "iso2022_jp", "山田^太郎"),
        ("ASCII~ISO IR87", "iso2022_jp", "山田^太郎"),
        ("GB 18030-2000", "gb18030", "王^小东"),
        ("KS X 1001", "euc_kr", "홍^길동"),
        ("", "utf_8", "Müller^山"),
        ("", "latin_1", "Müller^Jörg"),
        ("ASCII", "latin_1", "Müller^Jörg"),
    ],
)
async def test_character_sets(scene: Scene, declared: str, codec: str, name: str) -> None:
    body = orm(charset=declared, name=name).encode(codec)
    answer = await scene.inbox.receive(body, "x")
    assert b"MSA|AA|" in answer
    assert [data_set.PatientName for data_set in await scene.data_sets()] == [name]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
async def test_line_ends(scene: Scene, end: str) -> None:
    assert await scene.code(orm().replace("\r", end)) == "AA"


async def test_other_separators_and_escapes(scene: Scene) -> None:
    text = orm(name="O\\T\\Hara^Jo\\S\\n")
    assert await scene.code(text.translate(str.maketrans("|^", "#*"))) == "AA"
    (data_set,) = await scene.data_sets()
    assert data_set.PatientName == "O&Hara^Jo*n"


async def test_the_escape_character_is_the_one_that_the_header_names(scene: Scene) -> None:
    text = orm(name="O!T!Hara^Jo!S!n!E!X41!R!\\T\\").replace("MSH|^~\\&", "MSH|^~!&")
    assert await scene.code(text) == "AA"
    (data_set,) = await scene.data_sets()
    assert data_set.PatientName == "O&Hara^Jo n!X41~/T/"  # a caret of text is no separator in a name


@pytest.mark.parametrize(
    ("declared", "escaped", "name"),
    [
        ("8859/1", "M\\XFC\\ller", "Müller"),
        ("8859/2", "\\XA3\\ukasz", "Łukasz"),
        ("UNICODE UTF-8", "M\\XC3BC\\ller", "Müller"),
        ("UNICODE UTF-8", "M\\XC3\\\\XBC\\ller", "Müller"),
        ("", "M\\XC3BC\\ller", "Müller"),
        ("", "M\\XFC\\ller", "Müller"),
        ("ASCII", "M\\XFC\\ller", "Müller"),
        ("KS X 1001", "\\XC8AB\\", "홍"),
        ("8859/1", "M\\XF\\ller", "Mller"),
    ],
)
async def test_escaped_bytes_are_in_the_character_set_of_the_message(
    scene: Scene, declared: str, escaped: str, name: str
) -> None:
    assert await scene.code(orm(charset=declared, name=escaped).encode()) == "AA"
    assert [data_set.PatientName for data_set in await scene.data_sets()] == [name]


async def test_a_backslash_makes_no_second_value(scene: Scene) -> None:
    assert await scene.code(orm().replace("|Pain|", "|left\\E\\right|")) == "AA"
    (data_set,) = await scene.data_sets()
    assert data_set.ReasonForTheRequestedProcedure == "left/right"


# Answers to what is wrong


@pytest.mark.parametrize(
    ("text", "code", "error", "reason"),
    [
        ("", "AR", "100", "does not begin with a header"),
        ("hello", "AR", "100", "does not begin with a header"),
        ("MSH", "AR", "100", "does not begin with a header"),
        ("PID|1\rMSH|^~\\&|A", "AR", "100", "does not begin with a header"),
        ("MSH|^~\\&|A|B", "AE", "101", "no message control ID"),
        (orm().replace("ORM^O01", "ORU^R01"), "AR", "200", "type ORU"),
        (orm().replace("ORM^O01", ""), "AR", "200", "type  "),
        (orm().replace("ORM^O01", "ORM^O02"), "AR", "201", "event O02"),
        (adt("A47", pid="PID|||P1"), "AR", "201", "event A47"),
        (orm(charset="EBCDIC"), "AR", "103", "character set 'EBCDIC'"),
        (
            orm(charset="UNICODE UTF-8", name="Müller").encode("latin_1"),
            "AE",
            "102",
            "not in the character set",
        ),
        (message(msh("ORM^O01"), "PID|||P1"), "AE", "100", "no order (ORC)"),
        (message(msh("ORM^O01"), "ORC|NW|1"), "AE", "100", "no patient (PID)"),
        (message(msh("ORM^O01"), "PID|||P1", "ORC|NW|1"), "AE", "100", "no detail (OBR)"),
        (orm(control="ZZ"), "AE", "103", "order control 'ZZ'"),
        (orm().replace("PL1", "").replace("FI1", ""), "AE", "101", "order number"),
        (orm(modality=""), "AE", "101", "missing: Modality (0008,0060)"),
        (orm(name=""), "AE", "101", "missing: PatientName (0010,0010)"),
        (orm(control="CA"), "AE", "204", "order PL1 is not known"),
        (adt("A08"), "AE", "100", "no patient (PID)"),
        (adt("A08", pid="PID|||"), "AE", "101", "no patient ID (PID-3)"),
        (adt("A40", pid="PID|||P1"), "AE", "101", "no prior patient ID (MRG-1)"),
    ],
)
async def test_bad_messages_are_answered_and_kept(
    scene: Scene, text: str | bytes, code: str, error: str, reason: str
) -> None:
    body = text if isinstance(text, bytes) else text.encode()
    answer = (await scene.inbox.receive(body, "192.0.2.1")).decode("latin_1")
    segments = {line[:3]: line.split("|") for line in answer.split("\r") if line}
    assert segments["MSA"][1] == code
    assert reason.strip() in segments["MSA"][3]
    assert error in segments["ERR"][-1 if len(segments["ERR"]) == 2 else 3]
    (kept,) = await scene.inbox.messages(refused_only=True)
    assert (kept.body, kept.answer, kept.response.decode("latin_1")) == (body, code, answer)
    assert await scene.data_sets() == []


async def test_acknowledgement_goes_back_where_the_message_came_from(scene: Scene) -> None:
    answer = await scene.send(omi(control_id="É|1".replace("|", "")))
    header = answer["MSH"]
    assert header[2:6] == ["PACSNODE", "HOSP", "RIS", "HOSP"]
    assert (header[8], header[10:12], header[17]) == ("ACK^O23^ACK", ["P", "2.5.1"], "UNICODE UTF-8")
    assert answer["MSA"] == ["MSA", "AA", "É1"]


@pytest.mark.parametrize(
    "body", [orm(charset="EBCDIC").encode(), orm(charset="UNICODE UTF-8", name="Müller").encode("latin_1")]
)
async def test_what_cannot_be_read_is_answered_by_what_its_header_tells(scene: Scene, body: bytes) -> None:
    answer = (await scene.inbox.receive(body, "x")).decode("ascii")
    segments = {line[:3]: line.split("|") for line in answer.split("\r") if line}
    assert segments["MSH"][2:6] == ["PACSNODE", "HOSP", "RIS", "HOSP"]
    assert segments["MSA"][2] == "orm-1-NW"
    assert "EBCDIC" not in segments["MSH"]
    (kept,) = await scene.inbox.messages()
    assert (kept.control_id, kept.kind) == ("orm-1-NW", "ORM^O01")


async def test_nothing_of_a_message_makes_segments_of_its_acknowledgement(scene: Scene) -> None:
    text = orm(control_id="1\\X0D\\EVIL").replace("|P|2.3.1", "|P\\X0D\\EVIL|2.3.1\\X0D\\EVIL")
    text = text.replace("ORM^O01", "ORM^O01\\X0D\\EVIL")
    answer = (await scene.inbox.receive(text.encode(), "x")).decode()
    assert [line[:3] for line in answer.split("\r") if line] == ["MSH", "MSA", "ERR"]


async def test_error_segment_before_and_since_2_5(scene: Scene) -> None:
    old = (await scene.send(orm(modality="")))["ERR"]
    assert old == ["ERR", "OBR^^^101&Required field missing&HL70357"]
    new = (await scene.send(omi().replace("|MR|", "||")))["ERR"]
    assert new[2:5] == ["OBR", "101^Required field missing^HL70357", "E"]
    assert new[8] == "missing: Modality (0008,0060)"


async def test_orders_of_two_patients_in_a_message_are_not_mixed(scene: Scene) -> None:
    """ORM, OMG and OMI have one patient; the second one's order would be scheduled for the first."""
    first, second = orm(1), orm(2).partition("\r")[2]
    answer = await scene.send(first + second)
    assert (answer["MSA"][1], answer["MSA"][3]) == ("AE", "the orders are of more than one patient")
    assert await scene.data_sets() == []
    told_again = orm(1) + next(line for line in orm(1).split("\r") if line.startswith("PID")) + "\r"
    assert await scene.code(told_again) == "AA"


async def test_nothing_of_a_refused_message_is_done(scene: Scene) -> None:
    second = orm(2, modality="")
    assert await scene.code(orm(1) + second[second.index("ORC|") :]) == "AE"
    assert await scene.data_sets() == []


async def test_a_message_that_was_refused_may_be_sent_again(scene: Scene) -> None:
    assert await scene.code(orm(control="CA")) == "AE"
    await scene.code(orm())
    assert await scene.code(orm(control="CA")) == "AA"


async def test_old_messages_are_forgotten(scene: Scene) -> None:
    await scene.code(orm())
    async with scene.database.transaction() as transaction:
        await transaction.execute("UPDATE hl7_message SET received_at = received_at - ?", (31 * DAY,))
    await scene.inbox.tidy()
    assert await scene.inbox.messages() == []


# Patients


@pytest.mark.parametrize("event", ["A08", "A31"])
async def test_an_update_of_a_patient_changes_items_and_is_journalled(scene: Scene, event: str) -> None:
    await scene.code(orm())
    await scene.code(orm(2))
    assert await scene.code(adt(event, "u1", 'PID|||P1^^^HOSP||Neu^Näme||19700103|""|')) == "AA"
    first, second = await scene.data_sets()
    assert (first.PatientName, first.PatientBirthDate, first.PatientSex) == ("Neu^Näme", "19700103", "")
    assert second.PatientName == "Patient^Number2"
    (entry,) = await scene.patients.history()
    assert (entry.kind, entry.patient, entry.source) == ("update", ("P1", "HOSP"), f"ADT^{event} u1")
    assert entry.attributes == {
        "PatientName": "Neu^Näme",
        "PatientBirthDate": "19700103",
        "PatientSex": "",
    }
    await scene.code(adt(event, "u2", 'PID|||P1^^^HOSP||Neu^Näme||19700103|""|'))
    assert len(await scene.patients.history()) == 1, "nothing new"


async def test_a_merge_gives_items_to_the_other_patient_and_is_journalled(scene: Scene) -> None:
    await scene.code(orm())
    merge = adt("A40", "m1", "PID|||P9^^^HOSP||Right^Name", "PD1", "MRG|P1^^^HOSP")
    assert await scene.code(merge) == "AA"
    (data_set,) = await scene.data_sets()
    assert (data_set.PatientID, data_set.PatientName) == ("P9", "Right^Name")
    (entry,) = await scene.patients.history()
    assert (entry.kind, entry.patient, entry.prior) == ("merge", ("P9", "HOSP"), ("P1", "HOSP"))
    assert await scene.inbox.receive(merge.encode(), "x")
    assert await scene.code(merge.replace("m1", "m2")) == "AA"
    assert len(await scene.patients.history()) == 1, "nothing new"


@pytest.mark.parametrize(
    ("message", "location"),
    [
        (adt("A40", "1", "PID|||P9^^^HOSP", "MRG|P9^^^HOSP"), "MRG^1"),
        (adt("A40", "2", "PID|||P9^^^HOSP", "MRG|P9"), "MRG^1"),
        (adt("A40", "3", "PID|||P1^^^HOSP", "MRG|P9^^^HOSP"), "MRG^1"),
        (adt("A40", "4", "PID|||P7^^^HOSP", "MRG|P1^^^HOSP"), "MRG^1"),
        (adt("A08", "5", "PID|||P1^^^HOSP||Late^News"), "PID^1"),
        (adt("A40", "6", "PID|||P9^^^HOSP", "MRG|"), "MRG^1"),
        (adt("A40", "7", "PID|||||Nobody", "MRG|P1"), "PID^1"),
    ],
    ids=[
        "itself",
        "itself, no issuer",
        "in a circle",
        "gone already",
        "update of one gone",
        "no MRG-1",
        "no ID",
    ],
)
async def test_a_merge_that_cannot_be_is_refused_and_changes_nothing(
    scene: Scene, message: str, location: str
) -> None:
    await scene.code(orm())
    assert await scene.code(adt("A40", "m1", "PID|||P9^^^HOSP", "MRG|P1^^^HOSP")) == "AA"
    before = await scene.data_sets()
    acknowledgement = await scene.send(message)
    assert acknowledgement["MSA"][1] == "AE"
    assert acknowledgement["ERR"][2].startswith(location)
    assert await scene.data_sets() == before
    assert len(await scene.patients.history()) == 1
