"""Workflow: the room's only public face, as Archive is the archive's."""

from pathlib import Path
from typing import Self

from pacsnode.archive.archive import Archive
from pacsnode.config import Settings
from pacsnode.workflow.arrivals import Arrivals
from pacsnode.workflow.database import Database
from pacsnode.workflow.jobs import Jobs
from pacsnode.workflow.peers import Peers


class Workflow:
    """State beside the objects. Build it with open(); start() comes after the services have registered."""

    def __init__(self, database: Database, archive: Archive, settings: Settings) -> None:
        self.database = database
        self.peers = Peers(database)
        self.jobs = Jobs(database)
        self.arrivals = Arrivals()
        self._archive = archive
        self._settings = settings

    @classmethod
    async def open(cls, root: Path, archive: Archive, settings: Settings) -> Self:
        """Open the state in a data root. Raises ArchiveError."""
        workflow = cls(await Database.open(root), archive, settings)
        await workflow.peers.configure(settings.peers)
        return workflow

    async def start(self) -> None:
        """Begin what runs by itself."""

    async def stop(self) -> None:
        """End what runs by itself; the file stays open for operations that still finish."""

    async def close(self) -> None:
        await self.database.close()
