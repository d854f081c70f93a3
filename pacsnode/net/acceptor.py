"""The listener: takes connections, decides who is admitted, and drains at the end (PS3.8 7.1.1, 9.3.4)."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from pacsnode.net.association import Association
from pacsnode.net.service import ServiceRegistry
from pacsnode.net.timeouts import Timeouts
from pacsnode.net.transport import Transport
from pacsnode.ul.negotiation import (
    AcceptorPolicy,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    Rejection,
    negotiate,
)
from pacsnode.ul.upper_layer import UpperLayer

CONNECTIONS_PER_ASSOCIATION: Final = 4  # silent connections may not crowd out those that ask; ARTIM ends them
_BACKLOG: Final = 256
_CLOSING_TIME: Final = 1.0  # seconds a peer has to close after A-ABORT


@dataclass(frozen=True, slots=True)
class AcceptorOptions:
    """Where to listen and how much to take on."""

    host: str = "127.0.0.1"
    port: int = 11112
    max_associations: int = 64
    max_pdu_length: int = 262144
    timeouts: Timeouts = field(default_factory=Timeouts)
    tls: ssl.SSLContext | None = None


class Acceptor:
    """Accepts associations and serves them with the service classes of a registry."""

    def __init__(
        self,
        options: AcceptorOptions,
        registry: ServiceRegistry,
        policy_of: Callable[[], AcceptorPolicy],
    ) -> None:
        """`policy_of()` is asked at each association, so that a reload applies to the next one."""
        self._options = options
        self._registry = registry
        self._policy_of = policy_of
        self._connections: dict[Association, None] = {}  # a set that keeps the order of arrival
        self._established: set[Association] = set()
        self._server: asyncio.Server | None = None
        self._draining = False
        self._log = structlog.get_logger()

    @property
    def port(self) -> int:
        """The port listened on; of use when 0 was asked for."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def associations(self) -> int:
        """How many associations are established now."""
        return sum(not association.ended.is_set() for association in self._established)

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._server = await asyncio.get_running_loop().create_server(
            self._transport,
            self._options.host,
            self._options.port,
            ssl=self._options.tls,
            backlog=_BACKLOG,
            reuse_address=True,
        )

    async def drain(self, limit: float) -> None:
        """Take no new associations, let running operations finish for `limit` seconds, abort what is left."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        if not await _within(limit, self._end_idle):
            self._log.warning("node.drain_cut_short", associations=self.associations)
        await self._abort_all()

    def _end_idle(self) -> bool:
        """Abort what has no operation under way; whether nothing is left.

        Each for itself: busy senders would go on as long as they do not all pause at the same moment.
        """
        for association in tuple(self._established):
            if association.is_idle:
                association.abort_now("the node stops")
        return not self.associations

    async def _abort_all(self) -> None:
        # The peer must take the A-ABORT before the socket closes, or the reset that follows would destroy it.
        for association in tuple(self._connections):
            association.abort_now("the node stops")
        await _within(_CLOSING_TIME, lambda: not self._connections)
        for association in tuple(self._connections):
            association.drop()

    def _transport(self) -> Transport:
        upper_layer = UpperLayer(
            requestor=False,
            max_pdu_length=self._options.max_pdu_length,
            artim_timeout=self._options.timeouts.artim,
        )
        return Transport(
            upper_layer,
            lambda transport: Association(transport, self._registry, self._options.timeouts, self),
        )

    # Association's owner

    def opened(self, association: Association) -> None:
        self._connections[association] = None
        if len(self._connections) > CONNECTIONS_PER_ASSOCIATION * self._options.max_associations:
            self._drop_the_longest_silent()

    def admit(self, association: Association, request: AssociateRequest) -> AssociateAccept | AssociateReject:
        """Negotiate, unless there are too many associations already (PS3.8 9.3.4, result 2, source 3)."""
        if self._draining:
            return AssociateReject.of(Rejection.TEMPORARY_CONGESTION)
        if self.associations >= self._options.max_associations:
            return AssociateReject.of(Rejection.LOCAL_LIMIT_EXCEEDED)
        answer = negotiate(request, self._policy_of())
        if isinstance(answer, AssociateAccept):
            self._established.add(association)
        return answer

    def closed(self, association: Association) -> None:
        self._connections.pop(association, None)
        self._established.discard(association)

    def _drop_the_longest_silent(self) -> None:
        # Not the newest: whoever holds connections without a word would keep everybody else out until ARTIM.
        silent = next((one for one in self._connections if one not in self._established), None)
        if silent is None:
            return  # they all end in time by themselves
        self._log.warning("connection.dropped", remote=silent.remote_address, reason="too many connections")
        silent.drop()


async def _within(seconds: float, reached: Callable[[], bool]) -> bool:
    """Wait for a state at the end of the node's life; polled, so that no hot path has to tell of it."""
    end = asyncio.get_running_loop().time() + seconds
    while not reached():
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(0.01)
    return True
