"""What peers are answered who ask the same again while studies come, grow and change their patient."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import hl7
import pytest
import pytest_asyncio
from hl7.client import MLLPClient
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from pacsnode.archive.answers import WORTH
from pacsnode.node import Node
from tests.conftest import needs, run, settings_for
from tests.support.hl7 import adt
from tests.support.objects import Made, made
from tests.support.sending import send_made

pytestmark = [pytest.mark.asyncio, needs("findscu")]

KEYS = (
    "StudyInstanceUID",
    "PatientID",
    "PatientName",
    "PatientSex",
    "StudyDescription",
    "NumberOfStudyRelatedInstances",
    "ModalitiesInStudy",
)
N_STUDIES = WORTH + 15

Ask = Callable[[Node, Path], list[Dataset]]


@pytest_asyncio.fixture
async def node(root: Path) -> AsyncIterator[Node]:
    settings = settings_for(root, hl7={"enabled": True, "host": "127.0.0.1", "port": 0})
    async with Node(settings) as running:
        yield running


def pynetdicom(node: Node, _: Path) -> list[Dataset]:
    ae = AE(ae_title="FINDER")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate("127.0.0.1", node.dimse_port)
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    for keyword in KEYS:
        setattr(keys, keyword, "*made*" if keyword == "PatientName" else "")
    try:
        answers = list(association.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind))
    finally:
        association.release()
    assert answers[-1][0].Status == 0x0000
    return [answer for _, answer in answers[:-1] if answer is not None]


def findscu(node: Node, folder: Path) -> list[Dataset]:
    folder.mkdir()
    keys = [f"-k={keyword}" for keyword in KEYS if keyword != "PatientName"]
    arguments = [part for key in keys for part in key.split("=")]
    level = ("-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=*made*")
    done = asyncio.run(
        run("findscu", "-S", "-X", "-od", str(folder), *level, *arguments, "127.0.0.1", str(node.dimse_port))
    )
    assert done.status == 0, done.output
    return [dcmread(path, force=True) for path in folder.iterdir()]


def told(answers: list[Dataset]) -> dict[str, tuple[str, ...]]:
    """What is answered of each study."""
    found = {}
    for answer in answers:
        modalities = answer["ModalitiesInStudy"].value
        joined = modalities if isinstance(modalities, str) else "\\".join(modalities)
        texts = [str(answer[keyword].value or "") for keyword in KEYS[1:-1]]
        found[str(answer.StudyInstanceUID)] = (*texts, joined)
    assert len(found) == len(answers)
    return found


def one(study: int, number: int = 1, series: int = 1, **values: object) -> Made:
    return made(number, study=study, series=series, **{"PatientSex": "", **values})


@pytest.mark.parametrize("ask", [pynetdicom, findscu])
async def test_a_peer_that_asks_again_sees_all_that_was_acknowledged(
    node: Node, root: Path, ask: Ask
) -> None:
    expected: dict[str, tuple[str, ...]] = {}
    sent: Counter[str] = Counter()
    asked = 0

    async def check() -> None:
        nonlocal asked
        for _ in range(3):  # the first time rows are read, then answers are known
            asked += 1
            answers = await asyncio.to_thread(ask, node, root / f"asked-{asked}")
            assert told(answers) == {
                study: (*texts, str(sent[study]), modalities)
                for study, (*texts, modalities) in expected.items()
            }

    async def send(*items: Made) -> None:
        sent.update(item.study for item in items)
        await send_made(node.dimse_port, items)

    def expect(study: int, name: str, sex: str, description: str, modalities: str, patient: str) -> None:
        expected[one(study).study] = (patient, name, sex, description, modalities)

    studies = range(1, N_STUDIES + 1)
    await send(*(one(n) for n in studies))
    for n in studies:
        expect(n, f"Made^{n:05}", "", "", "CT", f"P{n}")
    await check()

    await send(one(500), one(501, PatientID="P1", PatientName="Made^00001"))  # new ones
    expect(500, "Made^00500", "", "", "CT", "P500")
    expect(501, "Made^00001", "", "", "CT", "P1")
    await check()

    await send(*(one(n, number=2) for n in studies))  # more of the same series: only the count changes
    await check()

    await send(one(1, series=2, Modality="SR"), one(2, number=3, PatientSex="F", StudyDescription="Head"))
    expect(1, "Made^00001", "", "", "CT\\SR", "P1")
    expect(2, "Made^00002", "F", "Head", "CT", "P2")
    await check()

    await send(one(501, number=2, PatientID="P1", PatientName="Made^00001", PatientSex="M"))
    expect(1, "Made^00001", "M", "", "CT\\SR", "P1")  # the patient of both
    expect(501, "Made^00001", "M", "", "CT", "P1")
    await check()

    merge = adt("A40", "m1", "PID|||P2^^^HOSP||Made^00002||19700102|F", "MRG|P3^^^HOSP")

    def tell() -> str:
        with MLLPClient("127.0.0.1", node.hl7_port, encoding="utf-8") as client:
            return bytes(client.send_message(hl7.parse(merge))).decode()

    assert "MSA|AA|m1" in await asyncio.to_thread(tell)
    expect(3, "Made^00002", "F", "", "CT", "P2")
    await check()
