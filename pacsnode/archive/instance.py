"""An object on its way in: from the first data set bytes to the row that waits for its commit.

IncomingInstance belongs to the event loop. A small object goes from there to the writer, which does all the
rest for a group of them; what blocks for a larger one runs in a worker thread, one job at a time for each
instance. The statuses that the errors below become are those of PS3.4 B.2.3.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, Protocol

from pacsnode.archive.direct import Buffer
from pacsnode.archive.durability import Durability
from pacsnode.archive.files import Layout, digest
from pacsnode.archive.incoming_file import IncomingFile
from pacsnode.archive.kept import compressed
from pacsnode.archive.rows import InstanceRow, RowBuilder
from pacsnode.archive.workers import Workers
from pacsnode.dicom.header import Header, HeaderIncomplete, scan
from pacsnode.dicom.information_model import INDEXED_TAGS
from pacsnode.dicom.uid import UID
from pacsnode.errors import DataSetMismatch, StudyMismatch

FLUSH_SIZE: Final = 2**20  # bytes kept in memory before they go to disk; a CT image fits and costs one hop
SMALL: Final = 64 * 2**10  # bytes; up to here a sync of its own costs an object more than a second writing
MANY: Final = 1024  # chunks; a peer that sends PDVs of a byte makes each cost 200 times what it holds


class Outcome(Enum):
    """What became of an object that was stored."""

    STORED = "stored as a new instance"
    DUPLICATE = "the identical object was stored before"
    RESTORED = "the identical object was stored before, but its file was gone or cut short"
    KEPT_ASIDE = "another object has this SOP Instance UID; this one was kept beside it"
    REPLACED = "another object had this SOP Instance UID; that one was kept aside"


@dataclass(slots=True)
class IncomingRequest:
    """What the C-STORE-RQ and its presentation context say about the object (PS3.7 9.1.1).

    `study`: where it has to belong (PS3.18 10.5.1.1.1); None: anywhere.
    """

    sop_class: UID
    sop_instance: UID
    transfer_syntax: UID
    source_ae: str
    receiving_ae: str
    study: UID | None = None


@dataclass(slots=True)
class Stored:
    """An object that is on disk and in the index. `path` is below the data root, `size` is the file's."""

    outcome: Outcome
    path: str
    study: UID
    series: UID
    sop_class: UID
    sop_instance: UID
    size: int


@dataclass(slots=True)
class Arrival:
    """An object whose row waits for the next group commit.

    Its file is in incoming/, or it is small and `content` is the file, still to be written. `durable`: what
    the commit has to wait for; None: it is on the disk.
    """

    token: int
    row: InstanceRow
    future: asyncio.Future[Stored]
    content: bytes | None = None
    durable: Durability | None = None


@dataclass(slots=True)
class SmallObject:
    """A small object as it was received: `content` is its file, File Meta included."""

    token: int
    request: IncomingRequest
    rows: RowBuilder
    content: bytes
    data_offset: int
    future: asyncio.Future[Stored]
    durable: Durability = field(default_factory=Durability)

    def arrive(self) -> Arrival:
        """Check it against its command. Raises DataSetMismatch and CannotUnderstand."""
        data = memoryview(self.content)[self.data_offset :]
        header = self.rows.headers.read(data, self.request.transfer_syntax, len(data))
        row = checked_row(self.request, self.rows, header)
        row.digest = digest(data).digest()
        row.size = len(self.content)
        return Arrival(self.token, row, self.future, self.content, self.durable)


class ArrivalQueue(Protocol):
    """The writer, as seen from here."""

    def submit(self, arrival: Arrival | SmallObject) -> None: ...


class SmallObjectQueue(Protocol):
    """The scribe, as seen from here."""

    def submit(self, small: SmallObject) -> None: ...


@dataclass(frozen=True, slots=True)
class Intake:
    """What every incoming instance of an archive shares."""

    loop: asyncio.AbstractEventLoop
    layout: Layout
    workers: Workers
    writer: ArrivalQueue
    scribe: SmallObjectQueue
    rows: RowBuilder
    sync: bool


def settle(results: Sequence[tuple[asyncio.Future[Stored], Stored | Exception]]) -> None:
    """Answer the waiting tasks; runs in the loop. The association of a cancelled task is gone."""
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


