"""Requests of ours on one association, and the responses that arrive for them (PS3.7 7.5, 9.3)."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pacsnode.dimse import message as messages
from pacsnode.dimse.assembler import MemorySink, Message
from pacsnode.dimse.command import CommandSet
from pacsnode.dimse.status import is_pending
from pacsnode.errors import InvalidMessage, RemoteError
from pacsnode.ul.negotiation import AcceptedContext
from pacsnode.ul.pdu import Buffer

UNREAD_RESPONSES: Final = 500  # responses that may wait for their reader before the socket is left unread
UNLIMITED_WINDOW: Final = 256  # requests outstanding where the peer sets no limit

CommandOf = Callable[[int], bytes]
"""Message ID -> encoded command set."""

OutgoingData = Buffer | AsyncGenerator[Buffer, None]
"""A data set as it is to be sent: whole, or in pieces as they become available."""

OnResponse = Callable[[CommandSet | RemoteError | None], None]
"""Takes the one response to a request, or the reason why none will come; None is the one foreseen."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it will leave, and the response that is foreseen."""

    message_id: int
    message: Sequence[bytes | memoryview]
    foreseen: bytes


class Sending(Protocol):
    """The association as the invoker sees it."""

    ended: asyncio.Event

    @property
    def may_send(self) -> bool: ...

    @property
    def can_send_now(self) -> bool: ...

    def send_prepared(self, prepared: Prepared) -> None: ...

    def prepared(
        self, message_id: int, context_id: int, command: bytes, data: Buffer, foreseen: bytes
    ) -> Prepared: ...

    def forget(self, foreseen: bytes) -> None: ...

    async def send(self, context_id: int, command: bytes, data: OutgoingData | None) -> None: ...

    def look_at_flow(self) -> None: ...


