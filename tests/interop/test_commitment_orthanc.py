"""Storage Commitment with Orthanc in both roles (PS3.4 J)."""

import asyncio
import json
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from pacsnode.archive.integrity import Reference
from pacsnode.dicom.uid import UID
from pacsnode.node import Node
from tests.conftest import SettingsOf, needs, real_objects
from tests.support.objects import part10
from tests.support.sending import send_files

pytestmark = needs("Orthanc")
QUICK: dict[str, object] = {"retry_after": 0.1, "retry_longest": 0.5}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@dataclass
class Orthanc:
    """A running Orthanc that knows the node as NODE."""

    dicom_port: int
    http_port: int

    def rest(self, path: str, body: object = None) -> object:
        url = f"http://127.0.0.1:{self.http_port}/{path}"
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
            return json.load(answer)

    async def ask(self, path: str, body: object = None) -> object:
        return await asyncio.to_thread(self.rest, path, body)


@asynccontextmanager
async def orthanc(folder: Path, node_port: int) -> AsyncIterator[Orthanc]:
    running = Orthanc(free_port(), free_port())
    node = {"AET": "PACSNODE", "Host": "127.0.0.1", "Port": node_port, "AllowStorageCommitment": True}
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "orthanc"),
                "IndexDirectory": str(folder / "orthanc"),
                "DicomAet": "ORTHANC",
                "DicomPort": running.dicom_port,
                "HttpPort": running.http_port,
                "AuthenticationEnabled": False,
                "RemoteAccessAllowed": False,
                "DicomModalities": {"NODE": node},
                "Plugins": [],
            }
        )
    )
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        "Orthanc", str(configuration), stdout=nowhere, stderr=nowhere
    )
    try:
        async with asyncio.timeout(30):
            while True:
                with suppress(OSError):
                    await running.ask("system")
                    break
                await asyncio.sleep(0.1)
        yield running
    finally:
        process.terminate()
        await process.wait()


def real_ones() -> dict[Path, Reference]:
    """Real objects that Orthanc takes as well."""
    chosen: dict[str, tuple[Path, Reference]] = {}
    for path in real_objects():
        found = dcmread(path, stop_before_pixels=True)
        meta = found.file_meta
        plain = meta.TransferSyntaxUID in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
        if plain and meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID and found.get("PatientID"):
            reference = Reference(UID(found.SOPClassUID), UID(found.SOPInstanceUID))
            chosen.setdefault(found.SOPInstanceUID, (path, reference))
    return dict(list(chosen.values())[:6])


async def test_orthanc_is_committed_to_and_commits(settings_of: SettingsOf, tmp_path: Path) -> None:
    objects = real_ones()
    assert len(objects) == 6
    *sent_by_orthanc, forwarded, damaged = objects
    port = free_port()
    async with orthanc(tmp_path, port) as peer:
        settings = settings_of(
            dimse={"port": port},
            peers={"ORTHANC": f"127.0.0.1:{peer.dicom_port}"},
            forward={"all": {"to": ["ORTHANC"], "commit": True}},
            jobs=QUICK,
        )
        async with Node(settings) as node:
            for path in sent_by_orthanc:
                stored = await peer.ask("instances", path.read_bytes())
                assert isinstance(stored, dict)
                await peer.ask("modalities/NODE/store", {"Resources": [stored["ID"]]})
            asked_for = [objects[path] for path in sent_by_orthanc] + [objects[damaged]]
            report = await commitment(peer, asked_for)
            assert report["Status"] == "Failure"
            assert {one["SOPInstanceUID"] for one in report["Success"]} == {
                objects[path].sop_instance for path in sent_by_orthanc
            }
            (failure,) = report["Failures"]
            assert (failure["SOPInstanceUID"], failure["FailureReason"]) == (
                objects[damaged].sop_instance,
                0x0112,
            )
            # and the other way round: what another sender stores is forwarded, and asked for
            await send_files(node.dimse_port, [part10(forwarded)])
            records = node.workflow.commitments.records
            async with asyncio.timeout(20):
                while await records.committed_at(objects[forwarded]) != ["ORTHANC"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def commitment(peer: Orthanc, asked_for: list[Reference]) -> dict[str, list[dict[str, object]]]:
    """What Orthanc says became of its request."""
    instances = [{"SOPClassUID": one.sop_class, "SOPInstanceUID": one.sop_instance} for one in asked_for]
    begun = await peer.ask("modalities/NODE/storage-commitment", {"DicomInstances": instances, "Timeout": 10})
    assert isinstance(begun, dict)
    async with asyncio.timeout(20):
        while True:
            report = await peer.ask(f"storage-commitment/{begun['ID']}")
            assert isinstance(report, dict)
            if report["Status"] != "Pending":
                return report
            await asyncio.sleep(0.1)
