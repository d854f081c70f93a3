"""Protocol data units (PS3.8 9.3): the received stream cut into them, and those to send as bytes. Pure.

`PduReader` takes the stream in any chopping. P-DATA-TF is the hot path and never gathered: each piece of a
PDV is given out as it arrives, as a view of the received chunk, so a PDU of any length costs no memory. The
other PDUs are small and gathered up to a limit. A-ASSOCIATE-RQ and -AC are in `associate`.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pacsnode.errors import InvalidPdu
from pacsnode.ul.associate import decode_accept, decode_request, encode_accept, encode_request
from pacsnode.ul.negotiation import AssociateAccept, AssociateReject, AssociateRequest

Buffer = bytes | bytearray | memoryview

MAX_GATHERED: Final = 2**20  # bytes of a PDU other than P-DATA-TF; 128 contexts with 60 syntaxes take 0.5 MB
MAX_UNLIMITED_PDU: Final = 2**20  # bytes of P-DATA-TF body sent to a peer that takes any length
LENGTH_TOLERANCE: Final = 128  # bytes; some senders do not count the headers of PDVs into their maximum
_JOINED: Final = 64 * 1024  # bytes of data up to which a copy is cheaper than a buffer more to write

_HEADER: Final = struct.Struct(">BxL")  # PDU type and length
_PDV: Final = struct.Struct(">LBB")  # length of what follows, context ID, message control header
_HEADERS: Final = struct.Struct(">BxLLBB")  # both
_PDV_OVERHEAD: Final = _PDV.size
_IDS: Final = 2  # bytes of a PDV that its length counts besides the data

_COMMAND: Final = 1  # message control header, PS3.8 E.2; bits 2 to 7 are not checked
_LAST: Final = 2


class PduType(IntEnum):
    """First byte of a PDU."""

    A_ASSOCIATE_RQ = 1
    A_ASSOCIATE_AC = 2
    A_ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    A_RELEASE_RQ = 5
    A_RELEASE_RP = 6
    A_ABORT = 7


_P_DATA_TF: Final = int(PduType.P_DATA_TF)  # an attribute of an enumeration is slow to get


class AbortSource(IntEnum):
    """Who aborts (PS3.8 Table 9-26)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(IntEnum):
    """Why the service-provider aborts (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


_ABORT_REASONS: Final[dict[int, str]] = {
    AbortReason.NOT_SPECIFIED: "reason not specified",
    AbortReason.UNRECOGNIZED_PDU: "unrecognized PDU",
    AbortReason.UNEXPECTED_PDU: "unexpected PDU",
    AbortReason.UNRECOGNIZED_PARAMETER: "unrecognized PDU parameter",
    AbortReason.UNEXPECTED_PARAMETER: "unexpected PDU parameter",
    AbortReason.INVALID_PARAMETER: "invalid PDU parameter value",
}


@dataclass(slots=True)
class PDataFragment:
    """A piece of a presentation data value. `data` is a view of the received chunk.

    `is_last`: it ends the command set or the data set. False on all but the final piece of a cut PDV.
    """

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


@dataclass(frozen=True, slots=True)
class ReleaseRq:
    """A-RELEASE-RQ (PS3.8 9.3.6)."""


@dataclass(frozen=True, slots=True)
class ReleaseRp:
    """A-RELEASE-RP (PS3.8 9.3.7)."""


@dataclass(frozen=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 9.3.8)."""

    source: int = AbortSource.SERVICE_USER
    reason: int = AbortReason.NOT_SPECIFIED

    @property
    def meaning(self) -> str:
        """Source and reason in words. The reason counts only when the service-provider aborts."""
        if self.source == AbortSource.SERVICE_USER:
            return "aborted by the service-user"
        who = "service-provider" if self.source == AbortSource.SERVICE_PROVIDER else f"source {self.source}"
        return f"aborted by the {who}: {_ABORT_REASONS.get(self.reason, f'reason {self.reason}')}"


