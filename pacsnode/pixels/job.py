"""What the pool asks of a worker process, and what that answers: a line each.

A job is pickled, since it comes from the node itself; an answer is JSON, since a codec may have taken over
the process that gives it.
"""

import base64
import json
import pickle
from dataclasses import dataclass
from typing import Final, Self

from pacsnode import errors
from pacsnode.dicom.frame_range import FrameRange
from pacsnode.dicom.patient import Coercion
from pacsnode.dicom.uid import UID
from pacsnode.pixels.rendering.request import Rendering

# The errors an answer can name; any other would be a bug
_ERRORS: Final[dict[str, type[errors.OperationError]]] = {
    error.__name__: error
    for error in (
        errors.CannotCreateInstance,
        errors.CannotDeidentify,
        errors.CannotExtractFrames,
        errors.CannotTranscode,
        errors.CannotUnderstand,
        errors.FramesNotFound,
        errors.NotTimeBased,
        errors.OutOfResources,
        errors.ProcessingFailure,
    )
}


@dataclass(frozen=True, slots=True)
class Transcoding:
    """The data set in another transfer syntax."""

    target: UID


@dataclass(frozen=True, slots=True)
class Reduction:
    """The data set without its bulk data (PS3.4 Z.1.3), in an uncompressed transfer syntax or as stored."""

    target: UID


@dataclass(frozen=True, slots=True)
class Deidentification:
    """The data set without what identifies the patient (PS3.15 E), in another transfer syntax or as stored.

    `key`: what replaced UIDs are derived with.
    """

    target: UID
    key: bytes


MOMENT: Final = "%Y%m%d%H%M%S.%f%z"  # a DT to the microsecond, with its offset from UTC (PS3.5 6.2)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The instance to be made of some frames (PS3.4 Y.3.3).

    `station`: the AE title that extracts; `moment`: when, a DT as MOMENT has it.
    """

    sop_instance: UID
    frame_range: FrameRange
    station: str
    moment: str


@dataclass(frozen=True, slots=True)
class Decoding:
    """The compressed frames to be decoded.

    `attributes`: those that describe the pixels, by tag, in hexadecimal digits. `frames`: where the items of
    each begin and end in the source, and how long its stream is, 0 for all there is.
    """

    attributes: tuple[tuple[str, str], ...]
    frames: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The file of an object, with File Meta Information: the first of `paths` that is there."""

    paths: tuple[str, ...]
    transfer_syntax: UID


@dataclass(frozen=True, slots=True)
class Picturing:
    """The rendered form of the object, under a presentation state where there is one (PS3.18 8.3.5)."""

    rendering: Rendering
    state: StoredFile | None = None


@dataclass(frozen=True, slots=True)
class Bulk:
    """A part of a request: the URI that metadata names it by, its type in lower case, and its file.

    `transfer_syntax` is the one the type names, "" for none.
    """

    uri: str
    media_type: str
    transfer_syntax: str
    path: str


@dataclass(frozen=True, slots=True)
class Splitting:
    """The objects of a JSON array, one a line (PS3.18 10.5.1.4)."""


@dataclass(frozen=True, slots=True)
class Composition:
    """An object to be made of metadata, the source of the job, and bulk data (PS3.18 10.5.1.4).

    `length`: bytes of the source behind its `data_offset`. `bulk`: the file that tells the parts of the
    request, a JSON array of what Bulk has. `source`: the AE title for its File Meta Information.
    """

    media_type: str
    length: int
    bulk: str
    source: str


@dataclass(frozen=True, slots=True)
class Directory:
    """The DICOMDIR of objects whose metadata is the source of the job, a JSON array in each line.

    `files`: a file that tells by SOP Instance UID, in JSON, the File ID and the transfer syntax of each.
    `source`: the AE title for its File Meta Information.
    """

    files: str
    source: str


Task = (
    Transcoding
    | Reduction
    | Deidentification
    | Extraction
    | Decoding
    | Picturing
    | Splitting
    | Composition
    | Directory
)


@dataclass(frozen=True, slots=True)
class Job:
    """What is made of the data set behind `data_offset` bytes of a file goes to `output`.

    The file is the first of `paths` that is there; `data_offset` None: behind its File Meta Information.
    `stored` is its transfer syntax. In `seconds` at most. Before anything else the patient is coerced.
    """

    paths: tuple[str, ...]
    data_offset: int | None
    stored: UID
    output: str
    seconds: int
    task: Task
    coercion: Coercion | None = None

    def to_line(self) -> bytes:
        return base64.b64encode(pickle.dumps(self)) + b"\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        job = pickle.loads(base64.b64decode(line))
        assert isinstance(job, cls)
        return job


@dataclass(frozen=True, slots=True)
class Made:
    """`size` bytes were made. They are in the output file, or in the memory that the worker shares."""

    size: int
    in_memory: bool = False


Answer = Made | errors.OperationError


def answer_line(done: Answer) -> str:
    """An answer, without the end of the line: what was made, or why nothing was."""
    return json.dumps(
        [done.size, done.in_memory] if isinstance(done, Made) else [type(done).__name__, str(done)]
    )


def answer_of(line: bytes) -> Answer:
    """What an answer says."""
    first, second = json.loads(line)
    return _ERRORS[first](second) if isinstance(first, str) else Made(first, second)
