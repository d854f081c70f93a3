"""`pacsnode mpps` and `pacsnode commitments`, beside a node that runs."""

import asyncio
import json
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from pacsnode.archive.integrity import Reference
from pacsnode.config import Settings
from pacsnode.dicom.uid import UID
from pacsnode.node import Node
from pacsnode.workflow.commitment_records import State
from tests.cli.conftest import Pacsnode
from tests.conftest import SettingsOf
from tests.support import command
from tests.support.dimse_n import asked, final, listening, performed_series, reference, step
from tests.support.objects import made
from tests.support.raw import CT_IMAGE
from tests.support.sending import send_made

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STEP = "1.2.840.99.1"


async def tell_of_a_step(settings: Settings, root: Path) -> None:
    objects = [made(number) for number in range(1, 3)]
    told = final(PerformedSeriesSequence=[performed_series("1.2.3", *((CT_IMAGE, o.sop) for o in objects))])
    async with Node(settings) as node:
        port = node.dimse_port
        await send_made(port, objects[:1])
        await asked(port, lambda a: a.send_n_create(step(), ModalityPerformedProcedureStep, STEP))
        await asked(port, lambda a: a.send_n_set(told, ModalityPerformedProcedureStep, STEP))
        assert STEP in (await command.pacsnode("mpps", "list", "--storage", root)).output


def test_steps_are_listed_with_what_has_arrived_of_them(
    settings_of: SettingsOf, root: Path, pacsnode: Pacsnode
) -> None:
    asyncio.run(tell_of_a_step(settings_of(), root))
    listed = pacsnode("mpps", "list", "--storage", root, COLUMNS="200")
    (row,) = [line.split() for line in listed.output.splitlines() if STEP in line]
    assert row[:3] == [STEP, "COMPLETED", "MODALITY"]
    assert row[-4:] == ["P1", "A17", "2", "1"]
    none = pacsnode("mpps", "list", "--state", "IN PROGRESS", "--json", "--storage", root)
    assert json.loads(none.output) == []
    as_json = pacsnode("mpps", "show", STEP, "--json", "--storage", root)
    shown = Dataset.from_json(json.loads(as_json.output))
    assert (shown.SOPInstanceUID, shown.PatientName) == (STEP, "Müller^Jürgen")
    assert "1 of 2 instances" in pacsnode("mpps", "show", STEP, "--storage", root).output
    unknown = pacsnode("mpps", "show", "1.2.3", "--storage", root)
    assert (unknown.status, unknown.errors) == (1, "pacsnode: there is no step 1.2.3\n")


async def ask_for_commitment(settings_of: SettingsOf, stored: str) -> None:
    request = Dataset()
    request.TransactionUID = "1.2.840.77"
    request.ReferencedSOPSequence = [reference(CT_IMAGE, stored), reference(CT_IMAGE, "1.2.3")]
    uid = StorageCommitmentPushModelInstance
    with listening("MODALITY", as_scu=[StorageCommitmentPushModel]) as modality:
        peers = {"MODALITY": f"127.0.0.1:{modality.port}"}
        async with Node(settings_of(peers=peers, commitment={"grace": 0})) as node:
            await send_made(node.dimse_port, [made(1)])
            await asked(
                node.dimse_port,
                lambda a: a.send_n_action(request, 1, StorageCommitmentPushModel, uid),
                StorageCommitmentPushModel,
            )
            records = node.workflow.commitments.records
            async with asyncio.timeout(10):
                while (await records.get(1)).state is not State.REPORTED:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            ours = [Reference(UID(CT_IMAGE), UID(stored))]
            async with node.workflow.database.transaction() as transaction:
                await node.workflow.commitment_requests.ask(transaction, "AWAY", ours)


def test_requests_are_shown_with_what_became_of_each_instance(
    settings_of: SettingsOf, root: Path, pacsnode: Pacsnode
) -> None:
    stored = made(1).sop
    asyncio.run(ask_for_commitment(settings_of, stored))
    listed = pacsnode("commitments", "list", "--storage", root, COLUMNS="200")
    (row,) = [line.split() for line in listed.output.splitlines() if "MODALITY" in line]
    assert row[:7] == ["1", "provider", "MODALITY", "reported", "1", "1", "2"]
    (ours,) = json.loads(pacsnode("commitments", "list", "--open", "--json", "--storage", root).output)
    assert (ours["request"], ours["role"], ours["peer"], ours["state"]) == (2, "user", "AWAY", "requested")
    shown = pacsnode("commitments", "show", "1", "--storage", root)
    lines = [line.split() for line in shown.output.splitlines()]
    assert ["committed", stored] in lines
    assert ["0112H", "1.2.3"] in lines
    assert pacsnode("commitments", "ask", "2", "--storage", root).output == "request 3\n"
    jobs = json.loads(pacsnode("jobs", "list", "--peer", "AWAY", "--json", "--storage", root).output)
    assert [job["payload"] for job in jobs] == [{"commitment": 3}, {"commitment": 2}]
    assert pacsnode("commitments", "ask", "1", "--storage", root).status == 1  # it was asked of this node
    unknown = pacsnode("commitments", "show", "4", "--storage", root)
    assert (unknown.status, unknown.errors) == (1, "pacsnode: there is no request 4\n")
