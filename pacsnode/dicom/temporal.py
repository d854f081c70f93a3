"""Dates and times of keys as ranges in one comparable form (PS3.4 C.2.2.2.1.3, C.2.2.2.5; PS3.5 6.2).

A value stands for all it could mean: `2230` is 22:30:00.000000 to 22:30:59.999999, so single values and the
ends of ranges are compared by meaning, not as strings. A value with a fraction is an instant.
The comparable forms are those of the generated columns of archive.schema: YYYYMMDD and HHMMSS.FFFFFF.
Offsets from UTC are in minutes, as Timezone Offset From UTC (0008,0201) tells them (PS3.3 C.12.1.1.8).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final


@dataclass(frozen=True, slots=True)
class Range:
    """Both ends inclusive; None is open. `is_value`: it is what a single value can mean, not two ends."""

    low: str | None
    high: str | None
    is_value: bool = field(default=False, compare=False)

    @property
    def form(self) -> tuple[bool, bool, bool]:
        """What a date and a time have in common that are matched as one (PS3.4 C.2.2.2.5.4).

        A single time is no end of a range of days: it is met on each of them.
        """
        return self.low is None, self.high is None, self.is_value

    def __contains__(self, key: str) -> bool:
        return (self.low is None or key >= self.low) and (self.high is None or key <= self.high)


_DATE: Final = re.compile(r"\d{4}(\d\d(\d\d)?)?", re.ASCII)
_TIME: Final = re.compile(r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?", re.ASCII)
_DATE_TIME: Final = re.compile(
    r"(?P<digits>\d{4}(?:\d\d){0,5})(?:\.(?P<fraction>\d{1,6}))?(?P<offset>[+-](?:0\d|1[0-4])[0-5]\d)?",
    re.ASCII,
)

_OFFSET: Final = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)

_LATEST_TIME: Final = "235959.999999"
_SOME_DAY: Final = "20000102"  # for a time without a date
_CUT_OFF: Final = 3  # days between the 28th, which every month has, and the end of a month
# Month, day, hour, minute and second that a DT leaves out: the earliest and the latest it can mean. 31 days
# in each month only serve comparison.
_EARLIEST: Final = "00000101000000"
_LATEST: Final = "99991231235959"


def date_key(value: str) -> str:
    """A stored DA in comparable form; the dots of ACR-NEMA go."""
    return value.strip().replace(".", "")


def time_key(value: str) -> str:
    """A stored TM in comparable form; the colons of ACR-NEMA go; "" stays."""
    plain = value.strip().replace(":", "")
    if not plain:
        return ""
    if len(plain) <= 6:
        return f"{plain:0<6}.000000"
    return f"{plain:0<13}"[:13]


def date_range(text: str) -> Range:
    """The range a DA key names. Raises ValueError."""
    return _range(text, _date_span)


def time_range(text: str) -> Range:
    """The range a TM key names; one that crosses midnight matches nothing (PS3.4 C.2.2.2.5.2)."""
    return _range(text, _time_span)


def date_time_range(text: str, timezone: int | None = None) -> Range:
    """The range a DT key names, in UTC where it has an offset or `timezone` is its offset. Raises ValueError.

    A hyphen splits the value where both sides are DTs in order; else it belongs to the offset from UTC.
    """
    plain = text.replace(" ", "")
    span = partial(_date_time_span, timezone=timezone)
    for position in (match.start() for match in re.finditer("-", plain)):
        ends = plain[:position], plain[position + 1 :]
        if not any(ends) or any(end and not _DATE_TIME.fullmatch(end) for end in ends):
            continue
        found = _range(plain, span, position)
        if found.low is None or found.high is None or found.low <= found.high:
            return found
    low, high = span(plain)
    return Range(low, high)


def date_time_key(value: str, timezone: int | None = None) -> str:
    """A stored DT in comparable form: its earliest meaning, in UTC as in date_time_range; "" if malformed."""
    try:
        return _date_time_span(value.replace(" ", ""), timezone)[0]
    except ValueError:
        return ""


def offset_of(text: str) -> int:
    """The minutes of an offset from UTC, `+0130`. Raises ValueError."""
    plain = text.strip(" \0")
    if not _OFFSET.fullmatch(plain):
        raise ValueError(f"{text!r} is no offset from UTC")
    minutes = int(plain[1:3]) * 60 + int(plain[3:5])
    return minutes if plain[0] == "+" else -minutes


def known_offset(text: str) -> int | None:
    """The minutes of a stored offset from UTC; None for one that is missing or malformed."""
    try:
        return offset_of(text)
    except ValueError:
        return None


def moved(date: str, time: str, minutes: int) -> tuple[str, str]:
    """A DA and the TM that goes with it, read on a clock that is `minutes` ahead.

    Without a time, or where one is malformed, both stay as they are; without a date the time goes round.
    """
    plain = time.strip().replace(":", "")
    if not minutes or not _TIME.fullmatch(plain):
        return date, time
    day = date_key(date)
    try:
        start = datetime.strptime((day or _SOME_DAY) + f"{plain[:6]:0<6}", "%Y%m%d%H%M%S")
        moment = start + timedelta(minutes=minutes)
    except (ValueError, OverflowError):
        return date, time
    digits = max(len(plain[:6]), 4 if minutes % 60 else 2)
    moved_day = moment.strftime("%Y%m%d").rjust(8, "0") if day else ""
    return moved_day, moment.strftime("%H%M%S")[:digits] + plain[6:]


def moved_date_time(value: str, minutes: int) -> str:
    """A DT as `moved`; one with an offset of its own, or without a time, stays as it is."""
    match = _DATE_TIME.fullmatch(value.replace(" ", ""))
    if match is None or match["offset"] or len(match["digits"]) < 10:
        return value
    date, time = moved(match["digits"][:8], match["digits"][8:], minutes)
    return date + time + (f".{match['fraction']}" if match["fraction"] else "")


def days_around(wanted: Range, days: int) -> Range:
    """A range of dates that begins at least so many days earlier and ends at least so many later."""
    return Range(_days_later(wanted.low, -days), _days_later(wanted.high, days + _CUT_OFF))


def _days_later(day: str | None, days: int) -> str | None:
    """The end of a range moved, whose month and day may be 00 or 99; open where the calendar ends."""
    if day is None:
        return None
    year, month, of_month = int(day[:4]), int(day[4:6]), int(day[6:])
    try:
        start = datetime(year, min(max(month, 1), 12), min(max(of_month, 1), 28))
        return (start + timedelta(days=days)).strftime("%Y%m%d").rjust(8, "0")
    except (ValueError, OverflowError):
        return None


def _range(text: str, span: Callable[[str], tuple[str, str]], split_at: int | None = None) -> Range:
    """Read `a-b`, `a-`, `-b` or `a` with `span`, which gives the earliest and latest meaning of one value."""
    plain = text.replace(" ", "")
    if split_at is None:
        split_at = plain.find("-")
    if split_at < 0:
        return Range(*span(plain), is_value=True)
    low, high = plain[:split_at], plain[split_at + 1 :]
    if not low and not high:
        raise ValueError("a range without ends")
    return Range(span(low)[0] if low else None, span(high)[1] if high else None)


def _date_span(text: str) -> tuple[str, str]:
    plain = text.replace(".", "")
    if not _DATE.fullmatch(plain):
        raise ValueError(f"{text!r} is no date")
    return f"{plain:0<8}", f"{plain:9<8}"


def _time_span(text: str) -> tuple[str, str]:
    plain = text.replace(":", "")
    if not _TIME.fullmatch(plain):
        raise ValueError(f"{text!r} is no time")
    earliest = time_key(plain)
    return earliest, earliest if len(plain) > 6 else plain + _LATEST_TIME[len(plain) :]


def _date_time_span(text: str, timezone: int | None = None) -> tuple[str, str]:
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no date and time")
    digits, fraction = match["digits"], match["fraction"]
    offset = offset_of(match["offset"]) if match["offset"] else timezone
    earliest = digits + _EARLIEST[len(digits) :]
    latest = digits + _LATEST[len(digits) :]
    first, last = (f"{fraction:0<6}",) * 2 if fraction is not None else ("000000", "999999")
    return f"{_to_utc(earliest, offset)}.{first}", f"{_to_utc(latest, offset)}.{last}"


def _to_utc(digits: str, offset: int | None) -> str:
    """Shift YYYYMMDDHHMMSS by an offset from UTC; without one the local time is compared as it stands."""
    if offset is None:
        return digits
    try:
        shifted = datetime.strptime(digits, "%Y%m%d%H%M%S") - timedelta(minutes=offset)
    except (ValueError, OverflowError):
        return digits  # 31 February as the end of a partial value, or year 0: the offset hardly matters there
    return shifted.strftime("%Y%m%d%H%M%S").rjust(14, "0")
