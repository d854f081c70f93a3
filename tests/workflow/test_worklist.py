"""The worklist without a network: what items go through, and the folder they come from."""

import fcntl
import os
import time
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from pacsnode.archive.changes import Grown
from pacsnode.config import Worklist as WorklistSettings
from pacsnode.dicom.element import Element
from pacsnode.dicom.query import RequestedKey
from pacsnode.dicom.uid import UID
from pacsnode.errors import IncompleteItem
from pacsnode.workflow.database import Database
from pacsnode.workflow.worklist import HOUR, Worklist
from pacsnode.workflow.worklist_folder import WorklistFolder
from pacsnode.workflow.worklist_query import worklist_query_of
from pacsnode.workflow.worklist_search import view_of
from pacsnode.workflow.worklist_state import TRANSITIONS, StepEvent, StepState
from tests.support.worklist import as_file, data_set_of, item_of, nested, scheduled

STUDY = "1.2.840.1"


@pytest_asyncio.fixture
async def worklist(opened: Database) -> Worklist:
    return Worklist(opened, WorklistSettings())


async def put(worklist: Worklist, number: int = 1, **values: object) -> int:
    (found,) = await worklist.add([(f"test:{number}", item_of(scheduled(number, **values)))])
    return found


async def state(worklist: Worklist, number: int) -> str:
    listed = await worklist.item(number)
    assert listed is not None
    return listed.state.value


async def answered(worklist: Worklist) -> list[str]:
    """The accession numbers that a modality is told."""
    query = worklist_query_of([RequestedKey(0x00080050, "SH")])
    return [
        str(answer.elements[0].value)
        async for chunk in worklist.find(query, view_of((), "CT1", "PACSNODE"))
        for answer in chunk
    ]


async def started(worklist: Worklist, opened: Database, **named: str) -> list[int]:
    async with opened.transaction() as transaction:
        return await worklist.step_started(transaction, **{"study_uid": STUDY, **named})


async def finished(worklist: Worklist, opened: Database, *, discontinued: bool = False) -> list[int]:
    async with opened.transaction() as transaction:
        return await worklist.step_finished(
            transaction, study_uid=STUDY, sps_id="S1", discontinued=discontinued
        )


async def arrive(worklist: Worklist, opened: Database, modality: str = "CT") -> None:
    async with opened.transaction() as transaction:
        await worklist.arrived(transaction, [Grown(UID("1.4"), UID(STUDY), modality)])


def test_every_state_and_event_has_one_outcome() -> None:
    """What is not in the table changes nothing; nothing leaves COMPLETED."""
    assert {state for state, _ in TRANSITIONS} == set(StepState) - {StepState.COMPLETED}
    assert all((state, StepEvent.EXPIRED) not in TRANSITIONS for state in list(StepState)[2:])


async def test_a_step_is_started_and_completed(worklist: Worklist, opened: Database) -> None:
    number = await put(worklist)
    assert await started(worklist, opened, sps_id="S1") == [number]
    assert await state(worklist, number) == "IN PROGRESS"
    listed = await worklist.item(number)
    assert listed is not None
    step = data_set_of(listed.item).ScheduledProcedureStepSequence[0]
    assert step.ScheduledProcedureStepStatus == "STARTED"
    assert await answered(worklist) == ["A1"]
    assert await finished(worklist, opened) == [number]
    assert await state(worklist, number) == "COMPLETED"
    assert await answered(worklist) == []


async def test_a_discontinued_step_can_be_started_again(worklist: Worklist, opened: Database) -> None:
    number = await put(worklist)
    await started(worklist, opened, sps_id="S1")
    await finished(worklist, opened, discontinued=True)
    assert (await state(worklist, number), await answered(worklist)) == ("DISCONTINUED", [])
    await started(worklist, opened, sps_id="S1")
    assert (await state(worklist, number), await answered(worklist)) == ("IN PROGRESS", ["A1"])


async def test_steps_an_mpps_names(worklist: Worklist, opened: Database) -> None:
    first = await put(worklist, 1)
    second = await put(worklist, 2, StudyInstanceUID=STUDY)
    assert await started(worklist, opened, sps_id="S2") == [second]
    assert await started(worklist, opened, study_uid="1.9", accession="A1", sps_id="S1") == [first]
    assert await started(worklist, opened) == []  # two steps, none named
    assert await started(worklist, opened, sps_id="S9") == []
    assert await started(worklist, opened, study_uid="1.9") == []


