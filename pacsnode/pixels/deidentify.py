"""De-identification by the Basic Application Level Confidentiality Profile (PS3.15 E). Worker processes only.

Of the choices the table gives (X/Z, X/D, Z/D and the like) the one is taken that no IOD forbids, the last:
which type an attribute has in an IOD is not known here. A sequence that becomes a dummy keeps its skeleton,
that is items, coded strings, concept names and coordinates, and no text, name, date, code or number of it.
Beyond the table, whole overlay and curve groups go, and attributes that no edition known here defines.
"""

import hashlib
from typing import Final

from pydicom.datadict import dictionary_VR

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.sop_class import IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID, pseudonymous_uid
from pacsnode.errors import CannotDeidentify, CannotUnderstand
from pacsnode.pixels.confidentiality_profile import ACTIONS
from pacsnode.pixels.image import has_embedded_overlay, set_text
from pacsnode.pixels.recode import (
    PIXEL_DATA,
    Buffer,
    DataSet,
    Element,
    Fragments,
    Sequence,
    element_head,
    read,
    vr_of,
)

METHOD: Final = "PS3.15 E Basic Profile"
METHOD_CODE: Final = (
    (0x00080100, b"SH", "113100"),
    (0x00080102, b"SH", "DCM"),
    (0x00080104, b"LO", "Basic Application Confidentiality Profile"),
)  # PS3.16 CID 7050

_IMPLICIT: Final = encoding_of(IMPLICIT_VR_LE)
_PATIENT_ID: Final = 0x00100020
_SOP_CLASS_UID: Final = 0x00080016
_BURNED_IN_ANNOTATION: Final = 0x00280301
_ENCAPSULATED_DOCUMENT: Final = 0x00420011
_KEPT_NAMES: Final = frozenset({0x0040A043, 0x004008EA})  # Concept Name and Measurement Units Code Sequences

# Patient data is usually burned into these: secondary captures, ultrasound, photographs and videos
_OFTEN_BURNED_IN: Final = tuple(f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("3", "6", "7", "77.1"))

_ACTION_OF: Final = {
    **{int(tag, 16): action.rpartition("/")[2] for action, tags in ACTIONS.items() for tag in tags.split()},
    0x00081110: "X",  # Referenced Study Sequence: in composite IODs type 3, and never without an item
}
_TEXT: Final = b"ANONYMIZED"
_DUMMIES: Final = {
    **dict.fromkeys((b"AE", b"CS", b"LO", b"LT", b"PN", b"SH", b"ST", b"UC", b"UT"), _TEXT),
    b"AS": b"000Y",
    b"DA": b"19000101",
    b"DS": b"1 ",
    b"DT": b"19000101000000",
    b"IS": b"1 ",  # 0 is no number of a frame
    b"TM": b"000000",
    b"UR": b"urn:anonymized",
}
_KEPT_IN_DUMMIES: Final = frozenset({b"AT", b"CS", b"FD", b"FL", b"SL", b"SS", b"SV", b"UL", b"US", b"UV"})


def deidentify(data_set: DataSet, key: bytes) -> None:
    """Remove or replace what identifies; UIDs by others that depend on them and on `key`.

    Raises CannotDeidentify when pixels or a document would go out that nobody has looked at.
    """
    _check(data_set)
    _Cleaning(key).clean(data_set, dummies=False)
    set_text(data_set, 0x00120062, b"CS", "YES")  # Patient Identity Removed
    set_text(data_set, 0x00120063, b"LO", METHOD)
    set_text(data_set, 0x00280303, b"CS", "REMOVED")  # Longitudinal Temporal Information Modified
    method = DataSet(parent=data_set)
    for tag, vr, text in METHOD_CODE:
        set_text(method, tag, vr, text)
    data_set.set(0x00120064, b"SQ", Sequence([method], defined=False))


