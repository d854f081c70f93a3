"""A peer that sends exactly the bytes it is told to, legal or not (PS3.8 9.3, PS3.7 6.3, 9.3).

Shares no code with the node, so that a mistake cannot cancel itself out.
"""

import asyncio
import contextlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

VERIFICATION: Final = "1.2.840.10008.1.1"
CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"

COMMAND, LAST = 1, 2  # bits of the message control header (PS3.8 E.2)
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7

C_STORE, C_FIND, C_ECHO, C_CANCEL = 0x0001, 0x0020, 0x0030, 0x0FFF
NO_DATA_SET, DATA_SET = 0x0101, 0x0000
PATIENCE: Final = 20.0  # seconds a test waits for the node before it fails


@dataclass(frozen=True)
class Pdu:
    """One PDU as received; empty type 0: the connection has been closed."""

    type: int
    body: bytes


@dataclass(frozen=True)
class Reply:
    """One DIMSE message as received."""

    context: int
    command: dict[int, bytes]
    data: bytes

    def us(self, element: int) -> int:
        return int.from_bytes(self.command[element], "little")

    @property
    def field(self) -> int:
        return self.us(0x0100)

    @property
    def status(self) -> int:
        return self.us(0x0900)

    @property
    def message_id(self) -> int:
        return self.us(0x0120)

    @property
    def comment(self) -> str:
        return self.command.get(0x0902, b"").decode("ascii").strip()


@dataclass
class Accepted:
    """What the A-ASSOCIATE-AC said."""

    contexts: dict[int, tuple[int, str]] = field(default_factory=dict)  # id -> result, transfer syntax
    items: dict[int, list[bytes]] = field(default_factory=dict)  # user information sub-items by type

    @property
    def max_pdu_length(self) -> int:
        return int(struct.unpack(">I", self.items[0x51][0])[0])

    @property
    def window(self) -> tuple[int, int] | None:
        found = self.items.get(0x53)
        return struct.unpack(">HH", found[0]) if found else None

    @property
    def roles(self) -> dict[str, tuple[int, int]]:
        found = {}
        for item in self.items.get(0x54, ()):
            length = int.from_bytes(item[:2], "big")
            found[item[2 : 2 + length].decode()] = (item[2 + length], item[3 + length])
        return found


class Closed(Exception):
    """The node closed the connection, or aborted, where an answer was due."""