async def test_a_study_with_one_step_needs_no_step_id(worklist: Worklist, opened: Database) -> None:
    number = await put(worklist)
    assert await started(worklist, opened) == [number]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ((), ["A1", "A2", "A3", "A4"]),
        (("started",), ["A3", "A4"]),
        (("completed",), ["A1", "A3", "A4"]),
        (("arrived",), ["A1", "A2", "A4"]),
        (("started", "completed", "arrived"), ["A4"]),
    ],
)
async def test_the_rule_takes_items_off_the_answers(
    opened: Database, rule: tuple[str, ...], left: list[str]
) -> None:
    settings = WorklistSettings.model_validate({"remove_on": rule})
    worklist = Worklist(opened, settings)
    for number in (1, 2, 3, 4):
        await put(worklist, number)
    async with opened.transaction() as transaction:
        for study in ("1.2.840.1", "1.2.840.2"):
            await worklist.step_started(transaction, study_uid=study)
        await worklist.step_finished(transaction, study_uid="1.2.840.2")
        await worklist.arrived(transaction, [Grown(UID("1.4"), UID("1.2.840.3"), "CT")])
    assert await answered(worklist) == left


async def test_images_complete_a_step_without_mpps(worklist: Worklist, opened: Database) -> None:
    number = await put(worklist)
    await arrive(worklist, opened, "SR")
    assert await state(worklist, number) == "SCHEDULED"
    await arrive(worklist, opened)
    assert (await state(worklist, number), await answered(worklist)) == ("COMPLETED", [])


async def test_images_leave_the_end_of_a_step_to_its_mpps(worklist: Worklist, opened: Database) -> None:
    number = await put(worklist)
    await started(worklist, opened)
    await arrive(worklist, opened)
    assert await state(worklist, number) == "IN PROGRESS"


async def test_items_expire_by_age(worklist: Worklist, opened: Database) -> None:
    old, planned = await put(worklist, 1), await put(worklist, 2, ScheduledProcedureStepStartDate="29990101")
    assert await worklist.expire() == 0, "the start is long ago, but the item is new"
    async with opened.transaction() as transaction:
        long_ago = time.time() - 49 * HOUR
        await transaction.execute("UPDATE worklist_item SET changed_at = ?", (long_ago,))
    assert await worklist.expire() == 1
    assert [await state(worklist, number) for number in (old, planned)] == ["EXPIRED", "SCHEDULED"]
    assert await answered(worklist) == ["A2"]
    await put(worklist, 1)
    assert await answered(worklist) == ["A1", "A2"], "ordered again"


async def test_put_again_changes_the_item(worklist: Worklist) -> None:
    number = await put(worklist)
    assert await put(worklist, 1, PatientName="Other^Name") == number
    (listed,) = await worklist.items()
    assert listed.item.text(0x00100010) == "Other^Name"


async def test_an_update_of_the_patient_changes_the_items(worklist: Worklist, opened: Database) -> None:
    await put(worklist, 1, PatientID="P", IssuerOfPatientID="HOSP")
    await put(worklist, 2, PatientID="P", IssuerOfPatientID="OTHER")
    await put(worklist, 3, PatientID="P")
    async with opened.transaction() as transaction:
        changed = [Element(0x00100010, "PN", "New^Name"), Element(0x00100020, "LO", "P9")]
        assert await worklist.update_patient(transaction, "P", "HOSP", changed) == 2
    found = [
        (listed.item.text(0x00100010), listed.item.text(0x00100020)) for listed in await worklist.items()
    ]
    assert found == [("New^Name", "P9"), ("Patient^Number2", "P"), ("New^Name", "P9")]


async def test_an_item_that_lacks_something_says_what() -> None:
    data_set = scheduled(1, PatientID="", Modality="")
    del data_set.RequestedProcedureDescription
    with pytest.raises(IncompleteItem) as raised:
        item_of(data_set).check()
    assert str(raised.value) == (
        "missing: PatientID (0010,0020), RequestedProcedureDescription (0032,1060) or"
        " RequestedProcedureCodeSequence (0032,1064), Modality (0008,0060)"
    )


async def test_the_data_set_is_kept_complete(worklist: Worklist) -> None:
    given = scheduled(
        1, PatientName="Müller^Ü", PatientComments="a\\b", PatientWeight="70.5", PregnancyStatus=4,
        ReferencedPatientSequence=[nested(ReferencedSOPInstanceUID="1.2")],
    )  # fmt: skip
    given.add_new(0x00091001, "UN", b"\1\2")
    number = await worklist.add([("x", item_of(given))])
    listed = await worklist.item(number[0])
    assert listed is not None
    kept = data_set_of(listed.item)
    assert kept == given


# The folder


