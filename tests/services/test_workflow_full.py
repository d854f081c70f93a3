"""What is answered while workflow.sqlite cannot grow: a failure of its own, and nothing is acknowledged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hl7 import parse
from hl7.mllp import open_hl7_connection
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import Association
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from pacsnode.errors import OutOfResources
from pacsnode.node import Node
from tests.conftest import settings_for
from tests.support.dimse_n import asked, final, reference, step
from tests.support.hl7 import orm
from tests.support.raw import CT_IMAGE
from tests.support.worklist import nested

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STEP = "1.2.840.99.1"
LONG = "x" * 9000  # characters: more than a page has left


@asynccontextmanager
async def full(node: Node) -> AsyncIterator[None]:
    """SQLite may have no more pages, as on a disk that is full."""
    database = node.workflow.database
    async with database.transaction() as transaction:
        (pages,) = (await transaction.fetch("PRAGMA page_count"))[0]
        await transaction.execute("CREATE TABLE filling (data BLOB)")
    await database.fetch(f"PRAGMA max_page_count = {pages + 20}")
    with suppress(OutOfResources):
        while True:
            async with database.transaction() as transaction:
                await transaction.execute("INSERT INTO filling VALUES (zeroblob(3000))")
    yield
    await database.fetch("PRAGMA max_page_count = 1000000")


def create(association: Association) -> int:
    begun = step(CommentsOnThePerformedProcedureStep=LONG)
    return int(association.send_n_create(begun, ModalityPerformedProcedureStep, STEP)[0].Status)


def end(association: Association) -> int:
    return int(association.send_n_set(final(), ModalityPerformedProcedureStep, STEP)[0].Status)


def commit(association: Association) -> int:
    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = [reference(CT_IMAGE, generate_uid()) for _ in range(500)]
    uid = StorageCommitmentPushModelInstance
    return int(association.send_n_action(request, 1, StorageCommitmentPushModel, uid)[0].Status)


def find(association: Association) -> int:
    return len(list(association.send_c_find(nested(PatientID=""), ModalityWorklistInformationFind))) - 1


async def order(node: Node) -> list[str]:
    """MSA-1 and the error code of the acknowledgement."""
    reader, writer = await open_hl7_connection("127.0.0.1", node.hl7_port, encoding="utf-8")
    writer.writemessage(parse(orm(1) + f"NTE|1||{LONG}\r"))
    answer = await reader.readmessage()
    writer.close()
    assert str(answer.segment("MSA")[2]) == "orm-1-NW"
    return [str(answer.segment("MSA")[1]), *(str(e) for e in answer if str(e[0]) == "ERR")]


async def test_nothing_is_acknowledged_that_cannot_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(tmp_path / "root", hl7={"enabled": True, "host": "127.0.0.1", "port": 0})
    async with Node(settings) as node:
        async with full(node):
            assert await asked(node.dimse_port, create) == 0x0213
            assert await asked(node.dimse_port, commit, StorageCommitmentPushModel) == 0x0213
            code, error = await order(node)
            assert code == "AR"
            assert "207&" in error
            assert await asked(node.dimse_port, find, ModalityWorklistInformationFind) == 0
        assert await asked(node.dimse_port, end) == 0x0112
        assert await asked(node.dimse_port, create) == 0x0000
        assert await asked(node.dimse_port, commit, StorageCommitmentPushModel) == 0x0000
        assert await order(node) == ["AA"]
        assert await asked(node.dimse_port, find, ModalityWorklistInformationFind) == 1
    log = capsys.readouterr().out
    assert "hl7.not_kept" in log
    assert "crashed" not in log
    assert "Traceback" not in log
