"""Patients updated and merged, as python-hl7, DCMTK, pynetdicom and dicomweb-client see it (IHE PIR)."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from io import BytesIO
from pathlib import Path

import hl7
import pytest
import pytest_asyncio
from dicomweb_client.api import DICOMwebClient
from hl7.client import MLLPClient
from pydicom import Dataset, dcmread
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelGet

from pacsnode.node import Node
from tests.conftest import needs, run, settings_for
from tests.support.compare import differences
from tests.support.destination import free_address
from tests.support.files import named
from tests.support.getting import get
from tests.support.hl7 import adt
from tests.support.objects import part10, stored_files
from tests.support.programs import storescp
from tests.support.sending import send_files

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs("findscu"), needs("movescu")]

# The patient who was registered twice, in several transfer syntaxes, and the one it really is.
WRONG = named(
    "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm"
)
RIGHT = named("MR_small.dcm")
NAME = "Müller^Jörg"
# Name, ID, birth date, sex, Original Attributes Sequence; and that text has become UTF-8
COERCED = {"(0010,0010)", "(0010,0020)", "(0010,0030)", "(0010,0040)", "(0400,0561)", "(0008,0005)"}


def renamed(path: Path, folder: Path, patient_id: str, number: int) -> Path:
    """A real object of the patient with this ID, in a study of its own."""
    data_set = dcmread(path)
    data_set.PatientID, data_set.PatientName = patient_id, f"Name^{patient_id}"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.1"
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}.1.1"
    target = folder / f"{number}.dcm"
    data_set.save_as(target)
    return target


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files that are sent, by SOP Instance UID: T1's, then P9's, then one of somebody else."""
    folder = tmp_path_factory.mktemp("sent")
    owners = [*((path, "T1") for path in WRONG), *((path, "P9") for path in RIGHT), (RIGHT[0], "X1")]
    files = [renamed(path, folder, owner, number) for number, (path, owner) in enumerate(owners, 1)]
    return {f"1.2.3.{number}.1.1": path for number, path in enumerate(files, 1)}


@pytest.fixture(scope="module")
def address() -> str:
    """Where storescp listens."""
    return free_address()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    sent: dict[str, Path], address: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    """A node that has the files, and was told by HL7 that T1 is P9, whose name is another."""
    settings = settings_for(
        tmp_path_factory.mktemp("data") / "root",
        peers={"STORESCP": address},
        hl7={"enabled": True, "host": "127.0.0.1", "port": 0},
    )
    async with Node(settings) as running:
        items = [part10(path) for path in sent.values()]
        assert set(await send_files(running.dimse_port, items)) == {0x0000}
        merge = adt("A40", "m1", f"PID|||P9^^^HOSP||{NAME}||19700102|M", "MRG|T1^^^HOSP")
        assert "MSA|AA|m1" in await tell(running, merge)
        yield running


async def tell(node: Node, message: str) -> str:
    """Send an HL7 message; the acknowledgement."""

    def send() -> bytes:
        with MLLPClient("127.0.0.1", node.hl7_port, encoding="utf-8") as client:
            return bytes(client.send_message(hl7.parse(message)))

    return (await asyncio.to_thread(send)).decode()


async def found(node: Node, folder: Path, level: str, *keys: str) -> list[Dataset]:
    """What findscu is answered."""
    await asyncio.to_thread(folder.mkdir)
    arguments = [part for key in (f"QueryRetrieveLevel={level}", *keys) for part in ("-k", key)]
    root = "-P" if level == "PATIENT" else "-S"
    done = await run("findscu", root, "-X", "-od", str(folder), *arguments, "127.0.0.1", str(node.dimse_port))
    assert done.status == 0, done.output
    return [dcmread(path, force=True) for path in await asyncio.to_thread(lambda: [*folder.iterdir()])]


