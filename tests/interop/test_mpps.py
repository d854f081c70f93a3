"""Modality Performed Procedure Step with pynetdicom as modality, as RIS and as subscriber (PS3.4 F)."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from pydicom import Dataset
from pynetdicom import Association, evt
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
    ModalityWorklistInformationFind,
)

from pacsnode.node import Node
from pacsnode.workflow.worklist_state import StepState as ItemState
from tests.conftest import SettingsOf
from tests.support.dimse_n import (
    MPPS_CLASSES,
    NOTIFICATION,
    Listener,
    asked,
    code,
    final,
    listening,
    performed_series,
    step,
)
from tests.support.objects import made
from tests.support.raw import CT_IMAGE
from tests.support.sending import send_made
from tests.support.waiting import eventually
from tests.support.worklist import item_of, nested, scheduled

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STEP = "1.2.840.99.1"
Answer = tuple[Dataset, Dataset | None]


async def create(node: Node, attributes: Dataset, uid: str | None = STEP) -> Answer:
    return await answered(node, lambda a: a.send_n_create(attributes, ModalityPerformedProcedureStep, uid))


async def set_(node: Node, modifications: Dataset, uid: str = STEP) -> Answer:
    return await answered(node, lambda a: a.send_n_set(modifications, ModalityPerformedProcedureStep, uid))


async def get(node: Node, *tags: int, uid: str = STEP) -> Answer:
    return await answered(
        node, lambda a: a.send_n_get(list(tags), ModalityPerformedProcedureStepRetrieve, uid)
    )


async def answered(node: Node, ask: Callable[[Association], Answer]) -> Answer:
    """The command set of the response, of which pynetdicom tells a part only, and the data set."""
    commands: list[Dataset] = []

    def run(association: Association) -> Answer:
        association.bind(evt.EVT_DIMSE_RECV, lambda event: commands.append(event.message.command_set))
        _, data = ask(association)
        return commands[-1], data

    return await asked(node.dimse_port, run)


@pytest_asyncio.fixture
async def begun(node: Node) -> Node:
    """A node with one step IN PROGRESS."""
    status, _ = await create(node, step())
    assert status.Status == 0x0000
    return node


async def test_a_step_is_performed_and_given_back_with_all_it_was_told(begun: Node) -> None:
    images = [(CT_IMAGE, f"1.2.840.1.1.{number}") for number in range(3)]
    told = final(PerformedSeriesSequence=[performed_series("1.2.840.1.1", *images)])
    told.PerformedProcedureStepDescription = "Schädel-CT, 日本"
    assert (await set_(begun, told))[0].Status == 0x0000
    status, found = await get(begun)
    assert status.Status == 0x0000
    assert found is not None
    assert found.SpecificCharacterSet == "ISO_IR 192"  # the name came in Latin-1, the description in UTF-8
    assert str(found.PatientName) == "Müller^Jürgen"
    assert found.ScheduledStepAttributesSequence[0].RequestedProcedureDescription == "Schädel"
    assert found.PerformedProcedureStepDescription == "Schädel-CT, 日本"
    assert found.PerformedProcedureStepStatus == "COMPLETED"
    (series,) = found.PerformedSeriesSequence
    assert [i.ReferencedSOPInstanceUID for i in series.ReferencedImageSequence] == [uid for _, uid in images]
    expected = {element.tag for element in step()} | {element.tag for element in told}
    assert {element.tag for element in found} == expected


async def test_an_instance_without_uid_gets_one(node: Node) -> None:
    status, _ = await create(node, step(), None)
    assert status.Status == 0x0000
    uid = status.AffectedSOPInstanceUID
    assert uid.startswith("2.25.")
    assert (await get(node, 0x00400252, uid=uid))[1].PerformedProcedureStepStatus == "IN PROGRESS"


async def test_n_get_returns_what_is_asked_for_and_warns_of_what_is_not_there(begun: Node) -> None:
    status, found = await get(begun, 0x00100020, 0x00400281)
    assert status.Status == 0x0000
    assert found.PatientID == "P1"
    assert found["PerformedProcedureStepDiscontinuationReasonCodeSequence"].is_empty  # type 2
    assert {e.tag for e in found} == {0x00080005, 0x00100020, 0x00400281}
    status, found = await get(begun, 0x00100020, 0x00400280)
    assert status.Status == 0x0001
    assert found.PatientID == "P1"
    assert status.OffendingElement == 0x00400280


MISSING = (
    ("PerformedProcedureStepID", 0x00400253),
    ("PerformedStationAETitle", 0x00400241),
    ("PerformedProcedureStepStartDate", 0x00400244),
    ("PerformedProcedureStepStartTime", 0x00400245),
    ("PerformedProcedureStepStatus", 0x00400252),
    ("Modality", 0x00080060),
    ("ScheduledStepAttributesSequence", 0x00400270),
)


async def test_n_create_without_an_attribute_is_refused_naming_it(node: Node) -> None:
    for keyword, tag in (*MISSING, ("PatientName", 0x00100010), ("StudyID", 0x00200010)):
        status, _ = await create(node, step(**{keyword: None}))
        assert (status.Status, status.AttributeIdentifierList) == (0x0120, tag), keyword
    assert (await get(node))[0].Status == 0x0112  # nothing was created


async def test_n_create_without_a_value_is_refused_naming_it(node: Node) -> None:
    for keyword, tag in MISSING:
        status, _ = await create(node, step(**{keyword: [] if keyword.endswith("Sequence") else ""}))
        assert status.Status == 0x0121, keyword
        assert f"({tag >> 16:04X},{tag & 0xFFFF:04X})" in status.ErrorComment


async def test_what_is_missing_in_an_item_is_found(node: Node) -> None:
    attributes = step()
    del attributes.ScheduledStepAttributesSequence[0].StudyInstanceUID
    del attributes.ScheduledStepAttributesSequence[0].AccessionNumber
    status, _ = await create(node, attributes)
    assert status.Status == 0x0120
    assert list(status.AttributeIdentifierList) == [0x00080050, 0x0020000D]
    attributes = step()
    attributes.ScheduledStepAttributesSequence[0].StudyInstanceUID = "no UID"
    assert (await create(node, attributes))[0].Status == 0x0106
    attributes = step(ProcedureCodeSequence=[code("", "without a value")])
    assert (await create(node, attributes))[0].Status == 0x0120


async def test_a_step_that_is_not_in_progress_is_not_created(node: Node) -> None:
    for status in ("COMPLETED", "DISCONTINUED", "SCHEDULED"):
        answer, _ = await create(node, step(PerformedProcedureStepStatus=status))
        assert answer.Status == 0x0106
    assert (await get(node))[0].Status == 0x0112


async def test_a_second_step_with_the_same_uid_is_refused(begun: Node) -> None:
    assert (await create(begun, step(PatientID="P2")))[0].Status == 0x0111
    assert (await get(begun, 0x00100020))[1].PatientID == "P1"


async def test_a_uid_that_is_none_is_refused(node: Node) -> None:
    def ask(association: Association) -> Answer:
        from pynetdicom import _config

        enforced, _config.ENFORCE_UID_CONFORMANCE = _config.ENFORCE_UID_CONFORMANCE, False
        try:
            return association.send_n_create(step(), ModalityPerformedProcedureStep, "1.2.x")
        finally:
            _config.ENFORCE_UID_CONFORMANCE = enforced

    assert (await asked(node.dimse_port, ask))[0].Status == 0x0117


async def test_an_unknown_step_cannot_be_set(node: Node) -> None:
    assert (await set_(node, final(), uid="1.2.3.4"))[0].Status == 0x0112


@pytest.mark.parametrize("ended", ["COMPLETED", "DISCONTINUED"])
async def test_a_step_that_has_ended_is_not_changed_any_more(begun: Node, ended: str) -> None:
    assert (await set_(begun, final(ended)))[0].Status == 0x0000
    for again in (final("COMPLETED"), final("DISCONTINUED"), final("IN PROGRESS")):
        status, _ = await set_(begun, again)
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
        assert status.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert (await get(begun, 0x00400252))[1].PerformedProcedureStepStatus == ended


async def test_a_step_does_not_end_without_its_end(begun: Node) -> None:
    for keyword in ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime"):
        status, _ = await set_(begun, final(**{keyword: None}))
        assert status.Status == 0x0121
    assert (await get(begun, 0x00400252))[1].PerformedProcedureStepStatus == "IN PROGRESS"


async def test_a_step_does_not_end_without_a_series(begun: Node) -> None:
    status, _ = await set_(begun, final(PerformedSeriesSequence=[]))
    assert status.Status == 0x0121
    assert "(0040,0340)" in status.ErrorComment
    without = performed_series("1.2.840.1.1", ProtocolName=None)
    assert (await set_(begun, final(PerformedSeriesSequence=[without])))[0].Status == 0x0121
    assert (await set_(begun, final()))[0].Status == 0x0000


async def test_a_status_that_is_none_is_refused(begun: Node) -> None:
    status, _ = await set_(begun, final("FINISHED"))
    assert status.Status == 0x0106
    assert (await get(begun, 0x00400252))[1].PerformedProcedureStepStatus == "IN PROGRESS"


async def test_what_may_not_be_set_is_named_and_left_alone(begun: Node) -> None:
    status, _ = await set_(begun, final(PatientID="P2", PerformedStationAETitle="CT2"))
    assert status.Status == 0x0107
    assert list(status.AttributeIdentifierList) == [0x00100020, 0x00400241]
    found = (await get(begun))[1]
    assert (found.PatientID, found.PerformedStationAETitle) == ("P1", "CT1")
    assert found.PerformedProcedureStepStatus == "COMPLETED"  # the rest was done


async def test_progress_is_told_by_whole_sequences(begun: Node) -> None:
    for count in (1, 2, 1):
        told = Dataset()
        told.PerformedSeriesSequence = [performed_series(f"1.2.840.1.{n}") for n in range(count)]
        assert (await set_(begun, told))[0].Status == 0x0000
        assert len((await get(begun, 0x00400340))[1].PerformedSeriesSequence) == count
    assert (await get(begun, 0x00400252))[1].PerformedProcedureStepStatus == "IN PROGRESS"


async def test_commands_belong_to_their_own_sop_class(begun: Node) -> None:
    def n_get(association: Association) -> int:
        return association.send_n_get(
            [0x00100020],
            ModalityPerformedProcedureStepRetrieve,
            STEP,
            meta_uid=ModalityPerformedProcedureStep,
        )[0].Status

    assert await asked(begun.dimse_port, n_get) == 0x0211

    def another_class(association: Association) -> int:
        return association.send_n_create(
            step(), ModalityPerformedProcedureStepRetrieve, "1.2.3", meta_uid=ModalityPerformedProcedureStep
        )[0].Status

    assert await asked(begun.dimse_port, another_class) == 0x0118


async def test_a_lenient_node_takes_what_modalities_leave_out(settings_of: SettingsOf) -> None:
    async with Node(settings_of(mpps={"lenient": True})) as node:
        attributes = step(PatientBirthDate=None, StudyID=None, PerformedProcedureStepID=None)
        assert (await create(node, attributes))[0].Status == 0x0000
        assert (await set_(node, final("DISCONTINUED", PerformedSeriesSequence=[])))[0].Status == 0x0000
        found = (await get(node))[1]
        assert found.PerformedProcedureStepStatus == "DISCONTINUED"
        assert found["PatientBirthDate"].is_empty
        without_study = step(ScheduledStepAttributesSequence=None)
        assert (await create(node, without_study, "1.2.5"))[0].Status == 0x0120


async def test_steps_outlive_the_node(settings_of: SettingsOf) -> None:
    settings = settings_of()
    async with Node(settings) as node:
        await create(node, step())
    async with Node(settings) as node:
        assert (await get(node, 0x00400252))[1].PerformedProcedureStepStatus == "IN PROGRESS"
        assert (await set_(node, final()))[0].Status == 0x0000


@pytest_asyncio.fixture
async def told(settings_of: SettingsOf) -> AsyncIterator[tuple[Node, Listener, Listener]]:
    """A node that hands steps on to a RIS and tells a PACS of them."""
    with (
        listening("RIS", as_scp=MPPS_CLASSES) as ris,
        listening("PACS2", as_scu=[NOTIFICATION]) as pacs,
    ):
        settings = settings_of(
            mpps={"forward": ["RIS"], "notify": ["PACS2"]},
            peers={"RIS": f"127.0.0.1:{ris.port}", "PACS2": f"127.0.0.1:{pacs.port}"},
            jobs={"retry_after": 0.05},
        )
        async with Node(settings) as node:
            yield node, ris, pacs


async def test_others_are_told_in_the_order_it_happened(told: tuple[Node, Listener, Listener]) -> None:
    node, ris, pacs = told
    ris.statuses += [0x0110, 0x0213]  # the RIS stumbles at the N-CREATE: nothing may overtake it
    progress = Dataset()
    progress.PerformedProcedureStepDescription = "half way"
    await create(node, step())
    await set_(node, progress)
    await set_(node, final())
    await eventually(lambda: len(ris.told) == 5 and len(pacs.told) == 3, "both have been told")
    assert ris.operations == ["N-CREATE", "N-CREATE", "N-CREATE", "N-SET", "N-SET"]
    assert {one.sop_instance for one in ris.told} == {STEP}
    assert ris.told[2].data == step()  # as the modality sent it, in its character set
    assert ris.told[3].data == progress
    assert ris.told[4].data == final()
    assert [one.type_id for one in pacs.told] == [1, 4, 2]
    assert {(one.operation, one.sop_instance) for one in pacs.told} == {("N-EVENT-REPORT", STEP)}


async def test_what_a_manager_will_not_take_holds_nothing_up(told: tuple[Node, Listener, Listener]) -> None:
    node, ris, pacs = told
    ris.statuses += [0x0111, 0x0106]  # it has the step, and does not like the N-SET
    await create(node, step())
    await set_(node, final("DISCONTINUED"))
    await create(node, step(), "1.2.840.99.2")
    await eventually(lambda: len(ris.told) == 3 and len(pacs.told) == 3, "both have been told")
    assert ris.operations.count("N-SET") == 1
    assert sorted(one.type_id for one in pacs.told) == [1, 1, 3]


async def test_what_a_ris_missed_is_told_when_it_is_back(settings_of: SettingsOf) -> None:
    with listening("RIS", as_scp=MPPS_CLASSES) as gone:
        port = gone.port
    settings = settings_of(
        mpps={"forward": ["RIS"]}, peers={"RIS": f"127.0.0.1:{port}"}, jobs={"retry_after": 0.05}
    )
    async with Node(settings) as node:
        await create(node, step())
    with listening("RIS", as_scp=MPPS_CLASSES, port=port) as ris:
        async with Node(settings) as node:
            await set_(node, final())
            await eventually(lambda: len(ris.told) == 2, "the RIS has been told")
    assert ris.operations == ["N-CREATE", "N-SET"]


async def test_a_step_is_not_handed_back_to_where_it_came_from(settings_of: SettingsOf) -> None:
    with listening("MODALITY", as_scp=MPPS_CLASSES) as modality, listening("RIS", as_scp=MPPS_CLASSES) as ris:
        peers = {"MODALITY": f"127.0.0.1:{modality.port}", "RIS": f"127.0.0.1:{ris.port}"}
        async with Node(settings_of(mpps={"forward": ["MODALITY", "RIS"]}, peers=peers)) as node:
            await create(node, step())
            await eventually(lambda: ris.told, "the RIS has been told")
            await asyncio.sleep(0)
    assert modality.told == []


async def test_what_a_modality_made_and_never_sent_is_told(
    settings_of: SettingsOf, capsys: pytest.CaptureFixture[str]
) -> None:
    sent, kept_back = made(1), made(2)
    begun = step()
    begun.ScheduledStepAttributesSequence[0].StudyInstanceUID = sent.study
    images = [(CT_IMAGE, sent.sop), (CT_IMAGE, kept_back.sop)]
    ended = final(PerformedSeriesSequence=[performed_series(sent.series, *images)])
    log: list[str] = []

    def is_told() -> bool:
        log.append(capsys.readouterr().out)
        return "mpps.instances_missing" in "".join(log)

    soon: dict[str, object] = {"series_complete_after": 0.1, "study_stable_after": 0.2}
    async with Node(settings_of(workflow=soon)) as node:
        await create(node, begun)
        await set_(node, ended)
        await send_made(node.dimse_port, [sent])
        await eventually(is_told, "the log tells of the missing instance")
    (line,) = [line for line in "".join(log).splitlines() if "mpps.instances_missing" in line]
    assert "missing=1" in line
    assert "instances=2" in line


async def test_the_worklist_follows_the_step(node: Node) -> None:
    """As a modality does it: ask, begin, end; the item goes as the step goes."""
    items = [item_of(scheduled(number, StudyInstanceUID=f"1.2.840.{number}")) for number in (1, 2)]
    await node.workflow.worklist.add([(f"test:{number}", item) for number, item in enumerate(items)])
    key = Dataset()
    key.PatientID, key.AccessionNumber, key.StudyInstanceUID = "", "", ""
    key.ScheduledProcedureStepSequence = [
        nested(ScheduledProcedureStepID="").ScheduledProcedureStepSequence[0]
    ]

    def find(association: Association) -> list[Dataset]:
        replies = association.send_c_find(key, ModalityWorklistInformationFind)
        return [found for _, found in replies if found is not None]

    async def worklist() -> list[str]:
        found = await asked(node.dimse_port, find, ModalityWorklistInformationFind)
        return sorted(one.AccessionNumber for one in found)

    assert await worklist() == ["A1", "A2"]
    (mine,) = [
        one
        for one in await asked(node.dimse_port, find, ModalityWorklistInformationFind)
        if one.AccessionNumber == "A1"
    ]
    begun = step()
    (item,) = begun.ScheduledStepAttributesSequence
    item.StudyInstanceUID, item.AccessionNumber = mine.StudyInstanceUID, mine.AccessionNumber
    item.ScheduledProcedureStepID = mine.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID
    await create(node, begun)
    states = [listed.state.value for listed in await node.workflow.worklist.items(tuple(ItemState))]
    assert sorted(states) == ["IN PROGRESS", "SCHEDULED"]
    await set_(node, final())
    states = [listed.state.value for listed in await node.workflow.worklist.items(tuple(ItemState))]
    assert sorted(states) == ["COMPLETED", "SCHEDULED"]
    assert await worklist() == ["A2"]


async def test_a_peer_that_takes_commands_only_gets_them_all_the_same(settings_of: SettingsOf) -> None:
    with listening("RIS", as_scp=MPPS_CLASSES) as ris:
        settings = settings_of(
            mpps={"forward": ["RIS"], "notify": ["RIS"]},  # which knows no notifications
            peers={"RIS": f"127.0.0.1:{ris.port}"},
            jobs={"retry_after": 0.05},
        )
        async with Node(settings) as node:
            await create(node, step())
            await set_(node, final())
            await eventually(lambda: len(ris.told) == 2, "the RIS has been told")
    assert ris.operations == ["N-CREATE", "N-SET"]
