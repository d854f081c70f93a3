"""The Application Entities this node may call: those of the configuration, and those added at run time.

The configured ones go first, and only the configuration changes them. A copy of them stands beside the others
in workflow.sqlite, so that commands of other processes see what the node sees, its flags included.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pacsnode.config import Peer
from pacsnode.dicom.uid import AETitle
from pacsnode.errors import ConfigurationError
from pacsnode.workflow.database import Database, Row, Value

_GET = "SELECT * FROM peer WHERE ae_title = ? ORDER BY configured DESC"
_PUT = """
    INSERT OR REPLACE INTO peer (ae_title, host, port, associations, configured, changed_at)
    VALUES (?, ?, ?, ?, ?, ?)
"""
# What could not be sent may be sent to the new address.
_TRY_NOW = "UPDATE job SET due = 0 WHERE peer = ? AND state = 'waiting'"


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A peer and where it comes from; `changed_at` in seconds since the epoch."""

    peer: Peer
    configured: bool
    changed_at: float


class Peers:
    """Asks the file each time, so that a peer another process has just added can be called."""

    def __init__(self, database: Database, configured: Mapping[AETitle, Peer] | None = None) -> None:
        """`configured`: None in a process that is not the node, which takes them from the node's copy."""
        self._database = database
        self._is_node = configured is not None
        self._configured = configured or {}
        self._reconfigured = asyncio.Event()
        self._on_new_address: list[Callable[[], None]] = []

    def on_new_address(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when the configuration has brought a peer, or another address of one."""
        self._on_new_address.append(listener)

    def configure(self, peers: Mapping[AETitle, Peer]) -> None:
        """Take over the peers of a configuration that was read again."""
        self._configured = peers
        self._reconfigured.set()

    async def run(self) -> None:
        """Copy the configured peers at the start and whenever they change."""
        while True:
            self._reconfigured.clear()
            await self._copy(self._configured)
            await self._reconfigured.wait()

    async def _copy(self, peers: Mapping[AETitle, Peer]) -> None:
        rows = [_row(peer, configured=True) for peer in peers.values()]
        known = {peer.ae_title: peer for peer in await self.all()}
        new = [(title,) for title, peer in peers.items() if known.get(title) != peer]
        async with self._database.transaction() as transaction:
            await transaction.execute("DELETE FROM peer WHERE configured")
            await transaction.execute_many(_PUT, rows)
            await transaction.execute_many(_TRY_NOW, new)
        for listener in self._on_new_address if new else ():
            listener()

    async def get(self, ae_title: str) -> Peer | None:
        """The peer of an AE title."""
        if (configured := self._configured.get(AETitle(ae_title))) is not None:
            return configured
        rows = await self._database.fetch(_GET, (ae_title,))
        # A copy that the configuration no longer has is none of the node's, even before it is removed.
        found = [row for row in rows if not (row["configured"] and self._is_node)]
        return _peer(found[0]) if found else None

    async def all(self) -> list[Peer]:
        """Every peer, by AE title."""
        return [known.peer for known in await self.known()]

    async def known(self) -> list[KnownPeer]:
        """Every peer with where it comes from, by AE title."""
        rows = await self._database.fetch("SELECT * FROM peer ORDER BY ae_title, configured")
        known = {row["ae_title"]: row for row in rows}  # the configured one comes last and stays
        return [KnownPeer(_peer(row), bool(row["configured"]), row["changed_at"]) for row in known.values()]

    async def add(self, peer: Peer) -> None:
        """Add a peer, or give it another address. Raises ConfigurationError for a configured one."""
        await self._refuse_configured(peer.ae_title)
        async with self._database.transaction() as transaction:
            await transaction.execute(_PUT, _row(peer, configured=False))
            await transaction.execute(_TRY_NOW, (peer.ae_title,))

    async def remove(self, ae_title: str) -> bool:
        """Forget a peer added at run time; whether there was one. Raises ConfigurationError."""
        await self._refuse_configured(ae_title)
        async with self._database.transaction() as transaction:
            removed = await transaction.execute("DELETE FROM peer WHERE ae_title = ?", (ae_title,))
        return removed > 0

    async def _refuse_configured(self, ae_title: str) -> None:
        rows = await self._database.fetch(_GET, (ae_title,))
        if rows and rows[0]["configured"]:
            raise ConfigurationError(f"peer {ae_title} stands in the configuration: change it there")


def _row(peer: Peer, *, configured: bool) -> tuple[Value, ...]:
    return peer.ae_title, peer.host, peer.port, peer.associations, configured, time.time()


def _peer(row: Row) -> Peer:
    return Peer.model_validate({name: row[name] for name in Peer.model_fields})
