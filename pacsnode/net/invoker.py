"""Requests of ours on one association, and the responses that arrive for them (PS3.7 7.5, 9.3)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
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


class Sending(Protocol):
    """The association as the invoker sees it."""

    ended: asyncio.Event

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

    @property
    def is_complete(self) -> bool:
        """No more responses will come."""
        return False

    def take(self, response: Message | RemoteError) -> None:
        """A response, or the reason why none will come."""


class _Single(_Exchange):
    """One response: what most requests have."""

    __slots__ = ("response",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop.time())
        self.response: asyncio.Future[Message | RemoteError] = loop.create_future()

    @property
    def is_complete(self) -> bool:
        return self.response.done()

    def take(self, response: Message | RemoteError) -> None:
        if not self.response.done():
            self.response.set_result(response)


class _Many(_Exchange):
    """Pending responses and the final one."""

    __slots__ = ("responses",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop.time())
        self.responses: asyncio.Queue[Message | RemoteError] = asyncio.Queue()

    @property
    def unread(self) -> int:
        return self.responses.qsize()

    def take(self, response: Message | RemoteError) -> None:
        self.responses.put_nowait(response)


class Invoker:
    """Sends requests within the negotiated window and gives each its responses."""

    def __init__(self, association: Sending) -> None:
        self._association = association
        self._loop = asyncio.get_running_loop()
        self._exchanges: dict[int, _Exchange] = {}
        self._message_ids = itertools.cycle(range(1, 65536))
        self._window = asyncio.Semaphore(1)

    def grant(self, window: int) -> int:
        """Set how many requests may be outstanding, 0 for any number (PS3.7 D.3.3.3); how many that are."""
        self._window = asyncio.Semaphore(window or UNLIMITED_WINDOW)
        return window or UNLIMITED_WINDOW

    @property
    def is_idle(self) -> bool:
        return not self._exchanges

    @property
    def has_unread(self) -> bool:
        """More responses wait for their reader than should."""
        exchanges = self._exchanges
        return bool(exchanges) and any(each.unread > UNREAD_RESPONSES for each in exchanges.values())

    @property
    def has_been_answered(self) -> bool:
        """The one request that was outstanding has its one response: the next thing is ours to send."""
        if len(self._exchanges) != 1:
            return False
        (exchange,) = self._exchanges.values()
        return exchange.is_complete

    def waiting_since(self) -> float | None:
        """Loop time since when the request that heard last has waited for a response; None: nobody waits."""
        return max((e.since for e in self._exchanges.values() if not e.unread), default=None)

    async def invoke(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData | None
    ) -> AsyncGenerator[tuple[CommandSet, bytes], None]:
        """Send a request; yield each response with its data set, the final one last.

        Waits for a place in the window. Closing the iterator after a pending response sends C-CANCEL.
        Raises AssociationAborted, PeerTimeout.
        """
        async with self._window:
            exchange = _Many(self._loop)
            message_id = self._begin(exchange)
            pending = False
            try:
                await self._association.send(context.id, command_of(message_id), data)
                exchange.since = self._loop.time()
                while True:
                    reply = await exchange.responses.get()
                    if isinstance(reply, RemoteError):
                        raise reply
                    pending = is_pending(reply.command.status)
                    if not pending:
                        del self._exchanges[message_id]
                    self._association.look_at_flow()
                    yield reply.command, reply.data.value() if isinstance(reply.data, MemorySink) else b""
                    if not pending:
                        return
            finally:
                exchange.abandoned = True
                if pending and not self._association.ended.is_set():
                    await self._association.send(context.id, messages.c_cancel_rq(message_id), None)

    async def invoke_once(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData | None
    ) -> CommandSet:
        """Send a request that has one response; the response. Otherwise as `invoke`."""
        async with self._window:
            exchange = _Single(self._loop)
            message_id = self._begin(exchange)
            try:
                await self._association.send(context.id, command_of(message_id), data)
                exchange.since = self._loop.time()
                reply = await exchange.response
            except BaseException:
                exchange.abandoned = True
                raise
            if isinstance(reply, RemoteError):
                raise reply
            del self._exchanges[message_id]
            return reply.command

    def handle(self, message: Message) -> None:
        """Give a response to the request it answers. Raises InvalidMessage when there is none."""
        message_id = message.command.message_id_being_responded_to
        exchange = self._exchanges.get(message_id)
        if exchange is None:
            raise InvalidMessage(f"{message.command.name} answers no request of ours")
        if not exchange.abandoned:
            exchange.since = self._loop.time()
            exchange.take(message)
        elif not is_pending(message.command.status):
            del self._exchanges[message_id]

    def fail(self, error: RemoteError) -> None:
        """The association is over: tell everybody who waits."""
        for exchange in self._exchanges.values():
            exchange.take(error)

    def _begin(self, exchange: _Exchange) -> int:
        message_id = next(self._message_ids)
        while message_id in self._exchanges:
            message_id = next(self._message_ids)
        self._exchanges[message_id] = exchange
        return message_id
