"""What the tests of this room share: the database, and what runs on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from pacsnode.workflow.database import Database


@pytest_asyncio.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    """workflow.sqlite as the node has it."""
    database = await Database.open(tmp_path)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def other(tmp_path: Path, opened: Database) -> AsyncIterator[Database]:
    """The same file as a command beside the node has it."""
    database = await Database.open(tmp_path)
    yield database
    await database.close()
