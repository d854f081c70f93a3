"""The worker processes that transcode, as the event loop sees them.

concurrent.futures is not used: there one process that dies fails every job that waits. Here a worker has one
job at a time; when it dies, is killed or takes too long, that job fails and the next one has a new worker.
Results are files, so that no large object goes through a pipe or stays in memory; but pictures, which are
small and many, lie in memory that a worker shares.
"""

import asyncio
import itertools
import math
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacsnode.dicom.patient import Coercion
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand, OperationError, OutOfResources
from pacsnode.log import get_logger
from pacsnode.pixels import plan
from pacsnode.pixels.job import (
    Composition,
    Decoding,
    Deidentification,
    Directory,
    Extraction,
    Job,
    Made,
    Picturing,
    Reduction,
    Splitting,
    StoredFile,
    Task,
    Transcoding,
    answer_of,
)

JOBS_PER_WORKER: Final = 10_000  # then a fresh one: what codecs leak is bounded; a start takes a second
SUFFIX: Final = ".transcoded"
ALARM_MARGIN: Final = 10  # seconds after the time limit until the worker ends itself

log = get_logger()


@dataclass(frozen=True, slots=True)
class Transcoded:
    """An encoded data set in a file of its own, without File Meta; whoever asked for it discards it."""

    path: Path
    transfer_syntax: UID
    size: int

    async def discard(self) -> None:
        await asyncio.to_thread(self.path.unlink, missing_ok=True)

    async def take(self) -> bytes:
        """All of it; the file is gone then. For what is small. Raises OSError."""
        return await asyncio.to_thread(_taken, self.path)


@dataclass(frozen=True, slots=True)
class TranscoderOptions:
    """At most `workers` processes, `time_limit` seconds an object, `memory_limit` bytes a worker.

    `enabled` and `recompress_lossy` say what targets_of() and choose() find, see plan.targets_of.
    """

    workers: int = 2
    time_limit: float = 120
    memory_limit: int = 2 * 2**30
    enabled: bool = True
    recompress_lossy: bool = False


