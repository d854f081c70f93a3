"""The requestor's side: open an association to a peer and use its services (PS3.8 7.1, PS3.4 A to C).

async with connect(peer, "PACSNODE", [ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,))]) as association:
    status = await association.c_echo()
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacsnode.config import Peer
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.sop_class import VERIFICATION
from pacsnode.dicom.uid import UID
from pacsnode.dimse import message as messages
from pacsnode.dimse.command import CommandSet, Element
from pacsnode.errors import NoPresentationContext, PeerTimeout, PeerUnreachable
from pacsnode.net.association import Association, Timeouts
from pacsnode.net.invoker import CommandOf
from pacsnode.net.service import ServiceRegistry
from pacsnode.net.transport import Transport
from pacsnode.ul.negotiation import (
    DEFAULT_MAX_PDU_LENGTH,
    AcceptedContext,
    AssociateRequest,
    ProposedContext,
)
from pacsnode.ul.upper_layer import UpperLayer

_NO_LIMIT: Final = 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as its requestor sees it."""

    status: int
    comment: str
    identifier: Dataset | None = None


class RequestedAssociation:
    """An association in the requestor's role, with an SCU for each service."""

    def __init__(self, association: Association) -> None:
        self.association = association

    @property
    def contexts(self) -> tuple[AcceptedContext, ...]:
        """The presentation contexts that the peer accepted."""
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
        return await self._single(context, lambda number: messages.c_echo_rq(number, VERIFICATION))

    async def c_store(
        self,
        context: AcceptedContext,
        sop_instance: UID,
        data: Iterable[bytes | memoryview],
        *,
        originator: tuple[str, int] | None = None,
    ) -> Reply:
        """C-STORE (PS3.4 B.2). `data`: pieces of a data set encoded in the context's transfer syntax."""
        sop_class = context.abstract_syntax
        return await self._single(
            context,
            lambda number: messages.c_store_rq(number, sop_class, sop_instance, originator=originator),
            data,
        )

    async def c_find(self, sop_class: UID, identifier: Dataset) -> AsyncGenerator[Reply, None]:
        """C-FIND (PS3.4 C.4.1): every pending response with its identifier, then the final one.

        Closing the iterator early cancels the operation (PS3.4 C.4.1.1.3.2).
        """
        context = self.context(sop_class)
        replies = self.association.invoke(
            context,
            lambda number: messages.c_find_rq(number, sop_class),
            [encode_data_set(identifier, context.transfer_syntax)],
        )
        async with aclosing(replies):
            async for command, data in replies:
                found = decode_data_set(data, context.transfer_syntax) if data else None
                yield _reply(command, found)

    async def _single(
        self,
        context: AcceptedContext,
        command_of: CommandOf,
        data: Iterable[bytes | memoryview] | None = None,
    ) -> Reply:
        async with aclosing(self.association.invoke(context, command_of, data)) as replies:
            async for command, _ in replies:
                return _reply(command, None)
        raise AssertionError("invoke ends with a response or an error")


@asynccontextmanager
async def connect(
    peer: Peer,
    calling_ae: str,
    contexts: Sequence[ProposedContext],
    *,
    window: int = 1,
    timeouts: Timeouts | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RequestedAssociation]:
    """Open an association to `peer`; release it at the end of the block, abort it when the block raises.

    `window`: operations proposed to be outstanding at once (PS3.7 D.3.3.3); the peer may lower it.
    Raises PeerUnreachable, PeerTimeout, AssociationRejected, AssociationAborted.
    """
    timeouts = timeouts or Timeouts()
    association = await _open(peer, timeouts, tls)
    association.propose(
        AssociateRequest(
            called_ae=peer.ae_title,
            calling_ae=calling_ae,
            contexts=tuple(contexts),
            window=(window, 1) if window != 1 else None,
        )
    )
    await _established(peer, association, timeouts)
    try:
        yield RequestedAssociation(association)
    except BaseException:
        await association.abort()
        raise
    await association.release()


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


async def _open(peer: Peer, timeouts: Timeouts, tls: ssl.SSLContext | None) -> Association:
    opened: list[Association] = []

    def association_of(transport: Transport) -> Association:
        opened.append(Association(transport, ServiceRegistry(()), timeouts))
        return opened[0]

    upper_layer = UpperLayer(
        requestor=True, max_pdu_length=DEFAULT_MAX_PDU_LENGTH, artim_timeout=timeouts.artim or _NO_LIMIT
    )
    try:
        async with asyncio.timeout(timeouts.artim or None):
            await asyncio.get_running_loop().create_connection(
                lambda: Transport(upper_layer, association_of), peer.host, peer.port, ssl=tls
            )
    except TimeoutError:
        raise PeerTimeout(f"{peer} did not take the connection within {timeouts.artim:g} s") from None
    except OSError as error:
        raise PeerUnreachable(f"{peer} cannot be reached: {error.strerror or error}") from None
    return opened[0]


async def _established(peer: Peer, association: Association, timeouts: Timeouts) -> None:
    try:
        async with asyncio.timeout(timeouts.dimse or None):
            await asyncio.shield(association.established)
    except TimeoutError:
        association.abort_now()
        raise PeerTimeout(f"{peer} did not answer A-ASSOCIATE within {timeouts.dimse:g} s") from None
    except asyncio.CancelledError:
        association.abort_now()
        raise


def _reply(command: CommandSet, identifier: Dataset | None) -> Reply:
    return Reply(command.status, command.text(Element.ERROR_COMMENT), identifier)
