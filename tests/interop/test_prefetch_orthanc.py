"""Prefetching from Orthanc, of real objects: all that it has of the patient and is not here."""

from pathlib import Path

import pytest
from pydicom import dcmread

from pacsnode.config import Peer
from pacsnode.node import Node
from tests.conftest import SettingsOf, needs
from tests.interop.test_commitment_orthanc import orthanc
from tests.support.compare import differences
from tests.support.destination import free_address
from tests.support.files import bundled
from tests.support.objects import Part10, made, part10, stored_files
from tests.support.sending import send_made
from tests.support.waiting import eventually

pytestmark = needs("Orthanc")
PATIENT = "PREFETCHED"
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


def studies_of_one_patient(folder: Path) -> list[Part10]:
    """Real objects, each a study of its own, all given to the same patient."""
    chosen: dict[str, Part10] = {}
    for item in map(part10, bundled()):
        if item.transfer_syntax in UNCOMPRESSED and len(chosen) < 5:
            chosen.setdefault(item.study, item)
    folder.mkdir()
    for item in chosen.values():
        changed = dcmread(item.path)
        changed.PatientID, changed.IssuerOfPatientID = PATIENT, ""
        changed.save_as(folder / f"{item.sop}.dcm")
    return [part10(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("method", ["move", "get"])
async def test_the_studies_of_a_patient_come_from_orthanc(
    tmp_path: Path, root: Path, settings_of: SettingsOf, method: str
) -> None:
    items = studies_of_one_patient(tmp_path / "given")
    assert len(items) == 5
    port = int(free_address().rpartition(":")[2])
    settings = settings_of(
        dimse={"port": port}, prefetch={"priors": {"source": "ORTHANC", "method": method, "most": 50}}
    )
    async with orthanc(tmp_path, port) as peer, Node(settings) as node:
        for item in items:
            await peer.ask("instances", item.path.read_bytes())
        await node.workflow.peers.add(Peer.parse(f"ORTHANC@127.0.0.1:{peer.dicom_port}"))
        await send_made(node.dimse_port, [made(1, PatientID=PATIENT)])
        await eventually(lambda: len(list(stored_files(root))) == len(items) + 1, "all have come", limit=20)
    stored = {path.stem: path for path in stored_files(root)}
    for item in items:
        arrived = dcmread(stored[item.sop])
        assert arrived.file_meta.SourceApplicationEntityTitle == "ORTHANC"
        assert differences(item.path, stored[item.sop]) == []
