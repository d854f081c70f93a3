"""An order from HL7 to its images (IHE SWF), with python-hl7, pynetdicom and findscu as the others."""

from collections.abc import AsyncIterator
from pathlib import Path

import hl7
import pytest
import pytest_asyncio
from hl7.mllp import open_hl7_connection
from pydicom import Dataset
from pynetdicom import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep, ModalityWorklistInformationFind

from pacsnode.node import Node
from tests.conftest import settings_for
from tests.support.dimse_n import asked, final, step
from tests.support.hl7 import omi, orm
from tests.support.worklist import nested

MPPS = "1.2.840.99.7"


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node(
        settings_for(tmp_path / "root", hl7={"enabled": True, "host": "127.0.0.1", "port": 0})
    ) as node:
        yield node


async def order(node: Node, *messages: str) -> None:
    reader, writer = await open_hl7_connection("127.0.0.1", node.hl7_port, encoding="utf-8")
    for text in messages:
        writer.writemessage(hl7.parse(text))
        answer = await reader.readmessage()
        assert str(answer.segment("MSA")[1]) == "AA"
    writer.close()


async def worklist(node: Node, **keys: object) -> list[Dataset]:
    """What a modality is told."""
    identifier = nested(
        **{
            **dict.fromkeys(("AccessionNumber", "PatientName", "PatientID", "StudyInstanceUID"), ""),
            **dict.fromkeys(("ScheduledProcedureStepID", "ScheduledProcedureStepStatus", "Modality"), ""),
            **keys,
        }
    )

    def ask(association: Association) -> list[Dataset]:
        responses = association.send_c_find(identifier, ModalityWorklistInformationFind)
        return [answer for _, answer in responses if answer is not None]

    return await asked(node.dimse_port, ask, ModalityWorklistInformationFind)


async def perform(node: Node, scheduled: Dataset, uid: str = MPPS) -> None:
    """N-CREATE with what the worklist told."""
    attributes = step()
    reference = attributes.ScheduledStepAttributesSequence[0]
    reference.StudyInstanceUID, reference.AccessionNumber = (
        scheduled.StudyInstanceUID,
        scheduled.AccessionNumber,
    )
    scheduled_step = scheduled.ScheduledProcedureStepSequence[0]
    reference.ScheduledProcedureStepID = scheduled_step.ScheduledProcedureStepID
    attributes.Modality = scheduled_step.Modality

    def create(association: Association) -> int:
        status, _ = association.send_n_create(attributes, ModalityPerformedProcedureStep, uid)
        return int(status.Status)

    assert await asked(node.dimse_port, create) == 0


async def end(node: Node, status: str, uid: str = MPPS) -> None:
    def set_(association: Association) -> int:
        return int(association.send_n_set(final(status), ModalityPerformedProcedureStep, uid)[0].Status)

    assert await asked(node.dimse_port, set_) == 0


def statuses(found: list[Dataset]) -> list[str]:
    return [answer.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus for answer in found]


@pytest.mark.parametrize("make", [orm, omi])
async def test_an_order_is_performed_and_leaves_the_worklist(node: Node, make) -> None:
    await order(node, make(1), make(2))
    first, second = await worklist(node)
    assert statuses([first, second]) == ["SCHEDULED", "SCHEDULED"]
    await perform(node, first)
    assert statuses(await worklist(node)) == ["STARTED", "SCHEDULED"]
    await end(node, "COMPLETED")
    (left,) = await worklist(node)
    assert left.AccessionNumber == second.AccessionNumber
    await order(node, make(1, "XO"))
    assert len(await worklist(node)) == 1, "an update of what is done schedules nothing"


async def test_a_discontinued_step_leaves_until_it_is_started_or_ordered_again(node: Node) -> None:
    await order(node, orm(1))
    (scheduled,) = await worklist(node)
    await perform(node, scheduled)
    await end(node, "DISCONTINUED")
    assert await worklist(node) == []
    await perform(node, scheduled, "1.2.840.99.8")
    assert statuses(await worklist(node)) == ["STARTED"]
    await end(node, "DISCONTINUED", "1.2.840.99.8")
    await order(node, orm(1, control_id="again"))
    assert statuses(await worklist(node)) == ["SCHEDULED"]


async def test_an_unscheduled_step_changes_nothing(node: Node) -> None:
    await order(node, orm(1))
    (scheduled,) = await worklist(node)
    scheduled.StudyInstanceUID, scheduled.AccessionNumber = "1.9.9", ""
    await perform(node, scheduled)
    assert statuses(await worklist(node)) == ["SCHEDULED"]
