"""A-ASSOCIATE-RQ and A-ASSOCIATE-AC as bytes (PS3.8 9.3.2, 9.3.3, Annex D; PS3.7 D.3.3). Pure.

By hand rather than through pynetdicom's PDU classes, which the tests use as the oracle instead:
128 contexts take those 8 ms, in which every other association waits, and 0.4 ms here; they raise a dozen
different exceptions for bad lengths, and refuse UIDs and AE titles that are in use in the field.

Bodies come without the six bytes of the PDU header. Items of unrecognized types are skipped (PS3.8 9.3.1);
reserved fields are not tested. What contradicts itself raises InvalidPdu: lengths that run past their item,
a presentation context ID that is even or used twice.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pacsnode.dicom.uid import UID
from pacsnode.errors import InvalidPdu
from pacsnode.ul.negotiation import (
    AcceptedContext,
    AssociateAccept,
    AssociateRequest,
    CommonExtended,
    ProposedContext,
    Result,
    UserIdentity,
)

INVALID_PARAMETER: Final = 6  # A-ABORT reason invalid-PDU-parameter value (PS3.8 9.3.8)

# What is taken for the length limit of a peer that leaves the required item out: DCMTK's own default.
UNSTATED_MAX_PDU_LENGTH: Final = 16384  # bytes

_FIXED: Final = struct.Struct(">H2x64s")  # protocol version, both AE titles and 32 reserved bytes
_ITEM: Final = struct.Struct(">BxH")  # type, length
_LENGTH: Final = struct.Struct(">H")
_MAX_LENGTH: Final = struct.Struct(">L")
_WINDOW: Final = struct.Struct(">HH")

_AE_TITLE_LENGTH: Final = 16
# ISO 646 without control characters; also without the backslash, which no AE may hold (PS3.5 6.2). Anything
# else a peer sends becomes a question mark here, so that it can go into logs and headers.
_PRINTABLE: Final = bytes(code if 0x20 <= code < 0x7F and code != 0x5C else 0x3F for code in range(256))

_Context = TypeVar("_Context", ProposedContext, AcceptedContext)


def encode_request(request: AssociateRequest) -> bytes:
    """The body of A-ASSOCIATE-RQ."""
    user_information = _user_information(request)
    user_information += [
        _item(
            0x57,
            _counted(_uid(common.sop_class))
            + _counted(_uid(common.service_class))
            + _counted(b"".join(_counted(_uid(uid)) for uid in common.related_general_sop_classes)),
        )
        for common in request.common_extended
    ]
    if request.user_identity is not None:
        identity = request.user_identity
        header = bytes((identity.kind, identity.response_requested))
        user_information.append(
            _item(0x58, header + _counted(identity.primary) + _counted(identity.secondary))
        )
    return b"".join(
        (
            _fixed(request),
            _item(0x10, _uid(request.application_context)),
            *(_item(0x20, _proposed(context)) for context in request.contexts),
            _item(0x50, b"".join(user_information)),
        )
    )


def encode_accept(accept: AssociateAccept) -> bytes:
    """The body of A-ASSOCIATE-AC."""
    user_information = _user_information(accept)
    if accept.user_identity_response is not None:
        user_information.append(_item(0x59, _counted(accept.user_identity_response)))
    return b"".join(
        (
            _fixed(accept),
            _item(0x10, _uid(accept.application_context)),
            *(_item(0x21, _answered(context)) for context in accept.contexts),
            _item(0x50, b"".join(user_information)),
        )
    )


def decode_request(body: bytes) -> AssociateRequest:
    """The reverse of `encode_request`. Raises InvalidPdu."""
    version, echo = _read_fixed(body)
    contexts, application_context, said = _read_variable(body, 0x20, _read_proposed)
    return AssociateRequest(
        called_ae=_text(echo[:_AE_TITLE_LENGTH]),
        calling_ae=_text(echo[_AE_TITLE_LENGTH : 2 * _AE_TITLE_LENGTH]),
        contexts=contexts,
        max_pdu_length=said.max_pdu_length,
        implementation_class_uid=said.implementation_class_uid,
        implementation_version=said.implementation_version,
        window=said.window,
        roles=said.roles,
        extended=said.extended,
        common_extended=tuple(said.common_extended),
        user_identity=said.user_identity,
        application_context=application_context,
        protocol_version=version,
        echo=echo,
    )


def decode_accept(body: bytes) -> AssociateAccept:
    """The reverse of `encode_accept`; abstract syntaxes and roles of the contexts come by `resolve`.

    Raises InvalidPdu.
    """
    version, echo = _read_fixed(body)
    contexts, application_context, said = _read_variable(body, 0x21, _read_answered)
    return AssociateAccept(
        called_ae=_text(echo[:_AE_TITLE_LENGTH]),
        calling_ae=_text(echo[_AE_TITLE_LENGTH : 2 * _AE_TITLE_LENGTH]),
        contexts=contexts,
        max_pdu_length=said.max_pdu_length,
        implementation_class_uid=said.implementation_class_uid,
        implementation_version=said.implementation_version,
        window=said.window,
        roles=said.roles,
        extended=said.extended,
        user_identity_response=said.user_identity_response,
        application_context=application_context,
        protocol_version=version,
        echo=echo,
    )


# Encoding


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _counted(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _uid(uid: UID) -> bytes:
    return uid.encode("ascii", "replace")


def _fixed(pdu: AssociateRequest | AssociateAccept) -> bytes:
    titles = pdu.echo
    if not titles:
        called, calling = (
            title.encode("ascii", "replace")[:_AE_TITLE_LENGTH].ljust(_AE_TITLE_LENGTH)
            for title in (pdu.called_ae, pdu.calling_ae)
        )
        titles = called + calling
    return _FIXED.pack(pdu.protocol_version, titles)


def _proposed(context: ProposedContext) -> bytes:
    syntaxes = b"".join(_item(0x40, _uid(uid)) for uid in context.transfer_syntaxes)
    return bytes((context.id, 0, 0, 0)) + _item(0x30, _uid(context.abstract_syntax)) + syntaxes


def _answered(context: AcceptedContext) -> bytes:
    return bytes((context.id, 0, context.result, 0)) + _item(0x40, _uid(context.transfer_syntax))


def _user_information(pdu: AssociateRequest | AssociateAccept) -> list[bytes]:
    """The sub-items that requests and accepts share, by ascending type as older peers want it."""
    items = [
        _item(0x51, _MAX_LENGTH.pack(pdu.max_pdu_length)),
        _item(0x52, _uid(pdu.implementation_class_uid)),
    ]
    if pdu.window is not None:
        items.append(_item(0x53, _WINDOW.pack(*pdu.window)))
    items += [_item(0x54, _counted(_uid(uid)) + bytes(roles)) for uid, roles in pdu.roles.items()]
    if pdu.implementation_version:
        items.append(_item(0x55, pdu.implementation_version.encode("ascii", "replace")))
    items += [_item(0x56, _counted(_uid(uid)) + offered) for uid, offered in pdu.extended.items()]
    return items


# Decoding


def _items(data: bytes, position: int = 0) -> Iterator[tuple[int, bytes]]:
    """The items from `position` on: type and value."""
    end = len(data)
    while position < end:
        if end - position < _ITEM.size:
            raise InvalidPdu(f"{end - position} bytes where an item was due", INVALID_PARAMETER)
        kind, length = _ITEM.unpack_from(data, position)
        position += _ITEM.size
        if length > end - position:
            raise InvalidPdu(f"item {kind:02X}H is longer than what holds it", INVALID_PARAMETER)
        yield kind, data[position : position + length]
        position += length


def _take(data: bytes) -> tuple[bytes, bytes]:
    """A value with its length in front, and what follows it."""
    if len(data) < _LENGTH.size:
        raise InvalidPdu("a length field is cut off", INVALID_PARAMETER)
    end = _LENGTH.size + int(_LENGTH.unpack_from(data)[0])
    if end > len(data):
        raise InvalidPdu("a field is longer than its item", INVALID_PARAMETER)
    return data[_LENGTH.size : end], data[end:]


def _text(raw: bytes) -> str:
    # NUL as padding is against PS3.8 9.3.2 but met in the field.
    return raw.strip(b"\0 ").translate(_PRINTABLE).decode("ascii")


def _read_uid(raw: bytes) -> UID:
    return UID(_text(raw))


def _read_fixed(body: bytes) -> tuple[int, bytes]:
    if len(body) < _FIXED.size:
        raise InvalidPdu(f"A-ASSOCIATE of {len(body)} bytes", INVALID_PARAMETER)
    version, echo = _FIXED.unpack_from(body)
    return int(version), bytes(echo)


def _read_variable(
    body: bytes, context_item: int, read_context: Callable[[bytes], _Context]
) -> tuple[tuple[_Context, ...], UID, "_UserInformation"]:
    """The presentation contexts, the application context and the user information, in whatever order."""
    contexts: dict[int, _Context] = {}
    application_context, said = UID(""), _UserInformation()
    for kind, value in _items(body, _FIXED.size):
        if kind == context_item:
            context = read_context(value)
            if context.id in contexts:
                raise InvalidPdu(f"presentation context ID {context.id} used twice", INVALID_PARAMETER)
            contexts[context.id] = context
        elif kind == 0x10:
            application_context = _read_uid(value)
        elif kind == 0x50:
            said.read(value)
    return tuple(contexts.values()), application_context, said


def _read_context_id(value: bytes) -> int:
    if len(value) < 4:
        raise InvalidPdu("a presentation context item is cut off", INVALID_PARAMETER)
    if not value[0] & 1:
        raise InvalidPdu(f"presentation context ID {value[0]} is not odd", INVALID_PARAMETER)
    return value[0]


def _read_proposed(value: bytes) -> ProposedContext:
    context_id = _read_context_id(value)
    abstract_syntax = UID("")
    transfer_syntaxes = []
    for kind, name in _items(value, 4):
        if kind == 0x40:
            transfer_syntaxes.append(_read_uid(name))
        elif kind == 0x30:
            abstract_syntax = _read_uid(name)
    return ProposedContext(context_id, abstract_syntax, tuple(transfer_syntaxes))


def _read_answered(value: bytes) -> AcceptedContext:
    context_id = _read_context_id(value)
    result = Result(value[2]) if value[2] <= max(Result) else Result.NO_REASON
    if result is not Result.ACCEPTANCE:
        # The sub-item "shall not be tested": some acceptors leave it out or send an empty or broken one.
        return AcceptedContext(context_id, result, UID(""), UID(""))
    transfer_syntax = next((_read_uid(name) for kind, name in _items(value, 4) if kind == 0x40), UID(""))
    return AcceptedContext(context_id, result, UID(""), transfer_syntax)


@dataclass(slots=True)
class _UserInformation:
    """What the sub-items of the User Information item say (PS3.8 D.1, PS3.7 D.3.3)."""

    max_pdu_length: int = UNSTATED_MAX_PDU_LENGTH
    implementation_class_uid: UID = UID("")  # noqa: RUF009  # immutable
    implementation_version: str = ""
    window: tuple[int, int] | None = None
    roles: dict[UID, tuple[bool, bool]] = field(default_factory=dict)
    extended: dict[UID, bytes] = field(default_factory=dict)
    common_extended: list[CommonExtended] = field(default_factory=list)
    user_identity: UserIdentity | None = None
    user_identity_response: bytes | None = None

    def read(self, value: bytes) -> None:
        """Take the sub-items of one User Information item."""
        for kind, data in _items(value):
            reader = _SUB_ITEMS.get(kind)
            if reader is not None:
                reader(self, data)

    def read_max_length(self, data: bytes) -> None:
        (self.max_pdu_length,) = _unpacked(_MAX_LENGTH, data)

    def read_implementation_class_uid(self, data: bytes) -> None:
        self.implementation_class_uid = _read_uid(data)

    def read_window(self, data: bytes) -> None:
        invoked, performed = _unpacked(_WINDOW, data)
        self.window = invoked, performed

    def read_role(self, data: bytes) -> None:
        uid, roles = _take(data)
        if len(roles) < 2:
            raise InvalidPdu("a role selection item is cut off", INVALID_PARAMETER)
        self.roles[_read_uid(uid)] = bool(roles[0]), bool(roles[1])

    def read_implementation_version(self, data: bytes) -> None:
        self.implementation_version = _text(data)

    def read_extended(self, data: bytes) -> None:
        uid, information = _take(data)
        self.extended[_read_uid(uid)] = information

    def read_common_extended(self, data: bytes) -> None:
        sop_class, rest = _take(data)
        service_class, rest = _take(rest)
        related, _ = _take(rest)
        general = []
        while related:
            uid, related = _take(related)
            general.append(_read_uid(uid))
        self.common_extended.append(
            CommonExtended(_read_uid(sop_class), _read_uid(service_class), tuple(general))
        )

    def read_user_identity(self, data: bytes) -> None:
        if len(data) < 2:
            raise InvalidPdu("a user identity item is cut off", INVALID_PARAMETER)
        primary, rest = _take(data[2:])
        # Some requestors leave the secondary field out altogether where it is empty.
        secondary, _ = _take(rest) if rest else (b"", b"")
        self.user_identity = UserIdentity(data[0], primary, secondary, data[1] == 1)

    def read_user_identity_response(self, data: bytes) -> None:
        self.user_identity_response, _ = _take(data)


def _unpacked(fields: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < fields.size:
        raise InvalidPdu(f"{len(data)} bytes where a sub-item has {fields.size}", INVALID_PARAMETER)
    return fields.unpack_from(data)


_SUB_ITEMS: Final[dict[int, Callable[[_UserInformation, bytes], None]]] = {
    0x51: _UserInformation.read_max_length,
    0x52: _UserInformation.read_implementation_class_uid,
    0x53: _UserInformation.read_window,
    0x54: _UserInformation.read_role,
    0x55: _UserInformation.read_implementation_version,
    0x56: _UserInformation.read_extended,
    0x57: _UserInformation.read_common_extended,
    0x58: _UserInformation.read_user_identity,
    0x59: _UserInformation.read_user_identity_response,
}
