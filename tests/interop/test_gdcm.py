"""gdcmscu as SCU.

Debian's gdcmscu 3.0.21 ends by abort() after each clean release, with every peer ("ProtocolStream as nullptr
is invalid"), and prints no answers. So what it did is read from the node's events and files.
"""

from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from pacsnode.node import Node
from tests.conftest import needs, run
from tests.support.compare import differences
from tests.support.files import named
from tests.support.objects import object_path, part10
from tests.support.sending import send_files

pytestmark = [needs("gdcmscu"), pytest.mark.filterwarnings("ignore::UserWarning:pydicom")]

FILES = ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "693_J2KI.dcm", "SC_rgb_jpeg_dcmtk.dcm")


async def gdcmscu(node: Node, *arguments: str) -> list[EventDict]:
    """The events of one run, which has to end by release."""
    with structlog.testing.capture_logs() as events:
        done = await run("gdcmscu", "--call", "PACSNODE", *arguments, "127.0.0.1", str(node.dimse_port))
    names = [event["event"] for event in events]
    assert "association.released" in names, (done.output, names)
    assert "association.aborted" not in names
    return list(events)


async def test_echo(node: Node) -> None:
    events = await gdcmscu(node, "--echo")
    assert "association.verified" in [event["event"] for event in events]


@pytest.mark.parametrize("name", FILES)
async def test_store(node: Node, root: Path, name: str) -> None:
    path = named(name)[0]
    events = await gdcmscu(node, "--store", "-i", str(path))
    assert "instance.stored" in [event["event"] for event in events]
    assert differences(path, object_path(root, part10(path))) == []


@pytest.mark.parametrize(
    ("model", "level", "key", "matches"),
    [
        ("--patientroot", "--patient", "0010,0020=", 3),
        ("--patientroot", "--study", "0010,0020=1CT1", 1),
        ("--studyroot", "--study", "0020,000d=", 3),
        ("--studyroot", "--study", "0010,0010=Compressed*", 2),
    ],
)
async def test_find(node: Node, model: str, level: str, key: str, matches: int) -> None:
    files = [part10(path) for path in named(*FILES[:3])]
    assert set(await send_files(node.dimse_port, files)) == {0x0000}
    events = await gdcmscu(node, "--find", model, level, "--key", key)
    assert [event["matches"] for event in events if event["event"] == "query.answered"] == [matches]
