"""Metadata of series as DICOM JSON, made ahead of time and kept (PS3.18 10.4.1.1.2).

It is made when nothing has arrived for a while (ahead.py), of the headers in the index and of files where
those are not enough. A series is kept as parts of about a megabyte of JSON, compressed, with the version of
the series they were made of: how many instances, their numbers and sizes. What is asked for before it was
made, or has changed since, is made then. The thread that makes metadata works a few milliseconds at a time.
"""

import asyncio
import json
import sqlite3
import time
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, TypeVar

import structlog

from pacsnode.archive.ahead import Ahead
from pacsnode.archive.aliases import Aliases
from pacsnode.archive.coerced_json import coerced_json
from pacsnode.archive.derived import Derived
from pacsnode.archive.files import Layout
from pacsnode.archive.header_json import header_json
from pacsnode.archive.kept import restored
from pacsnode.archive.locate import Located
from pacsnode.archive.lookup import Held, Lookup
from pacsnode.archive.object_json import announce, object_json
from pacsnode.archive.readers import Readers
from pacsnode.dicom.json_model import JsonEncoder
from pacsnode.dicom.patient import Coercion
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

log = structlog.get_logger()

PART: Final = 2**20  # bytes of JSON
FAST, SMALL = 1, 6  # levels of zlib: while somebody waits, and when nobody does
SLICE: Final = 0.005  # seconds of work between two rests, in the background
KNOWN_AHEAD: Final = 500  # headers fetched at once; one is a KB or two
READ_AHEAD: Final = 32  # files asked of the disk at once; slices do not stay in the page cache
ARRIVALS: Final = 200  # instances whose series are looked at in one go
OVERLAP: Final = 4096  # instances; numbers are given at the first byte, and commits are in another order

_VERSIONS: Final = """
    SELECT t.study_instance_uid, s.series_instance_uid,
           count(*) || ':' || max(i.id) || ':' || sum(i.id) || ':' || sum(i.size) || ':' || max(i.stored_at)
           || CASE WHEN s.coerced THEN ':' || s.coerced ELSE '' END
    FROM study t JOIN series s ON s.study_fk = t.id JOIN instance i ON i.series_fk = s.id
    WHERE {condition}
    GROUP BY s.id ORDER BY CAST(s.series_number AS INTEGER), s.id
"""
_OF_STUDY: Final = _VERSIONS.format(condition="t.study_instance_uid = ?")
_OF_SERIES: Final = _VERSIONS.format(condition="t.study_instance_uid = ? AND s.series_instance_uid = ?")
_OF_ARRIVALS: Final = _VERSIONS.format(
    condition="s.id IN (SELECT DISTINCT series_fk FROM instance WHERE id > ? AND id <= ?)"
)
_END: Final = "SELECT max(id) FROM (SELECT id FROM instance WHERE id > ? ORDER BY id LIMIT ?)"
_HEADERS: Final = """
    SELECT instance_id, kept FROM header WHERE instance_id IN (SELECT value FROM json_each(?))
"""

_Result = TypeVar("_Result")


class SeriesVersion(NamedTuple):
    """A series and what was in it when it was looked at."""

    study: UID
    series: UID
    version: str


@dataclass(slots=True)
class _Making:
    """A series that is being made: up to `position`; the headers up to `known` are at hand, compressed.

    `ahead`: what is made of the next instances, None where the file has to be read.
    """

    wanted: SeriesVersion
    instances: Sequence[Located]
    coercion: Coercion | None
    encoder: JsonEncoder = field(default_factory=JsonEncoder)
    position: int = 0
    known: int = 0
    headers: dict[int, bytes] = field(default_factory=dict)
    ahead: deque[str | None] = field(default_factory=deque)
    is_complete: bool = True

    @property
    def is_done(self) -> bool:
        return self.position >= len(self.instances)