class RawPeer:
    """A connection to the node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.accepted = Accepted()
        self._fragments: list[tuple[int, int, bytes]] = []

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def associated(
        cls,
        port: int,
        *contexts: tuple[str, Sequence[str]],
        max_pdu_length: int = 16384,
        window: tuple[int, int] | None = None,
        roles: Mapping[str, tuple[int, int]] | None = None,
        called: str = "PACSNODE",
        calling: str = "RAW",
    ) -> Self:
        """Open an association; context IDs are 1, 3, 5... Raises Closed when it is refused."""
        peer = await cls.connect(port)
        proposed = contexts or ((VERIFICATION, [IMPLICIT]), (CT_IMAGE, [EXPLICIT]))
        peer.send(associate_rq(proposed, max_pdu_length, window, roles or {}, called, calling))
        answer = await peer.pdu()
        if answer.type != ASSOCIATE_AC:
            await peer.close()
            raise Closed(answer)
        peer.accepted = _accepted(answer.body)
        return peer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, failure: object, *_: object) -> None:
        if failure is not None:  # a node that does not read would not let the rest out
            self.reset()
        await self.close()

    def send(self, *buffers: bytes) -> None:
        self.writer.write(b"".join(buffers))

    async def flushed(self) -> None:
        """Wait until the node has taken most of what was sent."""
        await self.writer.drain()
        while self.writer.transport.get_write_buffer_size() > 2**16:
            await asyncio.sleep(0)  # uvloop looks at its buffer after some turns only
            await self.writer.drain()

    async def pdu(self) -> Pdu:
        """The next PDU; type 0 when there is none because the connection has been closed."""
        try:
            async with asyncio.timeout(PATIENCE):
                head = await self.reader.readexactly(6)
                return Pdu(head[0], await self.reader.readexactly(int.from_bytes(head[2:], "big")))
        except (asyncio.IncompleteReadError, ConnectionError):
            return Pdu(0, b"")

    async def reply(self) -> Reply:
        """The next DIMSE message. Raises Closed when another PDU or the end comes instead."""
        command, parts = None, []
        while True:
            context, control, value = await self._fragment()
            parts.append(value)
            if not control & LAST:
                continue
            whole, parts = b"".join(parts), []
            if not control & COMMAND:
                assert command is not None
                return Reply(context, command, whole)
            command = read_command(whole)
            if int.from_bytes(command[0x0800], "little") == NO_DATA_SET:
                return Reply(context, command, b"")

    async def echo(self, context: int = 1, message_id: int = 4711) -> int:
        """The status of a C-ECHO: whether the association still works."""
        self.send(p_data(pdv(context, COMMAND | LAST, c_echo(message_id))))
        reply = await self.reply()
        assert (reply.field, reply.message_id) == (0x8030, message_id)
        return reply.status

    async def store(
        self,
        sop_instance: str,
        data: bytes,
        *,
        context: int = 3,
        sop_class: str = CT_IMAGE,
        message_id: int = 1,
    ) -> Reply:
        """C-STORE in the plainest form."""
        self.send(store_message(context, message_id, sop_class, sop_instance, data, self.max_send))
        await self.flushed()
        return await self.reply()

    async def find(
        self, identifier: bytes, *, context: int = 1, sop_class: str = STUDY_ROOT_FIND, message_id: int = 1
    ) -> list[Reply]:
        """All responses of a C-FIND, the final one last."""
        self.send(find_message(context, message_id, sop_class, identifier))
        replies = [await self.reply()]
        while replies[-1].status in (0xFF00, 0xFF01):
            replies.append(await self.reply())
        return replies

    async def release(self) -> bool:
        """Release; whether the node answered as it should."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        answer = await self.pdu()
        await self.close()
        return answer.type == RELEASE_RP

    async def ended(self) -> Pdu:
        """The A-ABORT the node sent, or the bare close (type 0); whatever came before it is skipped."""
        while True:
            received = await self.pdu()
            if received.type in (ABORT, 0):
                return received

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Break the connection off, as a crashed peer does."""
        self.writer.transport.abort()

    @property
    def max_send(self) -> int:
        """Longest P-DATA-TF body the node takes."""
        return self.accepted.max_pdu_length or 2**20

    async def _fragment(self) -> tuple[int, int, bytes]:
        while not self._fragments:
            received = await self.pdu()
            if received.type != P_DATA:
                raise Closed(received)
            self._fragments = read_pdvs(received.body)
        return self._fragments.pop(0)


# PDUs (PS3.8 9.3)


def pdu(type: int, body: bytes) -> bytes:
    return struct.pack(">BxI", type, len(body)) + body


def p_data(*values: bytes) -> bytes:
    return pdu(P_DATA, b"".join(values))


def pdv(context: int, control: int, value: bytes) -> bytes:
    return struct.pack(">IBB", len(value) + 2, context, control) + value


def abort(source: int = 0, reason: int = 0) -> bytes:
    return pdu(ABORT, bytes((0, 0, source, reason)))


def read_pdvs(body: bytes) -> list[tuple[int, int, bytes]]:
    found, offset = [], 0
    while offset < len(body):
        length, context, control = struct.unpack_from(">IBB", body, offset)
        found.append((context, control, body[offset + 6 : offset + 4 + length]))
        offset += 4 + length
    return found


def associate_rq(
    contexts: Sequence[tuple[str, Sequence[str]]],
    max_pdu_length: int = 16384,
    window: tuple[int, int] | None = None,
    roles: Mapping[str, tuple[int, int]] | None = None,
    called: str = "PACSNODE",
    calling: str = "RAW",
    version: int = 1,
) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    user = _item(0x51, struct.pack(">I", max_pdu_length)) + _item(0x52, b"1.2.3.4")
    if window is not None:
        user += _item(0x53, struct.pack(">HH", *window))
    for uid, (scu, scp) in (roles or {}).items():
        user += _item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for index, (abstract, transfers) in enumerate(contexts):
        syntaxes = _item(0x30, abstract.encode()) + b"".join(_item(0x40, t.encode()) for t in transfers)
        items += _item(0x20, bytes((2 * index + 1, 0, 0, 0)) + syntaxes)
    head = struct.pack(">HH16s16s32x", version, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    return pdu(1, head + items + _item(0x50, user))


def associate_ac(request: bytes, transfer_syntax: str, max_pdu_length: int = 16384) -> bytes:
    """A-ASSOCIATE-AC that takes the first context of the request with this body (PS3.8 9.3.3)."""
    accepted = bytes((1, 0, 0, 0)) + _item(0x40, transfer_syntax.encode())
    user = _item(0x51, struct.pack(">I", max_pdu_length)) + _item(0x52, b"1.2.3.4")
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x21, accepted) + _item(0x50, user)
    return pdu(ASSOCIATE_AC, request[:68] + items)


def _item(type: int, body: bytes) -> bytes:
    return struct.pack(">BxH", type, len(body)) + body


def _items(body: bytes) -> Iterable[tuple[int, bytes]]:
    offset = 0
    while offset < len(body):
        type, length = struct.unpack_from(">BxH", body, offset)
        yield type, body[offset + 4 : offset + 4 + length]
        offset += 4 + length


def _accepted(body: bytes) -> Accepted:
    accepted = Accepted()
    for type, value in _items(body[68:]):
        if type == 0x21:
            syntax = next((v.decode() for t, v in _items(value[4:]) if t == 0x40), "")
            accepted.contexts[value[0]] = (value[2], syntax.rstrip("\0"))
        elif type == 0x50:
            for kind, sub_item in _items(value):
                accepted.items.setdefault(kind, []).append(sub_item)
    return accepted


# Messages (PS3.7 9.3)


def command(elements: Mapping[int, int | str | bytes]) -> bytes:
    """A command set in ascending order with its group length; int: US, str: UI padded with NUL."""
    body = b""
    for element, value in sorted(elements.items()):
        raw = struct.pack("<H", value) if isinstance(value, int) else value
        raw = raw.encode() if isinstance(raw, str) else raw
        raw += b"\0" * (len(raw) & 1)
        body += struct.pack("<HHI", 0, element, len(raw)) + raw
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def read_command(data: bytes) -> dict[int, bytes]:
    elements, offset = {}, 0
    while offset < len(data):
        group, element, length = struct.unpack_from("<HHI", data, offset)
        assert group == 0
        elements[element] = data[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return elements


def c_echo(message_id: int = 1) -> bytes:
    return command({0x0002: VERIFICATION, 0x0100: C_ECHO, 0x0110: message_id, 0x0800: NO_DATA_SET})


def c_store(message_id: int, sop_class: str, sop_instance: str) -> bytes:
    return command(
        {
            0x0002: sop_class,
            0x0100: C_STORE,
            0x0110: message_id,
            0x0700: 0,
            0x0800: DATA_SET,
            0x1000: sop_instance,
        }
    )


def c_find(message_id: int, sop_class: str) -> bytes:
    return command({0x0002: sop_class, 0x0100: C_FIND, 0x0110: message_id, 0x0700: 0, 0x0800: DATA_SET})


def c_cancel(message_id: int) -> bytes:
    return command({0x0100: C_CANCEL, 0x0120: message_id, 0x0800: NO_DATA_SET})


def store_message(
    context: int, message_id: int, sop_class: str, sop_instance: str, data: bytes, max_pdu_length: int = 16384
) -> bytes:
    """C-STORE-RQ: a PDU with the command, then PDUs as long as allowed with the data set."""
    head = p_data(pdv(context, COMMAND | LAST, c_store(message_id, sop_class, sop_instance)))
    return head + data_pdus(context, data, max_pdu_length)


def find_message(context: int, message_id: int, sop_class: str, identifier: bytes) -> bytes:
    head = p_data(pdv(context, COMMAND | LAST, c_find(message_id, sop_class)))
    return head + p_data(pdv(context, LAST, identifier))


def data_pdus(context: int, data: bytes, max_pdu_length: int, *, ends: bool = True) -> bytes:
    """P-DATA-TF PDUs with a data set; `ends` False: its last fragment is still to come."""
    room = max_pdu_length - 6
    pieces = [data[i : i + room] for i in range(0, len(data), room)] or [b""]
    last = len(pieces) - 1
    return b"".join(
        p_data(pdv(context, LAST * (ends and i == last), piece)) for i, piece in enumerate(pieces)
    )