class Scene:
    """A data root with the folder, looked into when the test says so."""

    def __init__(self, database: Database, root: Path) -> None:
        self.worklist = Worklist(database, WorklistSettings())
        self.path = root / "worklists"
        self.folder = WorklistFolder(database, self.worklist, root, 1)
        self.path.mkdir()

    def write(self, name: str, number: int = 1, **values: object) -> Path:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(as_file(scheduled(number, **values)))
        return path

    async def look(self) -> list[dict[str, object]]:
        with capture_logs() as logs:
            await self.folder.look()
        return [dict(entry) for entry in logs if entry["log_level"] != "debug"]

    async def states(self) -> list[str]:
        return [listed.state.value for listed in await self.worklist.items()]


@pytest.fixture
def scene(opened: Database, tmp_path: Path) -> Scene:
    return Scene(opened, tmp_path)


async def test_a_file_comes_changes_goes_and_comes_again(scene: Scene) -> None:
    path = scene.write("1.wl")
    (scene.path / "1.txt").write_text("not looked at")
    await scene.look()
    assert await answered(scene.worklist) == ["A1"]
    scene.write("1.wl", AccessionNumber="CHANGED")
    await scene.look()
    assert await answered(scene.worklist) == ["CHANGED"]
    content, stamp = path.read_bytes(), path.stat()
    path.unlink()
    await scene.look()
    assert (await answered(scene.worklist), await scene.states()) == ([], ["CANCELLED"])
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    await scene.look()
    assert await answered(scene.worklist) == ["CHANGED"]


async def test_what_happened_while_the_node_was_down_is_made_up_for(
    scene: Scene, opened: Database, tmp_path: Path
) -> None:
    scene.write("1.wl", 1)
    gone = scene.write("2.wl", 2)
    await scene.look()
    gone.unlink()
    scene.write("3.wl", 3)
    again = WorklistFolder(opened, scene.worklist, tmp_path, 1)
    with capture_logs() as logs:
        await again.look()
    events = [entry["event"] for entry in logs if str(entry["event"]).startswith("worklist.file_")]
    assert events == ["worklist.file_taken", "worklist.file_gone"]
    assert await answered(scene.worklist) == ["A1", "A3"]


async def test_a_restart_does_not_schedule_again_what_was_done(
    scene: Scene, opened: Database, tmp_path: Path
) -> None:
    scene.write("1.wl")
    await scene.look()
    await started(scene.worklist, opened)
    await finished(scene.worklist, opened)
    await WorklistFolder(opened, scene.worklist, tmp_path, 1).look()
    assert await scene.states() == ["COMPLETED"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no worklist at all", "this is no DICOM file"),
        (b"", "this is no DICOM file"),
        (as_file(scheduled(1))[:-30], "runs past the end"),
        (as_file(nested(PatientName="Only")), "there is no Scheduled Procedure Step Sequence (0040,0100)"),
        (as_file(scheduled(1, ScheduledStationAETitle="")), "missing: ScheduledStationAETitle (0040,0001)"),
    ],
    ids=["text", "empty", "cut", "no step", "incomplete"],
)
async def test_a_bad_file_is_logged_once_and_left(scene: Scene, content: bytes, reason: str) -> None:
    path = scene.path / "bad.wl"
    path.write_bytes(content)
    scene.write("good.wl")
    assert [entry["event"] for entry in await scene.look()] == ["worklist.file_taken"], (
        "it may be half written"
    )
    (entry,) = await scene.look()
    assert (entry["event"], entry["path"]) == ("worklist.file_refused", "worklists/bad.wl")
    assert reason in str(entry["reason"])
    assert await scene.look() == []
    assert path.exists()
    path.write_bytes(as_file(scheduled(2)))
    assert [entry["event"] for entry in await scene.look()] == ["worklist.file_taken"]


async def test_a_folder_is_left_alone_while_its_lock_is_held(scene: Scene) -> None:
    path = scene.write("OFFIS/1.wl")
    (path.parent / "lockfile").touch()
    with (path.parent / "lockfile").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await scene.look() == []
    assert [entry["event"] for entry in await scene.look()] == ["worklist.file_taken"]
    with (path.parent / "lockfile").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path.unlink()
        assert await scene.look() == [], "what is not seen is not taken for gone"
    assert [entry["event"] for entry in await scene.look()] == ["worklist.file_gone"]


async def test_a_file_with_two_steps_is_two_items(scene: Scene) -> None:
    data_set = scheduled(1)
    data_set.ScheduledProcedureStepSequence.append(
        nested(
            **{element.keyword: element.value for element in data_set.ScheduledProcedureStepSequence[0]}
        ).ScheduledProcedureStepSequence[0]
    )
    (scene.path / "1.wl").write_bytes(as_file(data_set))
    await scene.look()
    assert await answered(scene.worklist) == ["A1", "A1"]
    scene.write("1.wl")
    await scene.look()
    assert await answered(scene.worklist) == ["A1"]
