"""A data set whose patient was updated or merged since it came (PS3.3 C.12.1.1.9). Worker processes only.

What the patient attributes were goes to a new item of Original Attributes Sequence; everything else keeps its
value byte for byte. Where the character set of the object lacks a character of a new value, all text becomes
UTF-8; an object whose text cannot be read is refused rather than changed.
"""

from typing import Final

from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET
from pacsnode.dicom.patient import (
    COERCE,
    ISSUER_QUALIFIERS,
    MODIFICATION_DATE_TIME,
    MODIFIED_ATTRIBUTES,
    MODIFYING_SYSTEM,
    ORIGINAL_ATTRIBUTES,
    PATIENT_ATTRIBUTES,
    REASON,
    REQUIRED,
    SOURCE_OF_PREVIOUS_VALUES,
    Coercion,
)
from pacsnode.dicom.text import Decoder, charset_for, decoder, encode
from pacsnode.errors import CannotTranscode
from pacsnode.pixels.image import set_text
from pacsnode.pixels.recode import DataSet, Fragments, Sequence, vr_of

UTF_8: Final = "ISO_IR 192"
_ISSUER: Final = PATIENT_ATTRIBUTES["IssuerOfPatientID"].tag
_CODED_VRS: Final = frozenset({b"LO", b"LT", b"PN", b"SH", b"ST", b"UC", b"UT"})  # PS3.5 6.1.2.2


def coerce(data_set: DataSet, coercion: Coercion) -> bool:
    """Give a data set the patient it is to have; False when it has it. Raises CannotTranscode."""
    changed = coercion.changes(_said(data_set))
    if not changed:
        return False
    charset = _fitting_charset(data_set, [value for _, value in changed])
    previous = DataSet(parent=data_set)
    for attribute, value in changed:
        _move(data_set, attribute.tag, attribute.vr.encode(), previous)
        if value or attribute.keyword in REQUIRED:
            data_set.set(attribute.tag, attribute.vr.encode(), _even(encode(value, charset, attribute.vr)))
        if attribute.tag == _ISSUER and data_set.find(ISSUER_QUALIFIERS) is not None:
            _move(data_set, ISSUER_QUALIFIERS, b"SQ", previous)
    _note(data_set, previous, coercion)
    return True


def _said(data_set: DataSet) -> dict[str, str]:
    """What the object says of its patient, by keyword."""
    coded = decoder(data_set.raw(SPECIFIC_CHARACTER_SET))
    return {
        keyword: coded.text(data_set.raw(attribute.tag) or b"", attribute.vr)
        for keyword, attribute in PATIENT_ATTRIBUTES.items()
    }


def _move(data_set: DataSet, tag: int, vr: bytes, previous: DataSet) -> None:
    """Take an element out, to where the previous values are; one without a value stands for none."""
    element = data_set.find(tag)
    previous.set(tag, vr, b"" if element is None else element.value)
    data_set.remove(tag)


def _note(data_set: DataSet, previous: DataSet, coercion: Coercion) -> None:
    """Append the item of Original Attributes Sequence."""
    item = DataSet(parent=data_set)
    item.set(MODIFIED_ATTRIBUTES, b"SQ", Sequence([previous], defined=False))
    set_text(item, MODIFICATION_DATE_TIME, b"DT", coercion.moment)
    set_text(item, MODIFYING_SYSTEM, b"LO", coercion.system)
    set_text(item, SOURCE_OF_PREVIOUS_VALUES, b"LO", "")
    set_text(item, REASON, b"CS", COERCE)
    former = data_set.find(ORIGINAL_ATTRIBUTES)
    items = former.value.items if former is not None and isinstance(former.value, Sequence) else []
    data_set.set(ORIGINAL_ATTRIBUTES, b"SQ", Sequence([*items, item], defined=False))


# Character sets


def _fitting_charset(data_set: DataSet, texts: list[str]) -> str:
    """A Specific Character Set that has every character; the object's own, or it is changed to UTF-8."""
    raw = data_set.raw(SPECIFIC_CHARACTER_SET) or b""
    own = raw.decode("latin_1").strip(" \0")
    charset, _ = charset_for(texts, own)
    if charset in ("", own):
        return own
    _change_to_utf_8(data_set, decoder(raw))
    set_text(data_set, SPECIFIC_CHARACTER_SET, b"CS", UTF_8)
    return UTF_8


def _change_to_utf_8(data_set: DataSet, coded: Decoder) -> None:
    for element in data_set.elements:
        value = element.value
        if isinstance(value, Sequence):
            for item in value.items:
                own = item.raw(SPECIFIC_CHARACTER_SET)
                _change_to_utf_8(item, decoder(own) if own else coded)
                if own:
                    set_text(item, SPECIFIC_CHARACTER_SET, b"CS", UTF_8)
        elif not isinstance(value, Fragments):
            vr = element.vr or vr_of(data_set, element.tag)
            raw = bytes(value) if vr in _CODED_VRS else b""
            if raw.isascii() and b"\x1b" not in raw:
                continue
            text = coded.text(raw, vr.decode())
            if "\N{REPLACEMENT CHARACTER}" in text:
                tag = f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})"
                raise CannotTranscode(f"{tag} cannot be read in the character set of the object")
            element.value = _even(text.encode())


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) & 1)
