"""Archive: the room's only public face. Objects come in, are found, are checked.

The files of objects/ are the truth, index.sqlite can be made from them again (reconcile.py). The durability
scheme is told at the head of files.py (names and recovery) and writer.py (group commit).
"""

import asyncio
import itertools
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import structlog

from pacsnode.archive import reconcile
from pacsnode.archive.ahead import Ahead
from pacsnode.archive.aliases import Alias, Aliases
from pacsnode.archive.announced import Announced
from pacsnode.archive.answers import Encoder
from pacsnode.archive.changes import Changes
from pacsnode.archive.counting import count
from pacsnode.archive.derived import Derived
from pacsnode.archive.early import Early
from pacsnode.archive.files import Layout
from pacsnode.archive.frames import Frames, FramesAhead
from pacsnode.archive.incoming_file import IncomingFile
from pacsnode.archive.index import Index, connect
from pacsnode.archive.instance import Arrival, IncomingInstance, IncomingRequest, Intake, Outcome, Stored
from pacsnode.archive.integrity import Condition, Inspector, Reference
from pacsnode.archive.journal import Journal
from pacsnode.archive.journal_frames import Record
from pacsnode.archive.judge import Duplicates, Judge
from pacsnode.archive.locate import Located, Locator
from pacsnode.archive.lookup import Lookup
from pacsnode.archive.metadata import Metadata
from pacsnode.archive.object_file import ObjectFile
from pacsnode.archive.outgoing import Pieces, ReadAhead, file_of, in_file, missing, open_object, paths_of
from pacsnode.archive.readers import Readers
from pacsnode.archive.reconcile import Progress, Rebuilt, Verification
from pacsnode.archive.recovery import Recovered, recover
from pacsnode.archive.root import FreeSpace, Lock
from pacsnode.archive.rows import RowBuilder
from pacsnode.archive.schema import migrate, remedy_for
from pacsnode.archive.scribe import Scribe
from pacsnode.archive.search import Match, Search
from pacsnode.archive.settling import Settler, sync_all
from pacsnode.archive.small_files import SmallFiles
from pacsnode.archive.stored_file import Unreadable, row_of_content, row_of_file
from pacsnode.archive.totals import TotalsOfArchive
from pacsnode.archive.workers import Workers
from pacsnode.archive.writer import Writer
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.patient import Coercion
from pacsnode.dicom.query import Query
from pacsnode.dicom.retrieval import Retrieval
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.errors import (
    ArchiveError,
    CannotUnderstand,
    DuplicateInstance,
    OperationError,
    OutOfResources,
)

log = structlog.get_logger()

Result = TypeVar("Result")
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """The settings of [storage], see config/sections.py; `reserve` in bytes."""

    sync: str = "file"
    duplicates: str = "keep"
    reserve: int = 2**30
    workers: int = 4
    readers: int = 4


