"""What was answered before a kill -9 is told after it: steps and commitments, each once and in order."""

import signal
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import Association
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from tests.support.dimse_n import MPPS_CLASSES, asked, final, listening, reference, step
from tests.support.objects import made
from tests.support.raw import CT_IMAGE
from tests.support.sending import send_made
from tests.support.service import Service
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STEP = "1.2.840.99.1"


async def test_nothing_answered_before_a_kill_is_forgotten(tmp_path: Path) -> None:
    with (
        listening("RIS", as_scp=MPPS_CLASSES) as ris,
        listening("MODALITY", as_scu=[StorageCommitmentPushModel]) as modality,
    ):
        ports = ris.port, modality.port
    settings = {
        "PACSNODE_PEERS": f"RIS@127.0.0.1:{ports[0]},MODALITY@127.0.0.1:{ports[1]}",
        "PACSNODE_MPPS__FORWARD": "RIS",
        "PACSNODE_JOBS__RETRY_AFTER": "0.1",
        "PACSNODE_JOBS__RETRY_LONGEST": "0.5",
        "PACSNODE_COMMITMENT__GRACE": "0",
    }
    objects = [made(number) for number in range(1, 4)]
    request = Dataset()
    request.TransactionUID = "1.2.840.77"
    request.ReferencedSOPSequence = [reference(CT_IMAGE, one.sop) for one in objects]

    def commit(association: Association) -> int:
        uid = StorageCommitmentPushModelInstance
        return int(association.send_n_action(request, 1, StorageCommitmentPushModel, uid)[0].Status)

    def create(association: Association) -> int:
        return int(association.send_n_create(step(), ModalityPerformedProcedureStep, STEP)[0].Status)

    def end(association: Association) -> int:
        return int(association.send_n_set(final(), ModalityPerformedProcedureStep, STEP)[0].Status)

    root = tmp_path / "root"
    async with await Service.start(root, **settings) as service:
        await send_made(service.port, objects)
        assert await asked(service.port, create) == 0x0000
        assert await asked(service.port, commit, StorageCommitmentPushModel) == 0x0000
        service.send_signal(signal.SIGKILL)
        await service.ended()
    async with await Service.start(root, **settings) as service:
        assert await asked(service.port, create) == 0x0111  # it is known
        assert await asked(service.port, end) == 0x0000
        service.send_signal(signal.SIGKILL)
        await service.ended()
    with (
        listening("RIS", as_scp=MPPS_CLASSES, port=ports[0]) as ris,
        listening("MODALITY", as_scu=[StorageCommitmentPushModel], port=ports[1]) as modality,
    ):
        async with await Service.start(root, **settings):
            await eventually(lambda: len(ris.told) >= 2 and modality.told, "both have been told")
    assert ris.operations == ["N-CREATE", "N-SET"]
    (result,) = modality.told
    assert result.type_id == 1
    assert len(result.data.ReferencedSOPSequence) == 3
