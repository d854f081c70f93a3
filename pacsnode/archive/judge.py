"""What becomes of an arrival: its SOP Instance UID may be taken, by the same object or by another one.

Belongs to the writer: it changes the transaction that is open, and says what the files need.
"""

from dataclasses import dataclass, field
from enum import Enum

import structlog

from pacsnode.archive.files import Layout
from pacsnode.archive.index import Existing, Index
from pacsnode.archive.instance import Arrival, Outcome, Stored
from pacsnode.errors import DuplicateInstance

log = structlog.get_logger()


class Duplicates(Enum):
    """What to do with another object under a SOP Instance UID that is taken (storage.duplicates)."""

    KEEP = "keep"
    REPLACE = "replace"
    REFUSE = "refuse"


@dataclass(slots=True)
class Verdict:
    """What the index made of one arrival.

    `place`: where its file belongs, if it is kept. `moves` are done after the commit, in order.
    """

    arrival: Arrival
    result: Stored | Exception
    place: str | None = None
    moves: list[tuple[str, str]] = field(default_factory=list)

    @property
    def displaces(self) -> bool:
        """Another object has to leave the place first."""
        return len(self.moves) > 1


class Judge:
    """Follows one policy for duplicates."""

    def __init__(self, index: Index, layout: Layout, duplicates: Duplicates) -> None:
        self._index = index
        self._layout = layout
        self._duplicates = duplicates

    def judge(self, arrival: Arrival) -> Verdict:
        """Put one arrival into the open transaction."""
        row, token = arrival.row, arrival.token
        existing = self._index.find(row.sop_instance)
        if existing is None:
            self._index.add_instance(token, row)
            return _kept(arrival, Outcome.STORED, row.path)
        identity = (row.digest, row.sop_class, row.transfer_syntax)
        if identity == (existing.digest, existing.sop_class, existing.transfer_syntax):
            if self._is_lost(existing):
                self._index.renew(existing, row)
                return _kept(arrival, Outcome.RESTORED, existing.path)
            return Verdict(arrival, _stored(arrival, Outcome.DUPLICATE, existing.path))
        if self._duplicates is Duplicates.REFUSE:
            return Verdict(arrival, DuplicateInstance("another object has this SOP Instance UID"))
        if self._duplicates is Duplicates.REPLACE:
            aside = Layout.conflict_path(row.sop_instance, existing.id)
            self._index.displace(existing, aside, "replaced")
            self._index.add_instance(token, row)
            verdict = _kept(arrival, Outcome.REPLACED, row.path)
            verdict.moves = [(existing.path, aside), (Layout.incoming_path(token, row.size), row.path)]
            return verdict
        kept = self._index.find_conflict(row)
        if kept is not None:
            return Verdict(arrival, _stored(arrival, Outcome.DUPLICATE, kept))
        aside = Layout.conflict_path(row.sop_instance, token)
        self._index.add_conflict(token, row, aside, "kept")
        return _kept(arrival, Outcome.KEPT_ASIDE, aside)

    def _is_lost(self, existing: Existing) -> bool:
        """Whether the file of an instance is gone, or cut short: sending the object again is the remedy."""
        is_there = self._layout.has_size(existing.path, existing.size)
        return not (is_there or self._index.is_new(existing))

    def tell(self, verdict: Verdict) -> None:
        """Log a conflict, or that an object is back, once it is so for good."""
        result, row = verdict.result, verdict.arrival.row
        if isinstance(result, Stored) and result.outcome is Outcome.RESTORED:
            log.warning("instance.restored", path=result.path)
        conflicting = isinstance(result, Stored) and result.outcome in (Outcome.KEPT_ASIDE, Outcome.REPLACED)
        if conflicting or isinstance(result, DuplicateInstance):
            log.warning(
                "instance.conflict",
                sop_class=row.sop_class,
                sop_instance=row.sop_instance,
                source_ae=row.source_ae,
                policy=self._duplicates.value,
            )


def _kept(arrival: Arrival, outcome: Outcome, place: str) -> Verdict:
    moves = []
    if arrival.content is None:
        moves.append((Layout.incoming_path(arrival.token, arrival.row.size), place))
    return Verdict(arrival, _stored(arrival, outcome, place), place, moves)


def _stored(arrival: Arrival, outcome: Outcome, path: str) -> Stored:
    row = arrival.row
    parents = row.parents
    return Stored(
        outcome, path, parents.study_uid, parents.series_uid, row.sop_class, row.sop_instance, row.size
    )
