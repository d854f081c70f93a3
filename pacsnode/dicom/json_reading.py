"""Data sets from the DICOM JSON Model, as Store transactions bring them (PS3.18 10.5.1.4, F.2). Pure.

Values become the neutral form of dicom.element and from there bytes: Explicit VR Little Endian, text in
UTF-8. What a reference stands for, the caller knows.
"""

import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import Final

from pydicom.datadict import dictionary_VR

from pacsnode.dicom.element import BINARY_VRS, Element, Item, Value
from pacsnode.dicom.header import NESTING_LIMIT, encoding_of
from pacsnode.dicom.identifier import ElementWriter
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET
from pacsnode.dicom.json_model import TagPath
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.vr import LONG_VRS, SHORT_VRS
from pacsnode.dicom.xml_model import Model
from pacsnode.errors import CannotUnderstand

Dereference = Callable[[str, TagPath, str], bytes | None]
"""The value behind a BulkDataURI, given where it stands and its VR; None leaves the element out."""

OBJECTS_LIMIT: Final = 100_000  # in one array
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


def data_set_of(model: Model, dereference: Dereference) -> bytes:
    """The encoded data set of an object, without File Meta and group lengths. Raises CannotUnderstand."""
    elements = [one for one in item_of(model, dereference, ()) if one.tag != SPECIFIC_CHARACTER_SET]
    elements.append(Element(SPECIFIC_CHARACTER_SET, "CS", _UTF_8))
    writer = ElementWriter(encoding_of(EXPLICIT_VR_LE))
    return b"".join(writer.element(*element, charset=_UTF_8) for element in sorted(elements, key=_by_tag))


def item_of(model: Model, dereference: Dereference, path: TagPath) -> Item:
    """The elements of an object in the neutral form, in the order of their tags. Raises CannotUnderstand."""
    if len(path) // 2 > NESTING_LIMIT:
        raise CannotUnderstand("sequences are nested too deep")
    elements = []
    for name, attribute in model.items():
        tag = _tag(name)
        if tag >> 16 <= 0x0002 or not tag & 0xFFFF:  # of command sets and File Meta; group lengths
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
        return b""
    write = _name if vr == "PN" else _text
    return "\\".join(write(value, path) for value in values)


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


def _text(value: object, path: TagPath) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise CannotUnderstand(f"{path[-1]:08X} has a value that is no text and no number")
    return str(value)
