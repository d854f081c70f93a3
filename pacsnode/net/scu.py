"""The SCUs of the services, on an association of either side (PS3.4 A to C; DIMSE-N: PS3.7 10).

A C-GET has the peer store on the same association: the services given to `connect` take what comes.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset

from pacsnode.dicom.data_set import decode_data_set, encode_data_set
from pacsnode.dicom.sop_class import VERIFICATION
from pacsnode.dicom.uid import UID
from pacsnode.dimse import message as messages
from pacsnode.dimse import message_n
from pacsnode.dimse.command import PRIORITY_MEDIUM, CommandField, CommandSet, Element
from pacsnode.errors import NoPresentationContext
from pacsnode.net.invoker import CommandOf, OutgoingData
from pacsnode.net.service import Channel
from pacsnode.ul.negotiation import AcceptedContext

_COUNTERS: Final = (
    Element.REMAINING_SUBOPERATIONS,
    Element.COMPLETED_SUBOPERATIONS,
    Element.FAILED_SUBOPERATIONS,
    Element.WARNING_SUBOPERATIONS,
)


_N_BIT: Final = 0x0100  # of Command Field, in the commands of DIMSE-N (PS3.7 E.1)


@dataclass(frozen=True, slots=True)
class SubOperations:
    """The counters of a C-MOVE or C-GET response; None: not told (PS3.4 C.4.2.1.6 to C.4.2.1.9)."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None


_NONE_TOLD: Final = SubOperations()


@dataclass(slots=True)  # one for each object sent
class Reply:
    """A response as its requestor sees it."""

    status: int
    comment: str
    identifier: Dataset | None = None
    suboperations: SubOperations = _NONE_TOLD
    sop_instance: UID = UID("")  # noqa: RUF009 - a str
    attributes: tuple[int, ...] = ()
    error_id: int | None = None


