"""When each frame of an instance was acquired, and the attributes that say so (PS3.3 C.7.6.5, C.7.6.16.2.2).

Worker processes only.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from itertools import accumulate, pairwise
from typing import Final

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.image import numbers_of, set_numbers
from pacsnode.pixels.recode import DataSet
from pacsnode.pixels.recode import Sequence as Items

CONTENT_DATE: Final = 0x00080023
CONTENT_TIME: Final = 0x00080033
TIMEZONE_OFFSET_FROM_UTC: Final = 0x00080201
CINE_RATE: Final = 0x00180040
EFFECTIVE_DURATION: Final = 0x00180072
FRAME_TIME: Final = 0x00181063
FRAME_TIME_VECTOR: Final = 0x00181065
FRAME_DELAY: Final = 0x00181066
FRAME_REFERENCE_DATETIME: Final = 0x00189151
FRAME_CONTENT_SEQUENCE: Final = 0x00209111
FRAME_INCREMENT_POINTER: Final = 0x00280009
PER_FRAME_FUNCTIONAL_GROUPS: Final = 0x52009230

_MOMENT: Final = re.compile(
    r"(\d{4})(\d\d)?(\d\d)?(\d\d)?:?(\d\d)?:?(\d\d)?(\.\d{1,6})?([+-]\d{4})?"
)  # DT (PS3.5 6.2), and the colons of old TMs


def frame_times(data_set: DataSet, count: int) -> list[float] | None:
    """Seconds from Content Time to each frame; None when nothing tells (PS3.4 Y.3.2.1.3)."""
    referenced = _reference_times(data_set, count)
    if referenced is not None:
        return referenced
    relative = _relative_times(data_set, count)
    if relative is None:
        return None
    delay = next(iter(numbers_of(data_set, FRAME_DELAY)), 0.0)
    return [(delay + one) / 1000 for one in relative]


def keep_frame_times(data_set: DataSet, frames: Sequence[int], count: int) -> None:
    """Make the attributes tell the times of `frames`, indexes from 0, the only ones that are left.

    They are counted from Content Time as before: Frame Delay grows by what was cut off before the first.
    """
    data_set.remove(EFFECTIVE_DURATION)
    times = _relative_times(data_set, count)
    if times is None:
        return
    kept = [times[frame] for frame in frames]
    if kept[0] > 0:
        delay = next(iter(numbers_of(data_set, FRAME_DELAY)), 0.0)
        set_numbers(data_set, FRAME_DELAY, b"DS", [delay + kept[0]])
    gaps = {later - earlier for earlier, later in pairwise(frames)}
    if len(numbers_of(data_set, FRAME_TIME_VECTOR)) == count:
        _set_vector(data_set, kept)
    elif len(gaps) == 1:
        (frame_time,) = numbers_of(data_set, FRAME_TIME)
        set_numbers(data_set, FRAME_TIME, b"DS", [frame_time * max(gaps)])
    elif gaps:
        data_set.remove(FRAME_TIME)
        _set_vector(data_set, kept)
        data_set.set(FRAME_INCREMENT_POINTER, b"AT", b"\x18\0\x65\x10")
    if gaps != {1}:
        data_set.remove(CINE_RATE)


def _set_vector(data_set: DataSet, times: Sequence[float]) -> None:
    increments = [0.0, *(later - earlier for earlier, later in pairwise(times))]
    set_numbers(data_set, FRAME_TIME_VECTOR, b"DS", increments)


def _relative_times(data_set: DataSet, count: int) -> list[float] | None:
    """Milliseconds from the first frame to each (PS3.3 C.7.6.5.1.1, C.7.6.5.1.2)."""
    increments = numbers_of(data_set, FRAME_TIME_VECTOR)
    if len(increments) == count:
        return list(accumulate([0.0, *increments[1:]]))
    frame_time = numbers_of(data_set, FRAME_TIME)
    return [frame_time[0] * frame for frame in range(count)] if len(frame_time) == 1 else None


def _reference_times(data_set: DataSet, count: int) -> list[float] | None:
    """From the Frame Reference DateTime of each frame (PS3.3 C.7.6.16.2.2)."""
    groups = data_set.find(PER_FRAME_FUNCTIONAL_GROUPS)
    day = _text(data_set, CONTENT_DATE)
    content = _moment(data_set, day + _text(data_set, CONTENT_TIME)) if len(day) == 8 else None
    if groups is None or content is None or not isinstance(groups.value, Items):
        return None
    moments = [_moment(data_set, _reference(group)) for group in groups.value.items]
    found = [(moment - content).total_seconds() for moment in moments if moment is not None]
    return found if len(found) == count else None


def _reference(group: DataSet) -> str:
    content = group.find(FRAME_CONTENT_SEQUENCE)
    if content is None or not isinstance(content.value, Items) or not content.value.items:
        return ""
    return _text(content.value.items[0], FRAME_REFERENCE_DATETIME)


def _moment(data_set: DataSet, text: str) -> datetime | None:
    """A DT; without an offset of its own on the clock of the data set (PS3.3 C.12.1.1.8)."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    offset = offset or _text(data_set, TIMEZONE_OFFSET_FROM_UTC) or "+0000"
    try:
        minutes = int(offset[1:3]) * 60 + int(offset[3:5])
        zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
        whole = datetime(
            int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), 0, tzinfo=zone
        )
    except ValueError:
        return None
    return whole + timedelta(seconds=int(second or 0) + float(fraction or 0))


def _text(data_set: DataSet, tag: int) -> str:
    try:
        return (data_set.raw(tag) or b"").decode("ascii").strip(" \0")
    except UnicodeDecodeError:
        raise CannotUnderstand(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is no date or time") from None
