"""An association: DIMSE messages in both directions over one transport connection (PS3.7, PS3.8).

The same class serves both roles. It opens and ends the association, routes messages between transport,
`Performer` (requests of the peer) and `Invoker` (requests of ours), and watches flow and time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Final, Protocol

import structlog

from pacsnode.dicom.sop_class import name_of
from pacsnode.dicom.uid import UID
from pacsnode.dimse import message as messages
from pacsnode.dimse.assembler import Assembler, MemorySink, Message, Sink
from pacsnode.dimse.command import CommandField, CommandSet
from pacsnode.errors import AssociationAborted, InvalidMessage, PeerTimeout, RemoteError
from pacsnode.net.invoker import CommandOf, Invoker, OnResponse, OutgoingData, Prepared
from pacsnode.net.performer import Performer
from pacsnode.net.service import Matches, Request, Response, ServiceRegistry
from pacsnode.net.timeouts import Patience, Timeouts
from pacsnode.net.transport import Transport
from pacsnode.ul.negotiation import AcceptedContext, AssociateAccept, AssociateReject, AssociateRequest
from pacsnode.ul.pdu import Buffer, PDataFragment, p_data_tf
from pacsnode.ul.upper_layer import (
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    AssociateRequested,
    Event,
    ForeseenReceived,
    ReleaseConfirmed,
    ReleaseRequested,
    TransportClosed,
)

UNWRITTEN_HIGH: Final = 8 * 2**20  # bytes held for the disk before the socket is left unread
UNWRITTEN_LOW: Final = 2 * 2**20  # bytes at which reading goes on
UNWRITTEN_IN_ALL: Final = 128 * 2**20  # bytes that all associations of an acceptor may hold, shared evenly
_TICK: Final = 1.0  # seconds between two looks at the clock

_numbers = itertools.count(1)


class Owner(Protocol):
    """Who accepts associations; see `Acceptor`."""

    @property
    def associations(self) -> int:
        """How many associations are established now."""

    def opened(self, association: Association) -> None:
        """A connection has been made."""

    def admit(self, association: Association, request: AssociateRequest) -> AssociateAccept | AssociateReject:
        """Answer an A-ASSOCIATE indication."""

    def closed(self, association: Association) -> None:
        """The connection is gone."""


class Association:
    """One association, in either role. Made by `Acceptor` and by `connect`."""

    def __init__(
        self,
        transport: Transport,
        registry: ServiceRegistry,
        timeouts: Timeouts,
        owner: Owner | None = None,
    ) -> None:
        """`owner` answers A-ASSOCIATE indications; None in the requestor's role."""
        loop = asyncio.get_running_loop()
        self.request: AssociateRequest | None = None
        self.accept: AssociateAccept | None = None
        self.contexts: dict[int, AcceptedContext] = {}
        self.window = 1  # operations this side may have outstanding
        self.log = structlog.get_logger().bind(association=next(_numbers))
        self.established: asyncio.Future[AssociateAccept] = loop.create_future()
        self.ended = asyncio.Event()
        self._loop = loop
        self._transport = transport
        self._timeouts = timeouts
        self._owner = owner
        self._performer = Performer(self, registry)
        self._invoker = Invoker(self)
        self._assembler = Assembler(self._open_sink)
        self._sending = asyncio.Lock()  # held while a message leaves in pieces: messages may not interleave
        self._postponed: list[tuple[Request, Response]] = []
        self._release_pending = False
        self._failure: RemoteError | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._started = loop.time()
        self._patience = Patience(
            timeouts, transport, self._assembler, self._performer, self._invoker, self._started
        )

    # The transport's handler

    def connected(self) -> None:
        self._ticker = self._loop.call_later(_TICK, self._tick)
        if self._owner is not None:
            self._owner.opened(self)

    def unusable(self, reason: str) -> None:
        self.log.warning("connection.dropped", remote=self.remote_address, reason=reason)

    def handle(self, event: Event) -> None:
        """Take one upper layer event."""
        if type(event) is PDataFragment:
            if not self.ended.is_set():
                self._handle_fragment(event)
            return
        if type(event) is ForeseenReceived:
            if not self.ended.is_set():
                self._invoker.handle_foreseen(event.what)
            return
        match event:
            case AssociateRequested():
                self._handle_request(event.request)
            case AssociateAccepted():
                self._establish(event.accept)
            case AssociateRejected(reject=reject):
                self._end(reject.as_error())
            case ReleaseRequested():
                self._release_pending = True
                self._release_when_idle()
            case ReleaseConfirmed():
                self._end(None)
            case Aborted():
                if self.accept is None and self._owner is not None:  # bytes that are no A-ASSOCIATE-RQ
                    self.log.warning("connection.aborted", remote=self.remote_address, reason=event.meaning)
                self._end(AssociationAborted(event.meaning))
            case TransportClosed():
                self._end(AssociationAborted("the peer closed the connection"))

    def received(self) -> bool:
        """A chunk has been taken: stop reading when the disk, the handlers or the readers are behind.

        The peer may hold back what it has until it gets an acknowledgement, but not where it has nothing.
        """
        performer = self._performer
        if performer.is_full or self._invoker.has_unread or self._is_behind(performer.unwritten):
            self._transport.pause_reading()
        return not (self._owner is None and self.is_idle)  # a requestor's peer that has answered everything

    def disconnected(self) -> None:
        self._end(AssociationAborted("the connection was lost"))
        if self._owner is not None:
            self._owner.closed(self)

    # What services and users of the association see

    @property
    def calling_ae(self) -> str:
        return self.request.calling_ae if self.request else ""

    @property
    def called_ae(self) -> str:
        return self.request.called_ae if self.request else ""

    @property
    def remote_address(self) -> str:
        return self._transport.remote_address

    @property
    def is_idle(self) -> bool:
        """No operation is under way in either direction."""
        return self._performer.is_idle and self._invoker.is_idle and self._assembler.is_idle

    def context_for(self, abstract_syntax: str) -> AcceptedContext | None:
        """The first accepted context of an abstract syntax."""
        return next((c for c in self.contexts.values() if c.abstract_syntax == abstract_syntax), None)

    def propose(self, request: AssociateRequest) -> None:
        """Send A-ASSOCIATE-RQ; `established` tells the outcome."""
        self.request = request
        self.log = self.log.bind(calling_ae=request.calling_ae, called_ae=request.called_ae)
        self._transport.upper_layer.associate_request(request)
        self._transport.flush()

    def invoke(
        self,
        context: AcceptedContext,
        command_of: CommandOf,
        data: OutgoingData | None = None,
    ) -> AsyncGenerator[tuple[CommandSet, bytes], None]:
        """Send a request and yield its responses; see `Invoker.invoke`."""
        return self._invoker.invoke(context, command_of, data)

    def invoke_once(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData | None = None
    ) -> Coroutine[None, None, CommandSet]:
        """Send a request that has one response; see `Invoker.invoke_once`."""
        return self._invoker.invoke_once(context, command_of, data)

    def begin(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData, on_response: OnResponse
    ) -> Coroutine[None, None, None]:
        """Send a request whose response a callback takes; see `Invoker.begin`."""
        return self._invoker.begin(context, command_of, data, on_response)

    def prepare(
        self, context: AcceptedContext, command_of: CommandOf, data: Buffer, foreseen_of: CommandOf
    ) -> Prepared:
        """Encode a request and the response that is foreseen; see `Invoker.prepare`."""
        return self._invoker.prepare(context, command_of, data, foreseen_of)

    def begin_now(self, prepared: Prepared, on_response: OnResponse) -> bool:
        """Send it, if nothing has to be waited for; see `Invoker.begin_now`."""
        return self._invoker.begin_now(prepared, on_response)

    @property
    def can_send_now(self) -> bool:
        """A message given now leaves at once."""
        return (
            self._failure is None and not self.holds_responses and self._transport.upper_layer.may_send_data
        )

    async def send(self, context_id: int, command: bytes, data: OutgoingData | None) -> None:
        """Send one message, as fast as the peer takes it. One that is broken off ends the association."""
        while self.holds_responses:
            await self.responses_sent()
        if self._failure is not None:
            raise self._failure
        if isinstance(data, AsyncGenerator):
            await self._send_in_pieces(context_id, command, data)
        else:
            self.send_now(context_id, command, data)

    def send_now(self, context_id: int, command: bytes, data: Buffer | None) -> None:
        """Send one message whole, whatever waits."""
        if data is None:
            self._transport.upper_layer.send_data(context_id, True, command)
        else:
            self._transport.upper_layer.send_message(context_id, command, data)
        self._transport.flush()

    def prepared(
        self, message_id: int, context_id: int, command: bytes, data: Buffer, foreseen: bytes
    ) -> Prepared:
        message = self._transport.upper_layer.encode_message(context_id, command, data)
        (response,) = p_data_tf(context_id, True, foreseen, 0)
        return Prepared(message_id, message, bytes(response))

    def send_prepared(self, prepared: Prepared) -> None:
        upper_layer = self._transport.upper_layer
        upper_layer.send_encoded(prepared.message)
        upper_layer.foresee(prepared.foreseen, prepared.message_id)
        self._transport.flush()

    def forget(self, foreseen: bytes) -> None:
        self._transport.upper_layer.forget(foreseen)

    async def _send_in_pieces(
        self, context_id: int, command: bytes, data: AsyncGenerator[Buffer, None]
    ) -> None:
        async with self._sending:
            if self._failure is not None:
                raise self._failure
            try:
                self._transport.upper_layer.send_data(context_id, True, command)
                async with aclosing(data):
                    await self._send_pieces(context_id, data)
                self._transport.flush()
            except BaseException:
                self.abort_now()
                raise
        postponed, self._postponed = self._postponed, []
        for request, response in postponed:
            self.respond(request, response)

    def respond(self, request: Request, response: Response) -> None:
        """Send one response; `drain` between many."""
        if not self.may_send:
            return
        if self._sending.locked():
            self._postponed.append((request, response))
            return
        command = messages.response(
            request.command,
            response.status,
            has_data_set=response.data is not None,
            comment=response.comment,
            offending=response.offending,
            suboperations=response.suboperations,
            error_id=response.error_id,
            sop_instance=response.sop_instance,
            attributes=response.attributes,
            typed=response.typed,
        )
        self.send_now(request.context.id, command, response.data)

    def respond_many(self, request: Request, matches: Matches) -> None:
        """Send many pending responses in few writes; `drain` between."""
        if not self.may_send:
            return
        if self._sending.locked():
            self._postponed += [(request, Response(matches.status, data)) for data in matches.data]
            return
        command = messages.response(request.command, matches.status, has_data_set=True)
        self._transport.upper_layer.send_messages(request.context.id, command, matches.data)
        self._transport.flush()

    @property
    def may_send(self) -> bool:
        """Otherwise a message crosses with the end, or with a release of ours."""
        return not self.ended.is_set() and self._transport.upper_layer.may_send_data

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was sent."""
        if not self._transport.is_writable:
            await self._transport.drain()

    @property
    def holds_responses(self) -> bool:
        """A response given now stays in memory: the peer does not read, or a message leaves in pieces."""
        return self._sending.locked() or not self._transport.is_writable

    async def responses_sent(self) -> None:
        """Wait until this is over."""
        if self._sending.locked():
            async with self._sending:
                pass
        await self.drain()

    async def release(self) -> None:
        """Release in good order (PS3.8 7.2); abort when the peer does not answer in time."""
        if self.ended.is_set():
            return
        if not self._release_pending:  # else the peer was first, and is answered when its operations end
            self._transport.upper_layer.release_request()
            self._transport.flush()
        try:
            async with asyncio.timeout(self._timeouts.dimse or None):
                await self.ended.wait()
        except TimeoutError:
            await self.abort()

    async def abort(self) -> None:
        """Abort (PS3.8 7.3) and give the peer a moment to close, so that it sees the A-ABORT."""
        self.abort_now()
        await self._transport.closed(_TICK)

    def abort_now(self, reason: str = "") -> None:
        """Send A-ABORT, if the association has not ended, and do not wait. `reason`: for our own log."""
        if not self.ended.is_set():
            self._transport.upper_layer.abort(self._loop.time())
            self._end(AssociationAborted(": ".join(filter(None, ("aborted by this side", reason)))))
        self._transport.flush()

    def drop(self) -> None:
        """Close the connection without a word."""
        self._transport.close()

    # What performer and sinks report

    def operation_ended(self) -> None:
        self._release_when_idle()
        self.look_at_flow()

    def look_at_flow(self) -> None:
        """Read on when the disk, the handlers and the readers of responses have caught up."""
        performer = self._performer
        if self._transport.is_reading or self.ended.is_set():
            return
        if not performer.is_full and not self._invoker.has_unread and performer.unwritten <= UNWRITTEN_LOW:
            self._transport.resume_reading()

    def _is_behind(self, unwritten: int) -> bool:
        """Whether as much waits for the disk as this association may hold; the more there are, the less."""
        if unwritten <= UNWRITTEN_LOW:
            return False
        others = self._owner.associations if self._owner is not None else 1
        return unwritten > min(UNWRITTEN_HIGH, UNWRITTEN_IN_ALL // max(others, 1))

    # Establishment and end

    def _handle_request(self, request: AssociateRequest) -> None:
        assert self._owner is not None
        self.request = request
        self.log = self.log.bind(calling_ae=request.calling_ae, called_ae=request.called_ae)
        if self._transport.upper_layer.has_ended:
            return  # by what came in the same segment
        answer = self._owner.admit(self, request)
        if isinstance(answer, AssociateReject):
            self.log.warning("association.rejected", reason=answer.meaning, remote=self.remote_address)
            self._transport.upper_layer.reject(answer, self._loop.time())
            return
        self._transport.upper_layer.accept(answer)
        self._establish(answer)

    def _establish(self, accept: AssociateAccept) -> None:
        self.accept = accept
        self.contexts = {c.id: c for c in accept.contexts if c.result == 0}
        invoked, performed = accept.window or (1, 1)  # by the requestor (PS3.7 D.3.3.3)
        ours, theirs = (invoked, performed) if self._owner is None else (performed, invoked)
        self.window = self._invoker.grant(ours)
        self._performer.grant(theirs)
        self.established.set_result(accept)
        served = {context.abstract_syntax for context in self.contexts.values()}
        refused = {context.abstract_syntax for context in accept.contexts} - served
        facts = {
            "remote": self.remote_address,
            "contexts": len(self.contexts),
            "refused": sorted(name_of(UID(uid[: messages.UID_LENGTH])) for uid in refused),
            "window": theirs,
        }
        if self._owner is None:
            self.log.debug("association.opened", **facts)
        else:  # an association that hangs has no other line
            self.log.info("association.accepted", **facts)

    def _release_when_idle(self) -> None:
        """Answer A-RELEASE-RQ; a peer that asked early still gets its responses first."""
        if not (self._release_pending and self._performer.is_idle) or self.ended.is_set():
            return
        upper_layer = self._transport.upper_layer
        if not upper_layer.has_ended:
            self._release_pending = False
            upper_layer.release_response(self._loop.time())
            self._transport.flush()
            if upper_layer.has_ended:  # else a collision: the peer owes A-RELEASE-RP, and has its time
                self._end(None)

    def _end(self, failure: RemoteError | None) -> None:
        """The association is over: stop its operations, wake who waits. Idempotent."""
        if self.ended.is_set():
            return
        self._failure = failure or AssociationAborted("the association has been released")
        self.ended.set()
        if self._ticker is not None:
            self._ticker.cancel()
        self._assembler.discard()
        self._performer.stop()
        self._invoker.fail(self._failure)
        if not self.established.done():
            self.established.set_exception(self._failure)
            self.established.exception()  # marked as seen: nobody waits for it in the acceptor's role
        self._transport.resume_reading()  # else the peer's close would never be seen
        self._log_end(failure)

    def _log_end(self, failure: RemoteError | None) -> None:
        if self.accept is None and self._owner is not None:
            self.log.debug("connection.closed", remote=self.remote_address)
            return
        facts = {
            "remote": self.remote_address,
            "operations": self._performer.served + self._invoker.answered,
            "bytes": self._transport.bytes_received + self._transport.bytes_sent,
            "ms": round((self._loop.time() - self._started) * 1000),
        }
        if failure is None:
            self.log.info("association.released", **facts)
        else:
            self.log.warning("association.aborted", reason=str(failure), **facts)

    # Messages

    def _handle_fragment(self, fragment: PDataFragment) -> None:
        try:
            message = self._assembler.feed(fragment)
            if message is not None:
                self._handle_message(message)
        except InvalidMessage as error:
            self.log.warning("message.invalid", reason=str(error))
            self.abort_now(str(error))

    def _open_sink(self, context_id: int, command: CommandSet) -> Sink:
        context = self._context(context_id)
        if command.is_response or command.field == CommandField.C_CANCEL_RQ:
            return MemorySink()
        return self._performer.open_sink(context, command)

    def _handle_message(self, message: Message) -> None:
        command = message.command
        if command.is_response:
            self._invoker.handle(message)
        elif command.field == CommandField.C_CANCEL_RQ:
            self._performer.cancel(command.message_id_being_responded_to)
        else:
            self._performer.start(self._context(message.context_id), message)

    def _context(self, context_id: int) -> AcceptedContext:
        context = self.contexts.get(context_id)
        if context is None:
            raise InvalidMessage(f"presentation context {context_id} was not accepted")
        return context

    async def _send_pieces(self, context_id: int, data: AsyncGenerator[Buffer, None]) -> None:
        upper_layer = self._transport.upper_layer
        piece = await anext(data, b"")
        async for following in data:
            if self._failure is not None:
                raise self._failure
            upper_layer.send_data(context_id, False, piece, last=False)
            self._transport.flush()
            await self.drain()
            self._patience.sent_at(self._loop.time())
            piece = following
        if self._failure is not None:
            raise self._failure
        upper_layer.send_data(context_id, False, piece)

    # Time

    def _tick(self) -> None:
        """Once a second: abort a peer that keeps this side waiting for too long."""
        self._ticker = self._loop.call_later(_TICK, self._tick)
        if self.accept is None:
            return  # ARTIM and the requestor's own limit watch over establishment
        reason = self._patience.exhausted(self._loop.time())
        if reason is None:
            return
        self._invoker.fail(PeerTimeout(reason))
        self.log.warning("association.timeout", reason=reason)
        self.abort_now(reason)
        if not self._transport.is_writable:
            self._transport.close()  # A-ABORT would wait for ever behind what the peer does not read
