"""The folder `worklists` of the data root: files with worklist items, as for wlmscpfs and Orthanc.

A `.wl` file that appears is an item, one that changes is the item changed, one that goes cancels the item.
Files in the folder itself are answered whatever AE title the node is called by, those in a sub-folder when
it is called by the name of that, as wlmscpfs does. A folder is left alone while its `lockfile` is held.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from pacsnode.errors import PacsnodeError
from pacsnode.workflow.database import Database, Transaction
from pacsnode.workflow.worklist import Worklist
from pacsnode.workflow.worklist_file import items_of_file
from pacsnode.workflow.worklist_item import WorklistItem
from pacsnode.workflow.worklist_state import StepEvent

FOLDER: Final = "worklists"
LOCK_FILE: Final = "lockfile"
SUFFIX: Final = ".wl"
_ORIGIN: Final = "folder:"
_IDLE: Final = 3600.0  # seconds; an interval of 0 watches nothing


@dataclass(frozen=True, slots=True)
class Listing:
    """The files there are, and what tells each from its next version; `locked` folders were left alone."""

    versions: dict[str, str] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)


class WorklistFolder:
    """Looks into the folder now and then."""

    def __init__(self, database: Database, worklist: Worklist, root: Path, interval: float) -> None:
        self._database = database
        self._worklist = worklist
        self._folder = root / FOLDER
        self._interval = interval
        self._known: dict[str, str] | None = None
        self._doubtful: dict[str, str] = {}
        self._log = structlog.get_logger()

    async def run(self) -> None:
        if not self._interval:
            await asyncio.sleep(_IDLE)
            return
        await asyncio.to_thread(self._folder.mkdir, exist_ok=True)
        while True:
            await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Take over what has changed since the last look, or since the last start."""
        if self._known is None:
            self._known = await self._taken_before()
        known = self._known
        listing = await asyncio.to_thread(_list, self._folder)
        changed = {path for path, version in listing.versions.items() if known.get(path) != version}
        gone = {
            path for path in known if path not in listing.versions and _parent(path) not in listing.locked
        }
        if not changed and not gone:
            return
        for path in sorted(changed):
            if await self._take(path, listing.versions[path]):
                known[path] = listing.versions[path]
        for path in sorted(gone):
            await self._let_go(path)
            del known[path]

    async def _taken_before(self) -> dict[str, str]:
        rows = await self._database.fetch(
            "SELECT origin, version FROM worklist_item WHERE origin GLOB 'folder:*' AND version != ''"
        )
        return {row["origin"].removeprefix(_ORIGIN).rpartition("#")[0]: row["version"] for row in rows}

    async def _take(self, path: str, version: str) -> bool:
        """Put in the items of a file; returns whether this version is done with."""
        try:
            items = await asyncio.to_thread(items_of_file, self._folder / path)
        except (PacsnodeError, OSError) as error:
            # It may be half written: only one that is the same at the next look is bad.
            if self._doubtful.get(path) != version:
                self._doubtful[path] = version
                return False
            self._log.warning("worklist.file_refused", path=f"{FOLDER}/{path}", reason=str(error))
            return True
        self._doubtful.pop(path, None)
        async with self._database.transaction() as transaction:
            numbers = await self._put(transaction, path, version, items)
        self._log.info("worklist.file_taken", items=numbers)
        return True

    async def _put(
        self, transaction: Transaction, path: str, version: str, items: list[WorklistItem]
    ) -> list[int]:
        numbers = []
        for number, item in enumerate(items):
            origin = f"{_ORIGIN}{path}#{number}"
            numbers.append(
                await self._worklist.put(transaction, item, origin, called_ae=_parent(path), version=version)
            )
        await self._cancel(transaction, path, beyond=len(items))
        return numbers

    async def _let_go(self, path: str) -> None:
        async with self._database.transaction() as transaction:
            numbers = await self._cancel(transaction, path, beyond=0)
        self._log.info("worklist.file_gone", items=numbers)

    async def _cancel(self, transaction: Transaction, path: str, *, beyond: int) -> list[int]:
        """Cancel the items of a file from the one with number `beyond` on."""
        rows = await transaction.fetch(
            "SELECT * FROM worklist_item WHERE substr(origin, 1, ?) = ?",
            (len(f"{_ORIGIN}{path}#"), f"{_ORIGIN}{path}#"),
        )
        over = [row for row in rows if int(row["origin"].rpartition("#")[2]) >= beyond]
        for row in over:
            await transaction.execute("UPDATE worklist_item SET version = '' WHERE id = ?", (row["id"],))
        return await self._worklist.move(transaction, over, StepEvent.CANCELLED)


def _parent(path: str) -> str:
    """The sub-folder a file is in, "" for the folder itself."""
    return path.rpartition("/")[0]


def _list(folder: Path) -> Listing:
    listing = Listing()
    _list_into(listing, folder, "")
    for entry in _entries(folder):
        if entry.is_dir():
            _list_into(listing, folder / entry.name, entry.name)
    return listing


def _list_into(listing: Listing, folder: Path, name: str) -> None:
    with _reading(folder) as may_read:
        if not may_read:
            listing.locked.add(name)
            return
        for entry in _entries(folder):
            if entry.name.endswith(SUFFIX) and entry.is_file():
                try:
                    state = entry.stat()
                except FileNotFoundError:
                    continue
                path = f"{name}/{entry.name}" if name else entry.name
                listing.versions[path] = f"{state.st_mtime_ns} {state.st_size} {state.st_ino}"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


@contextmanager
def _reading(folder: Path) -> Iterator[bool]:
    """Whether the folder may be read now: writers, as wlmscpfs has them, hold the lock file meanwhile."""
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)
