"""Workflow: the room's only public face, as Archive is the archive's."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Self

from pacsnode.archive.archive import Archive
from pacsnode.config import Settings
from pacsnode.errors import ArchiveError, OperationError
from pacsnode.log import get_logger
from pacsnode.workflow.arrivals import Arrivals
from pacsnode.workflow.commitment import Commitments
from pacsnode.workflow.commitment_requests import CommitmentRequests
from pacsnode.workflow.database import Database, Transaction
from pacsnode.workflow.deidentification_key import DeidentificationKey
from pacsnode.workflow.hl7_inbox import Hl7Inbox
from pacsnode.workflow.jobs import Jobs
from pacsnode.workflow.ledger import Ledger
from pacsnode.workflow.mpps import PerformedStep, PerformedSteps, StepEvent
from pacsnode.workflow.mpps_completeness import Completeness
from pacsnode.workflow.mpps_outbox import Outbox
from pacsnode.workflow.patients import Patients
from pacsnode.workflow.peers import Peers
from pacsnode.workflow.runner import Runner
from pacsnode.workflow.worklist import Worklist
from pacsnode.workflow.worklist_folder import WorklistFolder

log = get_logger()

RESTART: Final = 5.0  # seconds; the file may be usable again then: a full disk, another process


class Workflow:
    """State beside the objects. Build it with open(); start() comes after the services have registered."""

    def __init__(
        self, database: Database, archive: Archive, settings: Settings, root: Path, ledger: Ledger | None
    ) -> None:
        self.database = database
        self._ledger = ledger
        self.deidentification_key = DeidentificationKey(root)
        self.peers = Peers(database, settings.peers)
        self.jobs = Jobs(database, ledger)
        self.peers.on_new_address(self.jobs.try_peers)
        self._runner = Runner(database, self.jobs, settings.jobs)
        self.arrivals = Arrivals(database, archive, settings.workflow)
        self.worklist = Worklist(database, settings.worklist)
        self.arrivals.on_series_grown(self.worklist.arrived)
        self.mpps_outbox = Outbox(database, self.jobs)
        self.mpps = PerformedSteps(database, self.mpps_outbox, settings.mpps)
        self.mpps.on_change(self._move_worklist)
        self.arrivals.on_study_stable(Completeness(archive.lookup).check, once=False)
        self.commitment_requests = CommitmentRequests(
            database, self.jobs, settings.node.ae_title, settings.commitment.answer_within
        )
        self.commitments = Commitments(
            database, self.jobs, archive, settings.node.ae_title, settings.jobs.keep_finished
        )
        self.patients = Patients(database, archive.index, settings.node.ae_title, archive)
        self.hl7 = Hl7Inbox(database, self.worklist, self.patients, settings)
        interval = settings.worklist.folder_interval
        self._worklist_folder = WorklistFolder(database, self.worklist, root, interval)
        self._archive = archive
        self._attended: list[Callable[[], Awaitable[None]]] = []
        self._running: list[asyncio.Task[None]] = []
        self._settings = settings

    @classmethod
    async def open(cls, root: Path, archive: Archive, settings: Settings) -> Self:
        """Open the state in a data root. Raises ArchiveError."""
        database = await Database.open(root)
        workflow = cls(database, archive, settings, root, await asyncio.to_thread(_ledger, root))
        try:
            await workflow.patients.follow()  # before anybody asks: the index may be a new one
        except (OperationError, sqlite3.Error) as error:
            await workflow.close()
            raise ArchiveError(f"the index cannot follow the patients: {error}") from error
        return workflow

    def attend(self, run: Callable[[], Awaitable[None]]) -> None:
        """Have `run`, which does not end by itself, run between start() and stop() too."""
        self._attended.append(run)
        if self._running:
            self._running.append(asyncio.create_task(_forever(run)))

    async def start(self) -> None:
        """Begin what runs by itself."""
        await self.commitments.resume()
        for run in (
            self.peers.run,
            self.arrivals.run,
            self._runner.run,
            self.worklist.run,
            self._worklist_folder.run,
            self.hl7.run,
            self.patients.run,
            *self._attended,
        ):
            self._running.append(asyncio.create_task(_forever(run)))

    async def stop(self) -> None:
        """End what runs by itself; the file stays open for operations that still finish."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    async def close(self) -> None:
        await self.database.close()
        if self._ledger is not None:
            self._ledger.close()

    async def _move_worklist(self, transaction: Transaction, step: PerformedStep, event: StepEvent) -> None:
        """Tell the worklist that steps have been started or have ended."""
        for one in step.scheduled:
            named = {"study_uid": one.study, "sps_id": one.step_id, "accession": one.accession_number}
            if event is StepEvent.IN_PROGRESS:
                await self.worklist.step_started(transaction, **named)
            elif event is not StepEvent.UPDATED:
                discontinued = event is StepEvent.DISCONTINUED
                await self.worklist.step_finished(transaction, **named, discontinued=discontinued)


def _ledger(root: Path) -> Ledger | None:
    try:
        return Ledger.open(root)
    except OSError as error:  # a full disk: objects may be sent twice after a crash, that is all
        log.warning("receipts.unavailable", reason=str(error))
        return None


async def _forever(run: Callable[[], Awaitable[None]]) -> None:
    """Run what shall not end before the node does: what fails is told, and begins again."""
    while True:
        try:
            await run()
        except Exception:
            log.exception("workflow.failed", retry_after=RESTART)
        await asyncio.sleep(RESTART)