def _check(data_set: DataSet) -> None:
    """Refuse what the profile cannot clean (E.3.1: Clean Pixel Data is the work of a person)."""
    if data_set.raw(_ENCAPSULATED_DOCUMENT):
        raise CannotDeidentify("an encapsulated document cannot be cleaned")
    if data_set.find(PIXEL_DATA) is None:
        return
    burned_in = _text(data_set, _BURNED_IN_ANNOTATION)
    if burned_in == "YES":
        raise CannotDeidentify("Burned In Annotation is YES, and pixels cannot be cleaned")
    sop_class = _text(data_set, _SOP_CLASS_UID)
    often = any(sop_class == one or sop_class.startswith(f"{one}.") for one in _OFTEN_BURNED_IN)
    if often and burned_in != "NO":
        raise CannotDeidentify("images of this kind often show names, and Burned In Annotation is not NO")
    if has_embedded_overlay(data_set):
        raise CannotDeidentify("there is an overlay in the pixel data, and pixels cannot be cleaned")


class _Cleaning:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def clean(self, data_set: DataSet, *, dummies: bool) -> None:
        """`dummies`: of a sequence that becomes a dummy."""
        kept = (self._cleaned(data_set, element, dummies) for element in data_set.elements)
        data_set.elements = [element for element in list(kept) if element is not None]

    def _cleaned(self, data_set: DataSet, element: Element, dummies: bool) -> Element | None:
        tag, value = element.tag, element.value
        action = _ACTION_OF.get(tag, "")
        if action == "X" or _is_unknown(tag):
            return None
        vr = element.vr if element.vr not in (None, b"UN") else vr_of(data_set, tag)
        assert vr is not None
        if isinstance(value, Fragments):
            return element if tag == PIXEL_DATA else None
        if dictionary_VR(tag) == "SQ" and not isinstance(value, Sequence):
            value = _items_of_unknown(data_set, tag, value)
        if isinstance(value, Sequence):
            return self._sequence(tag, value, action, dummies)
        if not value:
            return element
        if action == "Z":
            return Element(tag, vr, b"")
        if action == "U" or (dummies and vr == b"UI"):
            return self._uids(element, bytes(value))
        if action == "D" or (dummies and vr not in _KEPT_IN_DUMMIES):
            return Element(tag, vr, self._dummy(tag, vr, bytes(value)))
        return element

    def _sequence(self, tag: int, sequence: Sequence, action: str, dummies: bool) -> Element:
        if action == "Z":
            return Element(tag, b"SQ", Sequence([], sequence.defined))
        as_dummies = (dummies or action == "D") and tag not in _KEPT_NAMES
        for item in sequence.items:
            self.clean(item, dummies=as_dummies)
        return Element(tag, b"SQ", sequence)

    def _uids(self, element: Element, value: bytes) -> Element:
        uids = [UID(one.strip(" \0")) for one in value.decode("ascii", "replace").split("\\")]
        text = "\\".join(pseudonymous_uid(uid, self._key) for uid in uids)
        return Element(element.tag, b"UI", (text + "\0" * (len(text) & 1)).encode("ascii", "replace"))

    def _dummy(self, tag: int, vr: bytes, value: bytes) -> bytes:
        if tag == _PATIENT_ID:  # patients stay apart
            digest = hashlib.blake2b(value.strip(b" \0"), key=self._key, digest_size=8).hexdigest()
            return f"ANONYM{digest.upper()}".encode()
        return _DUMMIES.get(vr) or bytes(len(value))


def _items_of_unknown(data_set: DataSet, tag: int, value: Buffer) -> Sequence:
    """The items of a sequence that was read as bytes (PS3.5 6.2.2), none when they cannot be read."""
    data = element_head(tag, b"SQ", len(value), _IMPLICIT) + bytes(value)
    try:
        sequence = read(memoryview(data), _IMPLICIT).elements[0].value
    except CannotUnderstand:
        return Sequence([], defined=False)
    assert isinstance(sequence, Sequence)
    for item in sequence.items:
        item.parent = data_set
    return sequence


def _is_unknown(tag: int) -> bool:
    """Whether nobody here can say what it holds: private, of a curve or an overlay, or of no edition."""
    group = tag >> 16
    if group & 1 or group & 0xFF00 in (0x5000, 0x6000):
        return True
    try:
        dictionary_VR(tag)
    except KeyError:
        return True
    return False


def _text(data_set: DataSet, tag: int) -> str:
    return (data_set.raw(tag) or b"").decode("ascii", "replace").strip(" \0")
