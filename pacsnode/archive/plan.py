"""The shape of a statement: columns and conditions, without values (PS3.4 C.2.2.2).

archive.statement makes plans of queries, archive.sql writes their SQL. Each condition is an OR of terms that
an index can serve one by one, so that "or the attribute is unknown" (C.2.2.1.2) costs no scan.
"""

from dataclasses import dataclass
from enum import Enum, auto

from pacsnode.dicom.information_model import Level
from pacsnode.dicom.query import Key

Bound = str | int | float


class Operator(Enum):
    """How a term compares its column with its bound values."""

    EQUAL = auto()
    NOT_EQUAL = auto()
    ANY_OF = auto()  # one value: a JSON array, so that a list of any length is one statement
    BETWEEN = auto()
    AT_LEAST = auto()
    AT_MOST = auto()
    PREFIX = auto()
    PREFIX_GLOB = auto()
    GLOB = auto()
    SEARCH = auto()  # one value: a query of the full-text table over the column
    SEARCH_GLOB = auto()  # such a query, which finds too much, then the pattern
    ELEMENT = auto()  # one of the values joined by a backslash
    NUMBER = auto()  # text that is this number
    UNKNOWN = auto()  # "", or NULL for numbers; binds nothing
    NO_NAME = auto()  # no component group at all; binds nothing

    __hash__ = object.__hash__  # as Level: plans are looked up by all their terms


@dataclass(frozen=True, slots=True)
class Term:
    """`column` as `table.column`."""

    column: str
    operator: Operator


Alternatives = list[tuple[Term, tuple[Bound, ...]]]
"""Terms joined by OR, each with what it binds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of a statement. `conditions` are joined by AND, the terms of each by OR."""

    level: Level
    columns: tuple[str, ...]
    conditions: tuple[tuple[Term, ...], ...]
    with_header: bool
    ordered: bool
    limited: bool


@dataclass(frozen=True, slots=True)
class ZonedPair:
    """A DA and its TM, to be read on the clock of the query: their columns by position, and their keys.

    `offset` is the column with the object's offset from UTC. `combined`: both keys are one range of moments.
    """

    date: int
    time: int
    offset: int
    timezone: int
    date_key: Key | None
    time_key: Key | None
    combined: bool


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A plan with its values, and the keys the plan leaves to Python.

    The first `answered` columns are keys of the query, in its order, without `header_keys`, which are no
    columns. `residual` keys were only narrowed down; with each goes the position of its column.
    """

    plan: Plan
    parameters: dict[str, Bound]
    answered: int
    residual: tuple[tuple[int, Key], ...]
    zoned: tuple[ZonedPair, ...]
    header_keys: tuple[Key, ...]

    @property
    def is_exact(self) -> bool:
        """Whether rows are matches as they come."""
        return not (self.residual or self.zoned or self.header_keys)
