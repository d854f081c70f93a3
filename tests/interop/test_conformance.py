"""The Conformance Statement beside what pynetdicom is granted by a node with the same settings."""

import asyncio
import re
from pathlib import Path

import pytest
import pytest_asyncio
from pynetdicom import AE
from pynetdicom.presentation import build_context

from pacsnode.node import Node
from tests.conftest import settings_for
from tests.support.command import pacsnode

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROW = re.compile(r"^\| (?P<name>.+) \| `(?P<uid>[0-9.]+)` \| (?P<scu>yes|no) \| (?P<scp>yes|no) \|$", re.M)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def statement(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As the command prints it."""
    storage = tmp_path_factory.mktemp("statement") / "storage"
    env = {"PACSNODE_AE_TITLE": "ALPHA", "PACSNODE_STORAGE": str(storage)}
    done = await pacsnode("conformance", env=env)
    assert done.status == 0, done.output
    assert not storage.exists()
    return done.output


def granted(port: int, sop_classes: list[str]) -> set[str]:
    """Of the SOP classes, those that the node accepts."""
    found = set()
    for number in range(0, len(sop_classes), 128):
        ae = AE("TEST")
        ae.requested_contexts = [build_context(uid) for uid in sop_classes[number : number + 128]]
        association = ae.associate("127.0.0.1", port)
        assert association.is_established
        found |= {str(context.abstract_syntax) for context in association.accepted_contexts}
        association.release()
    return found


async def test_what_is_stated_is_granted_and_nothing_else(statement: str, tmp_path: Path) -> None:
    rows = {row["uid"]: row for row in ROW.finditer(statement)}
    provided = [uid for uid, row in rows.items() if row["scp"] == "yes"]
    assert len(provided) > 150
    others = [uid for uid, row in rows.items() if row["scp"] == "no"] + ["1.2.840.10008.1.9", "2.25.1"]
    async with Node(settings_for(tmp_path / "root")) as node:
        assert await asyncio.to_thread(granted, node.dimse_port, provided + others) == set(provided)


async def test_the_statement_has_its_sections_and_the_configuration(statement: str) -> None:
    headings = re.findall(r"^#{2,3} (.+)$", statement, re.M)
    for heading in (
        "1 Overview",
        "2.2 Association initiation",
        "2.3 Association acceptance",
        "6 Web services",
    ):
        assert heading in headings
    assert "| AE title | ALPHA |" in statement
    for resource in ("GET /wado", "POST /dicomweb/studies", "GET /dicomweb/studies/{study}/metadata"):
        assert f"`{resource}`" in statement
    for line in statement.splitlines():
        assert "None" not in line
