"""Retrieve with real peers: movescu and storescp, getscu, gdcmscu, odil, pynetdicom, and our own commands.

What arrives in the transfer syntax it is stored in must be the stored data set byte for byte.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import structlog
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as STUDY_ROOT_GET
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as STUDY_ROOT_MOVE

from pacsnode.cli.retrieving import StoragePresentationContexts
from pacsnode.node import Node
from tests.conftest import needs, run, settings_for
from tests.support import programs
from tests.support.command import pacsnode
from tests.support.compare import differences
from tests.support.destination import free_address
from tests.support.files import bundled
from tests.support.objects import Part10, data_set_bytes
from tests.support.sending import send_files
from tests.support.truth import Truth

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}


@dataclass(frozen=True)
class Filled:
    """A node with every bundled object; its peers are AE titles for storescp, gdcmscu and pynetdicom."""

    node: Node
    truth: Truth
    ports: dict[str, int]

    @property
    def port(self) -> int:
        return self.node.dimse_port

    @property
    def studies(self) -> str:
        return "\\".join(self.truth.studies)

    def item(self, name: str) -> Part10:
        return next(item for item in self.truth.items if item.path.name == name)

    def compare(self, folder: Path, expected: Sequence[Part10]) -> list[str]:
        """The names of the objects that are not in `folder` as they are stored."""
        arrived = {
            str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path
            for path in folder.rglob("*")
            if path.is_file()
        }
        return [
            item.path.name
            for item in expected
            if item.sop not in arrived or data_set_bytes(arrived[item.sop]) != _padded(item.data)
        ]


def _padded(data: bytes) -> bytes:
    """A deflate stream of odd length is sent with a byte more (PS3.5 A.5)."""
    return data + b"\0" * (len(data) & 1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Filled]:
    addresses = {title: free_address() for title in ("STORESCP", "GDCMSCU", "PYNETDICOM")}
    root = tmp_path_factory.mktemp("retrieve") / "root"
    truth = Truth.of(bundled())
    async with Node(settings_for(root, peers=addresses)) as node:
        assert set(await send_files(node.dimse_port, truth.items)) == {0x0000}
        ports = {title: int(address.rpartition(":")[2]) for title, address in addresses.items()}
        yield Filled(node, truth, ports)


def storescp(filled: Filled, folder: Path, *options: str) -> AbstractAsyncContextManager[None]:
    return programs.storescp(f"127.0.0.1:{filled.ports['STORESCP']}", folder, "STORESCP", *options)


async def dcmtk(program: str, filled: Filled, *arguments: str, **keys: str) -> str:
    given = [option for keyword, value in keys.items() for option in ("-k", f"{keyword}={value}")]
    done = await run(
        program, "-v", *arguments, *given, "127.0.0.1", str(filled.port), env={"TCP_NODELAY": "1"}
    )
    return done.output


@needs("movescu")
async def test_movescu_sends_everything_to_storescp(filled: Filled, tmp_path: Path) -> None:
    async with storescp(filled, tmp_path / "got", "+xa"):
        output = await dcmtk(
            "movescu",
            filled,
            "-S",
            "-aem",
            "STORESCP",
            QueryRetrieveLevel="STUDY",
            StudyInstanceUID=filled.studies,
        )
    assert "Received Final Move Response" in output, output
    different = filled.compare(tmp_path / "got", filled.truth.items)
    assert set(different) <= {item.path.name for item in filled.truth.items if not _taken_by_dcmtk(item)}


def _taken_by_dcmtk(item: Part10) -> bool:
    """DCMTK 3.6.7 takes no JPEG process 14 other than SV1, no HTJ2K, no deflated frames."""
    known = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.20", "1.2.840.10008.1.2.8")
    return not item.transfer_syntax.startswith(known) and item.transfer_syntax != "1.2.840.10008.1.2.4.52"


@needs("movescu")
@pytest.mark.parametrize("level", ["PATIENT", "STUDY", "SERIES", "IMAGE"])
async def test_movescu_at_every_level(filled: Filled, tmp_path: Path, level: str) -> None:
    item = filled.item("CT_small.dcm")
    keys = {
        "PATIENT": {"PatientID": "1CT1"},
        "STUDY": {"PatientID": "1CT1", "StudyInstanceUID": item.study},
        "SERIES": {"PatientID": "1CT1", "StudyInstanceUID": item.study, "SeriesInstanceUID": item.series},
        "IMAGE": {
            "PatientID": "1CT1",
            "StudyInstanceUID": item.study,
            "SeriesInstanceUID": item.series,
            "SOPInstanceUID": item.sop,
        },
    }[level]
    async with storescp(filled, tmp_path / "got"):
        output = await dcmtk("movescu", filled, "-P", "-aem", "STORESCP", QueryRetrieveLevel=level, **keys)
    assert "Received Final Move Response (Success)" in output, output
    assert filled.compare(tmp_path / "got", [item]) == []


@needs("movescu")
async def test_a_storescp_that_takes_implicit_vr_only_gets_its_values(filled: Filled, tmp_path: Path) -> None:
    items = [filled.item(name) for name in ("CT_small.dcm", "GDCMJ2K_TextGBR.dcm", "SC_rgb_jpeg_gdcm.dcm")]
    async with storescp(filled, tmp_path / "got", "+xi"):
        output = await dcmtk(
            "movescu",
            filled,
            "-S",
            "-aem",
            "STORESCP",
            QueryRetrieveLevel="STUDY",
            StudyInstanceUID="\\".join(item.study for item in items),
        )
    assert "Received Final Move Response (Success)" in output, output
    for path in (tmp_path / "got").iterdir():
        assert dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    (ct,) = (tmp_path / "got").glob(f"*{items[0].sop}")
    assert differences(items[0].path, ct, private=False) == []


@needs("storescp")
async def test_a_storescp_that_aborts(filled: Filled, tmp_path: Path) -> None:
    item = filled.item("CT_small.dcm")
    async with storescp(filled, tmp_path / "got", "--abort-during"):
        output = await dcmtk(
            "movescu",
            filled,
            "-S",
            "-aem",
            "STORESCP",
            QueryRetrieveLevel="STUDY",
            StudyInstanceUID=item.study,
        )
    assert "OutOfResourcesSubOperations" in output, output


@needs("storescp")
async def test_a_storescp_that_refuses_the_association(filled: Filled, tmp_path: Path) -> None:
    item = filled.item("CT_small.dcm")
    async with storescp(filled, tmp_path / "got", "--refuse"):
        output = await dcmtk(
            "movescu",
            filled,
            "-S",
            "-aem",
            "STORESCP",
            QueryRetrieveLevel="STUDY",
            StudyInstanceUID=item.study,
        )
    assert "OutOfResourcesSubOperations" in output, output


@needs("movescu")
async def test_movescu_to_an_unknown_destination(filled: Filled) -> None:
    output = await dcmtk(
        "movescu", filled, "-S", "-aem", "NOWHERE", QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2"
    )
    assert "MoveDestinationUnknown" in output, output


@needs("movescu")
async def test_movescu_receives_on_its_own_port(tmp_path: Path) -> None:
    """movescu --port is destination and requestor in one: `move_to_caller`."""
    port = free_address().rpartition(":")[2]
    settings = settings_for(
        tmp_path / "root", dimse={"move_to_caller": True, "move_to_caller_port": int(port)}
    )
    (tmp_path / "got").mkdir()
    truth = Truth.of(path for path in bundled() if path.name == "CT_small.dcm")
    async with Node(settings) as node:
        await send_files(node.dimse_port, truth.items)
        filled = Filled(node, truth, {})
        output = await dcmtk(
            "movescu",
            filled,
            "-S",
            "-aet",
            "WORKSTATION",
            "-aem",
            "WORKSTATION",
            "--port",
            port,
            "-od",
            str(tmp_path / "got"),
            QueryRetrieveLevel="STUDY",
            StudyInstanceUID=truth.items[0].study,
        )
    assert "Received Final Move Response (Success)" in output, output
    assert differences(truth.items[0].path, only_file(tmp_path / "got")) == []


@needs("getscu")
@pytest.mark.parametrize(("model", "keys"), [("-S", {}), ("-P", {"PatientID": "1CT1"})])
async def test_getscu(filled: Filled, tmp_path: Path, model: str, keys: dict[str, str]) -> None:
    item = filled.item("CT_small.dcm")
    output = await dcmtk(
        "getscu",
        filled,
        model,
        "+B",
        "-od",
        str(tmp_path),
        QueryRetrieveLevel="STUDY",
        StudyInstanceUID=item.study,
        **keys,
    )
    assert "Number of Failed Suboperations    : 0" in output, output
    assert filled.compare(tmp_path, [item]) == []


@needs("getscu")
async def test_getscu_gets_every_object_that_can_be_had_uncompressed(filled: Filled, tmp_path: Path) -> None:
    await dcmtk(
        "getscu",
        filled,
        "-S",
        "+B",
        "-od",
        str(tmp_path),
        QueryRetrieveLevel="STUDY",
        StudyInstanceUID=filled.studies,
    )
    explicit = [item for item in filled.truth.items if item.transfer_syntax == "1.2.840.10008.1.2.1"]
    assert filled.compare(tmp_path, explicit) == []
    assert len(os.listdir(tmp_path)) >= len(filled.truth.items) - 6  # damaged pixels cannot be decoded


@needs("gdcmscu")
async def test_gdcmscu_moves_to_itself(filled: Filled, tmp_path: Path) -> None:
    """It ends by abort() after a clean release, see test_gdcm.

    When nobody comes to the port that it opens after its request was sent, it waits for ever.
    """
    item = filled.item("CT_small.dcm")
    with structlog.testing.capture_logs() as events:
        await run(
            "gdcmscu",
            "--move",
            "--studyroot",
            "--study",
            "--call",
            "PACSNODE",
            "--aetitle",
            "GDCMSCU",
            "--port-scp",
            str(filled.ports["GDCMSCU"]),
            "--key",
            f"0020,000d={item.study}",
            "-o",
            str(tmp_path),
            "127.0.0.1",
            str(filled.port),
            limit=20,
        )
    (answered,) = (event for event in events if event["event"] == "retrieval.answered")
    assert (answered["completed"], answered["failed"]) == (1, 0)


@needs("odil")
async def test_odil_gets(filled: Filled, tmp_path: Path) -> None:
    item = filled.item("CT_small.dcm")
    done = await run(
        "odil",
        "get",
        "-d",
        str(tmp_path),
        "127.0.0.1",
        str(filled.port),
        "ODIL",
        "PACSNODE",
        "study",
        "QueryRetrieveLevel=STUDY",
        f"StudyInstanceUID={item.study}",
    )
    assert done.status == 0, done.output
    assert differences(item.path, only_file(tmp_path), private=False) == []


def only_file(folder: Path) -> Path:
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def asked(study: str) -> Dataset:
    data_set = Dataset()
    data_set.QueryRetrieveLevel, data_set.StudyInstanceUID = "STUDY", study
    return data_set


async def test_pynetdicom_gets(filled: Filled) -> None:
    items = [item for item in filled.truth.items if item.transfer_syntax in UNCOMPRESSED]
    kinds = sorted({(item.sop_class, item.transfer_syntax) for item in items})
    received: dict[str, bytes] = {}

    def store(event: evt.Event) -> int:
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0x0000

    def get() -> list[int]:
        ae = AE("PYNETDICOM")
        contexts = [build_context(STUDY_ROOT_GET), *(build_context(*kind) for kind in kinds)]
        roles = [build_role(sop_class, scp_role=True) for sop_class in {kind[0] for kind in kinds}]
        association = ae.associate(
            "127.0.0.1",
            filled.port,
            contexts=contexts,
            ext_neg=roles,
            evt_handlers=[(evt.EVT_C_STORE, store)],
        )
        studies = "\\".join({item.study for item in items})
        statuses = [status.Status for status, _ in association.send_c_get(asked(studies), STUDY_ROOT_GET)]
        association.release()
        return statuses

    statuses = await asyncio.to_thread(get)
    assert statuses[-1] in (0x0000, 0xB000)
    assert {item.path.name for item in items if received.get(item.sop) != item.data} == set()


async def test_pynetdicom_moves_to_pynetdicom(filled: Filled) -> None:
    item = filled.item("CT_small.dcm")
    received: list[tuple[str, str]] = []

    def store(event: evt.Event) -> int:
        request = event.request
        received.append((request.AffectedSOPInstanceUID, request.MoveOriginatorApplicationEntityTitle))
        return 0x0000

    def move() -> list[int]:
        ae = AE("PYNETDICOM")
        ae.supported_contexts = StoragePresentationContexts
        address = ("127.0.0.1", filled.ports["PYNETDICOM"])
        server = ae.start_server(address, block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
        association = ae.associate("127.0.0.1", filled.port, contexts=[build_context(STUDY_ROOT_MOVE)])
        replies = association.send_c_move(asked(item.study), "PYNETDICOM", STUDY_ROOT_MOVE)
        statuses = [status.Status for status, _ in replies]
        association.release()
        server.shutdown()
        return statuses

    assert (await asyncio.to_thread(move))[-1] == 0x0000
    assert received == [(item.sop, "PYNETDICOM")]


@needs("storescp")
async def test_our_own_commands(filled: Filled, tmp_path: Path) -> None:
    item = filled.item("CT_small.dcm")
    peer = f"PACSNODE@127.0.0.1:{filled.port}"
    key = ("-k", f"StudyInstanceUID={item.study}", "--json")
    got = await pacsnode("get", peer, "-o", str(tmp_path / "ours"), *key)
    async with storescp(filled, tmp_path / "theirs"):
        moved = await pacsnode("move", peer, "-d", "STORESCP", *key)
    assert (got.status, moved.status) == (0, 0), got.output + moved.output
    assert filled.compare(tmp_path / "ours", [item]) == []
    assert filled.compare(tmp_path / "theirs", [item]) == []
