"""The requestor's side: open an association to a peer (PS3.8 7.1).

async with connect(peer, "PACSNODE", [ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,))]) as association:
    reply = await association.c_echo()
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from pacsnode.config import Peer
from pacsnode.dicom.uid import UID
from pacsnode.errors import (
    AssociationAborted,
    AssociationRejected,
    PeerNotListening,
    PeerTimeout,
    PeerUnreachable,
)
from pacsnode.net.association import Association
from pacsnode.net.scu import ServiceUser
from pacsnode.net.service import ServiceClass, ServiceRegistry
from pacsnode.net.timeouts import Timeouts
from pacsnode.net.transport import Transport, reason_of
from pacsnode.ul.negotiation import DEFAULT_MAX_PDU_LENGTH, AssociateRequest, ProposedContext
from pacsnode.ul.upper_layer import UpperLayer

_NO_LIMIT: Final = 86400.0  # seconds


@asynccontextmanager
async def connect(
    peer: Peer,
    calling_ae: str,
    contexts: Sequence[ProposedContext],
    *,
    window: int = 1,
    roles: Mapping[UID, tuple[bool, bool]] | None = None,
    extended: Mapping[UID, bytes] | None = None,
    services: Iterable[ServiceClass] = (),
    timeouts: Timeouts | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[ServiceUser]:
    """Open an association to `peer`; release it at the end of the block, abort it when the block raises.

    `window`: operations proposed to be outstanding at once, by either side (PS3.7 D.3.3.3), 0 for any number;
    the peer may lower it. `roles`: (SCU, SCP) wanted for a SOP class (D.3.3.4); what the peer then asks of
    this side goes to `services`. `extended`: SOP Class Extended Negotiation offered (D.3.3.5); what the peer
    agrees to is in `association.accept.extended`.
    Raises PeerUnreachable, PeerTimeout, AssociationRejected, AssociationAborted.
    """
    timeouts = timeouts or Timeouts()
    association = await _open(peer, ServiceRegistry(services), timeouts, tls)
    association.propose(
        AssociateRequest(
            called_ae=peer.ae_title,
            calling_ae=calling_ae,
            contexts=tuple(contexts),
            window=(window, window) if window != 1 else None,
            roles=dict(roles or {}),
            extended=dict(extended or {}),
        )
    )
    await _established(peer, association, timeouts)
    try:
        yield ServiceUser(association)
    except BaseException:
        await association.abort()
        raise
    await association.release()


async def _open(
    peer: Peer, registry: ServiceRegistry, timeouts: Timeouts, tls: ssl.SSLContext | None
) -> Association:
    opened: list[Association] = []

    def association_of(transport: Transport) -> Association:
        opened.append(Association(transport, registry, timeouts))
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
        kind = PeerNotListening if isinstance(error, ConnectionRefusedError) else PeerUnreachable
        raise kind(f"{peer} cannot be reached: {reason_of(error)}") from None
    return opened[0]


async def _established(peer: Peer, association: Association, timeouts: Timeouts) -> None:
    try:
        async with asyncio.timeout(timeouts.dimse or None):
            await asyncio.shield(association.established)
    except TimeoutError:
        association.abort_now()
        raise PeerTimeout(f"{peer} did not answer A-ASSOCIATE within {timeouts.dimse:g} s") from None
    # The reason goes first: of an Error Comment only the beginning is sent.
    except AssociationRejected as error:
        raise AssociationRejected(error.result, error.source, error.reason, f"{error} ({peer})") from None
    except AssociationAborted as error:
        raise AssociationAborted(f"{error} ({peer})") from None
    except asyncio.CancelledError:
        association.abort_now()
        raise
