"""How many matches a query has, without fetching them: what pages of results are told about the rest."""

import sqlite3
from contextlib import aclosing
from dataclasses import replace

from pacsnode.archive.readers import Readers
from pacsnode.archive.search import Search
from pacsnode.archive.sql import sql_of
from pacsnode.archive.statement import plan_for
from pacsnode.dicom.query import Query
from pacsnode.errors import OutOfResources


async def count(readers: Readers, search: Search, query: Query) -> int:
    """The number of matches whatever the limit and offset of `query`. Raises OutOfResources."""
    query = replace(query, ordered=False, limit=None, offset=0)
    bound = plan_for(query)
    if not bound.is_exact:  # SQL only narrows down
        async with aclosing(search.find(query)) as chunks:
            return sum([len(chunk) async for chunk in chunks])
    sql, constants = sql_of(replace(bound.plan, columns=()))
    connection = await readers.acquire()
    usable = False
    try:
        counted = f"SELECT count(*) FROM ({sql})"
        rows = await connection.execute_fetchall(counted, {**constants, **bound.parameters})
        usable = True
        return int(next(iter(rows))[0])
    except sqlite3.Error as error:
        raise OutOfResources(f"the index cannot be read: {error}") from error
    finally:
        readers.release(connection, usable=usable)
