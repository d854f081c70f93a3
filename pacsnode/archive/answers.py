"""Answers about studies, kept as they were encoded, for those who ask the same again (PS3.4 C.4.1.1.3).

A workstation renews its list with the same keys all day. What is answered about a study depends on its row,
its instances, the row of its patient and the form: which keys, how encoded. So answers are kept by form and
study; a search that was made before asks the index only for which studies match, and fetches but those that
lack.

What is kept is always true. The writer tells which studies a transaction changes: from before its commit
until after it nothing is given or taken about them, and after it nothing to or from a search that began
before.
"""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from json import dumps
from sys import maxsize
from typing import Final, NamedTuple, Protocol, cast

from pacsnode.archive.plan import BoundPlan, Operator, Plan, Term
from pacsnode.archive.readers import Parameters
from pacsnode.archive.sql import SHAPES_KEPT, sql_of
from pacsnode.dicom.identifier import RowValue
from pacsnode.dicom.information_model import ATTRIBUTES, Level

MOST: Final = 64 * 2**20  # bytes of answers, the tables they are in counted
ENTRY: Final = 160  # bytes that an answer takes beside its own: object, number, its part of a table
WORTH: Final = 50  # matches; fewer are found as quickly anew
FORMS: Final = 16  # every client has one or two
SEARCHES_KNOWN: Final = 1000  # of one form
CHANGES_KNOWN: Final = 20_000  # studies

_STUDY: Final = "study.id"
_IN_COMMIT: Final = maxsize  # a generation that no search has begun in
# What is said of a study and its patient; how much a patient has in all changes with each of its studies
_KEPT: Final = frozenset(
    f"{a.level.table}.{a.column}"
    for a in ATTRIBUTES
    if a.level is Level.STUDY or (a.level is Level.PATIENT and not a.computed)
)

_Row = tuple[str | int | bytes | None, ...]


class Encoder(Protocol):
    """Makes an answer of each match. Those of two encoders of the same form are the same."""

    @property
    def form(self) -> Hashable: ...

    def encode(self, matches: Sequence[Sequence[RowValue]], /) -> list[bytes]: ...


@dataclass(slots=True)
class _Form:
    """`searches`: hashes of those whose answers are here for the most part."""

    answers: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    searches: set[int] = field(default_factory=set)


class Answers:
    """All that is kept. Used by the writer's thread and those of the readers."""

    def __init__(self, most: int = MOST) -> None:
        """`most`: bytes."""
        self.most = most
        self.size = 0
        self.generation = 0  # one more with each commit that changes a study
        self._forms: OrderedDict[Hashable, _Form] = OrderedDict()
        self._changed: dict[int, int] = {}  # generation in which a study was changed last
        self._newest = 0  # the greatest of these
        self._known_from = 0  # what was changed in this generation, or before, is known no more
        self._lock = threading.Lock()

    @contextmanager
    def changing(self, studies: Collection[int]) -> Iterator[None]:
        """Around a commit that changes what is answered about `studies`."""
        if not studies:
            yield
            return
        with self._lock:
            self._mark(studies, _IN_COMMIT)
            for form in self._forms.values():
                self._drop(form, studies)
        try:
            yield
        finally:
            with self._lock:
                self.generation += 1
                self._mark(studies, self.generation)
                if len(self._changed) > CHANGES_KNOWN:
                    self._changed.clear()
                    self._known_from = self.generation

    def _mark(self, studies: Collection[int], generation: int) -> None:
        self._changed.update(dict.fromkeys(studies, generation))
        self._newest = generation

    def _drop(self, form: _Form, studies: Collection[int]) -> None:
        for study in studies:
            if (answer := form.answers.pop(study, None)) is not None:
                self._grow(form, -len(answer) - ENTRY)

    def _grow(self, form: _Form, size: int) -> None:
        form.size += size
        self.size += size

    def has_most(self, form: Hashable, search: int) -> bool:
        """Whether most answers of this form to a search, by its hash, are here."""
        with self._lock:
            found = self._forms.get(form)
            if found is None:
                return False
            self._forms.move_to_end(form)
            return search in found.searches

    def take(self, form: Hashable, begun: int, studies: Sequence[int]) -> list[bytes | None]:
        """The answers about `studies` for a search that has `begun` in that generation; None: lacks."""
        with self._lock:
            kept = self._forms.get(form)
            if kept is None or begun < self._known_from:
                return [None] * len(studies)
            get = kept.answers.get
            if self._newest <= begun:
                return list(map(get, studies))
            changed = self._changed.get
            return [get(study) if changed(study, 0) <= begun else None for study in studies]

    def put(self, form: Hashable, begun: int, studies: Sequence[int], answers: Sequence[bytes]) -> int:
        """Keep answers of a search that has `begun` in that generation; returns how many of them are here."""
        with self._lock:
            if begun < self._known_from:
                return 0
            kept = self._with_room(form)
            changed = self._changed.get
            n_here = 0
            for study, answer in zip(studies, answers, strict=True):
                if changed(study, 0) > begun:
                    continue
                n_here += 1
                if study not in kept.answers:
                    kept.answers[study] = answer
                    self._grow(kept, len(answer) + ENTRY)
            return n_here

    def _with_room(self, form: Hashable) -> _Form:
        """A form for some answers more: where there is no room, those go that were used least lately."""
        while self.size > self.most or (form not in self._forms and len(self._forms) >= FORMS):
            self.size -= self._forms.popitem(last=False)[1].size
        return self._forms.setdefault(form, _Form())

    def note(self, form: Hashable, search: int, *, is_here: bool) -> None:
        """Whether most answers to a search are here from now on."""
        with self._lock:
            kept = self._forms.get(form)
            if kept is None:
                return
            if not is_here:
                kept.searches.discard(search)
                return
            if len(kept.searches) >= SEARCHES_KNOWN:
                kept.searches.clear()
            kept.searches.add(search)


