"""A worklist item: the complete data set of one Scheduled Procedure Step (PS3.4 K.6.1.2).

Patient, visit, imaging service request and requested procedure are its top level; the step is the one item of
Scheduled Procedure Step Sequence. Kept as explicit VR little endian in UTF-8, whatever it came in.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, Self

from pydicom.datadict import dictionary_VR, keyword_for_tag

from pacsnode.dicom import temporal
from pacsnode.dicom.element import DataSet, Element, Item, Value
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import encode_item
from pacsnode.dicom.information_model import TIMEZONE_OFFSET_FROM_UTC
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.text import person_name_key
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand, IncompleteItem
from pacsnode.workflow.worklist_state import STATUS_OF, StepState

STEP_SEQUENCE: Final = 0x00400100
STATION_AE: Final = 0x00400001
START_DATE: Final = 0x00400002
START_TIME: Final = 0x00400003
MODALITY: Final = 0x00080060
STEP_DESCRIPTION: Final = 0x00400007
PROTOCOL_CODES: Final = 0x00400008
STEP_ID: Final = 0x00400009
STEP_LOCATION: Final = 0x00400011
STEP_STATUS: Final = 0x00400020
STUDY_UID: Final = 0x0020000D
ACCESSION_NUMBER: Final = 0x00080050
PATIENT_NAME: Final = 0x00100010
PATIENT_ID: Final = 0x00100020
ISSUER_OF_PATIENT_ID: Final = 0x00100021
PROCEDURE_ID: Final = 0x00401001
PROCEDURE_DESCRIPTION: Final = 0x00321060
PROCEDURE_CODES: Final = 0x00321064
PLACER_ORDER: Final = 0x00402016
FILLER_ORDER: Final = 0x00402017

# Return keys of type 1 and 1C (PS3.4 Table K.6-1): one of each row has to have a value. Order systems that do
# not plan stations leave out the station AE title; it may be required of files (see `missing`).
_TYPE_1: Final = (
    (PATIENT_NAME,),
    (PATIENT_ID,),
    (STUDY_UID,),
    (PROCEDURE_ID,),
    (PROCEDURE_DESCRIPTION, PROCEDURE_CODES),
)
_TYPE_1_OF_STEP: Final = (
    (START_DATE,),
    (START_TIME,),
    (MODALITY,),
    (STEP_DESCRIPTION, PROTOCOL_CODES),
    (STEP_ID,),
)
_ENCODING: Final = encoding_of(EXPLICIT_VR_LE)
_CHARACTER_SET: Final = "ISO_IR 192"


class WorklistItem:
    """The data set, element by element; changed in place."""

    __slots__ = ("step", "top")

    def __init__(self, elements: Iterable[Element], step: Iterable[Element]) -> None:
        """`elements` of the top level without the sequence of the step, and those of the step."""
        self.top = {element.tag: element for element in elements}
        self.step = {element.tag: element for element in step}
        self.top.pop(STEP_SEQUENCE, None)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an item as `encoded` wrote it."""
        (item,) = cls.read(data, EXPLICIT_VR_LE)
        return item

    @classmethod
    def read(cls, data: bytes, transfer_syntax: UID) -> list[Self]:
        """The items of a data set: one for each step in it. Raises CannotUnderstand."""
        elements = DataSet.parse(data, encoding_of(transfer_syntax)).elements()
        steps = next((e.value for e in elements if e.tag == STEP_SEQUENCE), ())
        if not steps or isinstance(steps, (str, bytes)):
            raise CannotUnderstand("there is no Scheduled Procedure Step Sequence (0040,0100)")
        return [cls(elements, step) for step in steps]

    def encoded(self) -> bytes:
        return encode_item(self.elements(), _ENCODING, _CHARACTER_SET)

    def elements(self) -> Item:
        """The whole data set in the order of its tags."""
        step = tuple(self.step[tag] for tag in sorted(self.step))
        everything = {**self.top, STEP_SEQUENCE: Element(STEP_SEQUENCE, "SQ", (step,))}
        return tuple(everything[tag] for tag in sorted(everything))

    def text(self, tag: int) -> str:
        return _text(self.top, tag)

    def step_text(self, tag: int) -> str:
        return _text(self.step, tag)

    def put(self, tag: int, value: Value) -> None:
        self.top[tag] = Element(tag, dictionary_VR(tag), value)

    def put_in_step(self, tag: int, value: Value) -> None:
        self.step[tag] = Element(tag, dictionary_VR(tag), value)

    def show_state(self, state: StepState) -> None:
        """Tell the state in Scheduled Procedure Step Status, if that does not fit it already.

        A step that is scheduled and does not say so stays as it came: the status is of type 3.
        """
        fitting, told = STATUS_OF[state], self.step_text(STEP_STATUS)
        if told not in fitting and (told or state is not StepState.SCHEDULED):
            self.put_in_step(STEP_STATUS, fitting[0])

    def stations(self) -> list[str]:
        return [title for part in self.step_text(STATION_AE).split("\\") if (title := part.strip())]

    def starts_at(self) -> float | None:
        """The scheduled start in seconds since the epoch; None when it is malformed."""
        date, time = (
            temporal.date_key(self.step_text(START_DATE)),
            temporal.time_key(self.step_text(START_TIME)),
        )
        offset = self.text(TIMEZONE_OFFSET_FROM_UTC)
        try:
            moment = datetime.strptime(
                f"{date}{time[:6] or '000000'}{offset}", f"%Y%m%d%H%M%S{'%z' * bool(offset)}"
            )
            return moment.timestamp()
        except (ValueError, OverflowError):
            return None

    def columns(self) -> dict[str, str | bytes | float | None]:
        """The columns of table worklist_item that its data set fills."""
        stations = self.stations()
        return {
            "study_instance_uid": self.text(STUDY_UID),
            "sps_id": self.step_text(STEP_ID),
            "procedure_id": self.text(PROCEDURE_ID),
            "accession_number": self.text(ACCESSION_NUMBER),
            "placer_order": self.text(PLACER_ORDER),
            "filler_order": self.text(FILLER_ORDER),
            "patient_id": self.text(PATIENT_ID),
            "issuer_of_patient_id": self.text(ISSUER_OF_PATIENT_ID),
            "patient_name_key": person_name_key(self.text(PATIENT_NAME)),
            "stations": "\\".join(["", *stations, ""]) if stations else "",
            "modality": self.step_text(MODALITY),
            "location": self.step_text(STEP_LOCATION),
            "start_date": temporal.date_key(self.step_text(START_DATE)),
            "start_time": temporal.time_key(self.step_text(START_TIME)),
            "starts_at": self.starts_at(),
            "data": self.encoded(),
        }

    def missing(self, *, with_station: bool = False) -> list[str]:
        """What a modality must be told and is not there, by name and tag."""
        top = [tags for tags in _TYPE_1 if not _has_any(self.top, tags)]
        of_step = [(STATION_AE,)] if with_station else []
        step = [tags for tags in (*of_step, *_TYPE_1_OF_STEP) if not _has_any(self.step, tags)]
        return [*map(_named, top), *map(_named, step)]

    def check(self, *, with_station: bool = False) -> None:
        """Raises IncompleteItem with the names of what is missing."""
        if missing := self.missing(with_station=with_station):
            raise IncompleteItem(f"missing: {', '.join(missing)}")


def _text(elements: dict[int, Element], tag: int) -> str:
    element = elements.get(tag)
    return element.value if element is not None and isinstance(element.value, str) else ""


def _has_any(elements: dict[int, Element], tags: tuple[int, ...]) -> bool:
    return any(tag in elements and elements[tag].value for tag in tags)


def _named(tags: tuple[int, ...]) -> str:
    return " or ".join(f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags)


def code_item(value: str, scheme: str, meaning: str) -> Iterator[Item]:
    """The one item of a code sequence (PS3.3 Table 8.8-1); none without a code."""
    if value:
        scheme, meaning = scheme or "99LOCAL", meaning or value
        parts = ((0x00080100, "SH", value), (0x00080102, "SH", scheme), (0x00080104, "LO", meaning))
        yield tuple(Element(*part) for part in parts)
