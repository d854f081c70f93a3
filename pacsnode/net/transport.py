"""One transport connection: bytes between a socket and an `UpperLayer`. No decisions.

Flow control, timers, socket options. Works alike on plain and TLS connections: only two socket options look
below the asyncio transport.
"""

import asyncio
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Callable
from typing import Final, Protocol

from pacsnode.ul.upper_layer import Event, UpperLayer

# Absent outside Linux. See docs/architecture.md: a stock DCMTK sender is about 100 times faster for it.
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_JOIN_BELOW: Final = 64 * 1024  # bytes; below this one copy is cheaper than a gathering write
_WRITE_HIGH_WATER: Final = 1024 * 1024  # bytes waiting in user space before producers are told to wait
LINGER: Final = 5.0  # seconds that a peer gets, once the connection is to be closed, to read what is left


class Handler(Protocol):
    """What sits on top of a transport: an association."""

    def connected(self) -> None:
        """The connection is up."""

    def unusable(self, reason: str) -> None:
        """The connection is up and cannot be served; `disconnected` follows."""

    def handle(self, event: Event) -> None:
        """An upper layer event; in the order they happened."""

    def received(self) -> bool:
        """All events of one received chunk have been handled; whether the peer may wait for an
        acknowledgement before it sends more."""

    def disconnected(self) -> None:
        """The connection is gone; nothing more will come."""


class Transport(asyncio.Protocol):
    """asyncio protocol <-> UpperLayer."""

    def __init__(self, upper_layer: UpperLayer, handler_of: Callable[["Transport"], Handler]) -> None:
        self.upper_layer = upper_layer
        self.last_received = 0.0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.remote_address = ""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self._handler = handler_of(self)
        self._reading = True
        self._delivering = False  # what is sent meanwhile leaves at the end, in one write

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)  # type: ignore[union-attr]
        peer = transport.get_extra_info("peername")
        self.remote_address = str(peer[0]) if peer else ""
        try:
            self._socket = _own_socket(transport)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:  # no descriptor is left; nothing else would ever close this one
            self._handler.unusable(reason_of(error))
            self.close()
            return
        self._acknowledge_at_once()
        self.last_received = self._loop.time()
        self.upper_layer.connected(self.last_received)
        self._handler.connected()
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.last_received = now = self._loop.time()
        self.bytes_received += len(data)
        self.upper_layer.receive_data(data, now)
        if self._deliver():
            self._acknowledge_at_once()

    def eof_received(self) -> bool:
        self.upper_layer.receive_eof()
        self._deliver()
        self._close_in_time()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.upper_layer.receive_eof()
        for event in self.upper_layer.events_received():
            self._handler.handle(event)
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        if self._socket is not None:
            self._socket.close()
        self._transport = self._socket = None
        self._writable.set()
        self._closed.set()
        self._handler.disconnected()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # for the association

    @property
    def is_writable(self) -> bool:
        """False while the peer does not read fast enough."""
        return self._writable.is_set()

    @property
    def bytes_taken(self) -> int:
        """Bytes sent that are not on the way any more: the peer's system has acknowledged them."""
        if self._transport is None or self._socket is None:
            return self.bytes_sent
        return self.bytes_sent - self._transport.get_write_buffer_size() - _unacknowledged(self._socket)

    @property
    def is_reading(self) -> bool:
        return self._reading

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was written."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()
            self.last_received = self._loop.time()  # as far as anybody can tell: it was not listened to
            self._acknowledge_at_once()

    def flush(self) -> None:
        """Write what the upper layer has to send, follow its timer, close when it says so."""
        if not self._delivering:
            self._flush()

    def _flush(self) -> bool:
        """Whether anything was written."""
        if self._transport is None:
            return False
        buffers = self.upper_layer.data_to_send()
        if buffers:
            self._write(buffers)
        if self.upper_layer.close_expected:
            self._close_in_time()
        if self._timer is not None or self.upper_layer.deadline is not None:
            self._follow_deadline()
        return bool(buffers)

    def _write(self, buffers: list[bytes | memoryview]) -> None:
        assert self._transport is not None
        size = sum(map(len, buffers))
        self.bytes_sent += size
        if len(buffers) == 1:
            self._transport.write(buffers[0])
        elif size < _JOIN_BELOW:
            self._transport.write(b"".join(buffers))
        else:
            self._transport.writelines(buffers)

    async def closed(self, limit: float) -> None:
        """Wait until the connection is gone, at most `limit` seconds; then drop it."""
        try:
            async with asyncio.timeout(limit):
                await self._closed.wait()
        except TimeoutError:
            self.close()

    def close(self) -> None:
        """Drop the connection without another byte."""
        if self._transport is not None:
            self._transport.abort()

    def _close_in_time(self) -> None:
        """Close when all is written; a peer that does not read would keep that from happening for ever."""
        if self._transport is None:
            return
        if self._linger is None and self._transport.get_write_buffer_size():
            self._linger = self._loop.call_later(LINGER, self.close)
        self._transport.close()

    def _deliver(self) -> bool:
        """Handle what has happened, then write; whether the peer may wait for an acknowledgement."""
        handle = self._handler.handle
        self._delivering = True
        try:
            for event in self.upper_layer.events_received():
                handle(event)
            may_wait = self._handler.received()
        finally:
            self._delivering = False
        return not self._flush() and may_wait  # what is written acknowledges besides

    def _acknowledge_at_once(self) -> None:
        # The kernel leaves this mode by itself, so it is asked for again after each read. OSError: peer gone.
        if _QUICKACK is not None and self._socket is not None:
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            except OSError:
                return

    def _follow_deadline(self) -> None:
        deadline = self.upper_layer.deadline
        if self._timer is not None:
            if deadline is not None and self._timer.when() == deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        self.upper_layer.handle_timer(max(self._loop.time(), self.upper_layer.deadline or 0.0))
        self._deliver()


def reason_of(error: OSError) -> str:
    """Why there is no connection, as the system puts it; asyncio has the address where the reason belongs."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes in the system's send queue (SIOCOUTQ, tcp(7)); 0 where the system does not tell."""
    try:
        return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _own_socket(transport: asyncio.BaseTransport) -> socket.socket:
    """A second descriptor of the connection: uvloop's stand-in makes a socket anew for every option."""
    return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
