"""`pacsnode worklist` and `pacsnode hl7` beside a running node."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset

from pacsnode.node import Node
from tests.conftest import needs, run
from tests.support.hl7 import orm
from tests.support.worklist import as_file, scheduled

ADD = (
    *("worklist", "add", "--patient-id", "P1", "--patient-name", "Müller^Zoë", "--modality", "US"),
    *("--description", "Abdomen", "--station", "US1", "--start", "202601051030", "--accession", "A1"),
)


@pytest_asyncio.fixture
async def storage(node: Node) -> AsyncIterator[Path]:
    """The data root of a node that runs."""
    yield node.settings.node.storage


def in_thread(pacsnode):
    async def ran(*arguments: object):
        return await asyncio.to_thread(pacsnode, *arguments)

    return ran


@needs("findscu")
async def test_what_is_added_can_be_queried_at_once(pacsnode, node: Node, storage: Path) -> None:
    ran = await in_thread(pacsnode)(*ADD, "--storage", storage, "-k", "PatientSex=F")
    assert (ran.status, ran.output) == (0, "item 1\n")
    step = "ScheduledProcedureStepSequence[0]."
    found = await run(
        *("findscu", "-W", "-k", "SpecificCharacterSet=ISO_IR 192"),
        *("-k", "PatientName", "-k", "PatientSex", "-k", f"{step}Modality=US"),
        *(
            "-k",
            f"{step}ScheduledStationAETitle=US1",
            "-k",
            f"{step}ScheduledProcedureStepStartDate=20260105",
        ),
        *("-k", f"{step}ScheduledProcedureStepStartTime", "127.0.0.1", str(node.dimse_port)),
    )
    assert "[Müller^Zoë" in found.output
    assert "[F" in found.output
    assert "[103000]" in found.output


async def test_list_show_and_remove(pacsnode, storage: Path) -> None:
    command = in_thread(pacsnode)
    await command(*ADD, "--storage", storage)
    listed = await command("worklist", "list", "--storage", storage)
    assert "SCHEDULED" in listed.output
    assert "20260105 1030" in listed.output
    assert listed.output.endswith("1 item\n")
    shown = await command("worklist", "show", 1, "--storage", storage)
    assert "Müller^Zoë" in shown.output
    (document,) = json.loads((await command("worklist", "show", 1, "--json", "--storage", storage)).output)
    assert Dataset.from_json(document).ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "US1"
    assert (await command("worklist", "remove", 1, "--storage", storage)).status == 0
    assert (await command("worklist", "list", "--storage", storage)).output == "0 items\n"
    gone = await command("worklist", "remove", 1, "--storage", storage)
    assert (gone.status, gone.errors) == (1, "pacsnode: there is no item 1\n")


async def test_import_takes_json_arrays_and_files(
    pacsnode, node: Node, storage: Path, tmp_path: Path
) -> None:
    command = in_thread(pacsnode)
    one, two, many = tmp_path / "one.json", tmp_path / "two.wl", tmp_path / "many.json"
    one.write_text(scheduled(1, PatientName="山田^太郎").to_json())
    two.write_bytes(as_file(scheduled(2)))
    many.write_text(json.dumps([scheduled(number).to_json_dict() for number in (3, 4)]))
    ran = await command("worklist", "import", one, two, many, "--storage", storage)
    assert (ran.status, ran.output) == (0, f"{one}: item 1\n{two}: item 2\n{many}: item 3, item 4\n")
    names = [listed.item.text(0x00100010) for listed in await node.workflow.worklist.items()]
    assert names == ["山田^太郎", "Patient^Number2", "Patient^Number3", "Patient^Number4"]
    one.write_text(scheduled(1, PatientName="Other").to_json())
    assert (await command("worklist", "import", one, "--storage", storage)).output == f"{one}: item 1\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "this is no DICOM JSON: "),
        (b'{"00100010": 5}', "this is no DICOM JSON: "),
        (b"{}", "there is no Scheduled Procedure Step Sequence (0040,0100)"),
        (b"text", "this is no DICOM file"),
        (scheduled(1, PatientID="").to_json().encode(), "missing: PatientID (0010,0020)"),
        (as_file(scheduled(1, StudyInstanceUID="")), "missing: StudyInstanceUID (0020,000D)"),
    ],
    ids=["half", "wrong", "empty", "text", "incomplete json", "incomplete file"],
)
async def test_import_says_what_is_wrong_and_takes_the_others(
    pacsnode, storage: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good.wl"
    bad.write_bytes(content)
    good.write_bytes(as_file(scheduled(9)))
    ran = await in_thread(pacsnode)("worklist", "import", bad, good, "--storage", storage)
    assert (ran.status, ran.output) == (1, f"{good}: item 1\n")
    assert ran.errors.startswith(f"pacsnode: {bad}: {reason}")


async def test_items_of_the_folder_go_with_their_file(pacsnode, node: Node, storage: Path) -> None:
    (storage / "worklists").mkdir(exist_ok=True)
    (storage / "worklists" / "1.wl").write_bytes(as_file(scheduled(1)))
    async with asyncio.timeout(10):
        while not await node.workflow.worklist.items():  # noqa: ASYNC110 - another task reads the folder
            await asyncio.sleep(0.05)
    ran = await in_thread(pacsnode)("worklist", "remove", 1, "--storage", storage)
    assert ran.errors == "pacsnode: item 1 is the file worklists/1.wl: remove that\n"


async def test_hl7_messages_are_listed_and_shown(pacsnode, node: Node, storage: Path) -> None:
    command = in_thread(pacsnode)
    await node.workflow.hl7.receive(orm(1).encode(), "192.0.2.1")
    await node.workflow.hl7.receive(orm(2, modality="", name="Jörg").encode("latin_1"), "192.0.2.1")
    listed = await command("hl7", "list", "--storage", storage)
    assert listed.output.endswith("2 messages\n")
    refused = await command("hl7", "list", "--refused", "--storage", storage)
    assert "missing: Modality (0008,0060)" in refused.output
    assert refused.output.endswith("1 message\n")
    shown = await command("hl7", "show", 2, "--storage", storage)
    assert "PID|1||P2^^^HOSP||Jörg|" in shown.output
    assert "MSA|AE|orm-2-NW|missing" in shown.output
    none = await command("hl7", "show", 9, "--storage", storage)
    assert none.errors == "pacsnode: there is no message 9\n"
