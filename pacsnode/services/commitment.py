"""Storage Commitment Push Model (PS3.4 J.3), in both roles.

As SCP: a request is answered when it is durable; its instances are read back by a job; the result goes on the
association of the request, if the peer keeps that open, else on one of our own, again and again.
As SCU: peers are asked by jobs, and their results taken on whichever association they come.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from pacsnode.dicom.sop_class import (
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
)
from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import CommandField, Element
from pacsnode.dimse.message import UID_LENGTH
from pacsnode.dimse.status import SUCCESS, is_failure
from pacsnode.errors import (
    JobRefused,
    NoSuchActionType,
    NoSuchEventType,
    NoSuchInstance,
    NoSuchSopClass,
    OutOfResources,
    RemoteError,
    UnknownDestination,
)
from pacsnode.net.requestor import connect
from pacsnode.net.scu import Reply, ServiceUser
from pacsnode.net.service import Channel, Operation, Request, Response, ServiceClass
from pacsnode.net.timeouts import timeouts_of
from pacsnode.services import commitment_information as information
from pacsnode.services.room import Room
from pacsnode.ul.negotiation import ProposedContext
from pacsnode.workflow.commitment import INSPECT, REPORT
from pacsnode.workflow.commitment_records import Commitment, State
from pacsnode.workflow.commitment_requests import ASK, OVERDUE, TURNS
from pacsnode.workflow.jobs import Job

REQUEST: Final = 1  # Action Type ID
SUCCESSFUL: Final = 1  # Event Type IDs
FAILURES_EXIST: Final = 2
_CONTEXTS: Final = (ProposedContext(1, STORAGE_COMMITMENT, (EXPLICIT_VR_LE, IMPLICIT_VR_LE)),)
_TRANSIENT: Final = frozenset({0x0110, 0x0213})  # statuses that may be another one next time


@dataclass(slots=True)
class _Asked:
    """Where a request came from; `answered` once its response has been given."""

    association: Channel
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class CommitmentService(ServiceClass):
    """Commits to what it has read back, and asks others to."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._settings = room.settings.commitment
        self._commitments = room.workflow.commitments
        self._requests = room.workflow.commitment_requests
        self._records = self._requests.records
        self._asked: dict[tuple[str, UID], _Asked] = {}
        self._awaited: dict[UID, asyncio.Event] = {}
        self._log = structlog.get_logger()
        jobs = room.workflow.jobs
        jobs.register(INSPECT, self.inspect)
        jobs.register(REPORT, self.report)
        jobs.register(ASK, self.ask)
        jobs.register(OVERDUE, self.ask_again)

    def sop_classes(self) -> tuple[UID, ...]:
        return (STORAGE_COMMITMENT,)

    def is_user(self) -> bool:
        """A peer may open an association as SCP, to report (PS3.4 J.3.3.1.2)."""
        return True

    def operations(self) -> Mapping[CommandField, Operation]:
        return {
            CommandField.N_ACTION_RQ: self.n_action,
            CommandField.N_EVENT_REPORT_RQ: self.n_event_report,
        }

    # As SCP

    async def n_action(self, request: Request) -> Response:
        """Success when the request is durable (PS3.4 J.3.2.1.3)."""
        _check(request)
        if request.command.us_or_none(Element.ACTION_TYPE_ID) != REQUEST:
            raise NoSuchActionType("Storage Commitment has the action type 1 only")
        transaction_uid, references = await asyncio.to_thread(information.request_in, request)
        association = request.association
        key = association.calling_ae, transaction_uid
        self._forget_those_gone()
        asked = self._asked[key] = _Asked(association)
        try:
            await self._commitments.accept(
                association.calling_ae,
                association.called_ae or self._room.settings.node.ae_title,
                transaction_uid,
                references,
            )
        except BaseException:
            self._asked.pop(key, None)
            raise
        association.log.info(
            "commitment.requested", transaction_uid=transaction_uid, instances=len(references)
        )
        asked.answered.set()
        return Response(SUCCESS)

    def _forget_those_gone(self) -> None:
        """A repeated request may leave one that no job asks for."""
        for key in [key for key, asked in self._asked.items() if asked.association.ended.is_set()]:
            del self._asked[key]

    async def inspect(self, job: Job) -> None:
        """Read the instances of a request back; report at once if the peer has stayed."""
        commitment = await self._records.get(_number(job))
        if commitment.state is State.REQUESTED:
            commitment = await self._commitments.inspect(commitment)
        self._log.info(
            "commitment.inspected",
            peer=commitment.peer,
            transaction_uid=commitment.transaction_uid,
            committed=len(commitment.committed),
            failed=len(commitment.failed),
        )
        asked = self._asked.pop((commitment.peer, commitment.transaction_uid), None)
        if commitment.state is not State.CHECKED or (asked and await self._told_there(commitment, asked)):
            return
        await self._commitments.report_later(commitment)

    async def _told_there(self, commitment: Commitment, asked: _Asked) -> bool:
        """Report on the association of the request; whether that went well."""
        await asked.answered.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await asked.association.ended.wait()
        if asked.association.ended.is_set() or not asked.association.is_idle:
            return False
        try:
            await self._report(ServiceUser(asked.association), commitment)
        except (RemoteError, OutOfResources, JobRefused) as error:
            self._log.info("commitment.not_taken", peer=commitment.peer, reason=str(error))
            return False
        return True

    async def report(self, job: Job) -> None:
        """Report a result on an association of our own, as SCP by role selection (PS3.4 J.3.3.1.2)."""
        commitment = await self._records.get(_number(job))
        if commitment.state is not State.CHECKED:
            return
        async with self._connected(commitment, roles={STORAGE_COMMITMENT: (False, True)}) as user:
            await self._report(user, commitment)

    async def _report(self, user: ServiceUser, commitment: Commitment) -> None:
        """Raises OutOfResources, JobRefused when the peer does not take it."""
        event = FAILURES_EXIST if commitment.failed else SUCCESSFUL
        told = await asyncio.to_thread(information.result_of, commitment, self._room.settings.node.ae_title)
        reply = await user.n_event_report(STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, event, told)
        if is_failure(reply.status):
            raise _refusal(reply)
        await self._commitments.reported(commitment.id)
        self._log.info(
            "commitment.reported",
            peer=commitment.peer,
            transaction_uid=commitment.transaction_uid,
            committed=len(commitment.committed),
            failed=len(commitment.failed),
        )

    # As SCU

    async def ask(self, job: Job) -> None:
        """Ask a peer to commit (PS3.4 J.3.2.1.2), and leave it a moment to answer at once."""
        commitment = await self._records.get(_number(job))
        if commitment.state is not State.REQUESTED:
            return
        answered = self._awaited[commitment.transaction_uid] = asyncio.Event()
        try:
            async with self._connected(commitment) as user:
                await self._ask(user, commitment, _turn(job))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.wait):
                        await answered.wait()
        finally:
            del self._awaited[commitment.transaction_uid]

    async def _ask(self, user: ServiceUser, commitment: Commitment, turn: int) -> None:
        reply = await user.n_action(
            STORAGE_COMMITMENT,
            STORAGE_COMMITMENT_INSTANCE,
            REQUEST,
            information.request_of(commitment),
        )
        if is_failure(reply.status):
            await self._requests.renew(commitment.id)
            error = _refusal(reply)
            if isinstance(error, JobRefused):
                await self._requests.refused(commitment.id, str(error))
            raise error
        await self._requests.accepted(commitment.id, turn)
        self._log.info(
            "commitment.asked",
            peer=commitment.peer,
            transaction_uid=commitment.transaction_uid,
            instances=len(commitment.results),
        )

    async def ask_again(self, job: Job) -> None:
        """A peer has had the time it has: ask again, unless it has answered. Raises JobRefused in the end."""
        commitment = await self._records.get(_number(job))
        if commitment.state is not State.ACCEPTED:
            return
        turn = _turn(job) + 1
        if turn > TURNS:
            raise JobRefused(f"{commitment.peer} has taken {turn} requests and answered none")
        numbers = await self._requests.ask_again(commitment.id, turn)
        self._log.warning(
            "commitment.unanswered",
            peer=commitment.peer,
            transaction_uid=commitment.transaction_uid,
            asked_again=numbers,
            turn=turn,
        )

    async def n_event_report(self, request: Request) -> Response:
        """Success when the result is durable (PS3.4 J.3.3.1.3)."""
        _check(request)
        event = request.command.us_or_none(Element.EVENT_TYPE_ID)
        if event not in (SUCCESSFUL, FAILURES_EXIST):
            raise NoSuchEventType("Storage Commitment has the event types 1 and 2 only")
        transaction_uid, reasons = await asyncio.to_thread(
            information.result_in, request, failures=event == FAILURES_EXIST
        )
        commitment = await self._requests.answer(transaction_uid, reasons)
        log = request.association.log
        log.info(
            "commitment.answered",
            peer=commitment.peer,
            transaction_uid=transaction_uid,
            committed=len(commitment.committed),
            failed=len(commitment.failed),
        )
        left_open = len(commitment.results) - len(commitment.committed) - len(commitment.failed)
        if commitment.failed or left_open:
            log.warning(
                "commitment.incomplete",
                peer=commitment.peer,
                transaction_uid=transaction_uid,
                failed=len(commitment.failed),
                unknown=left_open,
            )
        if awaited := self._awaited.get(transaction_uid):
            awaited.set()
        return Response(SUCCESS)

    # Both

    @asynccontextmanager
    async def _connected(
        self, commitment: Commitment, roles: Mapping[UID, tuple[bool, bool]] | None = None
    ) -> AsyncIterator[ServiceUser]:
        """An association to the peer, called as in the request. Raises UnknownDestination."""
        peer = await self._room.workflow.peers.get(commitment.peer)
        if peer is None:
            raise UnknownDestination(f"{commitment.peer} is no peer")
        async with connect(
            peer,
            commitment.local_ae,
            _CONTEXTS,
            roles=roles,
            services=(self,),
            timeouts=timeouts_of(self._room.settings.dimse),
        ) as user:
            yield user


def _check(request: Request) -> None:
    """The SOP class and its one well-known instance (PS3.4 J.3.5). Raises NoSuchSopClass, NoSuchInstance."""
    command = request.command
    if command.sop_class != STORAGE_COMMITMENT:
        raise NoSuchSopClass(f"SOP class {command.sop_class[:UID_LENGTH]} on a context for another")
    if command.sop_instance != STORAGE_COMMITMENT_INSTANCE:
        raise NoSuchInstance("not the well-known instance of Storage Commitment")


def _refusal(reply: Reply) -> OutOfResources | JobRefused:
    """The error that has a job tried again, or given up."""
    said = f"the peer answers {reply.status:04X}H {reply.comment}".rstrip()
    return OutOfResources(said) if reply.status in _TRANSIENT else JobRefused(said)


def _turn(job: Job) -> int:
    """How often the peer has been asked before and has not answered."""
    turn = job.payload.get("turn", 0)
    assert isinstance(turn, int)
    return turn


def _number(job: Job) -> int:
    number = job.payload["commitment"]
    assert isinstance(number, int)
    return number
