"""Objects that are at hand leaving on one association, as many at once as its window allows (PS3.7 D.3.3.3).

Most receivers take one after the other. What an object costs then is the time between their response and our
next request, so that leaves from within the handling of the response: no task is woken in between, as long as
what has been read ahead lasts and nothing is in the way. What is left to wait for is left to `run`.
"""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Final, Protocol

from pacsnode.archive.locate import Located
from pacsnode.archive.outgoing import Outgoing, ReadAhead
from pacsnode.dimse.command import CommandSet, Element
from pacsnode.dimse.message import c_store_rq, c_store_success
from pacsnode.dimse.status import SUCCESS
from pacsnode.errors import AssociationAborted, RemoteError
from pacsnode.net.invoker import Prepared
from pacsnode.net.service import Channel
from pacsnode.services.proposal import ContextOf

LANES: Final = 16  # objects outstanding on one association, where the peer lets them be more


class Account(Protocol):
    """Who counts."""

    @property
    def is_stopped(self) -> bool:
        """No other object is to be begun."""

    def begun(self, located: Located) -> None:
        """The request for an object leaves."""

    def answered(self, located: Located, size: int, status: int, comment: str) -> None:
        """The destination has answered it; its data set had `size` bytes."""

    def not_stored(self, located: Located, reason: str) -> None:
        """It cannot be sent, or will not be answered."""


class Outflow:
    """Stores what a ReadAhead gives out; `run` is called once."""

    def __init__(
        self,
        association: Channel,
        source: ReadAhead,
        context_of: ContextOf,
        account: Account,
        *,
        priority: int,
        originator: tuple[str, int] | None,
    ) -> None:
        self._association = association
        self._source = source
        self._context_of = context_of
        self._account = account
        self._priority = priority
        self._originator = originator
        self._lanes = min(association.window, LANES)
        self._outstanding = 0
        self._loaded: tuple[Outgoing, Prepared] | None = None  # encoded already: the next one
        self._aside: Outgoing | None = None  # the next one, where it has to go in pieces
        self._error: Exception | None = None  # why no other object is begun
        self._is_left = False
        self._stuck = asyncio.Event()  # responses alone do not bring it further
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Send everything that is not stopped. Raises RemoteError when the association is lost."""
        try:
            while not self._is_over:
                self._stuck.clear()
                if self._fill():
                    await self._stuck.wait()
                elif (outgoing := self._held_up() or await self._source.next()) is None:
                    break
                elif not self._is_over:
                    await self._begin(outgoing)
            while self._outstanding:
                self._stuck.clear()
                await self._stuck.wait()
        finally:
            self._is_left = True
        if self._error is not None:
            raise self._error

    @property
    def _is_over(self) -> bool:
        return self._error is not None or self._is_left or self._account.is_stopped

    def _fill(self) -> bool:
        """Let leave what can at once; whether the window is full then, so that a response goes on with it."""
        while self._outstanding < self._lanes:
            self._load()
            if self._loaded is None:
                return False
            outgoing, prepared = self._loaded
            located = outgoing.located
            if not self._association.begin_now(prepared, partial(self._answered, located)):
                return False
            self._loaded = None
            self._outstanding += 1
            self._account.begun(located)
        self._loop.call_soon(self._load)  # while the destination is busy
        return True

    def _load(self) -> None:
        """Encode the next object that can leave whole, if it has been read."""
        if self._loaded is not None or self._aside is not None or self._is_over:
            return
        while (outgoing := self._source.at_hand()) is not None:
            located, data = outgoing.located, outgoing.data
            if isinstance(data, AsyncGenerator):
                self._aside = outgoing
                return
            if data is not None:
                foreseen = partial(_success, located)
                context = self._context_of[located.sop_class][located.transfer_syntax]
                prepared = self._association.prepare(context, partial(self._request, located), data, foreseen)
                self._loaded = outgoing, prepared
                return
            self._account.not_stored(located, outgoing.failure)

    def _held_up(self) -> Outgoing | None:
        """What could not leave at once."""
        outgoing = self._loaded[0] if self._loaded is not None else self._aside
        self._loaded = self._aside = None
        return outgoing

    async def _begin(self, outgoing: Outgoing) -> None:
        """Wait until it can leave, and until it has left."""
        located, data = outgoing.located, outgoing.data
        if data is None:
            self._account.not_stored(located, outgoing.failure)
            return
        context = self._context_of[located.sop_class][located.transfer_syntax]
        self._outstanding += 1
        self._account.begun(located)
        try:
            await self._association.begin(
                context, partial(self._request, located), data, partial(self._answered, located)
            )
        except RemoteError as error:
            self._answered(located, error)
        except OSError as error:  # in the middle of a large object: the message cannot be completed
            self._outstanding -= 1
            self._account.not_stored(located, f"its file cannot be read: {error.strerror}")
            self._error = AssociationAborted("an object could not be read to its end")

    def _request(self, located: Located, message_id: int) -> bytes:
        return c_store_rq(
            message_id,
            located.sop_class,
            located.sop_instance,
            priority=self._priority,
            originator=self._originator,
        )

    def _answered(self, located: Located, response: CommandSet | RemoteError | None) -> None:
        """Count a response, and let the next object leave."""
        self._outstanding -= 1
        goes_on = False
        try:
            self._count(located, response)
            goes_on = not self._is_over and self._fill()
        except Exception as error:  # for `run` to raise: whoever reads the socket has no part in it
            self._error = self._error or error
        if not goes_on:
            self._stuck.set()

    def _count(self, located: Located, response: CommandSet | RemoteError | None) -> None:
        if response is None:
            self._account.answered(located, located.size, SUCCESS, "")
        elif isinstance(response, RemoteError):
            self._account.not_stored(located, str(response))
            self._error = self._error or response
        else:
            comment = response.text(Element.ERROR_COMMENT)
            self._account.answered(located, located.size, response.status, comment)


def _success(located: Located, message_id: int) -> bytes:
    return c_store_success(message_id, located.sop_class, located.sop_instance)
