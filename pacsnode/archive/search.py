"""Queries answered from the index, in chunks (PS3.4 C.4.1.3).

SQL finds, the reader's thread decides what SQL cannot (keys on the kept header, values among several, fuzzy
names, times on another clock) while it fetches; only matches reach the loop, a chunk at a time. Closing the
generator ends the statement.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Generic, TypeVar, cast

from pacsnode.archive.answers import Answers, AnswersOfSearch, Encoder, can_be_kept
from pacsnode.archive.kept import restored
from pacsnode.archive.plan import BoundPlan, Plan
from pacsnode.archive.readers import Parameters, Reader, Readers, end
from pacsnode.archive.sql import sql_of
from pacsnode.archive.statement import plan_for
from pacsnode.archive.zones import PairTest, ZonedRows, combined_test
from pacsnode.dicom.element import KeyReader, Value, partner_of, read_keys, split_values
from pacsnode.dicom.matching import predicate
from pacsnode.dicom.query import Key, Matching, Query
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.errors import OutOfResources

# Rows per hop between threads: of the first, so that somebody who waits sees something, and the most. With a
# header to read for each, 20 are a few ms of the interpreter's time.
CHUNKS: Final = (50, 200)
HEADER_CHUNKS: Final = (20, 20)
# Column `encoding` of table `header`.
ENCODINGS: Final = (EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE)

_Result = TypeVar("_Result")

Match = tuple[Value | int | None, ...]
"""The values of one match, in the order of the keys of its query; None where a number is unknown."""

_Row = tuple[str | int | bytes | None, ...]
_Made = TypeVar("_Made")
_Maker = Callable[[sqlite3.Cursor, list[_Row]], list[_Made]]


class Search:
    """Finds entities of the index."""

    def __init__(self, readers: Readers, answers: Answers) -> None:
        self._readers = readers
        self._answers = answers
        self.asked_at = 0.0  # when somebody last waited for matches, on the monotonic clock

    def find(self, query: Query) -> AsyncGenerator[list[Match], None]:
        """Yield the matches of `query`; as `find_as`."""
        return self.find_as(query, _as_they_are)

    def find_as(
        self, query: Query, made_of: Callable[[list[Match]], list[_Made]]
    ) -> AsyncGenerator[list[_Made], None]:
        """Yield what `made_of` makes of matches, one each, in the reader's thread; never an empty chunk.

        Raises InvalidIdentifier at once, OutOfResources when the index cannot be read or too many queries
        are running.
        """
        bound = plan_for(query)
        matches_of = _matches_reader(query, bound)

        def make(_: sqlite3.Cursor, rows: list[_Row]) -> list[_Made]:
            return made_of(matches_of(rows))

        return self._chunks(_Scan(self._readers, query, bound.plan, bound.parameters, make))

    def find_encoded(self, query: Query, encoder: Encoder) -> AsyncGenerator[list[bytes], None]:
        """As `find_as` what `encoder` makes of matches; answers that are known are not made again."""
        bound = plan_for(query)
        if not can_be_kept(bound):
            return self.find_as(query, encoder.encode)
        answers = AnswersOfSearch(self._answers, bound, encoder)
        plan, make = answers.plan, answers.answers_to
        scan = _Scan(self._readers, query, plan, bound.parameters, make, in_transaction=answers.by_number)
        return self._chunks(scan)

    async def _chunks(self, scan: "_Scan[_Made]") -> AsyncGenerator[list[_Made], None]:
        try:
            while not scan.done:
                self.asked_at = time.monotonic()
                if matches := await scan.next_chunk():
                    yield matches
        except sqlite3.Error as error:
            raise OutOfResources(f"the index cannot be read: {error}") from error
        finally:
            await scan.close()


def _as_they_are(matches: list[Match]) -> list[Match]:
    return matches


class _Scan(Generic[_Made]):
    """One statement under way. Its connection goes back as soon as the last row is there."""

    def __init__(
        self,
        readers: Readers,
        query: Query,
        plan: Plan,
        parameters: Parameters,
        made_of: _Maker[_Made],
        *,
        in_transaction: bool = False,
    ) -> None:
        """`plan` finds the rows, `made_of` makes answers of them: `in_transaction`, when it reads more."""
        sql, constants = sql_of(plan)
        self._sql = sql
        self._parameters = {**constants, **parameters}
        self._readers = readers
        self._made_of = made_of
        self._in_transaction = in_transaction
        self._chunk, self._most = HEADER_CHUNKS if plan.with_header else CHUNKS
        in_python = not plan.limited
        self._skip = query.offset if in_python else 0
        self._left = query.limit if in_python else None
        self._connection: Reader | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._interrupted = False
        self.done = False

    async def next_chunk(self) -> list[_Made]:
        """The matches among the next rows; empty when there are none among them."""
        asked = self._chunk
        self._chunk = min(2 * asked, self._most)
        rows, made = await self._step(asked)
        if self._skip:
            skipped = min(self._skip, len(made))
            self._skip -= skipped
            made = made[skipped:]
        if self._left is not None:
            made = made[: self._left]
            self._left -= len(made)
        if rows < asked:
            self._cursor = None  # SQLite has ended the statement with its last row: no hop is wanted for that
        if self._cursor is None or self._left == 0:
            await self.close()
        return made

    async def _step(self, asked: int) -> tuple[int, list[_Made]]:
        """How many rows came next, and what is made of their matches; the first begin the statement."""

        def step(cursor: sqlite3.Cursor) -> tuple[int, list[_Made]]:
            rows = cursor.fetchmany(asked)
            made = self._made_of(cursor, rows)
            if len(rows) < asked:
                end(cursor)
            return len(rows), made

        if self._connection is None:
            self._connection = await self._readers.acquire()
        if self._cursor is not None:
            return await self._interruptible(self._connection.go_on(self._cursor, step))
        beginning = self._connection.begin(
            self._sql, self._parameters, step, in_transaction=self._in_transaction
        )
        self._cursor, first = await self._interruptible(beginning)
        return first

    async def close(self) -> None:
        """End the statement and give the connection back; harmless when that was done."""
        self.done = True
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if self._cursor is not None and not self._interrupted:
                await connection.go_on(self._cursor, end)
        finally:
            self._readers.release(connection, usable=not self._interrupted)

    async def _interruptible(self, step: Awaitable[_Result]) -> _Result:
        """A step in the reader's thread; when the task is cancelled, SQLite stops looking."""
        try:
            return await step
        except asyncio.CancelledError:
            # The thread may be anywhere in the step: the connection is given up rather than waited for.
            self._interrupted = True
            if self._connection is not None:
                await self._connection.interrupt()
            raise


