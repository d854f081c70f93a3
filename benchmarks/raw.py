"""A tiny blocking DIMSE requestor on plain sockets (PS3.7 9.3, PS3.8 9.3): C-ECHO, C-STORE, C-FIND.

It does as little as the standard allows, so that the figures are the server's: requests can be encoded before
the clock starts, a message leaves in one system call, and the data set is sent from where it lies.
"""

import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from benchmarks.errors import PeerError
from benchmarks.objects import CT_IMAGE, EXPLICIT_VR_LE, IMPLEMENTATION, MULTI_FRAME_WORD, Instance

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_VR_LE = "1.2.840.10008.1.2"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

CONTEXTS = {
    VERIFICATION: IMPLICIT_VR_LE,
    STUDY_ROOT_FIND: IMPLICIT_VR_LE,
    CT_IMAGE: EXPLICIT_VR_LE,
    MULTI_FRAME_WORD: EXPLICIT_VR_LE,
}

LARGEST_PDU = 131072  # bytes; what dcmtk sends at most, whatever the peer would take
BUFFERS_PER_CALL = 512  # below IOV_MAX (1024 on Linux)
NO_DATA_SET = 0x0101  # (0000,0800), PS3.7 E.1
DATA_SET = 0x0000
PENDING = frozenset({0xFF00, 0xFF01})

AFFECTED_SOP_CLASS = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
AFFECTED_SOP_INSTANCE = 0x1000

Message = Sequence[bytes | memoryview]


class Association:
    """One association as requestor; `window` is what the acceptor granted of the window asked for."""

    def __init__(
        self,
        port: int,
        called_ae: str,
        *,
        contexts: Mapping[str, str] = CONTEXTS,
        window: int = 1,
        timeout: float = 60.0,
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb", buffering=65536)
        self._pdvs: deque[tuple[int, memoryview]] = deque()
        self._message_id = 0
        self._command, self._status, self._has_data = b"", 0, False  # of the last response
        self._ids = {sop_class: 2 * at + 1 for at, sop_class in enumerate(contexts)}
        try:
            self._socket.sendall(_associate_request(called_ae, self._ids, contexts, window))
            accept = self._pdu()
            self._accepted, self._max_length, granted = _read_accept(accept[1])
        except BaseException:
            self._socket.close()
            raise
        self.window = min(window, granted) if granted else window  # 0 grants an unlimited window

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.release()
        self._socket.close()

    def echo(self) -> None:
        """C-ECHO, raising PeerError unless it answers Success."""
        command = {COMMAND_FIELD: 0x0030, DATA_SET_TYPE: NO_DATA_SET}
        self.send(self._message(VERIFICATION, command, ()))
        self.receive_success()

    def find(self, keys: bytes) -> list[bytes]:
        """C-FIND with Study Root; the identifiers of all matches, as encoded."""
        command = {COMMAND_FIELD: 0x0020, PRIORITY: 0, DATA_SET_TYPE: DATA_SET}
        self.send(self._message(STUDY_ROOT_FIND, command, (keys,)))
        matches = []
        while True:
            status, data = self.receive()
            if status in PENDING:
                matches.append(data)
            elif status == 0:
                return matches
            else:
                raise PeerError(f"C-FIND answered {status:04X}H")

    def store_request(self, instance: Instance) -> Message:
        """The C-STORE request for `instance`, ready to be sent."""
        command: dict[int, int | str] = {
            COMMAND_FIELD: 0x0001,
            PRIORITY: 0,
            DATA_SET_TYPE: DATA_SET,
            AFFECTED_SOP_INSTANCE: instance.sop_instance,
        }
        return self._message(instance.sop_class, command, (instance.head, instance.pixels))

    def send(self, message: Message) -> None:
        for at in range(0, len(message), BUFFERS_PER_CALL):
            self._send_all([memoryview(part) for part in message[at : at + BUFFERS_PER_CALL]])

    def receive(self) -> tuple[int, bytes]:
        """The next response: its status and its data set."""
        command = self._collect(is_command=True)
        if command != self._command:  # the pending responses to a query are all the same
            values = dict(_read_command(command))
            self._status = _number(values, STATUS)
            self._has_data = _number(values, DATA_SET_TYPE) != NO_DATA_SET
            self._command = command
        return self._status, self._collect(is_command=False) if self._has_data else b""

    def receive_success(self) -> None:
        status, _ = self.receive()
        if status:
            raise PeerError(f"answered {status:04X}H")

    def release(self) -> None:
        """A-RELEASE; a peer that only closes is taken as released."""
        try:
            self._socket.sendall(struct.pack(">BxI4x", 0x05, 4))
            self._pdu()
        except (OSError, PeerError):
            pass
        self._socket.close()

    def _message(self, sop_class: str, command: Mapping[int, int | str], data: Sequence[bytes]) -> Message:
        context = self._ids[sop_class]
        if context not in self._accepted:
            raise PeerError(f"presentation context for {sop_class} not accepted")
        self._message_id = self._message_id % 65535 + 1
        values = {AFFECTED_SOP_CLASS: sop_class, MESSAGE_ID: self._message_id, **command}
        longest = min(self._max_length or LARGEST_PDU, LARGEST_PDU) - 6
        encoded = _encode_command(values)
        return [*_p_data(context, 1, [encoded], longest), *_p_data(context, 0, data, longest)]

    def _send_all(self, buffers: list[memoryview]) -> None:
        while buffers:
            sent = self._socket.sendmsg(buffers)
            whole = 0
            while whole < len(buffers) and sent >= len(buffers[whole]):
                sent -= len(buffers[whole])
                whole += 1
            del buffers[:whole]
            if sent:
                buffers[0] = buffers[0][sent:]

    def _collect(self, is_command: bool) -> bytes:
        """The fragments of one command set or data set, joined."""
        parts = []
        while True:
            control, fragment = self._pdv()
            if bool(control & 1) is not is_command:
                raise PeerError("command and data set fragments out of order")
            if control & 2 and not parts:
                return bytes(fragment)
            parts.append(fragment)
            if control & 2:
                return b"".join(parts)

    def _pdv(self) -> tuple[int, memoryview]:
        while not self._pdvs:
            kind, body = self._pdu()
            if kind != 0x04:
                raise PeerError(f"PDU type {kind:02X}H while a response was awaited")
            if int.from_bytes(body[:4]) + 4 == len(body):  # one PDV a PDU, as nearly everybody sends them
                return body[5], memoryview(body)[6:]
            at, view = 0, memoryview(body)
            while at < len(body):
                (length,) = struct.unpack_from(">I", body, at)
                self._pdvs.append((body[at + 5], view[at + 6 : at + 4 + length]))
                at += 4 + length
        return self._pdvs.popleft()

    def _pdu(self) -> tuple[int, bytes]:
        header = self._stream.read(6)
        if len(header) < 6:
            raise PeerError("connection closed by the peer")
        kind, length = struct.unpack(">BxI", header)
        body = self._stream.read(length)
        if kind == 0x03:
            raise PeerError("association rejected (result {1}, source {2}, reason {3})".format(*body))
        if kind == 0x07:
            raise PeerError("association aborted (source {2}, reason {3})".format(*body))
        return kind, body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _associate_request(
    called_ae: str, ids: Mapping[str, int], contexts: Mapping[str, str], window: int
) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2); the window item (PS3.7 D.3.3.3) only when one is asked for."""
    proposed = b"".join(
        _item(
            0x20,
            struct.pack(">B3x", ids[abstract])
            + _item(0x30, abstract.encode())
            + _item(0x40, transfer.encode()),
        )
        for abstract, transfer in contexts.items()
    )
    user = _item(0x51, struct.pack(">I", LARGEST_PDU)) + _item(0x52, IMPLEMENTATION.encode())
    if window > 1:
        user += _item(0x53, struct.pack(">HH", window, 1))
    body = struct.pack(">HH16s16s32x", 1, 0, called_ae.encode().ljust(16), b"BENCH".ljust(16))
    body += _item(0x10, APPLICATION_CONTEXT.encode()) + proposed + _item(0x50, user)
    return struct.pack(">BxI", 0x01, len(body)) + body


def _items(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        yield kind, body[at + 4 : at + 4 + length]
        at += 4 + length


def _read_accept(body: bytes) -> tuple[frozenset[int], int, int]:
    """The accepted contexts, the peer's maximum PDU length and the window granted, of an A-ASSOCIATE-AC."""
    accepted, longest, window = set(), 0, 1
    for kind, value in _items(body[68:]):
        if kind == 0x21 and value[2] == 0:
            accepted.add(value[0])
        elif kind == 0x50:
            user = dict(_items(value))
            longest = int.from_bytes(user.get(0x51, b"\0"))
            if 0x53 in user:
                (window,) = struct.unpack_from(">H", user[0x53])
    return frozenset(accepted), longest, window


