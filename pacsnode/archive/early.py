"""Groups committed while the journal is still being written: only their answers wait for both.

The disk takes as long for the journal as the writer for rows and files. So new small objects get both at
once, and are answered when the journal has them too. Until then a power cut may take the file of a row
(recovery.py looks at the last commits), a kill may leave a file without a row (announced.py), and the journal
may fail: then the writer takes the object back and refuses it. Nobody is told that such an object is stored
on the strength of its row: whatever comes under its UID waits.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from pacsnode.archive.announced import MOST, SLOTS, Announced, Announcement
from pacsnode.archive.instance import Arrival, Outcome, Stored
from pacsnode.archive.judge import Verdict
from pacsnode.archive.scribe import Scribe
from pacsnode.dicom.uid import UID
from pacsnode.errors import OutOfResources

UNDER_WAY: Final = SLOTS // 2  # groups that wait for the journal; then the writer waits, too


class Early:
    """Belongs to the writer, but for settle()."""

    def __init__(self, scribe: Scribe, announced: Announced, *, allowed: bool) -> None:
        self._scribe = scribe
        self._announced = announced
        self._allowed = allowed
        self._unsure: dict[UID, int] = {}  # committed, and the journal may still fail: their tokens
        self._lost: dict[int, Verdict] = {}

    def begin(self, verdicts: Sequence[Verdict]) -> bool:
        """Whether a group can be committed before the journal has it. Raises OSError.

        Only what is new can be taken back as if it had never come.
        """
        if not self._allowed or len(verdicts) > MOST or self._scribe.awaited >= UNDER_WAY:
            return False
        if not all(map(_is_new_and_small, verdicts)):
            return False
        arrivals = [verdict.arrival for verdict in verdicts]
        self._announced.note(Announcement.of(arrival.token, arrival.row) for arrival in arrivals)
        self._unsure.update((arrival.row.sop_instance, arrival.token) for arrival in arrivals)
        return True

    def cancel(self, verdicts: Iterable[Verdict]) -> None:
        """They were not committed after all."""
        for verdict in verdicts:
            self._forget(verdict.arrival)

    def make_sure_of(self, arrivals: Iterable[Arrival]) -> None:
        """Wait until it is known what became of objects that were committed under the same UIDs."""
        if self._unsure and self._concerns(arrivals):
            self._scribe.catch_up()

    def refuse(self, arrivals: Iterable[Arrival]) -> None:
        """Raises OutOfResources when an object with one of their UIDs should be gone and is not."""
        if self._lost and self._concerns(arrivals):
            raise OutOfResources("storage failed: what was refused before could not be removed")

    def settle(self, verdicts: Iterable[Verdict]) -> Collection[int]:
        """The journal has a group, or has failed: the tokens of what is lost. In any thread.

        The writer may have taken that back by the time this returns, so `lost` would not tell.
        """
        lost = {}
        for verdict in verdicts:
            arrival = verdict.arrival
            if self._unsure.get(arrival.row.sop_instance) != arrival.token:
                continue
            if arrival.durable is not None and arrival.durable.failure is not None:
                lost[arrival.token] = verdict
            else:
                self._forget(arrival)
        self._lost.update(lost)
        return lost.keys()

    @property
    def lost(self) -> dict[int, Verdict]:
        """What is committed and has to be taken back, by its token."""
        return self._lost.copy()

    def taken_back(self, verdicts: Iterable[Verdict]) -> None:
        """They are gone."""
        for verdict in verdicts:
            del self._lost[verdict.arrival.token]
            self._forget(verdict.arrival)

    def _concerns(self, arrivals: Iterable[Arrival]) -> bool:
        return not self._unsure.keys().isdisjoint([arrival.row.sop_instance for arrival in arrivals])

    def _forget(self, arrival: Arrival) -> None:
        if self._unsure.get(arrival.row.sop_instance) == arrival.token:
            del self._unsure[arrival.row.sop_instance]


def _is_new_and_small(verdict: Verdict) -> bool:
    arrival, result = verdict.arrival, verdict.result
    is_new = isinstance(result, Stored) and result.outcome is Outcome.STORED
    return is_new and arrival.content is not None and arrival.durable is not None