def _matches_reader(query: Query, bound: BoundPlan) -> Callable[[list[_Row]], list[Match]]:
    """The matches among rows; runs in the reader's thread."""
    if bound.plan.columns and bound.is_exact:
        return lambda rows: cast("list[Match]", rows)
    match_of = _match_reader(query, bound)
    return lambda rows: [match for row in rows if (match := match_of(row)) is not None]


def _match_reader(query: Query, bound: BoundPlan) -> Callable[[_Row], Match | None]:
    """The match that a row is, once what SQL cannot decide is decided; None of a row that is none."""
    zoned = ZonedRows(bound.zoned, query.match_unknown) if bound.zoned else None
    tests = [(position, key.vr, predicate(key, query.match_unknown)) for position, key in bound.residual]
    header_keys = list(bound.header_keys)
    pairs = list(_combined(header_keys, query.match_unknown)) if query.combined_date_time else []
    for _, n, _ in pairs:  # a time is decided with its date
        header_keys[n] = replace(header_keys[n], matching=Matching.UNIVERSAL, ranges=())
    readers = [KeyReader(key, query.match_unknown) for key in header_keys]
    from_header = [key.attribute is None for key in query.keys]
    n_columns = len(bound.plan.columns)

    def read(row: _Row) -> Match | None:
        for position, vr, test in tests:
            if not test(split_values(str(row[position]), vr)):
                return None
        on_clock = row if zoned is None else zoned.read(row)
        if on_clock is None:
            return None
        columns = cast(Match, on_clock[: bound.answered])
        if not readers:
            return columns
        found = _read_header(row[n_columns], row[n_columns + 1], readers)
        if found is None or not all(_is_met(test, found[day], found[moment]) for day, moment, test in pairs):
            return None
        next_column, next_found = iter(columns), iter(found)
        return tuple(next(next_found if header else next_column) for header in from_header)

    return read


def _combined(keys: Sequence[Key], match_unknown: bool) -> Iterator[tuple[int, int, PairTest]]:
    """Positions of the dates and times that are one range of moments (PS3.4 C.2.2.2.5.4), and their test."""
    ranges = {
        key.tag: n for n, key in enumerate(keys) if key.matching is Matching.RANGE and len(key.ranges) == 1
    }
    for tag, n in ranges.items():
        partner = ranges.get(partner_of(tag) or 0) if keys[n].vr == "DA" else None
        if partner is not None and keys[n].ranges[0].form == keys[partner].ranges[0].form:
            yield n, partner, combined_test(keys[n], keys[partner], match_unknown)


def _is_met(test: PairTest, dates: Value, times: Value) -> bool:
    """Whether any of the moments of an attribute and its partner is wanted."""
    moments = zip(str(dates).split("\\"), str(times).split("\\"), strict=False)
    return any(test(*moment) for moment in moments)


def _read_header(
    encoding: str | int | bytes | None, kept: str | int | bytes | None, readers: list[KeyReader]
) -> list[Value] | None:
    """The values of the header keys of a row, or None when one does not match."""
    data = restored(kept) if isinstance(kept, bytes) else b""
    return read_keys(data, ENCODINGS[encoding if isinstance(encoding, int) else 0], readers)
