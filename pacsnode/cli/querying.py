"""Query/Retrieve SCU (PS3.4 C.4): an identifier from keys as people type them, matches as text. No I/O."""

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from pacsnode.dicom.information_model import Level
from pacsnode.dicom.sop_class import PATIENT_ROOT_FIND, PATIENT_STUDY_ONLY_FIND, STUDY_ROOT_FIND
from pacsnode.dicom.uid import UID
from pacsnode.errors import InvalidIdentifier


class Model(StrEnum):
    """Query/Retrieve information models."""

    PATIENT = "patient"
    STUDY = "study"
    PATIENT_STUDY = "patient-study"


SOP_CLASS_OF: Final[Mapping[Model, UID]] = {
    Model.PATIENT: PATIENT_ROOT_FIND,
    Model.STUDY: STUDY_ROOT_FIND,
    Model.PATIENT_STUDY: PATIENT_STUDY_ONLY_FIND,
}

_TYPECODES: Final = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"
}  # fmt: skip

# Asked for at each level unless the user asks for it, so that the table tells something.
RETURN_KEYS: Final[Mapping[Level, tuple[str, ...]]] = {
    Level.PATIENT: (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "NumberOfPatientRelatedStudies",
    ),
    Level.STUDY: (
        "PatientName",
        "PatientID",
        "StudyDate",
        "ModalitiesInStudy",
        "AccessionNumber",
        "StudyDescription",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    Level.SERIES: (
        "Modality",
        "SeriesNumber",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
        "SeriesInstanceUID",
    ),
    Level.IMAGE: ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}

_TAG = re.compile(r"\(?([0-9a-fA-F]{4}),?([0-9a-fA-F]{4})\)?")


def identifier(level: Level, keys: Iterable[str], returned: Iterable[str] | None = None) -> Dataset:
    """Build the identifier of a request from `KEY[=VALUE]` texts.

    KEY is a keyword or a tag, `Sequence.Key` inside a sequence. `returned` are asked for besides; None: those
    of RETURN_KEYS. Raises InvalidIdentifier.
    """
    data_set = Dataset()
    data_set.QueryRetrieveLevel = level.value
    texts = tuple(keys)
    for text in texts:
        key, _, value = text.partition("=")
        _set(data_set, key.strip().split("."), value)
    if not all(map(str.isascii, texts)) and not data_set.get("SpecificCharacterSet"):
        data_set.SpecificCharacterSet = "ISO_IR 192"  # asked for empty, it would turn letters into wild cards
    for keyword in RETURN_KEYS[level] if returned is None else returned:
        if keyword not in data_set:
            setattr(data_set, keyword, "")
    return data_set


_OPTIONS: Final = (
    "relational queries",
    "combined date-time matching",
    "fuzzy names",
    "timezone adjustment",
    "multi-frame conversion",
    "empty values",
    "multiple values",
)
_LENGTHS: Final = (1, 3, 4, 7)  # bytes of an offer


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What a query wants to be agreed on (PS3.4 Table C.5-1)."""

    relational: bool = False
    date_time: bool = False
    fuzzy: bool = False
    timezone: bool = False
    empty_values: bool = False
    multiple_values: bool = False

    def offered(self) -> bytes:
        """The Service-class-application-information; empty when nothing is wanted.

        As short as it can be: acceptors of older editions know one byte, or three, or five. The fifth is for
        the conversion of multi-frame images.
        """
        flags = bytes((self.relational, self.date_time, self.fuzzy, self.timezone, False))
        flags += bytes((self.empty_values, self.multiple_values))
        if not any(flags):
            return b""
        return next(flags[:length] for length in _LENGTHS if not any(flags[length:]))

    def refused(self, answered: bytes) -> list[str]:
        """What the peer did not agree to, in words."""
        answers = answered.ljust(len(_OPTIONS), b"\0")
        triples = zip(_OPTIONS, self.offered(), answers, strict=False)
        return [name for name, asked, answer in triples if asked and answer != 1]


def columns(level: Level, request: Dataset) -> list[str]:
    """The attributes of the request in the order they are shown: the level's own first."""
    asked = [element.keyword or str(element.tag) for element in request]
    hidden = {"QueryRetrieveLevel", "SpecificCharacterSet", *RETURN_KEYS[level]}
    return [*RETURN_KEYS[level], *(name for name in asked if name not in hidden)]


def shown(match: Dataset, column: str) -> str:
    """A value as text for a table; a sequence by its number of items."""
    tag = tag_for_keyword(column) or _tag_of(column)
    element = match.get(tag) if tag is not None else None
    if element is None or element.value is None:
        return ""
    if isinstance(element.value, Sequence):
        return f"{len(element.value)} items"
    if isinstance(element.value, MultiValue):
        return "\\".join(str(part) for part in element.value)
    return str(element.value)


def _set(data_set: Dataset, path: list[str], value: str) -> None:
    """Put a key into a data set, making the sequences on its way."""
    *outer, last = path
    for name in outer:
        tag = _known_tag(name)
        if dictionary_VR(tag) != "SQ":
            raise InvalidIdentifier(f"{name} is no sequence")
        if tag not in data_set:
            data_set.add_new(tag, "SQ", [Dataset()])
        data_set = data_set[tag].value[0]
    tag = _known_tag(last)
    vr = dictionary_VR(tag)
    if vr == "SQ":
        if value:
            raise InvalidIdentifier(f"{last} is a sequence: give the key inside it as {last}.KEY=VALUE")
        data_set.add_new(tag, vr, [])
        return
    # what a key may be the peer says; pydicom's warnings know neither wild cards nor ranges
    try:
        typed = _typed(vr[:2], value)
        data_set.add(DataElement(tag, vr[:2], typed, validation_mode=IGNORE))
    except (ValueError, TypeError, OverflowError, struct.error):  # IS and DS are read by pydicom
        raise InvalidIdentifier(f"{last} wants numbers that a {vr[:2]} can hold, not {value!r}") from None


def _typed(vr: str, value: str) -> str | list[str] | list[int] | list[float]:
    r"""Binary numbers as numbers; everything else stays text, split at `\` where PS3.5 6.4 allows values.

    Raises ValueError and struct.error.
    """
    parts = value.split("\\") if value else []
    if (typecode := _TYPECODES.get(vr)) is None:
        return parts if len(parts) > 1 and vr not in ("LT", "ST", "UT", "UR") else value
    numbers = [float(part) if vr in ("FL", "FD") else int(part) for part in parts]
    struct.pack(f"<{len(numbers)}{typecode}", *numbers)
    return numbers


def _known_tag(name: str) -> int:
    tag = tag_for_keyword(name) or _tag_of(name)
    if tag is None or not keyword_for_tag(tag):
        raise InvalidIdentifier(
            f"{name!r} is no attribute: a keyword such as PatientName, or a tag as 0010,0010"
        )
    return tag


def _tag_of(name: str) -> int | None:
    found = _TAG.fullmatch(name)
    return int(found[1] + found[2], 16) if found else None
