"""Frame Range Keys: which frames of an instance a request selects (PS3.4 Y.3.2). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pacsnode.dicom.query import RequestedKey
from pacsnode.errors import CannotExtractFrames, FramesNotFound, InvalidFrameRange

SIMPLE_FRAME_LIST: Final = 0x00081161
CALCULATED_FRAME_LIST: Final = 0x00081162
TIME_RANGE: Final = 0x00081163
FRAME_RANGE_KEYS: Final = (SIMPLE_FRAME_LIST, CALCULATED_FRAME_LIST, TIME_RANGE)

_CLOCK_ERROR: Final = 1e-6  # seconds; times are sums of decimal milliseconds


@dataclass(frozen=True, slots=True)
class FrameRange:
    """A Frame Range Key, by its tag. `values`: frame numbers from 1 on, or two times in seconds."""

    tag: int
    values: tuple[float, ...]

    @property
    def is_timed(self) -> bool:
        return self.tag == TIME_RANGE

    def numbers(self, count: int) -> tuple[int, ...]:
        """The frame numbers of a list, among `count` frames (PS3.4 Y.3.2.1.1, Y.3.2.1.2).

        Raises FramesNotFound when there are none, CannotExtractFrames when a simple list names one too many.
        """
        asked = tuple(map(int, self.values))
        if self.tag == SIMPLE_FRAME_LIST:
            found = [number for number in asked if number <= count]
            if found and len(found) != len(asked):
                raise CannotExtractFrames(f"there is no frame {asked[-1]}, only {count}")
        else:
            found = [number for part in _parts(asked, count) for number in part]
        return _some(found)

    def between(self, times: Sequence[float]) -> tuple[int, ...]:
        """The numbers of the frames at `times`, seconds from Content Time, within the Time Range (Y.3.2.1.3).

        Raises FramesNotFound when there are none.
        """
        start, end = self.values
        return _some(
            [
                number
                for number, time in enumerate(times, 1)
                if start - _CLOCK_ERROR <= time <= end + _CLOCK_ERROR
            ]
        )


def frame_range_of(requested: Iterable[RequestedKey]) -> FrameRange:
    """The one Frame Range Key of an identifier (PS3.4 Y.6.1.1.3). Raises InvalidFrameRange."""
    given = [key for key in requested if key.tag in FRAME_RANGE_KEYS and key.text]
    if len(given) != 1:
        offending = tuple(key.tag for key in given) or FRAME_RANGE_KEYS
        raise InvalidFrameRange("one frame range key is wanted at FRAME", offending)
    (key,) = given
    kind = float if key.tag == TIME_RANGE else int
    try:
        frame_range = FrameRange(key.tag, tuple(kind(text) for text in key.text.split("\\")))
    except ValueError:
        raise InvalidFrameRange("a frame range key holds what is no number", (key.tag,)) from None
    _check(frame_range)
    return frame_range


def _check(frame_range: FrameRange) -> None:
    values = frame_range.values
    offending = (frame_range.tag,)
    if frame_range.is_timed:
        if len(values) != 2 or not values[0] <= values[1]:
            raise InvalidFrameRange("Time Range is a start and a later end", offending)
        return
    if min(values) < 1:
        raise InvalidFrameRange("frames are counted from 1", offending)
    if frame_range.tag == SIMPLE_FRAME_LIST:
        if any(one >= next_one for one, next_one in pairwise(values)):
            raise InvalidFrameRange("Simple Frame List does not increase", offending)
        return
    asked = tuple(map(int, values))
    if len(asked) % 3 or any(first > last for first, last in zip(asked[::3], asked[1::3], strict=True)):
        raise InvalidFrameRange("Calculated Frame List is no list of first, last, increment", offending)
    if any(part[-1] >= following[0] for part, following in pairwise(_parts(asked, None))):
        raise InvalidFrameRange("the ranges of Calculated Frame List overlap", offending)


def _parts(asked: tuple[int, ...], count: int | None) -> list[range]:
    """The sub-ranges of a Calculated Frame List, which end at `count`."""
    return [
        range(first, (last if count is None else min(last, count)) + 1, increment)
        for first, last, increment in zip(asked[::3], asked[1::3], asked[2::3], strict=True)
    ]


def _some(found: list[int]) -> tuple[int, ...]:
    if not found:
        raise FramesNotFound("none of the frames asked for is in the instance")
    return tuple(found)
