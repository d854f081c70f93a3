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
class StateFile:
    """The file of a presentation state, where its data set begins, and its transfer syntax."""

    path: str
    data_offset: int
    transfer_syntax: UID


@dataclass(frozen=True, slots=True)
class Picturing:
    """The rendered form of the object, under a presentation state where there is one (PS3.18 8.3.5)."""

    rendering: Rendering
    state: StateFile | None = None


@dataclass(frozen=True, slots=True)
class Bulk:
    """A part of a request: the URI that metadata names it by, and its file."""

    uri: str
    media_type: str
    path: str


@dataclass(frozen=True, slots=True)
class Composition:
    """An object to be made of metadata, the source of the job, and bulk data (PS3.18 10.5.1.4).

    `index` counts the objects of a JSON array from 0; `source`: the AE title for its File Meta Information.
    """

    media_type: str
    index: int
    bulk: tuple[Bulk, ...]
    source: str


Task = Transcoding | Reduction | Deidentification | Extraction | Decoding | Picturing | Composition


@dataclass(frozen=True, slots=True)
class Job:
    """What is made of the data set behind `data_offset` bytes of `source` goes to `output`.

    `stored` is its transfer syntax. In `seconds` at most. Before anything else the patient is coerced.
    """

    source: str
    data_offset: int
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


def answer_line(done: int | errors.OperationError) -> str:
    """An answer, without the end of the line: how many bytes were made, or why none were."""
    return json.dumps(done if isinstance(done, int) else [type(done).__name__, str(done)])


def answer_of(line: bytes) -> int | errors.OperationError:
    """What an answer says."""
    done = json.loads(line)
    if isinstance(done, int):
        return done
    name, text = done
    return _ERRORS[name](text)
