"""Instance Availability Notification as SCU (PS3.4 R): peers are told what of a study can be retrieved here.

Told when nothing has come to a study for a while, and again with everything when more has come after all.
"""

import asyncio
from itertools import groupby
from typing import Final

import structlog
from pydicom import Dataset

from pacsnode.archive.lookup import Held
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE, INSTANCE_AVAILABILITY, MPPS
from pacsnode.dicom.uid import UID, new_uid
from pacsnode.dimse.status import DUPLICATE_SOP_INSTANCE, is_failure
from pacsnode.errors import JobRefused, OutOfResources, UnknownDestination
from pacsnode.net.requestor import connect
from pacsnode.net.timeouts import timeouts_of
from pacsnode.services.room import Room
from pacsnode.ul.negotiation import ProposedContext
from pacsnode.workflow.database import Transaction
from pacsnode.workflow.jobs import Job
from pacsnode.workflow.mpps import PerformedStep

KIND: Final = "availability"
_CONTEXTS: Final = (ProposedContext(1, INSTANCE_AVAILABILITY, (EXPLICIT_VR_LE, IMPLICIT_VR_LE)),)
_TRANSIENT: Final = frozenset({0x0110, 0x0213})  # statuses that may be another one next time


class Availability:
    """Makes a job of each stable study and peer, and does it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._log = structlog.get_logger()
        self._peers = room.settings.availability.notify
        room.workflow.jobs.register(KIND, self.notify)
        if self._peers:
            room.workflow.arrivals.on_study_stable(self._add_jobs)

    async def _add_jobs(self, transaction: Transaction, study: UID) -> None:
        for peer in self._peers:
            # With its UID: an attempt whose response was lost creates nothing new when it is made again.
            payload = {"study": study, "notification": new_uid()}
            await self._room.workflow.jobs.add(transaction, KIND, peer, payload)

    async def notify(self, job: Job) -> None:
        """Create the notification at the peer (PS3.4 R.3.2.1.2)."""
        peer = await self._room.workflow.peers.get(job.peer)
        if peer is None:
            raise UnknownDestination(f"{job.peer} is no peer")
        study = UID(str(job.payload["study"]))
        held = await self._room.archive.lookup.find((study,))
        if not held:
            return  # removed since
        settings = self._room.settings
        steps = await self._room.workflow.mpps.of_study(study)
        told = await asyncio.to_thread(notification_of, study, held, steps, settings.node.ae_title)
        timeouts = timeouts_of(settings.dimse)
        async with connect(peer, settings.node.ae_title, _CONTEXTS, timeouts=timeouts) as user:
            reply = await user.n_create(INSTANCE_AVAILABILITY, UID(str(job.payload["notification"])), told)
        if is_failure(reply.status) and reply.status != DUPLICATE_SOP_INSTANCE:
            said = f"{job.peer} answers {reply.status:04X}H {reply.comment}".rstrip()
            raise OutOfResources(said) if reply.status in _TRANSIENT else JobRefused(said)
        self._log.info("availability.notified", peer=job.peer, study=study, instances=len(held))


def notification_of(study: UID, held: list[Held], steps: list[PerformedStep], retrieve_ae: str) -> Dataset:
    """The attributes of Table R.3.2-1; none but these are allowed. `held` is in the order of the series."""
    made = Dataset()
    made.ReferencedPerformedProcedureStepSequence = [_step(one.sop_instance) for one in steps]
    made.StudyInstanceUID = study
    made.ReferencedSeriesSequence = []
    for series, instances in groupby(held, key=lambda one: one.series):
        item = Dataset()
        item.SeriesInstanceUID = series
        item.ReferencedSOPSequence = [_instance(one, retrieve_ae) for one in instances]
        made.ReferencedSeriesSequence.append(item)
    return made


def _step(sop_instance: UID) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = MPPS
    item.ReferencedSOPInstanceUID = sop_instance
    item.PerformedWorkitemCodeSequence = []
    return item


def _instance(held: Held, retrieve_ae: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = held.located.sop_class
    item.ReferencedSOPInstanceUID = held.located.sop_instance
    item.InstanceAvailability = "ONLINE"
    item.RetrieveAETitle = retrieve_ae
    return item