Pdu = (
    PDataFragment
    | AssociateRequest
    | AssociateAccept
    | AssociateReject
    | ReleaseRq
    | ReleaseRp
    | Abort
    | InvalidPdu
)
"""What the reader gives out. InvalidPdu is the last thing there is: the stream cannot be followed further."""


def encode(
    pdu: AssociateRequest | AssociateAccept | AssociateReject | ReleaseRq | ReleaseRp | Abort,
) -> bytes:
    """A whole PDU that is no P-DATA-TF."""
    match pdu:
        case AssociateRequest():
            kind, body = PduType.A_ASSOCIATE_RQ, encode_request(pdu)
        case AssociateAccept():
            kind, body = PduType.A_ASSOCIATE_AC, encode_accept(pdu)
        case AssociateReject():
            kind, body = PduType.A_ASSOCIATE_RJ, bytes((0, pdu.result, pdu.source, pdu.reason))
        case ReleaseRq():
            kind, body = PduType.A_RELEASE_RQ, bytes(4)
        case ReleaseRp():
            kind, body = PduType.A_RELEASE_RP, bytes(4)
        case Abort():
            kind, body = PduType.A_ABORT, bytes((0, 0, pdu.source, pdu.reason))
    return _HEADER.pack(kind, len(body)) + body


def p_data_tf(
    context_id: int, is_command: bool, data: Buffer, max_pdu_length: int, *, last: bool = True
) -> list[bytes | memoryview]:
    """`data` as P-DATA-TF PDUs of one PDV each (PS3.8 9.3.5), in buffers to be written one after the other.

    `max_pdu_length`: longest PDU body the peer takes, in bytes, 0 for any. `last`: the data end here.
    Short data are copied next to their header; long ones stay views of `data`.
    """
    control = _COMMAND if is_command else 0
    final = control | _LAST if last else control
    size = len(data)
    most = _data_per_pdu(max_pdu_length)
    if size <= most and size <= _JOINED:
        return [_HEADERS.pack(_P_DATA_TF, size + 6, size + 2, context_id, final) + data]
    view = memoryview(data)
    buffers: list[bytes | memoryview] = []
    for start in range(0, size, most):
        piece = view[start : start + most]
        length = len(piece)
        flags = final if start + length == size else control
        buffers.append(_HEADERS.pack(_P_DATA_TF, length + 6, length + 2, context_id, flags))
        buffers.append(piece)
    return buffers


def p_data_message(
    context_id: int, command: bytes, data: Buffer, max_pdu_length: int
) -> list[bytes | memoryview]:
    """A command set and its data set, as `p_data_tf` cuts them; where each is one PDU in fewer steps."""
    size, length = len(command), len(data)
    if size > (most := _data_per_pdu(max_pdu_length)) or length > most:
        return [
            *p_data_tf(context_id, True, command, max_pdu_length),
            *p_data_tf(context_id, False, data, max_pdu_length),
        ]
    heads = (
        _HEADERS.pack(_P_DATA_TF, size + 6, size + 2, context_id, _COMMAND | _LAST)
        + command
        + _HEADERS.pack(_P_DATA_TF, length + 6, length + 2, context_id, _LAST)
    )
    return [heads + data] if length <= _JOINED else [heads, memoryview(data)]


def p_data_messages(
    context_id: int, command: bytes, data_sets: Sequence[bytes], max_pdu_length: int
) -> list[bytes | memoryview]:
    """Messages of the same command set and a data set each; where those are short all in one buffer."""
    if not data_sets:
        return []
    longest = max(map(len, data_sets))
    if longest > _JOINED or max(longest, len(command)) > _data_per_pdu(max_pdu_length):
        messages = (p_data_message(context_id, command, data, max_pdu_length) for data in data_sets)
        return [buffer for message in messages for buffer in message]
    before = (
        _HEADERS.pack(_P_DATA_TF, len(command) + 6, len(command) + 2, context_id, _COMMAND | _LAST) + command
    )
    heads: dict[int, bytes] = {}
    parts: list[bytes] = []
    for data in data_sets:
        length = len(data)
        if (head := heads.get(length)) is None:
            head = before + _HEADERS.pack(_P_DATA_TF, length + 6, length + 2, context_id, _LAST)
            heads[length] = head
        parts += (head, data)
    return [b"".join(parts)]


