"""The attributes that speak of frames, made true of an instance with fewer of them (PS3.4 Y.3.3).

Worker processes only. Frame indexes count from 0 and ascend; numbers in attributes count from 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pacsnode.errors import CannotCreateInstance, CannotExtractFrames
from pacsnode.pixels.cutting import cut_bits
from pacsnode.pixels.frame_times import FRAME_INCREMENT_POINTER, PER_FRAME_FUNCTIONAL_GROUPS, keep_frame_times
from pacsnode.pixels.image import NUMBER_OF_FRAMES, numbers_of, set_numbers
from pacsnode.pixels.recode import DataSet, Fragments
from pacsnode.pixels.recode import Sequence as Items

SOP_CLASS_UID: Final = 0x00080016
DIMENSION_ORGANIZATION_TYPE: Final = 0x00209311
IMAGE_POSITION_PATIENT: Final = 0x00200032
IMAGE_ORIENTATION_PATIENT: Final = 0x00200037
REPRESENTATIVE_FRAME_NUMBER: Final = 0x00286010
FRAME_NUMBERS_OF_INTEREST: Final = 0x00286020
FRAME_OF_INTEREST_DESCRIPTION: Final = 0x00286022
FRAME_OF_INTEREST_TYPE: Final = 0x00286023
RECOMMENDED_VIEWING_MODE: Final = 0x00281090
MASK_SUBTRACTION_SEQUENCE: Final = 0x00286100
APPLICABLE_FRAME_RANGE: Final = 0x00286102
MASK_FRAME_NUMBERS: Final = 0x00286110
EXPOSURE_SEQUENCE: Final = 0x30020030
REFERENCED_FRAME_NUMBER: Final = 0x00081160
GRID_FRAME_OFFSET_VECTOR: Final = 0x3004000C
AUDIO_SAMPLE_DATA: Final = 0x5000200C
OVERLAY_ROWS: Final = 0x60000010
OVERLAY_COLUMNS: Final = 0x60000011
NUMBER_OF_FRAMES_IN_OVERLAY: Final = 0x60000015
IMAGE_FRAME_ORIGIN: Final = 0x60000051
OVERLAY_DATA: Final = 0x60003000

# Nuclear Medicine, and what it was before: as many frames as the product of its counts (PS3.3 C.8.4.8)
_INDIVISIBLE: Final = {b"1.2.840.10008.5.1.4.1.1.20", b"1.2.840.10008.5.1.4.1.1.5"}

# One value a frame. Positioner and table (PS3.3 C.8.7.4, C.8.7.5), Secondary Capture (C.8.6.3), triggers
_VECTORS: Final = (
    0x00181135, 0x00181136, 0x00181137, 0x00181520, 0x00181521,
    0x00182001, 0x00182002, 0x00182003, 0x00182004, 0x00182005, 0x00182006,
    0x00540210,
)  # fmt: skip

# What is said of all frames, and need not be true of some. All but the first two are of Type 3, or of
# modules that are optional.
_OF_ALL_FRAMES: Final = (
    0x00082142,  # Start Trim
    0x00082143,  # Stop Trim
    0x00183103,  # IVUS Pullback Start Frame Number
    0x00183104,  # IVUS Pullback Stop Frame Number
    0x00280106,  # Smallest Image Pixel Value
    0x00280107,  # Largest Image Pixel Value
    0x00289505,  # XA/XRF Multi-frame Presentation Sequence
)


def check_divisible(data_set: DataSet) -> None:
    """Raise CannotCreateInstance where some of the frames would be no valid instance."""
    if (data_set.raw(SOP_CLASS_UID) or b"").strip(b" \0") in _INDIVISIBLE:
        raise CannotCreateInstance("frames of this SOP class belong together")
    if (data_set.raw(DIMENSION_ORGANIZATION_TYPE) or b"").strip() == b"TILED_FULL":
        raise CannotCreateInstance("the frames of TILED_FULL have their place by their number")
    if any(data_set.find(AUDIO_SAMPLE_DATA + (group << 16)) for group in range(0, 0x20, 2)):
        raise CannotExtractFrames("there is audio that belongs to the frames")


def keep_frame_attributes(data_set: DataSet, frames: Sequence[int], count: int) -> None:
    """Make all attributes but the pixel data true of `frames`, fewer than the `count` there were."""
    number_of = {frame + 1: number for number, frame in enumerate(frames, 1)}
    data_set.remove(*_OF_ALL_FRAMES, DIMENSION_ORGANIZATION_TYPE)
    set_numbers(data_set, NUMBER_OF_FRAMES, b"IS", [len(frames)])
    keep_frame_times(data_set, frames, count)
    for tag in _VECTORS:
        _cut_vector(data_set, tag, frames, count)
    _cut_functional_groups(data_set, frames, count)
    _cut_grid(data_set, frames, count)
    _renumber_interest(data_set, number_of)
    _renumber_masks(data_set, number_of)
    _renumber_exposures(data_set, number_of)
    for group in range(0, 0x20, 2):
        _cut_overlay(data_set, group << 16, frames)


def _cut_vector(data_set: DataSet, tag: int, frames: Sequence[int], count: int) -> None:
    """Leave the values of some frames; a vector of another length is not one value a frame."""
    element, raw = data_set.find(tag), data_set.raw(tag)
    if element is None or raw is None:
        return
    values = raw.rstrip(b" \0").split(b"\\")
    if len(values) == count:
        kept = b"\\".join(values[frame] for frame in frames)
        element.value = kept + b" " * (len(kept) & 1)


def _cut_functional_groups(data_set: DataSet, frames: Sequence[int], count: int) -> None:
    element = data_set.find(PER_FRAME_FUNCTIONAL_GROUPS)
    if element is None or not isinstance(element.value, Items) or not element.value.items:
        return
    groups = element.value.items
    if len(groups) != count:
        raise CannotExtractFrames(f"{len(groups)} functional groups for {count} frames")
    element.value = Items([groups[frame] for frame in frames], defined=element.value.defined)


def _cut_grid(data_set: DataSet, frames: Sequence[int], count: int) -> None:
    """The planes of a dose (PS3.3 C.8.8.3.2): the first lies at Image Position (Patient).

    Offsets that begin with 0 are relative to it, others are coordinates of their own.
    """
    offsets = numbers_of(data_set, GRID_FRAME_OFFSET_VECTOR)
    if len(offsets) != count:
        return
    _cut_vector(data_set, GRID_FRAME_OFFSET_VECTOR, frames, count)
    if len(frames) == 1:  # the vector of one plane is none
        data_set.remove(GRID_FRAME_OFFSET_VECTOR, FRAME_INCREMENT_POINTER)
    shift = offsets[frames[0]] - offsets[0]
    if not shift:
        return
    if offsets[0] == 0 and len(frames) > 1:
        relative = [offsets[frame] - shift for frame in frames]
        set_numbers(data_set, GRID_FRAME_OFFSET_VECTOR, b"DS", relative)
    position = numbers_of(data_set, IMAGE_POSITION_PATIENT)
    orientation = numbers_of(data_set, IMAGE_ORIENTATION_PATIENT)
    if len(position) == 3 and len(orientation) == 6:
        normal = _cross(orientation[:3], orientation[3:])
        # A coordinate is one along the patient's axis, whichever way the rows turn
        direction = normal if offsets[0] == 0 else [abs(part) for part in normal]
        moved = [one + shift * part for one, part in zip(position, direction, strict=True)]
        set_numbers(data_set, IMAGE_POSITION_PATIENT, b"DS", moved)


def _cross(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [
        one[1] * other[2] - one[2] * other[1],
        one[2] * other[0] - one[0] * other[2],
        one[0] * other[1] - one[1] * other[0],
    ]


def _renumber_interest(data_set: DataSet, number_of: Mapping[int, int]) -> None:
    """Representative Frame Number and Frames of Interest (PS3.3 C.7.6.6, C.7.6.10)."""
    representative = list(_shorts(data_set, REPRESENTATIVE_FRAME_NUMBER))
    if representative:
        _set_shorts(data_set, REPRESENTATIVE_FRAME_NUMBER, [number_of.get(representative[0], 0)])
    interesting = list(_shorts(data_set, FRAME_NUMBERS_OF_INTEREST))
    kept = [place for place, number in enumerate(interesting) if number in number_of]
    _set_shorts(data_set, FRAME_NUMBERS_OF_INTEREST, [number_of[interesting[place]] for place in kept])
    for tag in (FRAME_OF_INTEREST_DESCRIPTION, FRAME_OF_INTEREST_TYPE):
        if kept:
            _cut_vector(data_set, tag, kept, len(interesting))
        elif interesting:
            data_set.remove(tag)


def _renumber_masks(data_set: DataSet, number_of: Mapping[int, int]) -> None:
    """Mask Subtraction (PS3.3 C.7.6.10): an item goes with the last of its masks or of its frames."""

    def kept(item: DataSet) -> bool:
        masks = list(_shorts(item, MASK_FRAME_NUMBERS))
        ranges = list(_shorts(item, APPLICABLE_FRAME_RANGE))
        if not set(masks) <= number_of.keys():
            return False
        _set_shorts(item, MASK_FRAME_NUMBERS, [number_of[mask] for mask in masks])
        parts = [
            [number for frame, number in number_of.items() if first <= frame <= last]
            for first, last in zip(ranges[::2], ranges[1::2], strict=False)
        ]
        ends = [end for part in parts if part for end in (part[0], part[-1])]
        _set_shorts(item, APPLICABLE_FRAME_RANGE, ends)
        return bool(ends) or not ranges

    if _keep_items(data_set, MASK_SUBTRACTION_SEQUENCE, kept):
        data_set.remove(RECOMMENDED_VIEWING_MODE)


def _renumber_exposures(data_set: DataSet, number_of: Mapping[int, int]) -> None:
    """The exposures of an RT Image, each of one frame or of all (PS3.3 C.8.8.2)."""

    def kept(item: DataSet) -> bool:
        referenced = [int(number) for number in numbers_of(item, REFERENCED_FRAME_NUMBER)]
        left = [number_of[number] for number in referenced if number in number_of]
        if left:
            set_numbers(item, REFERENCED_FRAME_NUMBER, b"IS", left)
        return bool(left) or not referenced

    _keep_items(data_set, EXPOSURE_SEQUENCE, kept)


def _keep_items(data_set: DataSet, tag: int, kept: Callable[[DataSet], bool]) -> bool:
    """Leave some items of a sequence; without any the sequence goes, and that is told."""
    element = data_set.find(tag)
    if element is None or not isinstance(element.value, Items):
        return False
    items = [item for item in element.value.items if kept(item)]
    element.value = Items(items, defined=element.value.defined)
    if not items:
        data_set.remove(tag)
    return not items


def _cut_overlay(data_set: DataSet, group: int, frames: Sequence[int]) -> None:
    """An overlay of several frames, from Image Frame Origin on (PS3.3 C.9.2); others hold for all frames."""
    count = int(next(iter(numbers_of(data_set, NUMBER_OF_FRAMES_IN_OVERLAY + group)), 0))
    if count < 1:
        return
    origin = next(_shorts(data_set, IMAGE_FRAME_ORIGIN + group), 1) - 1
    places = ((place, frame - origin) for place, frame in enumerate(frames, 1))
    covered = [(place, frame) for place, frame in places if 0 <= frame < count]
    if not covered:
        data_set.elements = [one for one in data_set.elements if one.tag >> 16 != (0x60000000 + group) >> 16]
        return
    data = data_set.find(OVERLAY_DATA + group)
    if data is not None and not isinstance(data.value, (Items, Fragments)):
        bits = next(_shorts(data_set, OVERLAY_ROWS + group), 0)
        bits *= next(_shorts(data_set, OVERLAY_COLUMNS + group), 0)
        if len(data.value) * 8 < bits * count:
            raise CannotExtractFrames("an overlay is shorter than its frames")
        data.value = cut_bits(data.value, bits, [frame for _, frame in covered])
    set_numbers(data_set, NUMBER_OF_FRAMES_IN_OVERLAY + group, b"IS", [len(covered)])
    _set_shorts(data_set, IMAGE_FRAME_ORIGIN + group, [covered[0][0]])


def _shorts(data_set: DataSet, tag: int) -> Iterator[int]:
    raw = data_set.raw(tag) or b""
    return (int.from_bytes(raw[place : place + 2], "little") for place in range(0, len(raw) & ~1, 2))


def _set_shorts(data_set: DataSet, tag: int, numbers: Sequence[int]) -> None:
    """Set a US that is there; nothing left, or 0 which is no frame, removes it."""
    if data_set.find(tag) is None:
        return
    if not any(numbers):
        data_set.remove(tag)
        return
    data_set.set(tag, b"US", b"".join(number.to_bytes(2, "little") for number in numbers))
