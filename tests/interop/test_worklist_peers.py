"""The worklist beside DCMTK's wlmscpfs, on the same folder, asked the same by findscu."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread

from pacsnode.node import Node
from tests.conftest import Finished, needs, run, settings_for
from tests.support.worklist import as_file, code, schedule, scheduled

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs("wlmscpfs"), needs("findscu")]

TITLE = "OFFIS"
ITEMS = (
    scheduled(1, PatientName="VIVALDI^ANTONIO", ScheduledStationAETitle=["AA32", "AA33"], Modality="MR"),
    scheduled(2, PatientName="MOZART^WOLFGANG^AMADEUS", PatientSex="M", PatientBirthDate="17560127"),
    scheduled(3, PatientName="MOZART^NANNERL", PatientSex="F", RequestingPhysician="SMITH"),
    scheduled(4, PatientName="HAYDN^FRANZ^JOSEPH", ScheduledPerformingPhysicianName="JOHNSON"),
    scheduled(5, PatientName="Grün^Zoë", Modality="US", MedicalAlerts="LATEX"),
    scheduled(6, ScheduledProcedureStepStartDate="20260107", ScheduledProcedureStepStartTime="063000"),
    scheduled(7, ScheduledProcedureStepStartDate="20260109", ScheduledProcedureStepStartTime="235900"),
    scheduled(
        8,
        ScheduledProcedureStepStartDate="20260301",
        RequestedProcedurePriority="STAT",
        ScheduledProtocolCodeSequence=[code("P1", "Kopf")],
        RequestedProcedureCodeSequence=[code("R1", "Kopf")],
    ),
)
STEP = "ScheduledProcedureStepSequence[0]."
LATIN_1_UE, LATIN_1_EE = "\udcfc", "\udceb"  # bytes FCH and EBH on a command line
RETURNED = (
    "AccessionNumber", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "MedicalAlerts",
    "StudyInstanceUID", "RequestingPhysician", "RequestedProcedureDescription", "RequestedProcedureID",
    "RequestedProcedurePriority", "RequestedProcedureCodeSequence", "ReferringPhysicianName",
    f"{STEP}Modality", f"{STEP}ScheduledStationAETitle", f"{STEP}ScheduledProcedureStepStartDate",
    f"{STEP}ScheduledProcedureStepStartTime", f"{STEP}ScheduledPerformingPhysicianName",
    f"{STEP}ScheduledProcedureStepDescription", f"{STEP}ScheduledProtocolCodeSequence",
    f"{STEP}ScheduledProcedureStepID", f"{STEP}ScheduledStationName",
)  # fmt: skip
QUERIES = (
    (),
    (f"{STEP}Modality=MR",),
    (f"{STEP}Modality=US",),
    (f"{STEP}ScheduledStationAETitle=AA33",),
    (f"{STEP}ScheduledStationAETitle=CT1",),
    (f"{STEP}ScheduledStationAETitle=NONE",),
    (f"{STEP}ScheduledProcedureStepStartDate=20260107",),
    (f"{STEP}ScheduledProcedureStepStartDate=20260106-20260131",),
    (f"{STEP}ScheduledProcedureStepStartDate=20260107-",),
    (f"{STEP}ScheduledProcedureStepStartDate=-20260107",),
    (f"{STEP}ScheduledProcedureStepStartTime=0600-0700",),
    (f"{STEP}ScheduledProcedureStepStartTime=235900",),
    (f"{STEP}ScheduledPerformingPhysicianName=JOHN*",),
    ("PatientName=MOZART*",),
    ("PatientName=MOZART^NANNERL",),
    ("PatientName=*AMADEUS",),
    ("PatientName=HAYDN^FR?NZ^JOSEPH",),
    ("PatientID=P3",),
    ("PatientSex=F",),
    ("PatientBirthDate=17560127",),
    ("AccessionNumber=A8",),
    ("RequestedProcedureID=RP8",),
    ("RequestedProcedurePriority=STAT",),
    ("RequestingPhysician=SMI*",),
    ("PatientName=MOZART*", f"{STEP}Modality=CT", f"{STEP}ScheduledProcedureStepStartDate=20260101-20260110"),
    (f"{STEP}ScheduledProcedureStepStartDate=20260105-20260105",),
    (f"{STEP}ScheduledProcedureStepStartDate=20270101-",),
    (f"{STEP}ScheduledProcedureStepStartTime=1000",),
    (f"{STEP}ScheduledProcedureStepStartTime=10",),
    (f"{STEP}ScheduledProcedureStepStartTime=100000",),
    (f"{STEP}ScheduledProcedureStepStartTime=100000.000",),
    (f"{STEP}ScheduledProcedureStepStartTime=063000-235900",),
    (f"{STEP}ScheduledProcedureStepStartTime=1000-1000",),
    (f"{STEP}ScheduledProcedureStepStartTime=1001-",),
    (f"{STEP}ScheduledProcedureStepStartTime=-0959",),
    (f"{STEP}ScheduledProcedureStepStartDate=20260107", f"{STEP}ScheduledProcedureStepStartTime=0600-0700"),
    (
        f"{STEP}ScheduledProcedureStepStartDate=20260101-20260131",
        f"{STEP}ScheduledProcedureStepStartTime=1000",
    ),
    (
        f"{STEP}ScheduledProcedureStepStartDate=20260105-20260107",
        f"{STEP}ScheduledProcedureStepStartTime=0900-1100",
    ),
    (f"{STEP}ScheduledPerformingPhysicianName=JOHNSON",),
    (f"{STEP}ScheduledPerformingPhysicianName=*",),
    (f"{STEP}ScheduledStationAETitle=AA33", f"{STEP}Modality=MR", "PatientName=V*"),
    (f"{STEP}Modality=CT", f"{STEP}ScheduledStationAETitle=AA33"),
    ("PatientName=*",),
    ("PatientName=M?ZART*",),
    ("PatientName=*^W*",),
    ("PatientName=MOZART^*^AMADEUS",),
    ("PatientName=MOZART",),
    ("PatientName=MOZ?RT^NANN*L",),
    ("PatientName=??????^*",),
    ("PatientName=Patient^Number*", "PatientID=P7"),
    ("SpecificCharacterSet=ISO_IR 100", f"PatientName=Gr{LATIN_1_UE}n*"),
    ("SpecificCharacterSet=ISO_IR 100", f"PatientName=Gr{LATIN_1_UE}n^Zo{LATIN_1_EE}"),
    ("SpecificCharacterSet=ISO_IR 100", "PatientName=Gr?n*"),
    ("SpecificCharacterSet=ISO_IR 100", f"{STEP}Modality=US"),
    ("PatientID=*",),
    ("PatientID=p3",),
    ("PatientID=NONE",),
    ("AccessionNumber=A*",),
    ("AccessionNumber=A1", "PatientID=P2"),
    ("RequestedProcedureID=RP*",),
    ("ReferringPhysicianName=*",),
    ("PatientSex=M", "PatientBirthDate=17560127"),
    ("PatientSex=O",),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose folder `worklists` both serve."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "worklists" / TITLE
    folder.mkdir(parents=True)
    (folder / "lockfile").touch()
    for number, data_set in enumerate(ITEMS):
        data_set.SpecificCharacterSet = "ISO_IR 100"
        (folder / f"{number}.wl").write_bytes(as_file(data_set))
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(root: Path) -> AsyncIterator[Node]:
    async with Node(settings_for(root, worklist={"folder_interval": 0.02})) as running:
        await _until(running, len(ITEMS))
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def theirs(root: Path) -> AsyncIterator[int]:
    """The port of wlmscpfs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ("wlmscpfs", "-s", "-csk", "-dfp", str(root / "worklists"), str(port))
    output = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    for _ in range(200):
        if (await run("echoscu", "-aec", TITLE, "127.0.0.1", str(port))).status == 0:
            break
        await asyncio.sleep(0.02)
    yield port
    process.kill()
    await process.wait()