class _Exchange:
    """A request and its responses."""

    __slots__ = ("abandoned", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.abandoned = False  # nobody reads its responses any more; the final one ends it

    @property
    def unread(self) -> int:
        """Responses that wait for their reader."""
        return 0


class _Single(_Exchange):
    """One response, given to a callback: what most requests have."""

    __slots__ = ("foreseen", "is_leaving", "on_response")

    def __init__(
        self, since: float, on_response: OnResponse, *, is_leaving: bool, foreseen: bytes = b""
    ) -> None:
        super().__init__(since)
        self.on_response = on_response
        self.foreseen = foreseen
        self.is_leaving = is_leaving  # whoever sends it is told of what goes wrong, not the callback


class _Many(_Exchange):
    """Pending responses and the final one."""

    __slots__ = ("responses",)

    def __init__(self, since: float) -> None:
        super().__init__(since)
        self.responses: asyncio.Queue[Message | RemoteError] = asyncio.Queue()

    @property
    def unread(self) -> int:
        return self.responses.qsize()

    def abandon(self) -> None:
        """Nobody reads its responses any more."""
        self.abandoned = True
        self.responses = asyncio.Queue()


class _Window:
    """Places for outstanding requests. Who waits for one gets it in turn; nobody overtakes."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take_now(self) -> bool:
        """Take a place; False when none is free."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take(self) -> None:
        if self.take_now():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the place goes from hand to hand
                return
        self._free += 1


class Invoker:
    """Sends requests within the negotiated window and gives each its responses."""

    def __init__(self, association: Sending) -> None:
        self.answered = 0  # requests that have had their last response
        self._association = association
        self._loop = asyncio.get_running_loop()
        self._exchanges: dict[int, _Single | _Many] = {}
        self._read: set[_Many] = set()  # those whose responses somebody reads
        self._message_ids = itertools.cycle(range(1, 65536))
        self._window = _Window(1)

    def grant(self, window: int) -> int:
        """Set how many requests may be outstanding, 0 for any number (PS3.7 D.3.3.3); how many that are."""
        self._window = _Window(window or UNLIMITED_WINDOW)
        return window or UNLIMITED_WINDOW

    @property
    def is_idle(self) -> bool:
        return not self._exchanges

    @property
    def has_unread(self) -> bool:
        """More responses wait for their reader than should."""
        return bool(self._read) and any(each.unread > UNREAD_RESPONSES for each in self._read)

    def waiting_since(self) -> float | None:
        """Loop time since when the request that heard last has waited for a response; None: nobody waits."""
        return max((e.since for e in self._exchanges.values() if not e.unread), default=None)

    async def invoke(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData | None
    ) -> AsyncGenerator[tuple[CommandSet, bytes], None]:
        """Send a request; yield each response with its data set, the final one last.

        Waits for a place in the window. Closing the iterator after a pending response sends C-CANCEL; the
        place is free when the final one has come.
        Raises AssociationAborted, PeerTimeout.
        """
        await self._window.take()
        exchange = _Many(self._loop.time())
        message_id = self._register(exchange)
        self._read.add(exchange)
        sent = pending = False
        try:
            await self._association.send(context.id, command_of(message_id), data)
            sent = True
            exchange.since = self._loop.time()
            while True:
                reply = await exchange.responses.get()
                if isinstance(reply, RemoteError):
                    raise reply
                pending = is_pending(reply.command.status)
                self._association.look_at_flow()
                yield reply.command, reply.data.value() if isinstance(reply.data, MemorySink) else b""
                if not pending:
                    return
        finally:
            self._read.discard(exchange)
            self._association.look_at_flow()
            is_outstanding = self._exchanges.get(message_id) is exchange
            if is_outstanding and sent and not self._association.ended.is_set():
                exchange.abandon()
                if pending and self._association.may_send:
                    await self._association.send(context.id, messages.c_cancel_rq(message_id), None)
            else:
                if is_outstanding:
                    del self._exchanges[message_id]
                self._window.give_back()

    async def invoke_once(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData | None
    ) -> CommandSet:
        """Send a request that has one response; the response. Otherwise as `invoke`."""
        arrival: asyncio.Future[CommandSet | RemoteError] = self._loop.create_future()

        def arrive(response: CommandSet | RemoteError | None) -> None:
            assert response is not None  # none was foreseen
            if not arrival.done():  # else nobody waits any more
                arrival.set_result(response)

        await self.begin(context, command_of, data, arrive)
        response = await arrival
        if isinstance(response, RemoteError):
            raise response
        return response

    async def begin(
        self,
        context: AcceptedContext,
        command_of: CommandOf,
        data: OutgoingData | None,
        on_response: OnResponse,
    ) -> None:
        """Send a request that has one response, which `on_response` is called with. Waits for a place.

        Raises, when the request could not be sent, what was in its way: RemoteError, or what `data` raises.
        """
        await self._window.take()
        exchange = _Single(self._loop.time(), on_response, is_leaving=True)
        message_id = self._register(exchange)
        try:
            await self._association.send(context.id, command_of(message_id), data)
        except BaseException as error:
            if self._exchanges.pop(message_id, None) is not None:
                self._window.give_back()
            elif isinstance(error, Exception):
                return  # it was answered before all of it had left
            raise
        exchange.since = self._loop.time()
        exchange.is_leaving = False

    def prepare(
        self, context: AcceptedContext, command_of: CommandOf, data: Buffer, foreseen_of: CommandOf
    ) -> Prepared:
        """Encode a request for `begin_now`. `foreseen_of`: Message ID -> the response when all is well."""
        message_id = self._next_id()
        return self._association.prepared(
            message_id, context.id, command_of(message_id), data, foreseen_of(message_id)
        )

    def begin_now(self, prepared: Prepared, on_response: OnResponse) -> bool:
        """As `begin`, at once; False, and nothing sent, when it would have to wait for anything."""
        association, message_id = self._association, prepared.message_id
        if message_id in self._exchanges or not (association.can_send_now and self._window.take_now()):
            return False
        self._exchanges[message_id] = _Single(
            self._loop.time(), on_response, is_leaving=False, foreseen=prepared.foreseen
        )
        association.send_prepared(prepared)
        return True

    def handle_foreseen(self, message_id: int) -> None:
        """The response that was foreseen has come."""
        exchange = self._exchanges.pop(message_id, None)
        if type(exchange) is _Single:
            self.answered += 1
            self._window.give_back()
            exchange.on_response(None)

    def handle(self, message: Message) -> None:
        """Give a response to the request it answers. Raises InvalidMessage when there is none."""
        command = message.command
        message_id = command.message_id_being_responded_to
        exchange = self._exchanges.get(message_id)
        if exchange is None:
            raise InvalidMessage(f"{command.name} answers no request of ours")
        is_final = not is_pending(command.status)
        if is_final:
            self.answered += 1
        if isinstance(exchange, _Single):
            self._settle(message_id, exchange, command)
            return
        if is_final:
            del self._exchanges[message_id]
        if not exchange.abandoned:
            exchange.since = self._loop.time()
            exchange.responses.put_nowait(message)
        elif is_final:
            self._window.give_back()

    def fail(self, error: RemoteError) -> None:
        """The association is over: tell everybody who waits."""
        for message_id, exchange in tuple(self._exchanges.items()):
            if isinstance(exchange, _Many):
                self._disappoint(message_id, exchange, error)
            elif not exchange.is_leaving:
                self._settle(message_id, exchange, error)

    def _disappoint(self, message_id: int, exchange: _Many, error: RemoteError) -> None:
        del self._exchanges[message_id]
        if exchange.abandoned:
            self._window.give_back()
        else:
            exchange.responses.put_nowait(error)

    def _settle(self, message_id: int, exchange: _Single, response: CommandSet | RemoteError) -> None:
        del self._exchanges[message_id]
        if exchange.foreseen:
            self._association.forget(exchange.foreseen)
        self._window.give_back()
        exchange.on_response(response)

    def _register(self, exchange: _Single | _Many) -> int:
        message_id = self._next_id()
        self._exchanges[message_id] = exchange
        return message_id

    def _next_id(self) -> int:
        message_id = next(self._message_ids)
        while message_id in self._exchanges:
            message_id = next(self._message_ids)
        return message_id
