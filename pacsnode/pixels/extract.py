"""A new instance of some frames of another (PS3.4 Y.3.3, PS3.3 C.12.3). Worker processes only."""

import struct
from datetime import datetime
from typing import Final

from pacsnode import IMPLEMENTATION_VERSION_NAME, __version__
from pacsnode.dicom.frame_range import TIME_RANGE, FrameRange
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotCreateInstance, CannotExtractFrames, NotTimeBased
from pacsnode.pixels.cutting import cut_pixel_data, pixel_data_of
from pacsnode.pixels.frame_attributes import check_divisible, keep_frame_attributes
from pacsnode.pixels.frame_times import TIMEZONE_OFFSET_FROM_UTC, frame_times
from pacsnode.pixels.image import NUMBER_OF_FRAMES, numbers_of, set_text
from pacsnode.pixels.job import MOMENT, Extraction
from pacsnode.pixels.recode import DataSet
from pacsnode.pixels.recode import Sequence as Items

SOP_INSTANCE_UID: Final = 0x00080018
FRAME_EXTRACTION_SEQUENCE: Final = 0x00081164
MULTI_FRAME_SOURCE_SOP_INSTANCE_UID: Final = 0x00081167
CONTRIBUTING_EQUIPMENT_SEQUENCE: Final = 0x0018A001
PURPOSE_OF_REFERENCE_CODE_SEQUENCE: Final = 0x0040A170

# The new instance is no part of a concatenation, its pixel data is in it, nobody has signed it, and it was
# created by somebody else
_NOT_OF_THE_NEW_INSTANCE: Final = (
    0x00080014,  # Instance Creator UID
    0x00200242,  # SOP Instance UID of Concatenation Source
    0x00209161,  # Concatenation UID
    0x00209162,  # In-concatenation Number
    0x00209163,  # In-concatenation Total Number
    0x00209228,  # Concatenation Frame Offset Number
    0x00287FE0,  # Pixel Data Provider URL
    0x4FFE0001,  # MAC Parameters Sequence
    0xFFFAFFFA,  # Digital Signatures Sequence
)


def extract(data_set: DataSet, stored: UID, extraction: Extraction) -> None:
    """Make a data set in the transfer syntax `stored` the new instance that `extraction` describes.

    Raises FramesNotFound, CannotCreateInstance, CannotExtractFrames, NotTimeBased, CannotUnderstand.
    """
    count = _number_of_frames(data_set)
    numbers = _selected(data_set, extraction.frame_range, count)
    if len(numbers) < count:
        frames = [number - 1 for number in numbers]
        check_divisible(data_set)
        cut_pixel_data(data_set, stored, frames, count)
        keep_frame_attributes(data_set, frames, count)
    data_set.remove(*_NOT_OF_THE_NEW_INSTANCE)
    _remove_private(data_set)
    _record(data_set, extraction)
    _identify(data_set, extraction)


def _number_of_frames(data_set: DataSet) -> int:
    """Number of Frames. Raises CannotCreateInstance for what is no multi-frame image."""
    numbers = numbers_of(data_set, NUMBER_OF_FRAMES)
    if len(numbers) != 1 or numbers[0] < 1:
        raise CannotCreateInstance("the instance is no multi-frame image")
    if pixel_data_of(data_set) is None:
        raise CannotExtractFrames("the instance has no pixel data of its own")
    return int(numbers[0])


def _selected(data_set: DataSet, frame_range: FrameRange, count: int) -> tuple[int, ...]:
    if not frame_range.is_timed:
        return frame_range.numbers(count)
    times = frame_times(data_set, count)
    if times is None:
        raise NotTimeBased("nothing tells the times of the frames")
    return frame_range.between(times)


def _remove_private(data_set: DataSet) -> None:
    """Private attributes may speak of frames, and nobody can tell (PS3.4 Y.3.3)."""
    data_set.elements = [element for element in data_set.elements if not element.tag >> 16 & 1]
    for element in data_set.elements:
        if isinstance(element.value, Items):
            for item in element.value.items:
                _remove_private(item)


def _record(data_set: DataSet, extraction: Extraction) -> None:
    """The Frame Extraction Module, and the equipment that extracts (PS3.3 C.12.3, C.12.1)."""
    item = _appended(data_set, FRAME_EXTRACTION_SEQUENCE)
    item.set(MULTI_FRAME_SOURCE_SOP_INSTANCE_UID, b"UI", data_set.raw(SOP_INSTANCE_UID) or b"")
    frame_range = extraction.frame_range
    if frame_range.tag == TIME_RANGE:
        item.set(TIME_RANGE, b"FD", struct.pack("<2d", *frame_range.values))
    else:
        numbers = tuple(map(int, frame_range.values))
        item.set(frame_range.tag, b"UL", struct.pack(f"<{len(numbers)}I", *numbers))
    equipment = _appended(data_set, CONTRIBUTING_EQUIPMENT_SEQUENCE)
    set_text(equipment, 0x00080070, b"LO", "pacsnode")  # Manufacturer
    set_text(equipment, 0x00081010, b"SH", extraction.station)  # Station Name
    set_text(equipment, 0x00081090, b"LO", IMPLEMENTATION_VERSION_NAME)  # Manufacturer's Model Name
    set_text(equipment, 0x00181020, b"LO", __version__)  # Software Versions
    set_text(equipment, 0x0018A002, b"DT", extraction.moment)  # Contribution DateTime
    purpose = _appended(equipment, PURPOSE_OF_REFERENCE_CODE_SEQUENCE)
    set_text(purpose, 0x00080100, b"SH", "109105")
    set_text(purpose, 0x00080102, b"SH", "DCM")
    set_text(purpose, 0x00080104, b"LO", "Frame Extracting Equipment")


def _identify(data_set: DataSet, extraction: Extraction) -> None:
    set_text(data_set, SOP_INSTANCE_UID, b"UI", extraction.sop_instance)
    created = _on_its_clock(data_set, extraction.moment)
    set_text(data_set, 0x00080012, b"DA", f"{created:%Y%m%d}")  # Instance Creation Date
    set_text(data_set, 0x00080013, b"TM", f"{created:%H%M%S}")  # Instance Creation Time


def _on_its_clock(data_set: DataSet, moment: str) -> datetime:
    """A moment on the clock that the times of a data set go by, where it says (PS3.3 C.12.1.1.8)."""
    found = datetime.strptime(moment, MOMENT)
    offset = (data_set.raw(TIMEZONE_OFFSET_FROM_UTC) or b"").decode("ascii", "replace").strip(" \0")
    try:
        return found.astimezone(datetime.strptime(offset, "%z").tzinfo) if offset else found
    except ValueError:
        return found


def _appended(data_set: DataSet, tag: int) -> DataSet:
    """A new item at the end of a sequence, which is made where there is none."""
    element = data_set.find(tag)
    items = element.value.items if element is not None and isinstance(element.value, Items) else []
    item = DataSet(parent=data_set)
    data_set.set(tag, b"SQ", Items([*items, item], defined=False))
    return item
