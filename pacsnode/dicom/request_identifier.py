"""Identifiers of requests: the keys of a C-FIND, C-MOVE or C-GET (PS3.4 C.4.1.1.3, PS3.5 7.1). Pure.

Nearly all hold short text in the VRs of the dictionary and nothing else: those are read in one pass. The
header scan checks the others, and pydicom reads them.
"""

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from pydicom.datadict import dictionary_VR

from pacsnode.dicom.element import BINARY_VRS, STRUCT_OF, DataSet
from pacsnode.dicom.header import Encoding, encoding_of, scan
from pacsnode.dicom.information_model import QUERY_RETRIEVE_LEVEL, SPECIFIC_CHARACTER_SET
from pacsnode.dicom.query import FIRST_TAG, MAX_DEPTH, RequestedKey
from pacsnode.dicom.text import decoder
from pacsnode.dicom.uid import UID
from pacsnode.dicom.vr import SHORT_VRS
from pacsnode.errors import InvalidIdentifier

_EXPLICIT_HEADER: Final = struct.Struct("<HHHH")  # group, element, VR, length
_IMPLICIT_HEADER: Final = struct.Struct("<HHI")  # group, element, length


class RequestIdentifier:
    """The identifier of a request."""

    __slots__ = ("_data_set", "_plain")

    def __init__(self, data: bytes, transfer_syntax: UID) -> None:
        """Raises CannotUnderstand."""
        encoding = encoding_of(transfer_syntax)
        plain = _plain_keys(data, encoding)
        self._plain = plain or {}
        self._data_set = _parsed(data, transfer_syntax) if plain is None else None

    @property
    def character_set(self) -> str:
        return self._text(SPECIFIC_CHARACTER_SET)

    @property
    def level(self) -> str:
        """Query/Retrieve Level as sent; "" when missing."""
        return self._text(QUERY_RETRIEVE_LEVEL)

    def requested(self) -> tuple[RequestedKey, ...]:
        """All elements, sequences with their items. Raises InvalidIdentifier when nested too deep."""
        if self._data_set is not None:
            return _requested(self._data_set, 0)
        return tuple(self._plain.values())

    def _text(self, tag: int) -> str:
        """The value of an element with VR CS."""
        if self._data_set is not None:
            return self._data_set.text(tag, "CS")
        key = self._plain.get(tag)
        return "" if key is None else key.text


def _parsed(data: bytes, transfer_syntax: UID) -> DataSet:
    scan(data, transfer_syntax, len(data), frozenset())  # pydicom ends quietly at a cut-off value
    return DataSet.parse(data, encoding_of(transfer_syntax))


class _Plain(NamedTuple):
    """How an attribute is read in one pass. `code` is its VR as unpacked, `empty` the key without a value."""

    vr: str
    is_text: bool
    code: int
    empty: RequestedKey


def _plain_keys(data: bytes, encoding: Encoding) -> dict[int, RequestedKey] | None:
    """The keys of an identifier that holds what is plain and nothing else; None of any other."""
    if not encoding.little_endian:
        return None
    keys: dict[int, RequestedKey] = {}
    coded = decoder(None)
    tag = position = 0
    while position < len(data):
        before, value = tag, position + _EXPLICIT_HEADER.size
        if value > len(data):
            return None
        if encoding.implicit:
            group, number, length = _IMPLICIT_HEADER.unpack_from(data, position)
            code = None
        else:
            group, number, code, length = _EXPLICIT_HEADER.unpack_from(data, position)
        tag, position = group << 16 | number, value + length
        plain = _plain_attribute(tag)
        if plain is None or tag <= before or code not in (None, plain.code):
            return None
        if not length:
            keys[tag] = plain.empty
            continue
        if position > len(data) or not plain.is_text:
            return None
        raw = data[value:position]
        if tag == SPECIFIC_CHARACTER_SET:
            coded = decoder(raw)
        keys[tag] = RequestedKey(tag, plain.vr, coded.text(raw, plain.vr))
    return keys


@lru_cache(maxsize=4096)
def _plain_attribute(tag: int) -> _Plain | None:
    vr = _own_vr(tag, "")
    encoded = vr.encode("ascii")
    if tag < FIRST_TAG or not tag & 0xFFFF or encoded not in SHORT_VRS:
        return None
    is_text = vr not in STRUCT_OF and vr != "AT"
    return _Plain(vr, is_text, int.from_bytes(encoded, "little"), RequestedKey(tag, vr))


def _requested(data_set: DataSet, depth: int) -> tuple[RequestedKey, ...]:
    return tuple(_requested_key(data_set, tag, depth) for tag in data_set.tags())


def _requested_key(data_set: DataSet, tag: int, depth: int) -> RequestedKey:
    """A key with the VR its attribute has: some peers write another one, and would be misunderstood."""
    encoded = data_set.vr_of(tag)
    vr = _own_vr(tag, encoded)
    if "SQ" not in (vr, encoded):
        read_as = vr if encoded in BINARY_VRS else encoded
        return RequestedKey(tag, vr, "" if read_as in BINARY_VRS else data_set.text(tag, read_as))
    if vr != encoded and not data_set.is_empty(tag):
        raise InvalidIdentifier(
            f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is encoded as {encoded}, not {vr}", (tag,)
        )
    if vr != "SQ":
        return RequestedKey(tag, vr)
    if depth >= MAX_DEPTH:
        raise InvalidIdentifier("sequences are nested too deep", (tag,))
    return RequestedKey(tag, vr, items=tuple(_requested(item, depth + 1) for item in data_set.items(tag)))


def _own_vr(tag: int, encoded: str) -> str:
    """The VR of an attribute by PS3.6; as encoded where that leaves a choice, or does not know it."""
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return encoded
    return vr if len(vr) == 2 else encoded
