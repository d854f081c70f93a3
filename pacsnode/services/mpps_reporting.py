"""Tells peers of performed procedure steps: N-CREATE and N-SET to other managers, N-EVENT-REPORT to those who
want to know (PS3.4 F.7 as SCU, F.9 as SCP). Works off workflow.mpps_outbox, as jobs."""

import asyncio
from typing import Final
from weakref import WeakValueDictionary

import structlog

from pacsnode.dicom.data_set import decode_data_set
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE, MPPS, MPPS_NOTIFICATION
from pacsnode.dimse.status import DUPLICATE_SOP_INSTANCE, is_failure
from pacsnode.errors import OutOfResources, UnknownDestination
from pacsnode.net.requestor import connect
from pacsnode.net.scu import Reply, ServiceUser
from pacsnode.net.timeouts import timeouts_of
from pacsnode.services.room import Room
from pacsnode.ul.negotiation import ProposedContext
from pacsnode.workflow.jobs import Job
from pacsnode.workflow.mpps_outbox import KIND, Command, Outgoing

_SYNTAXES: Final = (EXPLICIT_VR_LE, IMPLICIT_VR_LE)
# Statuses that may be another one next time; what else a peer answers it will answer again.
_TRANSIENT: Final = frozenset({0x0110, 0x0213})
_NO_LONGER_IN_PROGRESS: Final = 0xA710


class MppsReporting:
    """The handler of the jobs of the outbox."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._outbox = room.workflow.mpps_outbox
        self._turns: WeakValueDictionary[tuple[str, str, bool], asyncio.Lock] = WeakValueDictionary()
        self._log = structlog.get_logger()
        room.workflow.jobs.register(KIND, self.report)

    async def report(self, job: Job) -> None:
        """Send all that waits for the job's peer about its step, the oldest first; one job at a time."""
        step, reports = str(job.payload["step"]), bool(job.payload["reports"])
        turn = self._turns.setdefault((job.peer, step, reports), asyncio.Lock())
        async with turn:
            waiting = await self._outbox.waiting(job.peer, step, reports=reports)
            if waiting:
                await self._send(job, waiting, reports)

    async def _send(self, job: Job, waiting: list[Outgoing], reports: bool) -> None:
        title = job.peer
        peer = await self._room.workflow.peers.get(title)
        if peer is None:
            raise UnknownDestination(f"{title} is no peer")
        settings = self._room.settings
        async with connect(
            peer,
            settings.node.ae_title,
            [ProposedContext(1, MPPS_NOTIFICATION if reports else MPPS, _SYNTAXES)],
            roles={MPPS_NOTIFICATION: (False, True)} if reports else None,
            timeouts=timeouts_of(settings.dimse),
        ) as user:
            for one in waiting:
                await self._ask(user, title, one, again=job.attempts > 1)

    async def _ask(self, user: ServiceUser, title: str, one: Outgoing, *, again: bool) -> None:
        """Send one request; it is done with unless the peer may take it later."""
        reply = await _request(user, one)
        facts = {
            "peer": title,
            "operation": one.command.value,
            "sop_instance": one.sop_instance,
            "status": f"{reply.status:04X}H",
        }
        if not is_failure(reply.status) or _is_repeated(one, reply, again):
            self._log.info("mpps.reported", **facts)
        elif reply.status in _TRANSIENT and reply.error_id != _NO_LONGER_IN_PROGRESS:
            raise OutOfResources(f"{title} answers {one.command} with {reply.status:04X}H {reply.comment}")
        else:
            self._log.warning("mpps.report_refused", **facts, reason=reply.comment)
        await self._outbox.taken(one.number)


async def _request(user: ServiceUser, one: Outgoing) -> Reply:
    if one.command is Command.N_EVENT_REPORT:
        return await user.n_event_report(MPPS_NOTIFICATION, one.sop_instance, one.event, None)
    data_set = decode_data_set(one.data, one.transfer_syntax)
    if one.command is Command.N_CREATE:
        return await user.n_create(MPPS, one.sop_instance, data_set)
    return await user.n_set(MPPS, one.sop_instance, data_set)


def _is_repeated(one: Outgoing, reply: Reply, again: bool) -> bool:
    """The peer had taken it before, and its response was lost: with an earlier attempt, or with a crash."""
    if one.command is Command.N_CREATE:
        return reply.status == DUPLICATE_SOP_INSTANCE
    return again and one.command is Command.N_SET and reply.error_id == _NO_LONGER_IN_PROGRESS
