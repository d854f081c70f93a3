"""The SQL of a plan, written by SQLAlchemy Core once for each shape of query and kept.

What differs between databases (GLOB, JSON arrays, full text) stands here alone.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import Final

from sqlalchemy import (
    REAL,
    BindParameter,
    ColumnElement,
    FromClause,
    ScalarSelect,
    Select,
    Text,
    UnaryExpression,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.operators import custom_op

from pacsnode.archive.plan import Operator, Plan, Term
from pacsnode.archive.schema import (
    FULL_TEXT,
    SUMS,
    TABLE_OF,
    header,
    instance,
    metadata,
    patient,
    series,
    study,
)
from pacsnode.dicom.information_model import Level

UNIONS: Final = 250  # SELECTs of one statement; SQLite takes 500 of them
SHAPES_KEPT: Final = 512  # statements; every client has a handful of shapes

_DIALECT: Final = sqlite.dialect(paramstyle="named")
_INDEXED: Final = frozenset(
    {
        Operator.EQUAL,
        Operator.PREFIX,
        Operator.PREFIX_GLOB,
        Operator.SEARCH,
        Operator.SEARCH_GLOB,
        Operator.NO_NAME,
    }
)
_PARENT: Final = {
    Level.STUDY: (patient, study.c.patient_fk),
    Level.SERIES: (study, series.c.study_fk),
    Level.IMAGE: (series, instance.c.series_fk),
}


@lru_cache(maxsize=SHAPES_KEPT)
def sql_of(plan: Plan) -> tuple[str, dict[str, object]]:
    """The statement of a plan and what it binds whatever the values are; those are p0, p1, ... in order."""
    names: Iterator[BindParameter[object]] = (bindparam(f"p{number}") for number in count())
    columns = [_column(name) for name in plan.columns] or [literal_column("1")]
    source = _source(plan)
    if plan.with_header:
        columns += [header.c.encoding, header.c.kept]
        source = source.outerjoin(header, header.c.instance_id == _representative(plan.level))
    statement = select(*columns).select_from(source)
    for condition in plan.conditions:
        statement = statement.where(_condition(plan, condition, names))
    if plan.ordered:
        statement = statement.order_by(TABLE_OF[plan.level].c.id)
    if plan.limited:
        statement = statement.limit(bindparam("limit")).offset(bindparam("offset"))
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), {name: value for name, value in compiled.params.items() if value is not None}


def _condition(
    plan: Plan, terms: tuple[Term, ...], names: Iterator[BindParameter[object]]
) -> ColumnElement[bool]:
    """The terms joined by OR.

    Where they are all there is, each is looked up for itself: SQLite would try all of them on every row that
    one has found, and take names apart for it. Beside other conditions that could find too much.
    """
    if not _is_looked_up(plan):
        return or_(*(_expression(term, names) for term in terms))
    looked_up = [_looked_up(term, names) for term in terms]
    number = _PARENT[plan.level][1] if _asks_its_parent(plan) else _column(f"{_table(terms[0].column)}.id")
    found = number.in_(union_all(*(rows for rows, _ in looked_up)))
    if any(term.operator is Operator.SEARCH_GLOB for term in terms):
        return and_(found, or_(*(exactly for _, exactly in looked_up)))
    return found


def _is_looked_up(plan: Plan) -> bool:
    """Whether each term of the only condition is looked up for itself."""
    if len(plan.conditions) != 1:
        return False
    terms = plan.conditions[0]
    return 1 < len(terms) <= UNIONS and _INDEXED.issuperset(term.operator for term in terms)


def _asks_its_parent(plan: Plan) -> bool:
    """Whether the numbers of parents are all that a plan wants of them: their rows need not be read then."""
    parent = _PARENT.get(plan.level)
    if parent is None or not _is_looked_up(plan):
        return False
    (terms,) = plan.conditions
    is_of_parent = all(_table(term.column) == parent[0].name for term in terms)
    compares = any(term.operator is Operator.SEARCH_GLOB for term in terms)
    return is_of_parent and not compares and {_table(name) for name in plan.columns} == {plan.level.table}


def _looked_up(
    term: Term, names: Iterator[BindParameter[object]]
) -> tuple[Select[tuple[int]], ColumnElement[bool]]:
    """The numbers of the rows that a term finds, perhaps too many, and what decides of them."""
    if term.operator is Operator.SEARCH:
        rows = _search(term.column, next(names))
        return rows, _column(f"{_table(term.column)}.id").in_(rows)
    if term.operator is Operator.SEARCH_GLOB:
        rows = _search(term.column, next(names))
        return rows, _column(term.column).op("GLOB")(next(names))
    expression = _expression(term, names)
    return select(metadata.tables[_table(term.column)].c.id).where(expression).correlate(None), expression


def _column(name: str) -> ColumnElement[object]:
    if name in SUMS:
        return SUMS[name]
    table, column = name.split(".")
    return metadata.tables[table].c[column]


def _source(plan: Plan) -> FromClause:
    """The table of the level, and those above it as far up as the plan looks."""
    if _asks_its_parent(plan):
        return TABLE_OF[plan.level]
    conditioned = {_table(term.column) for condition in plan.conditions for term in condition}
    named = conditioned | set(map(_table, plan.columns))
    top = min((level.depth for level in Level if level.table in named), default=plan.level.depth)
    lowest = max((level.depth for level in Level if level.table in conditioned), default=len(Level))
    source: FromClause = TABLE_OF[plan.level]
    for level in reversed(Level):
        if top < level.depth <= plan.level.depth:
            parent, key = _PARENT[level]
            parent_id: ColumnElement[int] = parent.c.id
            if level.depth > lowest:  # no condition from here down: SQLite shall not begin with the children
                parent_id = UnaryExpression(parent_id, operator=custom_op("+"))
            source = source.join(parent, key == parent_id)
    return source


def _table(column: str) -> str:
    return column.partition(".")[0]


def _representative(level: Level) -> ColumnElement[int] | ScalarSelect[int]:
    """The instance whose header speaks for an entity: itself, or the first in the order of an index."""
    if level is Level.IMAGE:
        return instance.c.id
    inner_study, inner_series = study.alias("s1"), series.alias("s2")
    inner = instance.alias("i1")
    found = select(inner.c.id)
    match level:
        case Level.SERIES:
            found = found.where(inner.c.series_fk == series.c.id).order_by(inner.c.instance_number)
        case Level.STUDY:
            found = (
                found.join(inner_series, inner.c.series_fk == inner_series.c.id)
                .where(inner_series.c.study_fk == study.c.id)
                .order_by(inner_series.c.series_instance_uid, inner.c.instance_number)
            )
        case _:
            found = (
                found.join(inner_series, inner.c.series_fk == inner_series.c.id)
                .join(inner_study, inner_series.c.study_fk == inner_study.c.id)
                .where(inner_study.c.patient_fk == patient.c.id)
                .order_by(inner_study.c.id)
            )
    return found.limit(1).correlate(TABLE_OF[level]).scalar_subquery()


def _expression(term: Term, names: Iterator[BindParameter[object]]) -> ColumnElement[bool]:
    column = _column(term.column)
    match term.operator:
        case Operator.EQUAL:
            return column == next(names)
        case Operator.NOT_EQUAL:
            return column != next(names)
        case Operator.ANY_OF:
            listed = func.json_each(next(names)).table_valued("value")
            return column.in_(select(listed.c.value))
        case Operator.BETWEEN:
            return column.between(next(names), next(names))
        case Operator.AT_LEAST:
            return column >= next(names)
        case Operator.AT_MOST:
            return and_(column > literal_column("''"), column <= next(names))
        case Operator.PREFIX:
            return and_(column >= next(names), column < next(names))
        case Operator.PREFIX_GLOB:
            return and_(column >= next(names), column < next(names), column.op("GLOB")(next(names)))
        case Operator.GLOB:
            return column.op("GLOB")(next(names))
    return _composed(term, column, names)


def _composed(
    term: Term, column: ColumnElement[object], names: Iterator[BindParameter[object]]
) -> ColumnElement[bool]:
    backslash = literal_column("'\\'", Text)
    match term.operator:
        case Operator.SEARCH:
            return _searched(term.column, next(names))
        case Operator.SEARCH_GLOB:
            return and_(_searched(term.column, next(names)), column.op("GLOB")(next(names)))
        case Operator.ELEMENT:
            joined = backslash.concat(column).concat(backslash)
            return func.instr(joined, backslash.concat(next(names)).concat(backslash)) > 0
        case Operator.NUMBER:
            return and_(column != literal_column("''"), cast(column, REAL) == next(names))
        case Operator.NO_NAME:
            alphabetic = _column(f"{term.column}_alphabetic")
            return and_(alphabetic.is_(None), _column(f"{term.column}_key") == literal_column("''"))
        case _:
            return column.is_(None) if column.type.python_type is int else column == literal_column("''")


def _searched(name: str, query: BindParameter[object]) -> ColumnElement[bool]:
    return _column(f"{_table(name)}.id").in_(_search(name, query))


def _search(name: str, query: BindParameter[object]) -> Select[tuple[int]]:
    """The rows a full-text table finds; they have the numbers of the table it is over."""
    full_text = FULL_TEXT[name]
    return select(full_text.c.rowid).where(literal_column(full_text.name).op("MATCH")(query))