def check(received: Iterable[Dataset], sent: dict[str, Path], folder: Path) -> None:
    """Only the patient differs from what was sent, and what it was is told."""
    for data_set in received:
        path = folder / f"{data_set.SOPInstanceUID}.dcm"
        data_set.save_as(path)
        original = sent[data_set.SOPInstanceUID]
        changed = {tag for tag in differences(original, path) if not tag.startswith("(0002,")}
        was = dcmread(original)
        if was.PatientID == "X1":
            assert changed == set(), original
            continue
        if data_set.file_meta.TransferSyntaxUID != was.file_meta.TransferSyntaxUID:  # no big endian by HTTP
            assert (data_set.pixel_array == was.pixel_array).all()
            changed.discard("(7FE0,0010)")
        assert {"(0010,0010)", "(0400,0561)"} <= changed <= COERCED, original
        assert (data_set.PatientID, str(data_set.PatientName)) == ("P9", NAME)
        assert (data_set.PatientBirthDate, data_set.PatientSex) == ("19700102", "M")
        (previous,) = data_set.OriginalAttributesSequence[0].ModifiedAttributesSequence
        assert previous.PatientName == was.PatientName
        assert previous.get("PatientID", "P9") == was.PatientID


async def test_findscu_finds_one_patient(node: Node, sent: dict[str, Path], tmp_path: Path) -> None:
    returned = ("PatientName", "PatientBirthDate", "NumberOfPatientRelatedStudies")
    assert await found(node, tmp_path / "gone", "PATIENT", "PatientID=T1", *returned) == []
    (patient,) = await found(node, tmp_path / "there", "PATIENT", "PatientID=P9", *returned)
    assert (str(patient.PatientName), patient.PatientBirthDate) == (NAME, "19700102")
    assert patient.NumberOfPatientRelatedStudies == len(WRONG) + len(RIGHT)
    studies = await found(node, tmp_path / "studies", "STUDY", "PatientName=müller*", "PatientID")
    assert {study.PatientID for study in studies} <= {"P9"}
    assert await found(node, tmp_path / "old", "STUDY", "PatientName=Name^T1") == []


async def test_movescu_sends_coerced_objects(
    node: Node, sent: dict[str, Path], address: str, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in stored_files(node.settings.node.storage)}
    studies = "\\".join(uid.removesuffix(".1.1") for uid in sent)
    async with storescp(address, tmp_path / "got", "STORESCP", "+xa"):
        await run(
            *("movescu", "-S", "-aem", "STORESCP", "-k", "QueryRetrieveLevel=STUDY"),
            *("-k", f"StudyInstanceUID={studies}", "127.0.0.1", str(node.dimse_port)),
        )
    received = [dcmread(path) for path in (tmp_path / "got").iterdir()]
    assert {data_set.SOPInstanceUID for data_set in received} == sent.keys()
    check(received, sent, tmp_path)
    assert {path: path.read_bytes() for path in before} == before, "files at rest stay as they came"


async def test_pynetdicom_gets_it_in_another_transfer_syntax(
    node: Node, sent: dict[str, Path], tmp_path: Path
) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", "1.2.3.1"
    got = await get(
        node.dimse_port,
        StudyRootQueryRetrieveInformationModelGet,
        identifier,
        [(CTImageStorage, ("1.2.840.10008.1.2",))],
    )
    assert got.final.Status == 0x0000
    assert (str(got.only.PatientName), got.only.PatientID) == (NAME, "P9")
    assert got.only.PixelData == dcmread(sent["1.2.3.1.1.1"]).PixelData


async def test_dicomweb_client_sees_the_same(node: Node, sent: dict[str, Path], tmp_path: Path) -> None:
    client = DICOMwebClient(f"http://127.0.0.1:{node.web_port}/dicomweb")

    def ask() -> tuple[list[Dataset], list[Dataset], list[Dataset]]:
        studies = client.search_for_studies(search_filters={"PatientID": "P9"})
        uids = [str(Dataset.from_json(study).StudyInstanceUID) for study in studies]
        objects = [one for uid in (*uids, "1.2.3.7") for one in client.retrieve_study(uid)]
        metadata = [Dataset.from_json(one) for uid in uids for one in client.retrieve_study_metadata(uid)]
        return [Dataset.from_json(study) for study in studies], objects, metadata

    studies, objects, metadata = await asyncio.to_thread(ask)
    assert {str(study.PatientName) for study in studies} == {NAME}
    assert len(objects) == len(sent)
    check(objects, sent, tmp_path)
    assert len(metadata) == len(WRONG) + len(RIGHT)
    told = {one.SOPInstanceUID: one for one in objects}
    for one in metadata:
        instance = told[one.SOPInstanceUID]
        assert one.PatientName == instance.PatientName
        assert one.PatientID == instance.PatientID
        assert one.OriginalAttributesSequence == instance.OriginalAttributesSequence


