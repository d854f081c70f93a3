"""workflow.sqlite of a data root, for commands that work beside a running node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pacsnode.workflow.database import Database

DataRoot = Annotated[
    Path | None,
    typer.Option("--storage", metavar="DIR", help="The data root, instead of the configured one."),
]


def data_root(config: Path | None, storage: Path | None) -> Path:
    """The data root that is meant. Raises ConfigurationError when it is none: no command here makes one."""
    from pacsnode.config import load
    from pacsnode.errors import ConfigurationError

    root = storage or load(config).node.storage
    if not (root / "index.sqlite").is_file():
        raise ConfigurationError(f"{root} is no data root (--storage): no node has been started on it")
    return root


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator["Database"]:
    """The state of a data root."""
    from pacsnode.workflow.database import Database

    database = await Database.open(root)
    try:
        yield database
    finally:
        await database.close()


def is_in_use(root: Path) -> bool:
    """Whether a node runs on a data root."""
    from pacsnode.archive.root import Lock
    from pacsnode.errors import ArchiveError

    lock = Lock(root)
    try:
        lock.acquire()
    except ArchiveError:
        return True
    lock.release()
    return False


def moment(seconds: float | None) -> str:
    """Seconds since the epoch as local time for people, empty for never."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")[:19]
