"""The bytes of the journal (scheme: journal.py): records in frames, and what of them can be read again.

    frame    magic, session, sequence, length of the records, XXH3 of all; records; zeros to whole blocks
    record   token, time, lengths of path and content; the path; the content, a whole PS3.10 file

Frames of a segment belong together while the session stays and the sequence rises. A frame that is torn, or
left from a former use of the segment, ends it. All numbers are little endian.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xxhash import xxh3_128_digest

BLOCK: Final = 4096  # bytes; what the disk wants writes past the page cache to be aligned to
MAGIC: Final = b"PNJRNAL1"

_FACTS: Final = struct.Struct("<8sQQQ")  # magic, session, sequence, length of the records
_DIGEST_LENGTH: Final = 16
FRAME_HEADER: Final = _FACTS.size + _DIGEST_LENGTH  # bytes
_RECORD: Final = struct.Struct("<QdHI")  # token, stored_at, lengths of path and content


@dataclass(slots=True)
class Record:
    """An object in the journal: `content` is its whole file, `path` where that belongs below the data root.

    `path` is empty where that was not known yet, `content` where the object was not kept: then its record
    does not count. `stored_at` is in seconds since the epoch.
    """

    token: int
    stored_at: float
    path: str
    content: bytes

    @property
    def length(self) -> int:
        """Bytes it takes in a frame."""
        return _RECORD.size + len(self.path) + len(self.content)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The place of a frame in the order of all: sessions follow each other, sequences within one."""

    session: int
    sequence: int


def put_record(frame: memoryview, at: int, record: Record) -> int:
    """Write a record into a frame; where the next one goes."""
    path, content = record.path.encode("ascii"), record.content
    _RECORD.pack_into(frame, at, record.token, record.stored_at, len(path), len(content))
    at += _RECORD.size
    frame[at : at + len(path)] = path
    at += len(path)
    frame[at : at + len(content)] = content
    return at + len(content)


def seal(frame: memoryview, end: int, place: Place) -> memoryview:
    """Complete a frame whose records end at `end`; its whole blocks."""
    blocks = frame[: -(-end // BLOCK) * BLOCK]
    blocks[end:] = bytes(len(blocks) - end)
    _FACTS.pack_into(blocks, 0, MAGIC, place.session, place.sequence, end - FRAME_HEADER)
    blocks[_FACTS.size : FRAME_HEADER] = _digest(blocks, end)
    return blocks


def first_place(path: Path) -> Place | None:
    """Where a segment begins in the order of all, whether or not its frame is whole; None: it is free."""
    with path.open("rb") as file:
        head = file.read(_FACTS.size)
    facts = _facts(memoryview(head), 0)
    return None if facts is None else facts[0]


def read_journal(folder: Path) -> Iterator[Record]:
    """The records of all segments in the order in which they were written, but for those revoked.

    Raises OSError.
    """
    starts = {path: first_place(path) for path in segments(folder)}
    used = [path for _, path in sorted((start, path) for path, start in starts.items() if start is not None)]
    # A later session may give the number of what was not kept to another object.
    revoked = {
        (session, record.token)
        for path in used
        for session, record in _read_segment(path)
        if not record.content
    }
    for path in used:
        for session, record in _read_segment(path):
            if (session, record.token) not in revoked:
                yield record


def segments(folder: Path) -> list[Path]:
    """The files of the journal; none where there is no journal."""
    return [path for path in folder.glob("*.log") if path.stem.isdecimal()]


def _read_segment(path: Path) -> Iterator[tuple[int, Record]]:
    """The records of a segment, each with its session."""
    data = memoryview(path.read_bytes())
    at = 0
    last: Place | None = None
    while (facts := _facts(data, at)) is not None:
        place, length = facts
        end = FRAME_HEADER + length
        frame = data[at : at + end]
        if last is not None and (place.session != last.session or place.sequence <= last.sequence):
            return
        if len(frame) < end or frame[_FACTS.size : FRAME_HEADER] != _digest(frame, end):
            return
        for record in _records(frame[FRAME_HEADER:]):
            yield place.session, record
        last = place
        at += -(-end // BLOCK) * BLOCK


def _facts(data: memoryview, at: int) -> tuple[Place, int] | None:
    if len(data) - at < _FACTS.size:
        return None
    magic, session, sequence, length = _FACTS.unpack_from(data, at)
    return (Place(session, sequence), length) if magic == MAGIC else None


def _records(records: memoryview) -> Iterator[Record]:
    at = 0
    while at < len(records):
        token, stored_at, path_length, length = _RECORD.unpack_from(records, at)
        at += _RECORD.size
        path = bytes(records[at : at + path_length]).decode("ascii")
        at += path_length
        yield Record(token, stored_at, path, bytes(records[at : at + length]))
        at += length


def _digest(frame: memoryview, end: int) -> bytes:
    """Of the facts and the records, but not of the place between them where it stands."""
    return xxh3_128_digest(bytes(frame[: _FACTS.size]) + xxh3_128_digest(frame[FRAME_HEADER:end]))
