"""`pacsnode patient` beside a running node, and without one."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from pacsnode.node import Node
from tests.cli.conftest import Pacsnode, Ran
from tests.conftest import needs, run, settings_for
from tests.support.objects import made
from tests.support.sending import send_made

OBJECTS = (
    made(1, study=1, PatientID="A", PatientName="Wrong^Name"),
    made(1, study=2, PatientID="B", PatientName="Right^Name", IssuerOfPatientID="HOSP"),
)

REFUSED = (
    (("update", "NOBODY", "--name", "X"), 1, "there is no patient NOBODY"),
    (("update", "B", "--issuer", "OTHER", "--name", "X"), 1, "there is no patient B of OTHER"),
    (("merge", "NOBODY", "B"), 1, "there is no patient NOBODY"),
    (("merge", "A", "A"), 1, "A cannot be merged into itself"),
    (("undo", "77"), 1, "there is no reconciliation 77"),
    (("update", "A"), 2, "nothing is to be changed"),
    (("update", "A", "--birth-date", "1970-01-02"), 2, "is no PatientBirthDate"),
    (("update", "A", "--sex", "X"), 2, "the sex is M, F, O or empty"),
    (("update", "A", "--name", "a\\b"), 2, "several values"),
    (("update", "A", "--name", "x" * 70), 2, "is no PatientName"),
    (("update", "A", "-k", "PatientID=B"), 2, "is no KEY=VALUE"),
    (("update", "A", "-k", "StudyDate=20260101"), 2, "is no KEY=VALUE"),
    (("merge", "A", " "), 2, "the Patient ID is empty"),
)


@pytest_asyncio.fixture
async def filled(node: Node) -> AsyncIterator[Node]:
    await send_made(node.dimse_port, OBJECTS)
    yield node


async def patient(pacsnode: Pacsnode, root: Path, *arguments: object) -> Ran:
    return await asyncio.to_thread(pacsnode, "patient", *arguments, "--storage", root)


async def names(node: Node) -> set[str]:
    """The names of all patients, by findscu."""
    keys = ("-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID", "-k", "PatientName")
    done = await run("findscu", "-P", *keys, "127.0.0.1", str(node.dimse_port), "-v")
    return {line.split("[")[1].split("]")[0].strip() for line in done.output.splitlines() if "PN [" in line}


@needs("findscu")
async def test_what_is_decided_is_answered_when_the_command_returns(
    pacsnode: Pacsnode, filled: Node, root: Path
) -> None:
    ran = await patient(pacsnode, root, "update", "A", "--name", "New^Name", "--sex", "F")
    assert (ran.status, ran.output.splitlines()[-1]) == (0, "reconciliation 1")
    assert await names(filled) == {"New^Name", "Right^Name"}
    ran = await patient(pacsnode, root, "merge", "A", "B", "--issuer", "HOSP")
    assert (ran.status, ran.output.splitlines()[-1]) == (0, "reconciliation 2")
    assert await names(filled) == {"Right^Name"}
    ran = await patient(pacsnode, root, "undo", 1)
    assert ran.status == 1
    assert "A was changed again by reconciliation 2: undo that first" in ran.errors
    for number in (2, 1):
        assert (await patient(pacsnode, root, "undo", number)).status == 0
    assert await names(filled) == {"Wrong^Name", "Right^Name"}

    history = json.loads((await patient(pacsnode, root, "history", "A", "--json")).output)
    assert [entry["kind"] for entry in history] == ["undo", "undo", "merge", "update"]
    assert [entry["undone_by"] for entry in history] == [None, None, 3, 4]
    assert history[-1]["attributes"] == {"PatientName": "New^Name", "PatientSex": "F"}
    assert "undo of 2" in (await patient(pacsnode, root, "history")).output
    assert (await patient(pacsnode, root, "list")).output == "0 identities\n"


@needs("findscu")
async def test_without_a_node_it_is_kept_for_the_next_start(pacsnode: Pacsnode, root: Path) -> None:
    async with Node(settings_for(root)) as node:
        await send_made(node.dimse_port, OBJECTS)
    ran = await patient(pacsnode, root, "update", "A", "--name", "New^Name")
    assert ran.output == "reconciliation 1, from the next start of the node on\n"
    assert "New^Name" in (await patient(pacsnode, root, "list", "A")).output
    ran = await asyncio.to_thread(pacsnode, "index", "rebuild", "--storage", root)
    assert ran.status == 0, ran.errors
    async with Node(settings_for(root)) as node:
        assert await names(node) == {"New^Name", "Right^Name"}
        ran = await patient(pacsnode, root, "update", "A", "--name", "New^Name")
        assert ran.output == "it is so already\n"


async def test_what_cannot_be_is_told_in_one_line(pacsnode: Pacsnode, filled: Node, root: Path) -> None:
    for arguments, status, reason in REFUSED:
        ran = await patient(pacsnode, root, *arguments)
        assert (ran.status, ran.output) == (status, ""), arguments
        assert reason in " ".join(ran.errors.split()), arguments
        assert "Traceback" not in ran.errors
