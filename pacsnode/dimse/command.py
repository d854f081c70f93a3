"""Command sets (PS3.7 6.3, 9.3, 10.3, Annex E), read and written by hand.

A command set is always Implicit VR Little Endian and has a dozen small elements; on the way of every
C-STORE, pydicom's general reader and writer would cost more than all other steps together.
"""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import Final

from pacsnode.dicom.uid import UID
from pacsnode.errors import InvalidMessage


class CommandField(IntEnum):
    """Command Field (0000,0100) values (PS3.7 E.1)."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RQ = 0x0110
    N_GET_RSP = 0x8110
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140
    N_DELETE_RQ = 0x0150
    N_DELETE_RSP = 0x8150
    C_CANCEL_RQ = 0x0FFF


RESPONSE_BIT: Final = 0x8000


class Element:
    """Element numbers of group 0000 (PS3.7 E.1)."""

    GROUP_LENGTH: Final = 0x0000
    AFFECTED_SOP_CLASS_UID: Final = 0x0002
    REQUESTED_SOP_CLASS_UID: Final = 0x0003
    COMMAND_FIELD: Final = 0x0100
    MESSAGE_ID: Final = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
    MOVE_DESTINATION: Final = 0x0600
    PRIORITY: Final = 0x0700
    COMMAND_DATA_SET_TYPE: Final = 0x0800
    STATUS: Final = 0x0900
    OFFENDING_ELEMENT: Final = 0x0901
    ERROR_COMMENT: Final = 0x0902
    ERROR_ID: Final = 0x0903
    AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
    REQUESTED_SOP_INSTANCE_UID: Final = 0x1001
    EVENT_TYPE_ID: Final = 0x1002
    ATTRIBUTE_IDENTIFIER_LIST: Final = 0x1005
    ACTION_TYPE_ID: Final = 0x1008
    REMAINING_SUBOPERATIONS: Final = 0x1020
    COMPLETED_SUBOPERATIONS: Final = 0x1021
    FAILED_SUBOPERATIONS: Final = 0x1022
    WARNING_SUBOPERATIONS: Final = 0x1023
    MOVE_ORIGINATOR_AE_TITLE: Final = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID: Final = 0x1031


NO_DATA_SET: Final = 0x0101
DATA_SET_PRESENT: Final = 0x0001
PRIORITY_MEDIUM: Final = 0x0000
PRIORITY_HIGH: Final = 0x0001
PRIORITY_LOW: Final = 0x0002
MAX_COMMAND_SET: Final = 64 * 1024  # bytes; the longest legal one is a list of attribute tags in N-GET

_HEADER = Struct("<HHI")
_US = Struct("<H")
_GROUP_LENGTH = Struct("<HHII")
_TAG = Struct("<HH")


class CommandSet:
    """One command set: element number of group 0000 -> raw value, with the fields every operation needs."""

    __slots__ = ("elements", "field")

    def __init__(self, elements: dict[int, bytes]) -> None:
        self.elements = elements
        self.field = self.us(Element.COMMAND_FIELD)

    def us(self, element: int) -> int:
        """A value of VR US. Raises InvalidMessage when the element is missing or not 2 bytes long."""
        value = self.elements.get(element)
        if value is None or len(value) != 2:
            raise InvalidMessage(f"command element (0000,{element:04X}) is missing or is no US")
        return value[0] | value[1] << 8

    def us_or_none(self, element: int) -> int | None:
        return self.us(element) if self.elements.get(element) else None

    def text(self, element: int) -> str:
        """A value of VR UI, AE or LO without its padding; empty when absent."""
        value = self.elements.get(element)
        return value.rstrip(b"\0 ").lstrip(b" ").decode("ascii", "replace") if value else ""

    def tags(self, element: int) -> tuple[int, ...]:
        """The values of VR AT. Raises InvalidMessage when they are cut short."""
        raw = self.elements.get(element, b"")
        if len(raw) % _TAG.size:
            raise InvalidMessage(f"command element (0000,{element:04X}) is no list of tags")
        return tuple(group << 16 | number for group, number in _TAG.iter_unpack(raw))

    @property
    def is_response(self) -> bool:
        return bool(self.field & RESPONSE_BIT)

    @property
    def has_data_set(self) -> bool:
        return self.us(Element.COMMAND_DATA_SET_TYPE) != NO_DATA_SET

    @property
    def message_id(self) -> int:
        return self.us(Element.MESSAGE_ID)

    @property
    def message_id_being_responded_to(self) -> int:
        return self.us(Element.MESSAGE_ID_BEING_RESPONDED_TO)

    @property
    def status(self) -> int:
        return self.us(Element.STATUS)

    @property
    def sop_class(self) -> UID:
        """Affected, else Requested SOP Class UID; as received, unchecked."""
        return UID(self.text(Element.AFFECTED_SOP_CLASS_UID) or self.text(Element.REQUESTED_SOP_CLASS_UID))

    @property
    def sop_instance(self) -> UID:
        """Affected, else Requested SOP Instance UID; as received, unchecked."""
        return UID(
            self.text(Element.AFFECTED_SOP_INSTANCE_UID) or self.text(Element.REQUESTED_SOP_INSTANCE_UID)
        )

    @property
    def name(self) -> str:
        try:
            return CommandField(self.field).name.replace("_", "-")
        except ValueError:
            return f"{self.field:04X}H"


def decode(data: bytes | bytearray) -> CommandSet:
    """Read a command set. Raises InvalidMessage; elements of other groups are an error (PS3.7 6.3.1)."""
    elements: dict[int, bytes] = {}
    view = bytes(data)
    offset, end = 0, len(view)
    try:
        while offset < end:
            group, element, length = _HEADER.unpack_from(view, offset)
            start = offset + 8
            offset = start + length
            if group or offset > end:
                raise InvalidMessage(f"command set broken at ({group:04X},{element:04X}), length {length}")
            elements[element] = view[start:offset]
    except StructError as error:
        raise InvalidMessage("command set ends inside an element header") from error
    return CommandSet(elements)


def encode(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """Write a command set from (element, value) pairs in ascending order, Group Length added."""
    return group_of(b"".join([_HEADER.pack(0, element, len(value)) + value for element, value in elements]))


def element_of(element: int, value: bytes) -> bytes:
    """One encoded element."""
    return _HEADER.pack(0, element, len(value)) + value


def group_of(elements: bytes) -> bytes:
    """A command set of encoded elements in ascending order, Group Length added."""
    return _GROUP_LENGTH.pack(0, 0, 4, len(elements)) + elements


def us(value: int) -> bytes:
    return _US.pack(value)


def ui(value: str) -> bytes:
    raw = value.encode("ascii")
    return raw + b"\0" if len(raw) & 1 else raw


def text(value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    return raw + b" " if len(raw) & 1 else raw


def at(tags: Iterable[int]) -> bytes:
    return b"".join(_US.pack(tag >> 16) + _US.pack(tag & 0xFFFF) for tag in tags)
