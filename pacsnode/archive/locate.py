"""From the unique keys of a retrieval to stored instances (PS3.4 C.4.2.3.1). Reads the index, no files."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from functools import lru_cache
from json import dumps
from sys import intern
from typing import Final, NamedTuple

from sqlalchemy import Integer, bindparam, cast, func, select
from sqlalchemy.dialects import sqlite

from pacsnode.archive.readers import Readers
from pacsnode.archive.schema import TABLE_OF, instance, patient, series, study
from pacsnode.dicom.information_model import UNIQUE_KEYS, Level
from pacsnode.dicom.retrieval import Retrieval
from pacsnode.dicom.uid import UID
from pacsnode.errors import MatchesNotCounted, OutOfResources

CHUNK: Final = 500  # rows per hop between threads
_DIALECT: Final = sqlite.dialect(paramstyle="named")


class Located(NamedTuple):
    """A stored instance. `path` is below the data root; `size`: bytes of the file, File Meta included.

    `coerced`: when it leaves it is not to say what its file says, but what an alias has (archive.aliases); 0
    for nearly all.
    """

    sop_class: UID
    sop_instance: UID
    transfer_syntax: UID
    path: str
    size: int
    token: int
    coerced: int = 0


class Locator:
    """Finds the instances of a retrieval."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def find(self, retrieval: Retrieval) -> AsyncGenerator[list[Located], None]:
        """Yield the instances in chunks: study by study, by series number, by instance number.

        Raises MatchesNotCounted when the index cannot be read.
        """
        try:
            connection = await self._readers.acquire()
        except OutOfResources as error:
            raise MatchesNotCounted(str(error)) from error
        usable = False
        try:
            values = {level.table: dumps(values) for level, values in retrieval.keys}
            sql = _sql_of(tuple(level for level, _ in retrieval.keys))
            cursor, chunk = await connection.begin(sql, values, _next_chunk)
            while chunk:
                yield chunk
                # SQLite has ended the statement with its last row: no hop is wanted for that.
                chunk = await connection.go_on(cursor, _next_chunk) if len(chunk) == CHUNK else []
            usable = True
        except sqlite3.Error as error:
            raise MatchesNotCounted(f"the index cannot be read: {error}") from error
        except asyncio.CancelledError:
            await connection.interrupt()
            raise
        finally:
            # After anything but the last row its thread may be in the middle of a step.
            self._readers.release(connection, usable=usable)


def _next_chunk(cursor: sqlite3.Cursor) -> list[Located]:
    """Runs in the reader's thread. Many instances share few SOP classes and transfer syntaxes."""
    return [
        Located(
            UID(intern(sop_class)), UID(sop_instance), UID(intern(transfer_syntax)), path, size, token, alias
        )
        for sop_class, sop_instance, transfer_syntax, path, size, token, alias in cursor.fetchmany(CHUNK)
    ]


@lru_cache(maxsize=64)
def _sql_of(levels: tuple[Level, ...]) -> str:
    """The statement for unique keys at `levels`; each binds a JSON array to the name of its table."""
    statement = (
        select(
            instance.c.sop_class_uid,
            instance.c.sop_instance_uid,
            instance.c.transfer_syntax,
            instance.c.path,
            instance.c.size,
            instance.c.id,
            series.c.coerced,
        )
        .join(series, instance.c.series_fk == series.c.id)
        .join(study, series.c.study_fk == study.c.id)
        .join(patient, study.c.patient_fk == patient.c.id)
    )
    for level in levels:
        column = TABLE_OF[level].c[UNIQUE_KEYS[level].column]
        listed = func.json_each(bindparam(level.table)).table_valued("value")
        statement = statement.where(column.in_(select(listed.c.value)))
    ordered = statement.order_by(
        study.c.id,
        cast(series.c.series_number, Integer),
        series.c.id,
        cast(instance.c.instance_number, Integer),
        instance.c.id,
    )
    return str(ordered.compile(dialect=_DIALECT))