class Transcoder:
    """Makes other objects of stored ones in worker processes, started when they are first needed."""

    def __init__(self, spool: Path, options: TranscoderOptions | None = None) -> None:
        """`spool` is a folder for results; those of an earlier node are removed at first use."""
        self._spool = spool
        self._options = options or TranscoderOptions()
        self._turns = asyncio.Semaphore(self._options.workers)
        self._numbers = itertools.count()
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self._closed = False

    async def transcode(
        self, source: Path, data_offset: int, stored: UID, target: UID, coercion: Coercion | None = None
    ) -> Transcoded:
        """Make `target` of the data set behind `data_offset` bytes of `source`; its patient may be coerced.

        Raises CannotTranscode, CannotUnderstand, OutOfResources; cancelling stops the work.
        """
        return await self._make(source, data_offset, stored, Transcoding(target), target, coercion)

    async def extract_frames(
        self,
        source: Path,
        data_offset: int,
        stored: UID,
        extraction: Extraction,
        coercion: Coercion | None = None,
    ) -> Transcoded:
        """Make a new instance of some frames, in the transfer syntax of the source (PS3.4 Y.3.3).

        Raises FramesNotFound, CannotCreateInstance, CannotExtractFrames, NotTimeBased, and as transcode().
        """
        return await self._make(source, data_offset, stored, extraction, stored, coercion)

    async def leave_out_bulk_data(
        self, source: Path, data_offset: int, stored: UID, target: UID, coercion: Coercion | None = None
    ) -> Transcoded:
        """Make an instance without its bulk data (PS3.4 Z.1.3); `target` is uncompressed, or `stored`."""
        return await self._make(source, data_offset, stored, Reduction(target), target, coercion)

    async def deidentify(
        self,
        source: Path,
        data_offset: int,
        stored: UID,
        task: Deidentification,
        coercion: Coercion | None = None,
    ) -> Transcoded:
        """Leave out what identifies the patient. Raises CannotDeidentify, and as transcode()."""
        return await self._make(source, data_offset, stored, task, task.target, coercion)

    async def decode_frames(self, source: Path, stored: UID, decoding: Decoding) -> Transcoded:
        """Decode frames, one behind the other; see decode.py. Raises as transcode()."""
        return await self._make(source, 0, stored, decoding, EXPLICIT_VR_LE)

    async def split(self, metadata: Path) -> Transcoded:
        """Make a file of the objects of a JSON array, one a line. Raises as transcode()."""
        return await self._make(metadata, 0, EXPLICIT_VR_LE, Splitting(), EXPLICIT_VR_LE)

    async def compose(self, metadata: Path, start: int, composition: Composition) -> Transcoded:
        """Make the file, File Meta included, of an object that came apart. Raises as transcode().

        Its metadata begins behind `start` bytes of a file.
        """
        return await self._make(metadata, start, EXPLICIT_VR_LE, composition, EXPLICIT_VR_LE)

    async def directory(self, metadata: Path, directory: Directory) -> Transcoded:
        """Make the DICOMDIR of objects by their metadata. Raises as transcode()."""
        return await self._make(metadata, 0, EXPLICIT_VR_LE, directory, EXPLICIT_VR_LE)

    async def render(
        self, source: StoredFile, picturing: Picturing, coercion: Coercion | None = None
    ) -> bytes:
        """The bytes of a Rendered Media Type; see rendering.render. Raises OSError, and as transcode()."""
        output, made = await self._do(source.paths, None, source.transfer_syntax, picturing, coercion)
        return made if isinstance(made, bytes) else await asyncio.to_thread(_taken, output)

    async def new_folder(self, prefix: str) -> Path:
        """A folder beside the results, for what jobs are to read; the caller's to remove.

        Raises OutOfResources, OSError.
        """
        await self._prepare()
        return Path(await asyncio.to_thread(tempfile.mkdtemp, SUFFIX, prefix, self._spool))

    def targets_of(self, stored: UID) -> tuple[UID, ...]:
        """The transfer syntaxes an object may be sent in here, `stored` first; see plan.targets_of."""
        if not self._options.enabled:
            return (stored,)
        return plan.targets_of(stored, self._options.recompress_lossy)

    def choose(self, stored: UID, accepted: Collection[UID]) -> UID | None:
        """The transfer syntax to send in among those a peer accepts; None when there is none."""
        return next((uid for uid in self.targets_of(stored) if uid in accepted), None)

    async def _make(
        self,
        source: Path,
        data_offset: int,
        stored: UID,
        task: Task,
        target: UID,
        coercion: Coercion | None = None,
    ) -> Transcoded:
        output, made = await self._do((str(source),), data_offset, stored, task, coercion)
        assert isinstance(made, int)
        return Transcoded(output, target, made)

    async def _do(
        self,
        paths: tuple[str, ...],
        data_offset: int | None,
        stored: UID,
        task: Task,
        coercion: Coercion | None,
    ) -> tuple[Path, int | bytes]:
        """Have a job done. The file for its result and how many bytes are there, or the bytes themselves."""
        await self._prepare()
        output = self._spool / f"{next(self._numbers)}{SUFFIX}"
        seconds = math.ceil(self._options.time_limit) + ALARM_MARGIN
        job = Job(paths, data_offset, stored, str(output), seconds, task, coercion)
        try:
            async with self._turns:
                while (made := await self._perform(job)) is None:
                    pass
        except BaseException:
            _forget(output)
            raise
        return output, made

    async def close(self) -> None:
        """End the workers; what they still do fails."""
        self._closed = True
        self._idle.clear()
        for worker in tuple(self._workers):
            await worker.end()
        self._workers.clear()

    async def _prepare(self) -> None:
        """Make the folder, once."""
        if self._is_prepared:
            return
        async with self._preparing:
            if self._is_prepared:
                return
            try:
                await asyncio.to_thread(_empty, self._spool)
            except OSError as error:
                raise OutOfResources(f"{self._spool} cannot be used: {error}") from error
            self._is_prepared = True

    async def _perform(self, job: Job) -> int | bytes | None:
        """Have a worker do the job, and keep the worker if it lives. None: the job wants another try.

        That is, the worker died and had done others before: it may have died of those, or while it was idle.
        """
        worker = await self._take()
        try:
            async with asyncio.timeout(self._options.time_limit):
                answer = await worker.perform(job)
        except TimeoutError:
            await self._dismiss(worker)
            log.warning("transcoder.worker_lost", source=job.paths[0], reason="time limit")
            raise CannotTranscode(f"transcoding takes longer than {self._options.time_limit} s") from None
        except BaseException:
            await self._dismiss(worker)
            raise
        if not answer:
            await self._dismiss(worker)
            log.warning("transcoder.worker_lost", source=job.paths[0], reason=f"status {worker.status}")
            if worker.jobs > 1:
                return None
            raise CannotUnderstand(f"the codec crashed (status {worker.status})")
        done = answer_of(answer)
        made = worker.shared(done.size) if isinstance(done, Made) and done.in_memory else None
        await self._give_back(worker)
        if isinstance(done, OperationError):
            raise done
        return done.size if made is None else made

    async def _take(self) -> "_Worker":
        """An idle worker that lives, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.status is None:
                return worker
            self._workers.discard(worker)
        worker = await _Worker.start(self._options.memory_limit)
        self._workers.add(worker)
        if self._closed:
            await self._dismiss(worker)
            raise OutOfResources("the node is stopping")
        return worker

    async def _give_back(self, worker: "_Worker") -> None:
        if worker.jobs < JOBS_PER_WORKER and not self._closed:
            self._idle.append(worker)
        else:
            await self._dismiss(worker)

    async def _dismiss(self, worker: "_Worker") -> None:
        self._workers.discard(worker)
        await worker.end()


class _Worker:
    """One process, see worker.py."""

    def __init__(self, process: Process, memory: int) -> None:
        """`memory`: the descriptor of the file that it shares."""
        self._process = process
        self._memory = memory
        self.jobs = 0

    @classmethod
    async def start(cls, memory_limit: int) -> "_Worker":
        memory = _file_in_memory()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pacsnode.pixels.worker", str(memory_limit), str(memory)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # codecs tell of every oddity of a stream
                pass_fds=(memory,),
            )
        except BaseException:
            os.close(memory)
            raise
        return cls(process, memory)

    def shared(self, size: int) -> bytes:
        """What it has left in its shared memory."""
        return os.pread(self._memory, size, 0)

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def perform(self, job: Job) -> bytes:
        """The line that answers; empty when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.jobs += 1
        try:
            self._process.stdin.write(job.to_line())
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        except ConnectionError:
            return b""
        return line if line.endswith(b"\n") else b""

    async def end(self) -> None:
        """Kill the process, unless it has ended, and take its status."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()


def _file_in_memory() -> int:
    """The descriptor of a file without a name; where the system has no memory files, on disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pacsnode-picture")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _taken(path: Path) -> bytes:
    """The content of a result, which is gone then. Raises OSError."""
    try:
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def _forget(output: Path) -> None:
    """Remove what an unfinished job has written; at once, as whoever is cancelled cannot wait."""
    output.unlink(missing_ok=True)


def _empty(spool: Path) -> None:
    """Make the folder; results that a killed node left in it are of no use. Nothing else is touched."""
    spool.mkdir(parents=True, exist_ok=True)
    for path in spool.glob(f"*{SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