def can_be_kept(bound: BoundPlan) -> bool:
    """Whether answers to a query say nothing but what is known of a study and its patient."""
    plan = bound.plan
    return plan.level is Level.STUDY and bound.is_exact and _KEPT.issuperset(plan.columns)


class _Plans(NamedTuple):
    """What a plan becomes: `rows` end with the number of the study, `numbers` are nothing else.

    `lacking` gives such rows of the studies whose numbers are bound, a JSON array.
    """

    rows: Plan
    numbers: Plan
    lacking: Plan


@lru_cache(maxsize=SHAPES_KEPT)
def _plans_of(plan: Plan) -> _Plans:
    columns = (*plan.columns, _STUDY)
    # Without conditions an index would give the numbers in another order than the table.
    plan = replace(plan, ordered=plan.ordered or not plan.conditions)
    wanted = (Term(_STUDY, Operator.ANY_OF),)
    return _Plans(
        rows=replace(plan, columns=columns),
        numbers=replace(plan, columns=(_STUDY,)),
        lacking=replace(plan, columns=columns, conditions=(wanted,), ordered=False, limited=False),
    )


class AnswersOfSearch:
    """What one search finds here, and leaves here. `plan` is to be run instead of its own.

    In a transaction where `by_number`: its rows are numbers of studies, and what lacks is fetched by a
    statement of its own, which shall see the same.
    """

    def __init__(self, answers: Answers, bound: BoundPlan, encoder: Encoder) -> None:
        """Make it before the statement begins."""
        self._answers = answers
        self._encoder = encoder
        self._form = encoder.form
        self._begun = answers.generation
        self._search = hash((bound.plan, tuple(bound.parameters.values())))
        self._n_rows = self._n_here = 0
        self._room = answers.most // 2  # more than the half would only drive out what it has left itself
        self.by_number = answers.has_most(self._form, self._search)
        self._plans = _plans_of(bound.plan)
        self.plan = self._plans.numbers if self.by_number else self._plans.rows

    def answers_to(self, cursor: sqlite3.Cursor, rows: list[_Row]) -> list[bytes]:
        """The answers to rows of the plan, in their order; runs in the reader's thread."""
        if not self.by_number:
            return self._encoded(rows, is_search=True)
        studies = cast("list[int]", [row[0] for row in rows])
        answers = self._answers.take(self._form, self._begun, studies)
        lacking = [study for study, answer in zip(studies, answers, strict=True) if answer is None]
        self._count(len(rows), len(rows) - len(lacking))
        if not lacking:
            return cast("list[bytes]", answers)
        sql, parameters = self._fetching(lacking)
        fetched = cursor.connection.execute(sql, parameters).fetchall()
        made = dict(zip((row[-1] for row in fetched), self._encoded(fetched), strict=True))
        found = (made.get(study) if one is None else one for study, one in zip(studies, answers, strict=True))
        return [answer for answer in found if answer is not None]  # without its patient a study is no match

    def _encoded(self, rows: list[_Row], *, is_search: bool = False) -> list[bytes]:
        """The answers to rows that end with the number of the study; they are kept."""
        answers = self._encoder.encode([row[:-1] for row in rows])
        if is_search and not self._n_rows and len(rows) < WORTH:
            return answers
        n_here = 0
        if self._room > 0:
            studies = cast("list[int]", [row[-1] for row in rows])
            n_here = self._answers.put(self._form, self._begun, studies, answers)
            self._room -= sum(map(len, answers)) + ENTRY * len(answers)
        if is_search:
            self._count(len(rows), n_here)
        return answers

    def _count(self, n_rows: int, n_here: int) -> None:
        """Note whether the same search will find most of its answers here."""
        self._n_rows += n_rows
        self._n_here += n_here
        if n_rows:
            is_here = 2 * self._n_here >= self._n_rows
            self._answers.note(self._form, self._search, is_here=is_here)

    def _fetching(self, studies: Sequence[int]) -> tuple[str, Parameters]:
        """The statement that gives the rows of `studies`."""
        sql, constants = sql_of(self._plans.lacking)
        return sql, {**constants, "p0": dumps(studies)}
