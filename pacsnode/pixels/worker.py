"""The worker process: reads a job a line, does it, answers a line. Its input, closed, ends it; see `pool`.

A hostile frame may make a codec crash, hang or take all memory; then the kernel ends this process, by a limit
or by the alarm, and that object fails alone.
"""

import errno
import mmap
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO, FileIO
from typing import BinaryIO, Final

from pacsnode.dicom.part10 import MAX_META_LENGTH, data_offset_of
from pacsnode.errors import OperationError, OutOfResources, ProcessingFailure
from pacsnode.pixels.bulk import leave_out_bulk_data
from pacsnode.pixels.coerce import coerce
from pacsnode.pixels.decode import decode_frames
from pacsnode.pixels.extract import extract
from pacsnode.pixels.job import (
    Answer,
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
    Transcoding,
    answer_line,
)
from pacsnode.pixels.recode import DataSet
from pacsnode.pixels.transcode import opened, transcode, write_as

SHORT: Final = 2**20  # bytes of a file that is read: cheaper than a mapping, whose pages come one by one
SHARED: Final = 2**20  # bytes of a picture that fits into the shared memory; the pool reads it in its loop
_HEAD: Final = 1024  # bytes that hold the File Meta Information of most files
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def serve(memory_limit: int, shared: int) -> None:
    """Do jobs until standard input ends. `memory_limit` in bytes; mapped files do not count.

    `shared`: the descriptor of a file in memory, which the pool reads too.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM):
        # They are for the node, which drains first: what it still sends may still have to be transcoded
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a codec that prints must not seem to answer
    for line in sys.stdin:
        print(answer_line(perform(Job.from_line(line), shared)), file=answers, flush=True)


def perform(job: Job, shared: int) -> Answer:
    """Do one job; what was made. Every error is returned: this process serves the next object."""
    signal.alarm(job.seconds)  # the pool ends a hanging worker sooner, but the pool may be gone
    try:
        source = _data_set(job.paths, job.data_offset)
        if isinstance(job.task, Picturing):
            return _put(_picture(job, source, job.task), job.output, shared)
        with open(job.output, "wb") as out:
            _write(job, source, out)
            return Made(out.tell())
    except OperationError as error:
        return error
    except MemoryError:
        return OutOfResources("this takes more memory than a worker may have")
    except OSError as error:
        kind = OutOfResources if error.errno in _NO_ROOM else ProcessingFailure
        return kind(str(error))
    except Exception as error:
        return ProcessingFailure(f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)


def _write(job: Job, source: memoryview, out: BinaryIO) -> None:
    match job.task:
        case Transcoding(target) if job.coercion is None:
            transcode(source, job.stored, target, out)
        case Transcoding(target):
            write_as(_opened(job, source), job.stored, target, out)
        case Reduction(target):
            data_set = _opened(job, source)
            leave_out_bulk_data(data_set)
            write_as(data_set, job.stored, target, out)
        case Deidentification(target, key):
            from pacsnode.pixels.deidentify import deidentify  # builds the table of its profile

            data_set = _opened(job, source)
            deidentify(data_set, key)
            write_as(data_set, job.stored, target, out)
        case Extraction():
            data_set = _opened(job, source)
            extract(data_set, job.stored, job.task)
            write_as(data_set, job.stored, job.stored, out)
        case Decoding():
            decode_frames(source, job.stored, job.task, out)
        case Splitting():
            from pacsnode.pixels.compose import split

            split(bytes(source), out)
        case Directory():
            from pacsnode.pixels.media_directory import write_directory

            write_directory(job.task, BytesIO(source), out)
        case Composition():
            from pacsnode.pixels.compose import compose  # Pillow too

            compose(job.task, bytes(source[: job.task.length]), out)


def _picture(job: Job, source: memoryview, picturing: Picturing) -> bytes:
    # pydicom and Pillow: a worker that only transcodes does without
    from pacsnode.pixels.rendering.render import rendered
    from pacsnode.pixels.rendering.source import Source

    state = None
    if (file := picturing.state) is not None:
        state = Source(_data_set(file.paths), file.transfer_syntax).attributes
    return rendered(Source(_coerced(job, source), job.stored), picturing.rendering, state)


def _put(made: bytes, output: str, shared: int) -> Made:
    """Leave a picture where the pool finds it: in memory, or when it is large in a file."""
    if len(made) <= SHARED:
        os.pwrite(shared, made, 0)
        return Made(len(made), in_memory=True)
    with open(output, "wb") as out:
        out.write(made)
    return Made(len(made))


def _opened(job: Job, source: memoryview) -> DataSet:
    """The data set, with the patient it is to have."""
    data_set = opened(source, job.stored)
    if job.coercion is not None:
        coerce(data_set, job.coercion)
    return data_set


def _coerced(job: Job, source: memoryview) -> memoryview:
    """The encoded data set, with the patient it is to have."""
    if job.coercion is None:
        return source
    out = BytesIO()
    write_as(_opened(job, source), job.stored, job.stored, out)
    return out.getbuffer()


def _data_set(paths: Sequence[str], offset: int | None = None) -> memoryview:
    """The data set in the first of the files that is there; see Job. Raises OSError, CannotUnderstand."""
    content = _content(paths)
    if offset is None:
        offset = data_offset_of(bytes(content[:_HEAD]))
        if offset > _HEAD:
            offset = data_offset_of(bytes(content[:MAX_META_LENGTH]))
    return content[offset:]


def _content(paths: Sequence[str]) -> memoryview:
    """A view of a file; if that is long a mapping, which goes with the last view of it."""
    with _first(paths) as file:
        if os.fstat(file.fileno()).st_size <= SHORT:
            return memoryview(file.readall() or b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _first(paths: Sequence[str]) -> FileIO:
    """The first file that is there: between the commit of its row and its move it lies elsewhere."""
    *places, last = paths
    for path in places:
        with suppress(FileNotFoundError):
            return open(path, "rb", buffering=0)
    return open(last, "rb", buffering=0)


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
