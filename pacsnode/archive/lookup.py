"""From the UIDs in the path of a web request to stored instances (PS3.18 10.4.1.1). Reads the index only.

A viewer asks for the frames of one instance hundreds of times, so single instances are remembered. What is
known of an object never changes under its row; the archive forgets all when a row may have gone.
"""

import sqlite3
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from typing import Final

from sqlalchemy import Integer, bindparam, cast, select
from sqlalchemy.dialects import sqlite

from pacsnode.archive.locate import Located
from pacsnode.archive.readers import Readers
from pacsnode.archive.schema import instance, series, study
from pacsnode.dicom.uid import UID
from pacsnode.errors import MatchesNotCounted

REMEMBERED: Final = 20_000  # instances, some 20 MB
_DIALECT: Final = sqlite.dialect(paramstyle="named")

_Row = tuple[str, str, str, str, str, str, int, int, int, bytes | None]
Uids = tuple[UID, ...]
"""Study; study and series; or study, series and SOP instance."""


@dataclass(frozen=True, slots=True)
class Held:
    """A stored instance with the UIDs above it. `digest` is that of its data set, in hexadecimal digits."""

    study: UID
    series: UID
    located: Located
    digest: str


class Lookup:
    """Finds instances by the UIDs of the entities that hold them."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._remembered: OrderedDict[Uids, Held] = OrderedDict()

    def forget(self) -> None:
        """Look everything up again: an instance may have gone, or another may have its place."""
        self._remembered = OrderedDict()  # what is being looked up now goes to the former one

    async def one(self, uids: Uids) -> Held | None:
        """The instance with these three UIDs, None when there is none. Raises as find()."""
        remembered = self._remembered
        held = remembered.get(uids)
        if held is not None:
            remembered.move_to_end(uids)
            return held
        found = await self.find(uids)
        if not found:
            return None
        remembered[uids] = found[0]
        if len(remembered) > REMEMBERED:
            remembered.popitem(last=False)
        return found[0]

    async def find(self, uids: Uids) -> list[Held]:
        """All instances of a study, of a series in it, or one; by series number, by instance number.

        Raises OutOfResources when too many ask, MatchesNotCounted when the index cannot be read.
        """
        connection = await self._readers.acquire()
        usable = False
        try:
            values = dict(zip(("study", "series", "instance"), uids, strict=False))
            rows = await connection.execute_fetchall(_sql_of(len(uids)), values)
            usable = True
        except sqlite3.Error as error:
            raise MatchesNotCounted(f"the index cannot be read: {error}") from error
        finally:
            self._readers.release(connection, usable=usable)
        return [_held(row) for row in rows]  # type: ignore[arg-type]  # tuples, without a row factory


def _held(row: _Row) -> Held:
    study_uid, series_uid, sop_class, sop_instance, transfer_syntax, path, size, token, coerced, digest = row
    located = Located(
        UID(intern(sop_class)), UID(sop_instance), UID(intern(transfer_syntax)), path, size, token, coerced
    )
    return Held(UID(intern(study_uid)), UID(intern(series_uid)), located, (digest or b"").hex())


@lru_cache(maxsize=3)
def _sql_of(depth: int) -> str:
    columns = (study.c.study_instance_uid, series.c.series_instance_uid, instance.c.sop_instance_uid)
    statement = (
        select(
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            instance.c.sop_class_uid,
            instance.c.sop_instance_uid,
            instance.c.transfer_syntax,
            instance.c.path,
            instance.c.size,
            instance.c.id,
            series.c.coerced,
            instance.c.digest,
        )
        .join(series, instance.c.series_fk == series.c.id)
        .join(study, series.c.study_fk == study.c.id)
        .order_by(
            cast(series.c.series_number, Integer),
            series.c.id,
            cast(instance.c.instance_number, Integer),
            instance.c.id,
        )
    )
    for column, name in list(zip(columns, ("study", "series", "instance"), strict=True))[:depth]:
        statement = statement.where(column == bindparam(name))
    return str(statement.compile(dialect=_DIALECT))