def _data_per_pdu(max_pdu_length: int) -> int:
    # Fragments have an even number of bytes (PS3.8 E.1). A limit that leaves no room for data is not meant.
    most = (max_pdu_length or MAX_UNLIMITED_PDU) - _PDV_OVERHEAD
    return max(most & ~1, 2)


class PduReader:
    """Cuts a received stream into PDUs and P-DATA-TF into fragments."""

    __slots__ = (
        "_body",
        "_body_left",
        "_broken",
        "_context_id",
        "_is_command",
        "_is_last",
        "_kind",
        "_partial",
        "_pdv_left",
        "max_pdu_length",
    )

    def __init__(self, max_pdu_length: int = 0) -> None:
        """`max_pdu_length`: longest P-DATA-TF body the peer was told it may send, in bytes, 0 for any."""
        self.max_pdu_length = max_pdu_length
        self._partial = bytearray()  # a header cut by the end of a chunk
        self._kind = 0  # of a PDU being gathered; 0: none is
        self._body = bytearray()
        self._body_left = (
            0  # bytes of the current PDU still to come, of P-DATA-TF those after the current PDV
        )
        self._pdv_left = 0  # bytes of data of the current PDV still to come
        self._context_id = 0
        self._is_command = False
        self._is_last = False
        self._broken = False

    @property
    def is_at_start(self) -> bool:
        """Nothing is half received: the next byte begins a PDU."""
        return not (self._pdv_left or self._kind or self._body_left or self._partial or self._broken)

    def receive(self, chunk: Buffer) -> list[Pdu]:
        """What `chunk` completes, in order. Fragments are views of it: it must not change afterwards.

        What is no PDU ends the list with an InvalidPdu, and everything received later is ignored.
        """
        pdus: list[Pdu] = []
        if self._broken:
            return pdus
        view = memoryview(chunk)
        position, end = 0, len(view)
        try:
            while position < end:
                if self._pdv_left:
                    position = self._read_data(view, position, end, pdus)
                elif self._kind:
                    position = self._gather(view, position, end, pdus)
                elif self._body_left:
                    position = self._read_pdv_header(view, position, end, pdus)
                elif (stop := self._read_whole(view, position, end, pdus)) > position:
                    position = stop
                else:
                    position = self._read_header(view, position, end, pdus)
        except InvalidPdu as error:
            self._broken = True
            pdus.append(error)
        return pdus

    def _read_whole(self, view: memoryview, position: int, end: int, pdus: list[Pdu]) -> int:
        """A P-DATA-TF of one PDV that lies in `view` whole, as commands do; other PDUs are left alone."""
        if self._partial or end - position < _HEADERS.size:
            return position
        kind, length, pdv_length, context_id, control = _HEADERS.unpack_from(view, position)
        stop: int = position + _HEADER.size + length
        if kind != _P_DATA_TF or pdv_length != length - 4 or pdv_length <= _IDS or stop > end:
            return position
        if 0 < self.max_pdu_length < length - LENGTH_TOLERANCE:
            return position
        data = view[position + _HEADERS.size : stop]
        pdus.append(PDataFragment(context_id, control & _COMMAND != 0, control & _LAST != 0, data))
        return stop

    def _read_header(self, view: memoryview, position: int, end: int, pdus: list[Pdu]) -> int:
        if self._partial or end - position < _HEADER.size:
            position = self._complete(view, position, _HEADER.size)
            if len(self._partial) < _HEADER.size:
                return position
            kind, length = _HEADER.unpack(self._partial)
            self._partial.clear()
        else:
            kind, length = _HEADER.unpack_from(view, position)
            position += _HEADER.size
        if kind != _P_DATA_TF:
            self._begin_gathering(kind, length)
            return position
        limit = self.max_pdu_length
        if length < _PDV.size or (limit and length > limit + LENGTH_TOLERANCE):
            raise InvalidPdu(f"P-DATA-TF of {length} bytes", AbortReason.INVALID_PARAMETER)
        self._body_left = length
        return position

    def _read_pdv_header(self, view: memoryview, position: int, end: int, pdus: list[Pdu]) -> int:
        if self._partial or end - position < _PDV.size:
            position = self._complete(view, position, _PDV.size)
            if len(self._partial) < _PDV.size:
                return position
            length, self._context_id, control = _PDV.unpack(self._partial)
            self._partial.clear()
        else:
            length, self._context_id, control = _PDV.unpack_from(view, position)
            position += _PDV.size
        left = self._body_left - length - 4
        # What follows the PDV is nothing or room for another: else the lengths contradict each other.
        if length < _IDS or left < 0 or 0 < left < _PDV.size:
            raise InvalidPdu(
                f"PDV of {length} bytes with {self._body_left - 4} left of its PDU",
                AbortReason.INVALID_PARAMETER,
            )
        self._body_left = left
        self._pdv_left = length - _IDS
        self._is_command = control & _COMMAND != 0
        self._is_last = control & _LAST != 0
        if not self._pdv_left:
            # Not to be sent, but to be processed (PS3.8 E.1): it may carry the last fragment flag.
            pdus.append(PDataFragment(self._context_id, self._is_command, self._is_last, view[:0]))
        return position

    def _read_data(self, view: memoryview, position: int, end: int, pdus: list[Pdu]) -> int:
        left = self._pdv_left
        stop = position + left
        if stop <= end:
            self._pdv_left = 0
            pdus.append(PDataFragment(self._context_id, self._is_command, self._is_last, view[position:stop]))
            return stop
        self._pdv_left = stop - end
        pdus.append(PDataFragment(self._context_id, self._is_command, False, view[position:end]))
        return end

    def _complete(self, view: memoryview, position: int, size: int) -> int:
        """Put the head of `view` to a header that was cut, up to `size` bytes."""
        stop = position + size - len(self._partial)
        self._partial += view[position:stop]
        return min(stop, len(view))

    def _begin_gathering(self, kind: int, length: int) -> None:
        if kind not in _DECODERS:
            raise InvalidPdu(f"unknown PDU type {kind:02X}H", AbortReason.UNRECOGNIZED_PDU)
        if kind > PduType.A_ASSOCIATE_AC and length != 4:
            raise InvalidPdu(f"PDU of type {kind:02X}H with {length} bytes", AbortReason.INVALID_PARAMETER)
        if length > MAX_GATHERED or not length:
            raise InvalidPdu(f"A-ASSOCIATE of {length} bytes", AbortReason.INVALID_PARAMETER)
        self._kind = kind
        self._body_left = length

    def _gather(self, view: memoryview, position: int, end: int, pdus: list[Pdu]) -> int:
        stop = min(position + self._body_left, end)
        self._body += view[position:stop]
        self._body_left -= stop - position
        if not self._body_left:
            decode, body = _DECODERS[self._kind], bytes(self._body)
            self._kind = 0
            self._body = bytearray()
            pdus.append(decode(body))
        return stop


_DECODERS: Final[dict[int, Callable[[bytes], Pdu]]] = {
    PduType.A_ASSOCIATE_RQ: decode_request,
    PduType.A_ASSOCIATE_AC: decode_accept,
    PduType.A_ASSOCIATE_RJ: lambda body: AssociateReject(body[1], body[2], body[3]),
    PduType.A_RELEASE_RQ: lambda body: ReleaseRq(),
    PduType.A_RELEASE_RP: lambda body: ReleaseRp(),
    PduType.A_ABORT: lambda body: Abort(body[2], body[3]),
}
