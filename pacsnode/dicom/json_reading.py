"""Data sets from the DICOM JSON Model, as Store transactions bring them (PS3.18 10.5.1.4, F.2). Pure.

Values become the neutral form of dicom.element and from there bytes: Explicit VR Little Endian, text in
UTF-8. What a reference stands for, the caller knows.
"""

import json
import math
import re
import struct
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import format_number_as_ds

from pacsnode.dicom.element import BINARY_VRS, STRUCT_OF, Element, Item, Value
from pacsnode.dicom.header import NESTING_LIMIT, encoding_of
from pacsnode.dicom.identifier import CODED_VRS, ElementWriter
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET
from pacsnode.dicom.json_model import TagPath
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.vr import LONG_VRS, SHORT_VRS
from pacsnode.dicom.xml_model import Model
from pacsnode.errors import CannotUnderstand

Dereference = Callable[[str, TagPath, str], bytes | None]
"""The value behind a BulkDataURI, given where it stands and its VR; None leaves the element out."""

OBJECTS_LIMIT: Final = 100_000  # in one array
DECIMAL_LENGTH: Final = 16  # characters of a DS
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_UTF_8: Final = "ISO_IR 192"
_VRS: Final = frozenset(vr.decode("ascii") for vr in SHORT_VRS | LONG_VRS)
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def models_of(text: bytes) -> list[Model]:
    """The objects of an array, or one alone. Raises CannotUnderstand."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CannotUnderstand(f"the metadata is no JSON: {error}") from None
    models = found if isinstance(found, list) else [found]
    if len(models) > OBJECTS_LIMIT or not all(isinstance(model, dict) for model in models):
        raise CannotUnderstand("the metadata is no array of DICOM JSON Model objects")
    return models


def elements_of(model: Model, dereference: Dereference) -> Iterator[tuple[int, bytes]]:
    """The elements of an object, encoded, in the order of their tags, without File Meta and group lengths.

    Raises CannotUnderstand.
    """
    character_set = Element(SPECIFIC_CHARACTER_SET, "CS", _UTF_8)
    writer = ElementWriter(encoding_of(EXPLICIT_VR_LE))
    for element in sorted([*item_of(model, dereference, ()), character_set], key=_by_tag):
        yield element.tag, writer.element(*element, charset=_UTF_8)


def item_of(model: Model, dereference: Dereference, path: TagPath) -> Item:
    """The elements of an object in the neutral form, in the order of their tags. Raises CannotUnderstand."""
    if len(path) // 2 > NESTING_LIMIT:
        raise CannotUnderstand("sequences are nested too deep")
    elements = []
    for name, attribute in model.items():
        tag = _tag(name)
        if tag >> 16 <= 0x0002 or not tag & 0xFFFF:  # of command sets and File Meta; group lengths
            continue
        if tag == SPECIFIC_CHARACTER_SET:  # of what the text was once; JSON is UTF-8, and so is what is made
            continue
        if not isinstance(attribute, dict):
            raise CannotUnderstand(f"{name} is no object")
        vr = attribute.get("vr") or _dictionary_vr(tag)
        if vr not in _VRS:
            raise CannotUnderstand(f"{name} has an unknown VR")
        value = _value(attribute, vr, dereference, (*path, tag))
        if value is not None:
            elements.append(Element(tag, vr, value))
    return tuple(sorted(elements, key=_by_tag))


def _by_tag(element: Element) -> int:
    return element.tag


def _tag(name: str) -> int:
    if not _TAG.fullmatch(name):
        raise CannotUnderstand(f"{name[:32]!r} is no tag of eight hexadecimal digits")
    return int(name, 16)


def _dictionary_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)[-2:]
    except KeyError:
        return "UN"


def _value(attribute: Model, vr: str, dereference: Dereference, path: TagPath) -> Value | None:
    if "BulkDataURI" in attribute:
        return dereference(str(attribute["BulkDataURI"]), path, vr)
    if "InlineBinary" in attribute:
        try:
            return b64decode(str(attribute["InlineBinary"]), validate=True)
        except Base64Error:
            raise CannotUnderstand(f"{path[-1]:08X} has an InlineBinary that is no base64") from None
    values = attribute.get("Value", [])
    if not isinstance(values, list):
        raise CannotUnderstand(f"{path[-1]:08X} has a Value that is no array")
    if vr == "SQ":
        return tuple(
            item_of(_object(item, path), dereference, (*path, number))
            for number, item in enumerate(values, 1)
        )
    if vr in BINARY_VRS:
        if any(value is not None for value in values):
            raise CannotUnderstand(f"{path[-1]:08X} is {vr}, whose value is an InlineBinary or a BulkDataURI")
        return b""
    if vr == "PN":
        text = "\\".join(_name(value, path) for value in values)
    else:
        text = "\\".join(_text(value, vr, path) for value in values)
    if vr in STRUCT_OF or vr == "AT":
        return _packed(text, vr, path)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise CannotUnderstand(f"{path[-1]:08X} holds halves of characters") from None
    # Only in some VRs Specific Character Set has a meaning (PS3.5 6.1.2.2); what is not allowed is kept
    return text if vr in CODED_VRS or text.isascii() else encoded


def _object(item: object, path: TagPath) -> Model:
    if item is None:
        return {}
    if not isinstance(item, dict):
        raise CannotUnderstand(f"{path[-1]:08X} holds an item that is no object")
    return item


def _name(value: object, path: TagPath) -> str:
    if value is None or isinstance(value, str):  # some send the whole name as one string
        return value or ""
    groups = _object(value, path)
    return "=".join(str(groups.get(group) or "") for group in _GROUPS).rstrip("=")


def _text(value: object, vr: str, path: TagPath) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise CannotUnderstand(f"{path[-1]:08X} has a value that is no text and no number")
    if isinstance(value, float) and vr != "DS":
        return str(int(value)) if value.is_integer() and vr not in ("FL", "FD") else repr(value)
    if vr == "DS" and not isinstance(value, str):
        return _decimal(value, path)
    return str(value)


def _decimal(value: float, path: TagPath) -> str:
    """A number as the decimal string nearest to it, of which there are at most 16 characters (PS3.5 6.2)."""
    if not math.isfinite(value):
        raise CannotUnderstand(f"{path[-1]:08X} is a decimal string, of which {value} is none")
    exact = str(value)
    return exact if len(exact) <= DECIMAL_LENGTH else format_number_as_ds(float(value))


def _packed(text: str, vr: str, path: TagPath) -> bytes:
    """Binary numbers, little endian. Raises CannotUnderstand for one that is none, or does not fit."""
    if not text:
        return b""
    parts = text.split("\\")
    try:
        if vr == "AT":
            tags = [_tag(part) for part in parts]
            return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in tags)
        convert = float if vr in ("FL", "FD") else int
        return struct.pack(f"<{len(parts)}{STRUCT_OF[vr]}", *map(convert, parts))
    except (ValueError, struct.error, OverflowError):
        raise CannotUnderstand(f"{path[-1]:08X} is {vr}, of which {text[:32]!r} is none") from None
