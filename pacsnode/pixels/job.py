"""What the pool asks of a worker process and what that answers, a line of JSON each."""

import json
from dataclasses import asdict, dataclass
from typing import Final, Self

from pacsnode import errors
from pacsnode.dicom.uid import UID

# The errors an answer can name; any other would be a bug
_ERRORS: Final[dict[str, type[errors.OperationError]]] = {
    error.__name__: error
    for error in (
        errors.CannotTranscode,
        errors.CannotUnderstand,
        errors.OutOfResources,
        errors.ProcessingFailure,
    )
}


@dataclass(frozen=True, slots=True)
class Job:
    """The data set behind `data_offset` bytes of `source` goes to `output`, in `seconds` at most."""

    source: str
    data_offset: int
    stored: UID
    target: UID
    output: str
    seconds: int

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        return cls(**json.loads(line))


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