async def _until(node: Node, count: int) -> None:
    async def listed() -> int:
        return len([item for item in await node.workflow.worklist.items() if item.state.value == "SCHEDULED"])

    async with asyncio.timeout(10):
        while await listed() != count:  # noqa: ASYNC110 - another task reads the folder
            await asyncio.sleep(0.01)


async def findscu(port: int, folder: Path, *keys: str, options: tuple[str, ...] = ()) -> Finished:
    os.makedirs(folder, exist_ok=True)
    arguments = [part for key in keys for part in ("-k", key)]
    return await run(
        *(
            "findscu",
            "-W",
            "-X",
            "-od",
            str(folder),
            "-aec",
            TITLE,
            *options,
            *arguments,
            "127.0.0.1",
            str(port),
        )
    )


def answers(folder: Path) -> list[dict[str, object]]:
    """What came back, without elements that are empty, in an order of its own."""
    found = [_plain(dcmread(path, force=True)) for path in folder.iterdir()]
    return sorted(found, key=str)


def _plain(data_set: Dataset) -> dict[str, object]:
    data_set.decode()
    return {
        element.keyword: [_plain(item) for item in element.value]
        if element.VR == "SQ"
        else str(element.value)
        for element in data_set
        if not element.is_empty and element.keyword != "SpecificCharacterSet"
    }


