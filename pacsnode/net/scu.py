"""The SCUs of the services, on an association of either side (PS3.4 A to C).

A C-GET has the peer store on the same association: the services given to `connect` take what comes.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.sop_class import VERIFICATION
from pacsnode.dicom.uid import UID
from pacsnode.dimse import message as messages
from pacsnode.dimse.command import PRIORITY_MEDIUM, CommandSet, Element
from pacsnode.errors import NoPresentationContext
from pacsnode.net.association import Association
from pacsnode.net.invoker import CommandOf, OutgoingData
from pacsnode.ul.negotiation import AcceptedContext

_COUNTERS: Final = (
    Element.REMAINING_SUBOPERATIONS,
    Element.COMPLETED_SUBOPERATIONS,
    Element.FAILED_SUBOPERATIONS,
    Element.WARNING_SUBOPERATIONS,
)


@dataclass(frozen=True, slots=True)
class SubOperations:
    """The counters of a C-MOVE or C-GET response; None: not told (PS3.4 C.4.2.1.6 to C.4.2.1.9)."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None


_NONE_TOLD: Final = SubOperations()


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as its requestor sees it."""

    status: int
    comment: str
    identifier: Dataset | None = None
    suboperations: SubOperations = _NONE_TOLD


class ServiceUser:
    """An association with an SCU for each service."""

    def __init__(self, association: Association) -> None:
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

    async def _many(
        self, sop_class: UID, command_of: CommandOf, identifier: Dataset
    ) -> AsyncGenerator[Reply, None]:
        context = self.context(sop_class)
        encoded = encode_data_set(identifier, context.transfer_syntax)
        async with aclosing(self.association.invoke(context, command_of, encoded)) as replies:
            async for command, data in replies:
                yield _reply(command, decode_data_set(data, context.transfer_syntax) if data else None)


def encode_data_set(data_set: Dataset, transfer_syntax: UID) -> bytes:
    """A data set in an uncompressed transfer syntax (PS3.5 7, A)."""
    encoding = encoding_of(transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little_endian
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def decode_data_set(data: bytes, transfer_syntax: UID) -> Dataset:
    """The reverse of `encode_data_set`."""
    encoding = encoding_of(transfer_syntax)
    return read_dataset(BytesIO(data), encoding.implicit, encoding.little_endian)


def _reply(command: CommandSet, identifier: Dataset | None = None) -> Reply:
    return Reply(command.status, command.text(Element.ERROR_COMMENT), identifier, _suboperations(command))


def _suboperations(command: CommandSet) -> SubOperations:
    if command.elements.keys().isdisjoint(_COUNTERS):
        return _NONE_TOLD
    return SubOperations(*map(command.us_or_none, _COUNTERS))
