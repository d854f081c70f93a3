"""`pacsnode index verify|rebuild` on a data root that a node has filled."""

import asyncio
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom.data import get_testdata_file

from pacsnode.cli.sending import Sender, plan, survey
from pacsnode.config import Peer
from pacsnode.net.timeouts import Timeouts
from pacsnode.node import Node


@pytest_asyncio.fixture
async def filled(settings_of) -> Path:
    """Two objects, and nobody who uses them any more."""
    settings = settings_of()
    files = [Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm")]
    async with Node(settings) as node:
        sender = Sender(Peer.parse(f"PACSNODE@127.0.0.1:{node.dimse_port}"), "TEST", Timeouts())
        for batch in plan(survey(files).objects):
            await sender.send(batch)
    assert sender.tally.sent == 2
    return settings.node.storage


@pytest.fixture
def objects(filled: Path) -> list[Path]:
    return sorted((filled / "objects").rglob("*.dcm"))


@pytest.fixture
def index(filled: Path) -> list[Path]:
    return list(filled.glob("index.sqlite*"))


async def test_verify_finds_nothing_wrong(pacsnode, filled: Path) -> None:
    ran = await asyncio.to_thread(pacsnode, "index", "verify", "--storage", filled, "--deep")
    assert (ran.status, ran.output, ran.errors) == (0, "2 instances in the index, 2 files, 0 problems\n", "")


async def test_verify_names_a_file_that_is_gone(pacsnode, filled: Path, objects: list[Path]) -> None:
    objects[0].unlink()
    ran = await asyncio.to_thread(pacsnode, "index", "verify", PACSNODE_STORAGE=str(filled))
    assert ran.status == 1
    assert f"{objects[0].relative_to(filled)}: " in ran.output


async def test_a_lost_index_is_made_again(pacsnode, filled: Path, index: list[Path]) -> None:
    for path in index:
        path.unlink()
    ran = await asyncio.to_thread(pacsnode, "index", "rebuild", "--storage", filled)
    assert (ran.status, ran.output) == (0, "2 instances indexed, 0 in conflict with another\n")
    ran = await asyncio.to_thread(pacsnode, "index", "verify", "--storage", filled, "--deep")
    assert ran.status == 0


async def test_rebuild_names_a_file_it_cannot_read(pacsnode, filled: Path, objects: list[Path]) -> None:
    objects[1].write_bytes(b"no DICOM any more")
    ran = await asyncio.to_thread(pacsnode, "index", "rebuild", "--storage", filled)
    assert ran.status == 1
    assert str(objects[1].relative_to(filled)) in ran.errors
    assert ran.output == "1 instances indexed, 0 in conflict with another\n"


async def test_a_root_in_use_is_left_alone(pacsnode, node) -> None:
    ran = await asyncio.to_thread(pacsnode, "index", "rebuild", "--storage", node.settings.node.storage)
    assert ran.status == 1
    assert ran.errors.count("\n") == 1


async def test_a_broken_index_is_said_to_need_a_rebuild(pacsnode, filled: Path, index: list[Path]) -> None:
    broken = next(file for file in index if file.suffix == ".sqlite")
    content = broken.read_bytes()
    broken.write_bytes(content[:100] + b"\xee" * (len(content) - 100))
    refused = await asyncio.to_thread(pacsnode, "index", "verify", "--storage", filled)
    assert refused.status != 0
    assert "`pacsnode index rebuild`" in refused.errors
    rebuilt = await asyncio.to_thread(pacsnode, "index", "rebuild", "--storage", filled)
    assert rebuilt.status == 0
    verified = await asyncio.to_thread(pacsnode, "index", "verify", "--storage", filled, "--deep")
    assert verified.status == 0
