"""Data roots as earlier versions left them: brought up to date, they say what a new index of the files says.

`earlier/<index>-<workflow>.tar.xz` are named after the revisions of their two databases. Each was filled by
the last commit that had those: five objects in three studies of three patients, stored by storescu; from
0003-0004 on a peer and a worklist item that were added on the command line. A change of a schema brings
another one.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pacsnode.archive.kept import restored
from pacsnode.archive.migrations import versions
from pacsnode.archive.reconcile import rebuild, verify
from pacsnode.archive.schema import REVISION
from pacsnode.dicom.sop_class import STUDY_ROOT_FIND
from pacsnode.net.client import client
from pacsnode.node import Node
from tests.conftest import SettingsOf
from tests.support.objects import made
from tests.support.sending import send_made

EARLIER = sorted((Path(__file__).parent / "earlier").glob("*.tar.xz"))
# What a rebuild cannot know: numbers of rows, who sent an object when.
OF_THE_INDEX_ALONE = {"id", "token", "stored_at", "source_ae", "digest"}


@pytest.fixture(params=EARLIER, ids=lambda path: path.name.partition(".")[0])
def earlier(request: pytest.FixtureRequest, root: Path) -> Path:
    shutil.unpack_archive(request.param, root)
    return root


def test_there_is_one_of_every_earlier_revision() -> None:
    revisions = {path.stem[1:5] for path in Path(versions.__file__).parent.glob("v*.py")}
    assert {path.name[:4] for path in EARLIER} == revisions - {REVISION}


async def test_everything_is_found_as_in_a_new_index(earlier: Path, settings_of: SettingsOf) -> None:
    with capture_logs() as events:
        async with Node(settings_of()):
            pass
    told = [(event["event"], event["file"]) for event in events if event["event"].startswith("database.")]
    assert told[:2] == [("database.migrating", "index.sqlite"), ("database.migrated", "index.sqlite")]
    async with (
        Node(settings_of()) as node,
        client(
            f"PACSNODE@127.0.0.1:{node.dimse_port}",
            sop_classes=[STUDY_ROOT_FIND],
            extended={STUDY_ROOT_FIND: bytes((0, 0, 1))},
        ) as archive,
    ):
        keys = {"StudyInstanceUID": "", "NumberOfStudyRelatedInstances": "", "ModalitiesInStudy": ""}
        found = [one async for one in archive.find(STUDY_ROOT_FIND, "STUDY", PatientName="MUELLER", **keys)]
        named = [one for one in found if one.PatientName]
        assert [(str(one.PatientName), one.NumberOfStudyRelatedInstances) for one in named] == [
            ("Müller^Jörg=山田^太郎", 3)
        ]
        assert set(named[0].ModalitiesInStudy) == {"CT", "MR"}
        await send_made(node.dimse_port, [made(1)])
    assert verify(earlier, deep=True).agrees
    migrated = everything(earlier)
    assert len(migrated["instance"]) == 6
    rebuild(earlier)
    assert everything(earlier) == migrated


@pytest.mark.parametrize("earlier", EARLIER[-2:], ids=lambda path: path.name.partition(".")[0], indirect=True)
async def test_peers_and_worklist_are_still_there(earlier: Path, settings_of: SettingsOf) -> None:
    async with Node(settings_of()) as node:
        peer = await node.workflow.peers.get("CT1")
        assert str(peer) == "CT1@192.0.2.7:104"
        (item,) = await node.workflow.worklist.items()
        assert item.item.text(0x00100010) == "DOE^JANE"


def everything(root: Path) -> dict[str, list[tuple[object, ...]]]:
    """The rows of the index, all columns that come from the objects."""
    tables = {}
    with closing(sqlite3.connect(root / "index.sqlite")) as connection:
        for table in ("patient", "study", "series", "instance", "header"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_xinfo({table})")]
            wanted = [c for c in columns if c not in OF_THE_INDEX_ALONE and not c.endswith(("_fk", "_id"))]
            named = ", ".join(f'"{c}"' for c in [*wanted, *({"patient_id", "study_id"} & set(columns))])
            rows = [tuple(map(_readable, row)) for row in connection.execute(f"SELECT {named} FROM {table}")]
            tables[table] = sorted(rows, key=repr)
    return tables


def _readable(value: object) -> object:
    """Kept headers were compressed in other ways once."""
    return restored(value) if isinstance(value, bytes) else value
