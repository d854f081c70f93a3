"""What the pool asks of a worker process and what that answers, a line of JSON each."""

import json
from dataclasses import asdict, dataclass
from typing import Final, Self

from pacsnode import errors
from pacsnode.dicom.frame_range import FrameRange
from pacsnode.dicom.uid import UID

# The errors an answer can name; any other would be a bug
_ERRORS: Final[dict[str, type[errors.OperationError]]] = {
    error.__name__: error
    for error in (
        errors.CannotCreateInstance,
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
class Extraction:
    """The instance to be made of some frames (PS3.4 Y.3.3).

    `station`: the AE title that extracts; `moment`: when, a DT with its offset from UTC.
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
class Job:
    """The data set behind `data_offset` bytes of `source` goes to `output`, in `seconds` at most.

    Before it is written in `target`, frames are extracted or its bulk data is left out, where that is asked;
    or frames alone are decoded.
    """

    source: str
    data_offset: int
    stored: UID
    target: UID
    output: str
    seconds: int
    extraction: Extraction | None = None
    without_bulk_data: bool = False
    decoding: Decoding | None = None

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        fields = json.loads(line)
        if extraction := fields["extraction"]:
            frame_range = extraction.pop("frame_range")
            frame_range = FrameRange(frame_range["tag"], tuple(frame_range["values"]))
            fields["extraction"] = Extraction(**extraction, frame_range=frame_range)
        if decoding := fields["decoding"]:
            fields["decoding"] = Decoding(**decoding)
        return cls(**fields)


def answer_line(error: errors.OperationError | None) -> str:
    """An answer, without the end of the line."""
    return json.dumps([type(error).__name__, str(error)] if error else None)


def error_of(line: bytes) -> errors.OperationError | None:
    """The error in an answer; None when the job is done."""
    named = json.loads(line)
    if named is None:
        return None
    name, text = named
    return _ERRORS[name](text)