@pytest.mark.parametrize("query", QUERIES, ids=" ".join)
async def test_the_same_folder_gives_the_same_answers(
    node: Node, theirs: int, tmp_path: Path, query: tuple[str, ...]
) -> None:
    asked = {key.partition("=")[0] for key in query}
    keys = [*query, *(key for key in RETURNED if key not in asked)]
    await findscu(theirs, tmp_path / "theirs", *keys)
    await findscu(node.dimse_port, tmp_path / "ours", *keys)
    expected = answers(tmp_path / "theirs")
    assert answers(tmp_path / "ours") == expected
    assert len(expected) == len(ITEMS) or query, "wlmscpfs has them all"


# Not asked, since wlmscpfs answers by its own lights: Pregnancy Status, of which it says 4 (unknown) where
# nothing is known, and code sequences, to which it adds items and a Coding Scheme Version that nobody wrote.
KEYS = (
    ("PatientName", "PatientWeight", "PatientSize", "CurrentPatientLocation"),
    ("PatientName", "PatientAddress", "AdmissionID", "SpecialNeeds", "PatientState", "Allergies"),
    ("PatientName", "ReferencedStudySequence", "ReferencedPatientSequence"),
    ("PatientID=P8", "RequestedProcedureCodeSequence[0].CodeValue"),
    ("PatientID=P8", f"{STEP}ScheduledProtocolCodeSequence[0].CodeValue"),
    ("PatientID=P8", f"{STEP}PreMedication", f"{STEP}RequestedContrastAgent"),
    ("PatientID=P8", f"{STEP}CommentsOnTheScheduledProcedureStep"),
    ("PatientID=P1", f"{STEP}ScheduledStationAETitle"),
    ("PatientID=P5", "SpecificCharacterSet", "PatientName"),
    ("PatientID=P1", "NamesOfIntendedRecipientsOfResults", "IssuerOfPatientID"),
)


