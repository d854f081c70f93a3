"""A tiny HTTP/1.1 client on plain sockets: a load in a process of its own, the same for every server.

A body that is not wanted is thrown away in the kernel (MSG_TRUNC, tcp(7)): a frame of 500 KB costs the client
one system call, so that the machine's two processors are the server's.
"""

import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from benchmarks.errors import BenchmarkError

TIMEOUT = 120  # seconds that a server may keep silent
BLOCK = 2**20  # bytes taken with one system call
JSON = "application/dicom+json"
DICOM_PARTS = 'multipart/related; type="application/dicom"'
OCTET_PARTS = 'multipart/related; type="application/octet-stream"'
JPEG = "image/jpeg"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `least`: bytes that an answer has to have to be one."""

    path: str
    accept: str
    least: int = 1
    method: str = "GET"
    content_type: str = ""
    body: bytes = b""

    def encoded(self) -> bytes:
        fields = [f"{self.method} {self.path} HTTP/1.1", "Host: 127.0.0.1", f"Accept: {self.accept}"]
        if self.body:
            fields += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*fields, "", ""]).encode()


@dataclass(slots=True)
class Load:
    """What a load came to: seconds of each answer, of all of it, and the bytes of the bodies."""

    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    size: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds


class Connection:
    """A connection that is kept; opened again where the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._held = b""
        self._block = bytearray(BLOCK)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, ask: Ask, *, keep: bool = False) -> tuple[int, bytes]:
        """The length of the body, and the body if it is to be kept. Raises BenchmarkError, OSError."""
        stream = self._socket or self._open()
        stream.sendall(ask.encoded() if len(ask.body) > BLOCK else ask.encoded() + ask.body)
        if len(ask.body) > BLOCK:
            stream.sendall(ask.body)
        status, fields = self._head()
        if "chunked" in fields.get("transfer-encoding", ""):
            size, body = self._chunks(keep)
        elif status in (204, 304):
            size, body = 0, b""
        elif "content-length" in fields:
            size = int(fields["content-length"])
            body = self._take(size, keep)
        else:
            size, body = self._rest(keep)
        if fields.get("connection", "").lower() == "close":
            self.close()
        if status != 200 or size < ask.least:
            raise BenchmarkError(f"HTTP {status} with {size} bytes: {ask.path[-60:]}")
        return size, body

    def _open(self) -> socket.socket:
        stream = self._socket = socket.create_connection(("127.0.0.1", self._port))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT, 0))
        self._held = b""
        return stream

    def _head(self) -> tuple[int, dict[str, str]]:
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            self._more()
        lines = self._held[:end].decode("latin-1").split("\r\n")
        self._held = self._held[end + 4 :]
        pairs = (line.partition(":") for line in lines[1:])
        return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def _chunks(self, keep: bool) -> tuple[int, bytes]:
        size, kept = 0, []
        while True:
            while (end := self._held.find(b"\r\n")) < 0:
                self._more()
            length = int(self._held[:end].partition(b";")[0], 16)
            self._held = self._held[end + 2 :]
            kept.append(self._take(length + 2, keep)[:-2])
            if not length:
                return size, b"".join(kept)
            size += length

    def _rest(self, keep: bool) -> tuple[int, bytes]:
        """A body that ends with its connection, which an answer without a length has."""
        assert self._socket is not None
        kept, size, got = [self._held], len(self._held), 1
        while got:
            got = self._socket.recv_into(self._block, BLOCK, 0 if keep else socket.MSG_TRUNC)
            size += got
            kept.append(bytes(self._block[:got]) if keep else b"")
        self.close()
        return size, b"".join(kept)

    def _take(self, length: int, keep: bool) -> bytes:
        at_hand, self._held = self._held[:length], self._held[length:]
        kept = [at_hand]
        left = length - len(at_hand)
        flags = socket.MSG_WAITALL | (0 if keep else socket.MSG_TRUNC)
        while left:
            assert self._socket is not None
            got = self._socket.recv_into(self._block, min(left, BLOCK), flags)
            if not got:
                raise BenchmarkError("the connection ends within a body")
            if keep:
                kept.append(bytes(self._block[:got]))
            left -= got
        return b"".join(kept) if keep else b""

    def _more(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(4096)
        if not data:
            raise BenchmarkError("the connection ends before the answer does")
        self._held += data


def once(port: int, ask: Ask) -> tuple[float, bytes]:
    """The seconds of one answer on an open connection, and its body."""
    link = Connection(port)
    try:
        link._open()
        started = time.perf_counter()
        _, body = link.ask(ask, keep=True)
        return time.perf_counter() - started, body
    finally:
        link.close()


def hammer(port: int, asks: Sequence[Ask], seconds: float, connections: int = 1, most: int = 10**9) -> Load:
    """Ask one after the other, over and over, for some time or up to `most`; a thread a connection."""
    load = Load()
    numbers = count()
    lock = threading.Lock()
    failures: list[Exception] = []
    started = time.perf_counter()

    def work() -> None:
        link = Connection(port)
        times: list[float] = []
        size = 0
        try:
            while (number := next(numbers)) < most and (not times or time.perf_counter() < started + seconds):
                asked = time.perf_counter()
                size += link.ask(asks[number % len(asks)])[0]
                times.append(time.perf_counter() - asked)
        except (OSError, BenchmarkError) as error:
            failures.append(error)
        finally:
            link.close()
            with lock:
                load.times += times
                load.size += size

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - started
    if failures:
        raise BenchmarkError(f"{len(failures)} connections failed: {failures[0]}")
    return load