def _encode_command(values: Mapping[int, int | str]) -> bytes:
    """A command set with its group length, Implicit VR Little Endian (PS3.7 6.3.1); numbers are US."""
    encoded = b""
    for number, value in sorted(values.items()):
        if isinstance(value, int):
            raw = struct.pack("<H", value)
        else:
            raw = value.encode() + b"\0" * (len(value) % 2)
        encoded += struct.pack("<HHI", 0x0000, number, len(raw)) + raw
    return struct.pack("<HHII", 0x0000, 0x0000, 4, len(encoded)) + encoded


def _read_command(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(encoded):
        number, length = struct.unpack_from("<2xHI", encoded, at)
        yield number, encoded[at + 8 : at + 8 + length]
        at += 8 + length


def _number(values: Mapping[int, bytes], number: int) -> int:
    if number not in values:
        raise PeerError(f"response without (0000,{number:04X})")
    return int.from_bytes(values[number], "little")


def _p_data(
    context: int, is_command: int, parts: Sequence[bytes], longest: int
) -> Iterator[bytes | memoryview]:
    """`parts` as P-DATA-TF PDUs of one PDV each (PS3.8 9.3.5): headers with views of the parts."""
    left = sum(map(len, parts))
    room = 0
    for part in parts:
        view = memoryview(part)
        while view:
            if not room:
                room = min(longest, left)
                control = is_command | (2 if room == left else 0)
                yield struct.pack(">BxIIBB", 0x04, room + 6, room + 2, context, control)
            yield (taken := view[:room])
            view = view[len(taken) :]
            room -= len(taken)
            left -= len(taken)