async def test_the_same_request_gets_the_same_bytes(node: Node) -> None:
    """So that ranges and ETags mean something; WADO-URI too."""
    path = "/dicomweb/studies/1.2.3.1/series/1.2.3.1.1/instances/1.2.3.1.1.1"
    base = f"http://127.0.0.1:{node.web_port}"
    uri = "/wado?requestType=WADO&studyUID=1.2.3.1&seriesUID=1.2.3.1.1&objectUID=1.2.3.1.1.1"
    dicom = "application/dicom; transfer-syntax=*"
    bodies = [
        await asyncio.to_thread(_fetch, base + path, dicom),
        await asyncio.to_thread(_fetch, base + path, dicom),
        await asyncio.to_thread(_fetch, f"{base}{uri}&contentType=application/dicom", ""),
    ]
    assert bodies[0] == bodies[1]
    for body in bodies:
        assert str(dcmread(BytesIO(body)).PatientName) == NAME


def _fetch(url: str, accept: str) -> bytes:
    from urllib.request import Request, urlopen

    with urlopen(Request(url, headers={"Accept": accept} if accept else {})) as response:
        return bytes(response.read())


async def test_a_duplicate_is_compared_with_the_file_at_rest(node: Node, sent: dict[str, Path]) -> None:
    before = sorted(stored_files(node.settings.node.storage))
    assert await send_files(node.dimse_port, [part10(sent["1.2.3.1.1.1"])]) == [0x0000]
    assert sorted(stored_files(node.settings.node.storage)) == before


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (adt("A40", "b1", "PID|||P9^^^HOSP", "MRG|P9^^^HOSP"), "MSA|AE|b1"),
        (adt("A40", "b2", "PID|||T1^^^HOSP", "MRG|P9^^^HOSP"), "MSA|AE|b2"),
        (adt("A40", "b3", "PID|||P9^^^HOSP", "MRG|"), "MSA|AE|b3"),
        (adt("A08", "b4", "PID|||||Nobody"), "MSA|AE|b4"),
        (adt("A08", "b5", "PID|||T1^^^HOSP||Late^News"), "MSA|AE|b5"),
        (adt("A08", "b6", "PID|||UNKNOWN^^^HOSP||Who^Ever"), "MSA|AA|b6"),
        (adt("A24", "b7", "PID|||P9^^^HOSP"), "MSA|AR|b7"),
    ],
    ids=["into itself", "in a circle", "no MRG-1", "no PID-3", "of one gone", "of nobody yet", "a link"],
)
async def test_what_cannot_be_is_answered_so(node: Node, message: str, answer: str) -> None:
    assert answer in await tell(node, message)


async def test_rendered_annotations_name_the_patient_as_it_is_now(node: Node) -> None:
    """The picture with the name differs before and after another update; undone, it is the one before."""
    url = (
        f"http://127.0.0.1:{node.web_port}/dicomweb/studies/1.2.3.1/series/1.2.3.1.1/instances/1.2.3.1.1.1"
        "/rendered?annotation=patient"
    )
    first = await asyncio.to_thread(_fetch, url, "image/png")
    assert "MSA|AA" in await tell(node, adt("A08", "r1", "PID|||P9^^^HOSP||Other^Name"))
    second = await asyncio.to_thread(_fetch, url, "image/png")
    assert second != first
    (last, *_) = await node.workflow.patients.history()
    async with node.workflow.patients.transaction() as transaction:
        await node.workflow.patients.undo(transaction, last.id, "test")
    await node.workflow.patients.follow()
    assert await asyncio.to_thread(_fetch, url, "image/png") == first