class IncomingInstance:
    """Takes the data set while it arrives. Not thread safe: write, discard and finish are called in the loop.

    `unwritten` counts bytes accepted but not yet on disk; the transport stops reading while it is too high
    and `on_flushed` tells it when to look again. `failed` says why the disk gave up; later data is dropped.
    """

    __slots__ = (
        "_chunks",
        "_discarded",
        "_file",
        "_flushing",
        "_future",
        "_gathered",
        "_intake",
        "_joined",
        "failed",
        "on_flushed",
        "request",
        "unwritten",
    )

    def __init__(self, request: IncomingRequest, intake: Intake, file: IncomingFile) -> None:
        self.request = request
        self.unwritten = 0
        self.on_flushed: Callable[[], None] | None = None
        self.failed: Exception | None = None
        self._intake = intake
        self._file = file
        self._chunks: list[Buffer] = []
        self._gathered = 0  # bytes in _chunks
        self._joined = 0  # of _chunks: made of MANY
        self._flushing = False
        self._discarded = False
        self._future: asyncio.Future[Stored] | None = None

    def write(self, data: Buffer) -> None:
        """Take the next data set bytes. Never blocks and never raises; `data` must not change afterwards."""
        if self.failed is not None or self._discarded:
            return
        size = len(data)
        self._chunks.append(data)
        self._gathered += size
        self.unwritten += size
        if len(self._chunks) - self._joined == MANY:
            self._chunks[self._joined :] = [b"".join(self._chunks[self._joined :])]
            self._joined += 1
        if self._gathered >= FLUSH_SIZE and not self._flushing:
            self._flush()

    def discard(self) -> None:
        """Forget the object and remove what is on disk. Harmless after finish() and when called again."""
        if self._discarded or self._future is not None:
            return
        self._discarded = True
        self._drop_chunks()
        if not self._flushing and self._file.is_open:
            self._intake.workers.submit(self._file.remove)

    def finish(self, future: asyncio.Future[Stored]) -> None:
        """The data set is complete: check it, make it durable, index it; `future` gets the answer."""
        self._future = future
        if self.failed is not None:
            settle([(future, self.failed)])
        elif not self._flushing:
            self._complete()

    def _flush(self) -> None:
        chunks, taken = self._chunks, self._gathered
        self._chunks, self._gathered, self._joined = [], 0, 0
        self._flushing = True
        self._intake.workers.submit(partial(self._append_in_worker, chunks, taken))

    def _append_in_worker(self, chunks: list[Buffer], taken: int) -> None:
        failure: Exception | None = None
        try:
            self._file.digest_of(chunks)
            self._file.append(chunks, self._intake.sync)
        except Exception as error:
            failure = error
        self._intake.loop.call_soon_threadsafe(self._flushed, taken, failure)

    def _flushed(self, taken: int, failure: Exception | None) -> None:
        self._flushing = False
        if self._discarded:
            self._intake.workers.submit(self._file.remove)
            return
        self.unwritten -= taken
        if failure is not None:
            self.failed = failure
            self._drop_chunks()
        if self._future is not None:
            self.finish(self._future)
        elif self._gathered >= FLUSH_SIZE:
            self._flush()
        if self.on_flushed is not None:
            self.on_flushed()

    def _drop_chunks(self) -> None:
        self._chunks = []
        self._gathered = self._joined = self.unwritten = 0

    def _complete(self) -> None:
        assert self._future is not None
        chunks, self._chunks = self._chunks, []
        file, intake = self._file, self._intake
        if file.is_open or self._gathered > SMALL:
            intake.workers.submit(partial(self._complete_in_worker, chunks, self._future))
            return
        content = b"".join([file.meta, *chunks])
        small = SmallObject(file.token, self.request, intake.rows, content, file.data_offset, self._future)
        intake.scribe.submit(small)  # both begin at once
        intake.writer.submit(small)

    def _complete_in_worker(self, chunks: list[Buffer], future: asyncio.Future[Stored]) -> None:
        file, writer = self._file, self._intake.writer
        durable = None if file.is_open else Durability()
        try:
            row = self._arrive_in_parts(chunks) if durable is None else self._arrive_at_once(chunks)
        except Exception as error:
            file.remove()
            self._intake.loop.call_soon_threadsafe(settle, [(future, error)])
            return
        writer.submit(Arrival(file.token, row, future, durable=durable))
        if durable is not None:
            self._make_durable(durable)

    def _arrive_in_parts(self, chunks: list[Buffer]) -> InstanceRow:
        """Check an object too long for memory, whose header is on disk already, and make it durable.

        All of that before it is handed on: its sync may take long, and the writer has others to serve.
        """
        file, intake = self._file, self._intake
        file.digest_of(chunks)
        file.append(chunks, intake.sync, last=True)
        start = memoryview(file.map())[file.data_offset :]
        header = scan(start, self.request.transfer_syntax, file.size, INDEXED_TAGS)
        row = self._file_row(checked_row(self.request, intake.rows, header))
        file.finish(intake.sync)
        return row

    def _arrive_at_once(self, chunks: list[Buffer]) -> InstanceRow:
        """Write an object, and check it against its command while the disk begins."""
        self._file.append(chunks, self._intake.sync, last=True)
        row = checked_row(self.request, self._intake.rows, self._scan_memory(chunks))
        self._file.digest_of(chunks)
        return self._file_row(row)

    def _file_row(self, row: InstanceRow) -> InstanceRow:
        row.digest = self._file.digest()
        row.size = self._file.file_size
        self._intake.layout.prepare(row.path)
        return row

    def _make_durable(self, durable: Durability) -> None:
        """Sync the file while the writer puts its row into the transaction."""
        failure: Exception | None = None
        try:
            self._file.finish(self._intake.sync)
        except Exception as error:
            failure = error
        durable.tell(failure)

    def _scan_memory(self, chunks: list[Buffer]) -> Header:
        transfer_syntax = self.request.transfer_syntax
        start = chunks[0] if chunks else b""
        try:
            return self._intake.rows.headers.read(start, transfer_syntax, self._gathered)
        except HeaderIncomplete:
            return scan(b"".join(chunks), transfer_syntax, self._gathered, INDEXED_TAGS)


def checked_row(request: IncomingRequest, rows: RowBuilder, header: Header) -> InstanceRow:
    """The row of an object; raises DataSetMismatch when it is not the one the command announced."""
    row = rows.build(header)
    if row.sop_class != request.sop_class:
        raise DataSetMismatch(f"SOP Class {row.sop_class or 'missing'} in the data set")
    if row.sop_instance != request.sop_instance:
        raise DataSetMismatch(f"SOP Instance {row.sop_instance or 'missing'} in the data set")
    if request.study not in (None, row.parents.study_uid):
        raise StudyMismatch(f"it belongs to study {row.parents.study_uid}")
    row.source_ae = request.source_ae
    row.kept = compressed(header.kept)
    row.stored_at = time.time()
    return row
