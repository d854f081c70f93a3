"""Rows read on the clock of a query (PS3.4 C.2.2.2.1.3, C.2.2.2.5.4).

Where timezone adjustment was negotiated and a query tells its offset from UTC, a date and its time are moved
from the clock of the object to that of the query before they are matched and answered. An object that does
not tell its offset is taken to be on the clock of the query.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pacsnode.archive.plan import ZonedPair
from pacsnode.dicom import temporal
from pacsnode.dicom.matching import predicate
from pacsnode.dicom.query import Key

Cell = TypeVar("Cell")

PairTest = Callable[[str, str], bool]


class ZonedRows:
    """Moves the dates and times of rows, and decides the keys on them."""

    def __init__(self, pairs: Sequence[ZonedPair], match_unknown: bool) -> None:
        self._pairs = [(pair, _pair_test(pair, match_unknown)) for pair in pairs]

    def read(self, row: Sequence[Cell | str]) -> Sequence[Cell | str] | None:
        """The row on the clock of the query, or None when it does not match."""
        cells = list(row)
        for pair, test in self._pairs:
            date, time = str(cells[pair.date]), str(cells[pair.time])
            offset = temporal.known_offset(str(cells[pair.offset]))
            if offset is not None:
                date, time = temporal.moved(date, time, pair.timezone - offset)
            if not test(date, time):
                return None
            cells[pair.date], cells[pair.time] = date, time
        return tuple(cells)


def _pair_test(pair: ZonedPair, match_unknown: bool) -> PairTest:
    if pair.combined and pair.date_key is not None and pair.time_key is not None:
        return combined_test(pair.date_key, pair.time_key, match_unknown)
    tests = [predicate(key, match_unknown) if key else None for key in (pair.date_key, pair.time_key)]

    def matches(*values: str) -> bool:
        return all(test([value]) for test, value in zip(tests, values, strict=True) if test is not None)

    return matches


def combined_test(date_key: Key, time_key: Key, match_unknown: bool) -> PairTest:
    """Both ranges as one range of moments; a date without its time is unknown (PS3.4 C.5.1.1, K.6.1.2.2)."""
    on_date = predicate(date_key, match_unknown)
    days, times = date_key.ranges[0], time_key.ranges[0]
    low = None if days.low is None or times.low is None else (days.low, times.low)
    high = None if days.high is None or times.high is None else (days.high, times.high)

    def matches(date: str, time: str) -> bool:
        if not on_date([date]):
            return False
        moment = temporal.date_key(date), temporal.time_key(time)
        if not all(moment):
            return match_unknown
        return (low is None or moment >= low) and (high is None or moment <= high)

    return matches
