"""The peer's requests on one association: each in a task of its own (PS3.7 7.5, PS3.8 Annex E).

Tasks make the asynchronous operations window real: sixteen C-STOREs may wait for the disk at once and are
answered as they complete. C-CANCEL ends the task of the operation it names.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final, Protocol

from pacsnode.dimse.assembler import MemorySink, Message, RefusingSink, Sink
from pacsnode.dimse.command import CommandField, CommandSet
from pacsnode.dimse.message import UID_LENGTH
from pacsnode.dimse.status import CANCEL, SUCCESS, is_pending, status_of
from pacsnode.errors import (
    InvalidMessage,
    OperationError,
    ProcessingFailure,
    SopClassNotSupported,
)
from pacsnode.net.refusal import refusal_of
from pacsnode.net.service import Channel, Matches, Operation, Request, Response, ServiceRegistry
from pacsnode.ul.negotiation import AcceptedContext

MAX_OPERATIONS: Final = 256  # requests in hand at once where the peer was granted an unlimited window
SPARE_OPERATIONS: Final = 8  # beyond the granted window: C-CANCEL and C-ECHO must get through
CANCELLABLE: Final = frozenset({CommandField.C_FIND_RQ, CommandField.C_GET_RQ, CommandField.C_MOVE_RQ})
_WRONG_ROLE: Final = "this side has another role for the SOP class on this association"


class Answering(Channel, Protocol):
    """The association as the performer sees it."""

    @property
    def holds_responses(self) -> bool: ...

    def respond(self, request: Request, response: Response) -> None: ...

    def respond_many(self, request: Request, matches: Matches) -> None: ...

    async def responses_sent(self) -> None: ...

    async def drain(self) -> None: ...

    def abort_now(self, reason: str = "") -> None: ...

    def operation_ended(self) -> None: ...

    def look_at_flow(self) -> None: ...


class _Running:
    """A request under way."""

    __slots__ = ("cancelled", "request", "task")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.task: asyncio.Task[None]
        self.cancelled = False


class Performer:
    """Hands requests to the service classes and sends their responses."""

    def __init__(self, association: Answering, registry: ServiceRegistry) -> None:
        self.served = 0  # operations that have ended
        self._association = association
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, _Running] = {}
        self._unsent = 0  # operations that have ended, whose responses the peer does not read
        self._held = 0  # bytes of memory in the data sets of operations that have not ended
        self._sinks: list[Sink] = []  # of data sets received or under way whose operation has not ended
        self._limit = 1 + SPARE_OPERATIONS

    def grant(self, window: int) -> None:
        """Set how many operations the peer may have outstanding; 0 is unlimited (PS3.7 D.3.3.3)."""
        self._limit = (window or MAX_OPERATIONS) + SPARE_OPERATIONS

    @property
    def is_idle(self) -> bool:
        return not self._running

    @property
    def is_full(self) -> bool:
        return len(self._running) + self._unsent >= self._limit or self._held > MemorySink.LIMIT

    @property
    def unwritten(self) -> int:
        """Bytes received that wait for a disk."""
        unwritten = 0
        for sink in self._sinks:
            unwritten += sink.unwritten
        return unwritten

    def open_sink(self, context: AcceptedContext, command: CommandSet) -> Sink:
        """Where the data set of a request goes, as its service class has it."""
        service = self._registry.serving(context)
        if service is None or not _may_ask(context, command.field):
            return RefusingSink(SopClassNotSupported(_WRONG_ROLE))
        try:
            sink = service.open_data_set(self._association, context, command)
        except OperationError as error:
            return RefusingSink(error)
        except Exception:
            self._association.log.exception("operation.crashed", operation=command.name)
            return RefusingSink(ProcessingFailure("internal error"))
        sink.on_flushed = self._association.look_at_flow
        self._sinks.append(sink)
        return sink

    def start(self, context: AcceptedContext, message: Message) -> None:
        """Begin an operation. Raises InvalidMessage when its Message ID is missing or still in use."""
        request = Request(self._association, context, message.command, message.data)
        try:
            message_id = self._new_message_id(message.command)
        except InvalidMessage:
            _discard(request)
            raise
        running = _Running(request)
        self._running[message_id] = running
        self._held += _held_by(message.data)
        running.task = self._loop.create_task(self._perform(message_id, running))

    def _new_message_id(self, command: CommandSet) -> int:
        if (message_id := command.message_id) in self._running:
            raise InvalidMessage(f"Message ID {message_id} is still in use")
        return message_id

    def cancel(self, message_id: int) -> None:
        """C-CANCEL; for an operation that has ended it is normal and ignored (PS3.7 9.3.2.3).

        So it is for one that cannot be cancelled: only C-FIND, C-GET and C-MOVE can.
        """
        running = self._running.get(message_id)
        if running is None or running.request.command.field not in CANCELLABLE:
            return
        if running.request.on_cancel is not None:
            self._cancel(running)  # before what came behind it in the same segment
        else:
            self._loop.call_soon(self._cancel, running)

    def stop(self) -> None:
        """The association is over."""
        for running in self._running.values():
            self._loop.call_soon(running.task.cancel)

    # A task is not stopped before it has begun, for which the loop has been asked earlier: one that is
    # cancelled in the segment it came in would never run, and neither answer nor tidy up.
    def _cancel(self, running: _Running) -> None:
        running.cancelled = True
        if running.request.on_cancel is not None:
            running.request.on_cancel()
        else:
            running.task.cancel()

    async def _perform(self, message_id: int, running: _Running) -> None:
        request = running.request
        try:
            await self._answer(request)
        except OperationError as error:
            self._refuse(request, error)
        except InvalidMessage as error:  # an element of the command that only its operation reads
            _discard(request)
            self._association.log.warning("message.invalid", reason=str(error))
            self._association.abort_now(str(error))
        except asyncio.CancelledError:
            _discard(request)
            if not running.cancelled:
                raise
            self._association.respond(request, Response(CANCEL))
        except Exception:
            self._association.log.exception("operation.crashed", operation=request.command.name)
            self._refuse(request, ProcessingFailure("internal error"))
        finally:
            self._finish(message_id, request)
        await self._response_sent()

    async def _response_sent(self) -> None:
        """A peer that asks and does not read the answers is not asked for more; its Message IDs are free."""
        if not self._association.holds_responses:
            return
        self._unsent += 1
        try:
            await self._association.responses_sent()
        finally:
            self._unsent -= 1
            self._association.look_at_flow()

    async def _answer(self, request: Request) -> None:
        if not _may_ask(request.context, request.command.field):
            raise SopClassNotSupported(_WRONG_ROLE)
        operation = self._registry.operation(request)
        if operation is not None:
            await self._answer_once(request, operation)
            return
        association = self._association
        async with aclosing(self._registry.stream(request)(request)) as responses:
            async for response in responses:
                if isinstance(response, Matches):
                    association.respond_many(request, response)
                else:
                    association.respond(request, response)
                if not is_pending(response.status):
                    return
                await association.drain()
        association.respond(request, Response(SUCCESS))

    async def _answer_once(self, request: Request, operation: Operation) -> None:
        if isinstance(request.data, RefusingSink):
            raise request.data.error
        self._association.respond(request, await operation(request))

    def _refuse(self, request: Request, error: OperationError) -> None:
        _discard(request)
        status = status_of(error, request.command.field)
        facts = {"operation": request.command.name, "status": f"{status:04X}H", "reason": str(error)}
        if sop_instance := request.command.sop_instance:
            facts["sop_instance"] = sop_instance[:UID_LENGTH]
        self._association.log.warning("operation.failed", **facts)
        self._association.respond(request, refusal_of(request, error))

    def _finish(self, message_id: int, request: Request) -> None:
        self.served += 1
        del self._running[message_id]
        self._held -= _held_by(request.data)
        if request.data in self._sinks:
            self._sinks.remove(request.data)
        self._association.operation_ended()


def _may_ask(context: AcceptedContext, field: int) -> bool:
    """Whether the roles of the association let the peer ask this: SCUs ask, but SCPs report events."""
    return context.as_scu if field == CommandField.N_EVENT_REPORT_RQ else context.as_scp


def _held_by(data: Sink | None) -> int:
    return data.size if isinstance(data, MemorySink) else 0


def _discard(request: Request) -> None:
    """What was received is of no use any more; after the archive took it over this changes nothing."""
    if request.data is not None:
        request.data.discard()