class Metadata:
    """Makes and keeps the metadata of series."""

    def __init__(
        self,
        layout: Layout,
        readers: Readers,
        lookup: Lookup,
        aliases: Aliases,
        derived: Derived,
        ahead: Ahead,
    ) -> None:
        self._layout = layout
        self._readers = readers
        self._lookup = lookup
        self._aliases = aliases
        self._derived = derived
        self._ahead = ahead
        self._thread = ThreadPoolExecutor(1, "metadata")
        self._keeping: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Keep what has been made; nobody makes anything any more."""
        await asyncio.gather(*self._keeping, return_exceptions=True)
        self._thread.shutdown()

    async def versions(self, study: UID, series: UID | None = None) -> list[SeriesVersion]:
        """The series of a study, or one of them, in their order. Raises OutOfResources."""
        if series is None:
            return await self._versions(_OF_STUDY, (study,))
        return await self._versions(_OF_SERIES, (study, series))

    async def parts(self, wanted: SeriesVersion) -> AsyncGenerator[bytes, None]:
        """The objects of a series, joined by commas, in pieces; made now if they are not at hand."""
        kept = await self._kept(wanted)
        if kept is not None:
            for part in kept:
                yield await self._in_thread(partial(zlib.decompress, part))
            return
        self._ahead.waiting += 1
        try:
            async for part in self._make(wanted, pause=None):
                yield part
        finally:
            self._ahead.waiting -= 1

    async def of_instance(self, held: Held) -> str:
        """The object of one instance. Raises OSError, CannotUnderstand, OutOfResources."""
        coercion = await self._coercion_of([held.located])
        made = await asyncio.to_thread(
            object_json, self._layout, held.study, held.series, held.located, JsonEncoder()
        )
        return made if coercion is None else await asyncio.to_thread(coerced_json, made, coercion)

    async def _coercion_of(self, instances: Sequence[Located]) -> Coercion | None:
        """How the patient of a series is changed; it is the same for all instances."""
        coerced = next((located for located in instances if located.coerced), None)
        alias = await self._aliases.of(coerced) if coerced is not None else None
        return None if alias is None else alias.coercion

    async def _make(self, wanted: SeriesVersion, pause: float | None) -> AsyncGenerator[bytes, None]:
        """Make the parts of a series and keep them; `pause`: seconds to rest after each bit of work."""
        instances = [held.located for held in await self._lookup.find((wanted.study, wanted.series))]
        making = _Making(wanted, instances, await self._coercion_of(instances))
        parts: list[asyncio.Future[bytes]] = []
        while not making.is_done:
            objects: list[str] = []
            size = 0
            while not making.is_done and size < PART:
                if making.position >= making.known:
                    await self._fetch_headers(making)
                made = await self._in_thread(partial(self._objects, making, None if pause is None else SLICE))
                objects += made
                size += sum(map(len, made))
                if pause is not None:
                    await self._ahead.rest(pause)
            if objects:
                part = ",".join(objects).encode()
                level = FAST if pause is None else SMALL
                parts.append(asyncio.ensure_future(asyncio.to_thread(zlib.compress, part, level)))
                yield part
        if making.is_complete:  # else what could not be read is tried again next time
            keeping = asyncio.create_task(self._keep(wanted, parts))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)

    async def _kept(self, wanted: SeriesVersion) -> list[bytes] | None:
        try:
            return await self._in_thread(partial(self._derived.parts, *wanted))
        except sqlite3.Error as error:  # what it holds can be made again
            log.warning("metadata.not_kept", reason=str(error))
            return None

    async def _keep(self, wanted: SeriesVersion, parts: Sequence[asyncio.Future[bytes]]) -> None:
        compressed = await asyncio.gather(*parts)
        try:
            await self._in_thread(partial(self._derived.keep, *wanted, compressed))
        except sqlite3.Error as error:  # a full disk, for one
            log.warning("metadata.not_kept", reason=str(error))

    def _objects(self, making: "_Making", limit: float | None) -> list[str]:
        """The next objects: up to a part, or for `limit` seconds."""
        objects: list[str] = []
        size = 0
        end = None if limit is None else time.perf_counter() + limit
        while making.position < making.known and size < PART and not self._ahead.is_closing:
            if not making.ahead:
                self._look_ahead(making)
            located = making.instances[making.position]
            making.position += 1
            try:
                made = making.ahead.popleft() or object_json(
                    self._layout, making.wanted.study, making.wanted.series, located, making.encoder
                )
            except (OSError, CannotUnderstand) as error:
                log.error("metadata.unreadable", sop_instance=located.sop_instance, reason=str(error))
                making.is_complete = False
                continue
            if making.coercion is not None:
                made = coerced_json(made, making.coercion)
            objects.append(made)
            size += len(made)
            if end is not None and time.perf_counter() > end:
                break
        if self._ahead.is_closing:
            making.position = len(making.instances)
            making.is_complete = False
        return objects

    def _look_ahead(self, making: "_Making") -> None:
        """What the headers of the next instances tell; the files of the others are asked of the disk."""
        study, series, _ = making.wanted
        for located in making.instances[making.position : min(making.position + READ_AHEAD, making.known)]:
            made = None
            with suppress(CannotUnderstand, KeyError):
                kept = restored(making.headers[located.token])
                made = header_json(kept, study, series, located, making.encoder)
            if made is None:
                announce(self._layout, located)
            making.ahead.append(made)

    async def _fetch_headers(self, making: "_Making") -> None:
        making.known = min(making.position + KNOWN_AHEAD, len(making.instances))
        coming = making.instances[making.position : making.known]
        tokens = json.dumps([located.token for located in coming])
        making.headers = {int(token): kept for token, kept in await self._readers.fetch(_HEADERS, (tokens,))}

    async def make(self) -> None:
        """Make the metadata of series in which something arrived. Raises OutOfResources, sqlite3.Error."""
        seen = await self._in_thread(lambda: self._derived.seen)
        if await self._readers.newest() == seen:
            return
        position = max(seen - OVERLAP, 0)
        while (end := (await self._readers.fetch(_END, (position, ARRIVALS)))[0][0]) is not None:
            for wanted in await self._lacking(await self._versions(_OF_ARRIVALS, (position, end))):
                async for _ in self._make(wanted, pause=SLICE):
                    pass
            position = end
            seen = max(seen, end)
            await self._in_thread(partial(self._derived.have_seen, seen))
            await self._ahead.rest(SLICE)

    async def _lacking(self, versions: Sequence[SeriesVersion]) -> list[SeriesVersion]:
        """Those that are not at hand."""
        return await self._in_thread(lambda: [one for one in versions if not self._derived.holds(*one)])

    async def _versions(self, sql: str, parameters: Sequence[str | int]) -> list[SeriesVersion]:
        rows = await self._readers.fetch(sql, parameters)
        return [SeriesVersion(UID(study), UID(series), version) for study, series, version in rows]

    async def _in_thread(self, job: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)