@pytest.mark.parametrize("keys", KEYS, ids=" ".join)
async def test_the_same_elements_come_back_empty(
    node: Node, theirs: int, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    await findscu(theirs, tmp_path / "theirs", *keys)
    await findscu(node.dimse_port, tmp_path / "ours", *keys)
    ours, expected = (
        sorted((_elements(file) for file in (tmp_path / side).iterdir()), key=str)
        for side in ("ours", "theirs")
    )
    assert ours == expected
    assert expected


def _elements(path: Path) -> dict[str, object]:
    """All of an answer; its character set is told by them for ASCII, too."""

    def plain(data_set: Dataset) -> dict[str, object]:
        return {
            element.keyword: [plain(item) for item in element.value]
            if element.VR == "SQ"
            else str(element.value)
            for element in data_set
            if element.keyword != "SpecificCharacterSet"
        }

    found = dcmread(path, force=True)
    found.decode()
    return plain(found)


async def test_files_that_come_and_go(node: Node, root: Path, theirs: int, tmp_path: Path) -> None:
    path = root / "worklists" / TITLE / "new.wl"
    path.write_bytes(as_file(scheduled(99, PatientName="NEW")))
    await _until(node, len(ITEMS) + 1)
    found = await findscu(node.dimse_port, tmp_path / "with", "PatientName=NEW")
    assert found.status == 0
    assert len(answers(tmp_path / "with")) == 1
    path.unlink()
    await _until(node, len(ITEMS))
    await findscu(node.dimse_port, tmp_path / "without", "PatientName=NEW")
    assert answers(tmp_path / "without") == []


async def test_another_called_title_has_another_worklist(node: Node, tmp_path: Path) -> None:
    await findscu(node.dimse_port, tmp_path / "found", "PatientName", options=("-aec", "PACSNODE"))
    assert answers(tmp_path / "found") == []


async def test_findscu_cancels(tmp_path: Path) -> None:
    async with Node(settings_for(tmp_path / "root")) as node:
        await schedule(node, *(scheduled(number) for number in range(400)))
        found = await findscu(
            node.dimse_port, tmp_path / "found", "PatientName", options=("--cancel", "3", "-v")
        )
        assert "Cancel" in found.output
        assert 3 <= len(answers(tmp_path / "found")) < 400


@needs("dcmconv")
@pytest.mark.parametrize("option", ["+te", "+ti", "+tb", "+td", "-F"])
async def test_files_in_any_encoding(tmp_path: Path, option: str) -> None:
    folder = tmp_path / "root" / "worklists"
    folder.mkdir(parents=True)
    (tmp_path / "in").write_bytes(as_file(scheduled(1)))
    await run("dcmconv", option, str(tmp_path / "in"), str(tmp_path / "out"))
    os.replace(tmp_path / "out", folder / "1.wl")
    async with Node(settings_for(tmp_path / "root", worklist={"folder_interval": 0.02})) as node:
        await _until(node, 1)
        await findscu(node.dimse_port, tmp_path / "found", "PatientName")
        assert answers(tmp_path / "found") == [{"PatientName": "Patient^Number1"}]


async def test_images_that_arrive_take_the_item_off_the_list(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    image = get_testdata_file("CT_small.dcm")
    study = dcmread(image, stop_before_pixels=True).StudyInstanceUID
    async with Node(settings_for(tmp_path / "root")) as node:
        await schedule(
            node,
            scheduled(1, StudyInstanceUID=study),
            scheduled(
                2, StudyInstanceUID=study, Modality="SR"
            ),  # another step of the study: still to be done
        )
        stored = await run("storescu", "127.0.0.1", str(node.dimse_port), image)
        assert stored.status == 0

        async def finished() -> list[int]:
            return [
                item.id for item in await node.workflow.worklist.items() if item.state.value == "COMPLETED"
            ]

        async with asyncio.timeout(10):
            while not await finished():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await findscu(node.dimse_port, tmp_path / "found", "AccessionNumber")
        assert answers(tmp_path / "found") == [{"AccessionNumber": "A2"}]


_EXAMPLES = Path("/usr/share/doc/dcmtk/examples")


@needs("dump2dcm")
@pytest.mark.skipif(not _EXAMPLES.is_dir(), reason="DCMTK's examples are not installed")
async def test_dcmtks_own_worklist_and_queries(theirs: int, root: Path, tmp_path: Path) -> None:
    """The example database of wlmscpfs with its example queries."""
    title = "EXAMPLE"
    folder = tmp_path / "root" / "worklists" / title
    await asyncio.to_thread(os.makedirs, folder)
    os.symlink(folder, root / "worklists" / title)
    (folder / "lockfile").touch()
    dumps = sorted((_EXAMPLES / "wlistdb" / "OFFIS").glob("*.dump"))
    for dump in dumps:
        await run("dump2dcm", str(dump), str(tmp_path / "made"))
        os.replace(tmp_path / "made", folder / f"{dump.stem}.wl")
    async with Node(settings_for(tmp_path / "root")) as node:
        await _until(node, len(dumps))
        for query in sorted((_EXAMPLES / "wlistqry").glob("*.dump")):
            await run("dump2dcm", str(query), str(tmp_path / "query.dcm"))
            found = []
            for port in (theirs, node.dimse_port):
                out = tmp_path / f"{query.stem}-{port}"
                await asyncio.to_thread(os.mkdir, out)
                asked = ("findscu", "-W", "-X", "-od", str(out), "-aec", title)
                await run(*asked, "127.0.0.1", str(port), str(tmp_path / "query.dcm"))
                found.append(answers(out))
            assert found[1] == found[0], query.name