class ServiceUser:
    """An association with an SCU for each service."""

    def __init__(self, association: Channel) -> None:
        self.association = association

    @property
    def contexts(self) -> tuple[AcceptedContext, ...]:
        """The presentation contexts that were accepted."""
        return tuple(self.association.contexts.values())

    def context(self, abstract_syntax: str) -> AcceptedContext:
        """The accepted context of an abstract syntax. Raises NoPresentationContext."""
        found = self.association.context_for(abstract_syntax)
        if found is None:
            raise NoPresentationContext(f"the peer does not accept {UID(abstract_syntax).strip()}")
        return found

    def extended(self, sop_class: UID) -> bytes:
        """What the peer answered to the extended negotiation of a SOP class; empty when nothing."""
        accept = self.association.accept
        return accept.extended.get(sop_class, b"") if accept is not None else b""

    async def c_echo(self) -> Reply:
        """C-ECHO (PS3.4 A.4)."""
        context = self.context(VERIFICATION)
        command = await self.association.invoke_once(
            context, lambda number: messages.c_echo_rq(number, VERIFICATION)
        )
        return _reply(command)

    async def c_store(
        self,
        context: AcceptedContext,
        sop_instance: UID,
        data: OutgoingData,
        *,
        priority: int = PRIORITY_MEDIUM,
        originator: tuple[str, int] | None = None,
    ) -> Reply:
        """C-STORE (PS3.4 B.2). `data`: a data set encoded in the context's transfer syntax.

        `originator`: AE title and Message ID of the C-MOVE that this serves.
        """
        sop_class = context.abstract_syntax
        command = await self.association.invoke_once(
            context,
            lambda number: messages.c_store_rq(
                number, sop_class, sop_instance, priority=priority, originator=originator
            ),
            data,
        )
        return _reply(command)

    def c_find(self, sop_class: UID, identifier: Dataset) -> AsyncGenerator[Reply, None]:
        """C-FIND (PS3.4 C.4.1): every pending response with its identifier, then the final one.

        Closing the iterator early cancels the operation (PS3.4 C.4.1.1.3.2).
        """
        return self._many(sop_class, lambda number: messages.c_find_rq(number, sop_class), identifier)

    def c_move(self, sop_class: UID, identifier: Dataset, destination: str) -> AsyncGenerator[Reply, None]:
        """C-MOVE (PS3.4 C.4.2): pending responses with their counters, then the final one.

        Closing the iterator early cancels the operation (PS3.4 C.4.2.2.1).
        """
        return self._many(
            sop_class, lambda number: messages.c_move_rq(number, sop_class, destination), identifier
        )

    def c_get(self, sop_class: UID, identifier: Dataset) -> AsyncGenerator[Reply, None]:
        """C-GET (PS3.4 C.4.3): as C-MOVE, the instances coming to the services given to `connect`."""
        return self._many(sop_class, lambda number: messages.c_get_rq(number, sop_class), identifier)

    async def n_create(
        self, sop_class: UID, sop_instance: UID | None, attributes: Dataset | None, *, on: UID | None = None
    ) -> Reply:
        """N-CREATE (PS3.7 10.1.5); the reply has the UID when the peer is to assign one.

        `on`: the abstract syntax of the context it goes on, where that is not the SOP class (PS3.4 CC.2).
        """
        return await self._one(
            on or sop_class,
            lambda number: message_n.n_create_rq(
                number, sop_class, sop_instance, has_data_set=attributes is not None
            ),
            attributes,
        )

    async def n_set(
        self, sop_class: UID, sop_instance: UID, modifications: Dataset, *, on: UID | None = None
    ) -> Reply:
        """N-SET (PS3.7 10.1.3)."""
        return await self._one(
            on or sop_class,
            lambda number: message_n.n_set_rq(number, sop_class, sop_instance),
            modifications,
        )

    async def n_get(
        self, sop_class: UID, sop_instance: UID, attributes: Sequence[int] = (), *, on: UID | None = None
    ) -> Reply:
        """N-GET (PS3.7 10.1.2): the attributes of those tags, or all."""
        return await self._one(
            on or sop_class,
            lambda number: message_n.n_get_rq(number, sop_class, sop_instance, attributes),
            None,
        )

    async def n_action(
        self,
        sop_class: UID,
        sop_instance: UID,
        action_type: int,
        information: Dataset | None,
        *,
        on: UID | None = None,
    ) -> Reply:
        """N-ACTION (PS3.7 10.1.4)."""
        return await self._one(
            on or sop_class,
            lambda number: message_n.n_action_rq(
                number, sop_class, sop_instance, action_type, has_data_set=information is not None
            ),
            information,
        )

    async def n_event_report(
        self,
        sop_class: UID,
        sop_instance: UID,
        event_type: int,
        information: Dataset | None,
        *,
        on: UID | None = None,
    ) -> Reply:
        """N-EVENT-REPORT (PS3.7 10.1.1). Raises NoPresentationContext where this side is no SCP of it."""
        return await self._one(
            on or sop_class,
            lambda number: message_n.n_event_report_rq(
                number, sop_class, sop_instance, event_type, has_data_set=information is not None
            ),
            information,
            as_scp=True,
        )

    async def n_delete(self, sop_class: UID, sop_instance: UID, *, on: UID | None = None) -> Reply:
        """N-DELETE (PS3.7 10.1.6)."""
        return await self._one(
            on or sop_class, lambda number: message_n.n_delete_rq(number, sop_class, sop_instance), None
        )

    async def _one(
        self, abstract_syntax: UID, command_of: CommandOf, data_set: Dataset | None, *, as_scp: bool = False
    ) -> Reply:
        """A request of DIMSE-N and its response, with what comes with it."""
        context = self.context(abstract_syntax)
        accept = self.association.accept
        # Some SCUs take events without ever having answered the role selection: they are tried.
        answered = accept is not None and abstract_syntax in accept.roles
        if (not context.as_scp and answered) if as_scp else not context.as_scu:
            raise NoPresentationContext(f"the peer leaves this side no role to do so in {abstract_syntax}")
        encoded = None
        if data_set is not None:  # in a thread: it may name ten thousand instances
            encoded = await asyncio.to_thread(encode_data_set, data_set, context.transfer_syntax)
        async with aclosing(self.association.invoke(context, command_of, encoded)) as replies:
            command, data = await anext(replies)
        return _reply(command, decode_data_set(data, context.transfer_syntax) if data else None)

    async def _many(
        self, sop_class: UID, command_of: CommandOf, identifier: Dataset
    ) -> AsyncGenerator[Reply, None]:
        context = self.context(sop_class)
        encoded = encode_data_set(identifier, context.transfer_syntax)
        async with aclosing(self.association.invoke(context, command_of, encoded)) as replies:
            async for command, data in replies:
                yield _reply(command, decode_data_set(data, context.transfer_syntax) if data else None)


def _reply(command: CommandSet, identifier: Dataset | None = None) -> Reply:
    reply = Reply(command.status, command.text(Element.ERROR_COMMENT), identifier, _suboperations(command))
    if command.field & _N_BIT:
        reply.sop_instance = command.sop_instance
        reply.attributes = command.tags(Element.ATTRIBUTE_IDENTIFIER_LIST)
        reply.error_id = command.us_or_none(Element.ERROR_ID)
    return reply


def _suboperations(command: CommandSet) -> SubOperations:
    if command.field == CommandField.C_STORE_RSP:
        return _NONE_TOLD
    return SubOperations(*map(command.us_or_none, _COUNTERS))
