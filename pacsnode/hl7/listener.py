"""The MLLP listener (HL7 v2 Transport Specification: MLLP, Release 1). Streams are python-hl7's.

A message stands between VT and FS CR; what is around it, line ends mostly, is passed over. A connection
brings one message after the other, each answered before the next is read.
"""

import asyncio
import socket
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from hl7.mllp import MLLPStreamWriter, start_hl7_server

from pacsnode.config import Hl7

MAX_CONNECTIONS: Final = 64  # an interface engine opens one for each kind of message
# Seconds, but for the last: a connection stays open for days, and one whose sender has gone keeps a place
_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
_START: Final = b"\x0b"
_END: Final = b"\x1c\r"

Receive = Callable[[bytes, str], Awaitable[bytes]]
"""From a message and the address of its sender to the acknowledgement."""


class Hl7Listener:
    """Accepts connections until it is stopped."""

    def __init__(self, receive: Receive, settings: Hl7) -> None:
        self._receive = receive
        self._settings = settings
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._connections: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Raises OSError."""
        settings = self._settings
        limit = int(settings.max_message)
        self._server = await start_hl7_server(self._connected, settings.host, settings.port, limit=limit)
        self._log.info("hl7.listening", address=f"{settings.host}:{self.port}")

    async def stop(self) -> None:
        """Close; a message that is being carried out is answered first."""
        if self._server is None:
            return
        self._stopping = True
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: StreamReader, writer: MLLPStreamWriter) -> None:
        remote = str((writer.get_extra_info("peername") or ("",))[0])
        if len(self._connections) >= MAX_CONNECTIONS:
            self._log.warning("hl7.dropped", remote=remote, reason="too many connections")
            writer.close()
            return
        _keep_alive(writer.get_extra_info("socket"))
        task = asyncio.create_task(self._serve(reader, writer, remote))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: StreamReader, writer: MLLPStreamWriter, remote: str) -> None:
        try:
            while not self._stopping and (message := await _next_message(reader)) is not None:
                writer.writeblock(await _to_the_end(self._receive(message, remote)))
                await writer.drain()
        except LimitOverrunError:
            reason = f"a message is longer than {int(self._settings.max_message)} bytes"
            self._log.warning("hl7.dropped", remote=remote, reason=reason)
        except ConnectionError as error:
            self._log.warning("hl7.dropped", remote=remote, reason=str(error) or type(error).__name__)
        finally:
            writer.close()


def _keep_alive(connection: socket.socket) -> None:
    """Have the kernel look whether the sender is still there, and end the connection when it is not."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if (option := getattr(socket, name, None)) is not None:  # not every system has each
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def _next_message(reader: StreamReader) -> bytes | None:
    """The content of the next block; None at the end. Raises LimitOverrunError."""
    while True:
        try:
            block = await reader.readuntil(_END)
        except IncompleteReadError:  # also of a connection that ends in the middle of a message: not sent
            return None
        _, start, message = block[: -len(_END)].rpartition(_START)
        if start:
            return message


async def _to_the_end(work: Awaitable[bytes]) -> bytes:
    """A message that has come is carried out and answered, whatever ends the listener meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task
