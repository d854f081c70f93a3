"""`pacsnode move` and `pacsnode get`: what is asked for, what is printed, how they end."""

import asyncio
import json
from pathlib import Path

import pytest
import typer
from pydicom import dcmread

from pacsnode.cli.retrieving import GET_SOP_CLASS_OF, MAX_STORAGE_CONTEXTS, contexts_to_get, request_of
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE, PATIENT_ROOT_GET, STUDY_ROOT_GET
from pacsnode.node import Node
from tests.conftest import SettingsOf
from tests.support import command as own
from tests.support.destination import Destination, Received
from tests.support.objects import data_set_bytes, made
from tests.support.raw import CT_IMAGE
from tests.support.sending import send_made

ITEMS = [made(number) for number in (1, 2, 3)]
STUDY = f"StudyInstanceUID={ITEMS[0].study}"


async def pacsnode(node: Node, command: str, *arguments: object) -> own.Ended:
    return await own.pacsnode(command, f"PACSNODE@127.0.0.1:{node.dimse_port}", *arguments)


@pytest.fixture
async def filled(node: Node) -> Node:
    await send_made(node.dimse_port, ITEMS)
    return node


async def test_get_makes_a_file_of_each_instance(filled: Node, tmp_path: Path) -> None:
    done = await pacsnode(filled, "get", "-k", STUDY, "-o", tmp_path / "got", "--json")
    assert done.status == 0, done.output
    told = json.loads(done.output)
    assert (told["status"], told["completed"], told["received"], told["failed_instances"]) == (
        "0000",
        3,
        3,
        [],
    )
    for item in ITEMS:
        path = tmp_path / "got" / f"{item.sop}.dcm"
        assert data_set_bytes(path) == item.data
        meta = dcmread(path, stop_before_pixels=True).file_meta
        assert (meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) == (CT_IMAGE, EXPLICIT_VR_LE)
        assert meta.SourceApplicationEntityTitle == "PACSNODE"


async def test_get_of_what_the_folder_does_not_take_fails(filled: Node, tmp_path: Path) -> None:
    mr_only = ("--sop-class", "1.2.840.10008.5.1.4.1.1.4")
    done = await pacsnode(filled, "get", "-k", STUDY, "-o", tmp_path / "got", *mr_only)
    assert done.status == 1
    assert "A702" in done.output
    assert ITEMS[0].sop in done.output
    assert list((tmp_path / "got").iterdir()) == []


async def test_get_into_a_folder_that_cannot_be_written(filled: Node, tmp_path: Path) -> None:
    (tmp_path / "got").write_text("a file")
    done = await pacsnode(filled, "get", "-k", STUDY, "-o", tmp_path / "got")
    assert done.status == 1
    assert str(tmp_path / "got") in done.output


async def test_move_tells_how_many_went(settings_of: SettingsOf) -> None:
    async def answer(received: Received) -> int:
        return 0xA700 if received.sop == ITEMS[1].sop else 0x0000

    async with (
        Destination(answer=answer) as destination,
        Node(settings_of(peers={"DESTINATION": destination.address})) as node,
    ):
        await send_made(node.dimse_port, ITEMS)
        done = await pacsnode(node, "move", "-d", "DESTINATION", "-k", STUDY, "--json")
    told = json.loads(done.output)
    assert done.status == 1
    assert (told["status"], told["completed"], told["failed"]) == ("B000", 2, 1)
    assert told["failed_instances"] == [ITEMS[1].sop]


async def test_move_to_an_unknown_destination_says_so(filled: Node) -> None:
    done = await pacsnode(filled, "move", "-d", "NOBODY", "-k", STUDY)
    assert done.status == 1
    assert "move destination NOBODY is unknown" in done.output


@pytest.mark.parametrize("option", ["-d", "--ae-title"])
async def test_an_ae_title_that_would_be_cut_off_is_a_wrong_command_line(filled: Node, option: str) -> None:
    done = await pacsnode(filled, "move", "-d", "NOBODY", "-k", STUDY, option, "SEVENTEEN_LETTERS")
    assert done.status == 2
    assert "longer than 16 characters" in " ".join(done.output.replace("│", " ").split())


async def test_many_get_at_once(filled: Node, tmp_path: Path) -> None:
    runs = (pacsnode(filled, "get", "-k", STUDY, "-o", tmp_path / str(number)) for number in range(3))
    assert [done.status for done in await asyncio.gather(*runs)] == [0, 0, 0]


def test_the_patient_level_needs_the_patient_root() -> None:
    sop_class, identifier = request_of("patient", "study", ["PatientID=1"], GET_SOP_CLASS_OF)
    assert sop_class == PATIENT_ROOT_GET
    assert (identifier.QueryRetrieveLevel, identifier.PatientID, len(identifier)) == ("PATIENT", "1", 2)


def test_the_usual_sop_classes_go_into_one_association() -> None:
    contexts = contexts_to_get(STUDY_ROOT_GET, (), ())
    assert 100 < len(contexts) <= 1 + MAX_STORAGE_CONTEXTS
    assert contexts[0].abstract_syntax == STUDY_ROOT_GET
    assert CT_IMAGE in {context.abstract_syntax for context in contexts}
    assert {context.transfer_syntaxes for context in contexts} == {(EXPLICIT_VR_LE, IMPLICIT_VR_LE)}


def test_a_transfer_syntax_of_its_own_is_preferred() -> None:
    jpeg = "1.2.840.10008.1.2.4.70"
    _, first, second = contexts_to_get(STUDY_ROOT_GET, [CT_IMAGE], [jpeg])
    assert (first.transfer_syntaxes, second.transfer_syntaxes) == ((jpeg,), (EXPLICIT_VR_LE, IMPLICIT_VR_LE))


@pytest.mark.parametrize(
    ("storage", "transfer_syntaxes"), [(["CT"], []), ([CT_IMAGE], ["jpeg"]), ([], ["1.2.840.10008.1.2.4.70"])]
)
def test_what_cannot_be_proposed_is_a_wrong_command_line(
    storage: list[str], transfer_syntaxes: list[str]
) -> None:
    with pytest.raises(typer.BadParameter):
        contexts_to_get(STUDY_ROOT_GET, storage, transfer_syntaxes)