class Archive:
    """Objects at rest and their index. Build it with open(); its methods are called in one event loop."""

    def __init__(
        self,
        layout: Layout,
        lock: Lock,
        options: ArchiveOptions,
        index: Index,
        journal: Journal,
        announced: Announced,
        first_token: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._layout = layout
        self._lock = lock
        self._free_space = FreeSpace(layout.root, options.reserve)
        self._tokens = itertools.count(first_token)
        self._workers = Workers(options.workers)
        durable = options.sync != "none"
        self._journal = journal
        self._settler = Settler(layout, journal, sync=durable)
        self._scribe = Scribe(journal, self._settler)
        self._announced = announced
        self._readers = Readers(layout.index, options.readers)
        self._search = Search(self._readers, index.answers)
        self._locator = Locator(self._readers)
        self.lookup = Lookup(self._readers)
        self.totals = TotalsOfArchive(self._readers, layout.root)
        self.aliases = Aliases(self._readers)
        self._file_readers = Workers(options.readers)  # apart: a slow disk shall not keep arrivals waiting
        self._ahead = Ahead(self._file_readers, self._search)
        self._derived: Derived  # these four are made by open()
        self.frames: Frames
        self.metadata: Metadata
        self._frames_ahead: FramesAhead
        self._inspector = Inspector(self._readers, self._file_readers, layout)
        self.changes = Changes(self._readers)
        self._listeners: list[Callable[[], None]] = []
        if options.duplicates == "replace":
            self.listen(self.lookup.forget)
        self._writer = Writer(
            index,
            layout,
            loop,
            Judge(index, layout, Duplicates(options.duplicates)),
            SmallFiles(layout, sync=durable),
            self._scribe,
            Early(self._scribe, announced, allowed=options.sync != "full"),
            sync=options.sync,
            on_stored=self._tell_listeners,
        )
        self._intake = Intake(
            loop=loop,
            layout=layout,
            workers=self._workers,
            writer=self._writer,
            scribe=self._scribe,
            rows=RowBuilder(),
            sync=durable,
        )

    @classmethod
    async def open(cls, root: Path, options: ArchiveOptions) -> Self:
        """Lock the data root, bring the index up to date, finish what a crash interrupted.

        Raises ArchiveError when the root is in use, or it or the index cannot be used.
        """
        layout = Layout(root)
        lock = Lock(root)
        try:
            prepared = await asyncio.to_thread(_prepare, layout, lock, options.sync)
            recovered = prepared.recovered
            archive = cls(
                layout,
                lock,
                replace(options, sync=prepared.sync),
                prepared.index,
                prepared.journal,
                prepared.announced,
                recovered.next_token(prepared.next_token),
            )
            await archive._readers.open()
            archive.changes.at_open = await archive.changes.newest()
            await archive._open_derived()
            await archive._adopt(recovered)
            return archive
        except BaseException:
            lock.release()
            raise

    async def _open_derived(self) -> None:
        """What is made of objects ahead of time. Raises OutOfResources."""
        layout, readers, ahead = self._layout, self._readers, self._ahead
        derived = await asyncio.to_thread(Derived.open, layout.root, await readers.newest())
        self._derived, self.frames = derived, Frames(derived)
        self.metadata = Metadata(layout, readers, self.lookup, self.aliases, derived, ahead)
        self._frames_ahead = FramesAhead(layout, readers, derived, self.frames, ahead)
        self.listen(ahead.note_arrival)
        ahead.begin(self.metadata.make, self._frames_ahead.make)

    async def _adopt(self, recovered: Recovered) -> None:
        """Index again what a power cut took from the index; the writer sorts out what came twice."""
        adopted = True
        for token, lost in sorted(recovered.unlisted.items()):
            if isinstance(lost, Record):
                adopted &= await self._store_again(await asyncio.to_thread(self._arrival_of, lost))
                continue
            row = await asyncio.to_thread(row_of_file, self._layout, self._intake.rows, lost)
            if isinstance(row, Unreadable):
                log.error("instance.unreadable", path=lost, reason=row.reason)
                continue
            row.path = self._layout.object_path(
                row.parents.study_uid, row.parents.series_uid, row.sop_instance
            )
            await self._store_again(Arrival(token, row, self._intake.loop.create_future()))
        if adopted:
            for segment in self._journal.take_former():
                self._settler.settle(segment)

    def _arrival_of(self, record: Record) -> Arrival:
        row = row_of_content(memoryview(record.content), self._intake.rows)
        row.stored_at = record.stored_at
        return Arrival(record.token, row, self._intake.loop.create_future(), record.content)

    async def _store_again(self, arrival: Arrival) -> bool:
        """Have an object of an earlier session indexed; False when it could not be kept."""
        row = arrival.row
        self._writer.submit(arrival)
        try:
            stored = await arrival.future
        except OperationError as error:
            log.error("instance.unreadable", path=row.path, reason=str(error))
            return isinstance(error, DuplicateInstance)
        log.info("instance.recovered", outcome=stored.outcome.name.lower(), sop_instance=row.sop_instance)
        return True

    async def close(self) -> None:
        """Finish what was given to store(), then let go of the index and the data root."""
        await self._ahead.end()
        await self.metadata.close()
        await self._readers.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._frames_ahead.close()
        self._file_readers.close()
        self._derived.close()
        self._workers.close()  # first: the jobs still running hand their rows to the writer
        self._writer.close()
        self._announced.close(done=self._writer.is_done)
        self._scribe.close()
        self._settler.close()
        self._journal.close()
        self._lock.release()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called in the loop after each commit of arrivals; `changes` tells what came."""
        self._listeners.append(listener)

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener()

    async def forget_changes(self, last: int) -> None:
        """Have commits up to `last` removed from `changes`: whoever acts on them has done so."""
        await self._writer.change(lambda index: index.forget_changes(last))

    @property
    def index(self) -> Path:
        """The file of the index, to be read beside the archive."""
        return self._layout.index

    async def coercion_of(self, located: Located) -> Coercion | None:
        """How an object is changed when it leaves; None when it goes as it is. Raises OutOfResources."""
        alias = await self.aliases.of(located) if located.coerced else None
        return None if alias is None else alias.coercion

    async def reconciled_up_to(self) -> int:
        """The sequence that was told with the last aliases. Raises OutOfResources."""
        return await self.aliases.sequence()

    async def change_aliases(self, aliases: Sequence[Alias], sequence: int, *, only: bool = False) -> None:
        """Have patients be what they are now, in answers and in objects that leave from then on.

        `only`: there are no other aliases. Raises sqlite3.Error.
        """
        await self._writer.change(lambda index: index.change_aliases(aliases, sequence, only=only))
        self.lookup.forget()

    def begin(self, request: IncomingRequest) -> IncomingInstance:
        """Make ready for the data set of a C-STORE; touches no file.

        Raises OutOfResources below the reserve, CannotUnderstand when the command's UIDs are none.
        """
        if not (is_uid(request.sop_instance) and is_uid(request.sop_class)):
            raise CannotUnderstand("the command names no valid SOP Class or Instance UID")
        self._free_space.check()
        meta = file_meta(
            request.sop_class,
            request.sop_instance,
            request.transfer_syntax,
            request.source_ae,
            request.receiving_ae,
        )
        return IncomingInstance(request, self._intake, IncomingFile(self._layout, next(self._tokens), meta))

    async def store(self, incoming: IncomingInstance) -> Stored:
        """Check, write, index; returns when file and row are as durable as storage.sync asks.

        Raises DataSetMismatch, CannotUnderstand, DuplicateInstance, OutOfResources; nothing is left then.
        """
        future: asyncio.Future[Stored] = self._intake.loop.create_future()
        incoming.finish(future)
        try:
            stored = await future
        except OutOfResources:
            self.lookup.forget()  # it may have been there for a moment
            raise
        if stored.outcome is Outcome.RESTORED:
            self.lookup.forget()
        return stored

    def search(self, query: Query) -> AsyncGenerator[list[Match], None]:
        """The matches of a query in chunks, as they are found; closing the generator stops the search."""
        return self._search.find(query)

    def search_as(
        self, query: Query, made_of: Callable[[list[Match]], list[_Made]]
    ) -> AsyncGenerator[list[_Made], None]:
        """As `search`, giving what `made_of` makes of matches, one each, in the thread that found them."""
        return self._search.find_as(query, made_of)

    def search_encoded(self, query: Query, encoder: Encoder) -> AsyncGenerator[list[bytes], None]:
        """As `search_as` what `encoder` makes of matches; it may have been kept since an earlier query."""
        return self._search.find_encoded(query, encoder)

    async def count(self, query: Query) -> int:
        """How many matches a query has, whatever its limit and offset. Raises OutOfResources."""
        return await count(self._readers, self._search, query)

    def locate(self, retrieval: Retrieval) -> AsyncGenerator[list[Located], None]:
        """The stored instances of a retrieval in chunks, in a stable order; see Locator.find."""
        return self._locator.find(retrieval)

    def read(self, objects: Sequence[Located], *, whole_files: bool = False) -> ReadAhead:
        """The data sets of `objects`, in order, each read before it is asked for; or their `whole_files`."""
        return ReadAhead(self._file_readers, self._layout, objects, whole_files=whole_files)

    async def missing(self, objects: Sequence[Located]) -> set[int]:
        """The tokens of those whose file is not there, or not as long as the index says."""
        return await missing(self._file_readers, self._layout, objects)

    async def in_file(self, located: Located, job: Callable[[ObjectFile], Result]) -> Result:
        """What `job` makes of an open object file, in a worker thread. Raises OSError, and what it raises."""
        return await in_file(self._file_readers, self._layout, located, job)

    def read_part(self, located: Located, start: int, end: int) -> AsyncGenerator[memoryview, None]:
        """The bytes of an object's file from `start` up to `end`, in pieces. Raises OSError."""
        pieces = Pieces(self._file_readers, EXPLICIT_VR_LE, start, end)
        return pieces.read(lambda: open_object(self._layout, located))

    def inspect(self, references: Sequence[Reference]) -> AsyncIterator[tuple[Reference, Condition]]:
        """Read instances back from the disk and compare their digests; see Inspector.inspect."""
        return self._inspector.inspect(references)

    def paths_of(self, located: Located) -> tuple[str, ...]:
        """Where the file of an instance may be, for another process; see outgoing.paths_of."""
        return paths_of(self._layout, located)

    async def file_of(self, located: Located) -> tuple[Path, int]:
        """The file of an instance, and where in it the data set begins; see outgoing.file_of."""
        return await file_of(self._file_readers, self._layout, located)

    def read_file(
        self, path: Path, transfer_syntax: UID, size: int, start: int = 0
    ) -> AsyncGenerator[memoryview, None]:
        """A data set of `size` bytes in a file of its own, from `start` on, in pieces. Raises OSError."""
        pieces = Pieces(self._file_readers, transfer_syntax, start, size)
        return pieces.read(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @staticmethod
    async def verify(root: Path, deep: bool = False, progress: Progress | None = None) -> Verification:
        """Compare files and index of a data root that no node uses; see reconcile.verify."""
        return await asyncio.to_thread(reconcile.verify, root, deep, progress)

    @staticmethod
    async def rebuild(root: Path, progress: Progress | None = None) -> Rebuilt:
        """Make the index again from the files of a data root that no node uses; see reconcile.rebuild."""
        return await asyncio.to_thread(reconcile.rebuild, root, progress)


@dataclass(slots=True)
class _Prepared:
    """What an archive is opened with. `sync` as it has to be here."""

    index: Index
    journal: Journal
    announced: Announced
    recovered: Recovered
    next_token: int
    sync: str


def _prepare(layout: Layout, lock: Lock, sync: str) -> _Prepared:
    layout.create()
    lock.acquire()
    if sync == "file" and not layout.has_links:
        # A file cannot keep its name in incoming/ until the index is durable: so that is made so at once.
        log.warning("storage.no_links", root=str(layout.root), sync="full")
        sync = "full"
    if not layout.has_index() and layout.has_objects():  # an empty one beside them would hide them all
        raise ArchiveError(
            f"data root {layout.root} has objects but no index; `pacsnode index rebuild` makes one"
        )
    migrate(layout.index)
    durable = sync != "none"
    try:
        connection = connect(layout.index, sync)
        recovered = recover(connection, layout)
        index = Index(connection)
        next_token = index.next_token()
        _remove_unfounded(index, recovered)
        if recovered.after_crash and durable:  # rows there may be of objects that nothing has made safe yet
            sync_all(layout)
        journal = Journal(layout.journal, sync=durable, direct=durable and layout.writes_direct)
        announced = Announced(layout)
    except (sqlite3.Error, OSError) as error:
        remedy = remedy_for(error) if isinstance(error, sqlite3.Error) else ""
        raise ArchiveError(f"data root {layout.root} cannot be used: {error}{remedy}") from error
    return _Prepared(index, journal, announced, recovered, next_token, sync)


def _remove_unfounded(index: Index, recovered: Recovered) -> None:
    if recovered.unfounded:
        index.begin(())
        for token in recovered.unfounded:
            index.remove(token)
        index.commit()
