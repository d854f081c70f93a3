"""Whether instances are kept as they came: looked up, read back from the disk, compared with their digests.

One file at a time and a piece at a time, so that a request for ten thousand instances takes neither memory
nor the readers of those who retrieve.
"""

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from json import dumps
from typing import Final

import structlog

from pacsnode.archive.files import Layout, digest
from pacsnode.archive.locate import Located
from pacsnode.archive.object_file import ObjectFile
from pacsnode.archive.outgoing import in_file
from pacsnode.archive.readers import Readers
from pacsnode.archive.workers import Workers
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand, MatchesNotCounted

log = structlog.get_logger()

CHUNK: Final = 200  # instances looked up with one statement
PIECE: Final = 2**20  # bytes read at a time
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_LOOK_UP: Final = """
    SELECT sop_instance_uid, sop_class_uid, transfer_syntax, path, size, id, digest FROM instance
    WHERE sop_instance_uid IN (SELECT value FROM json_each(?))
"""


class Condition(Enum):
    """What became of an instance."""

    SOUND = "its file was read back and is what was stored"
    ABSENT = "there is no such instance"
    OTHER_CLASS = "the instance is of another SOP class"
    DAMAGED = "its file is not what was stored"
    UNREAD = "there was no memory, or no file descriptor, to read it with"


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance as others name it."""

    sop_class: UID
    sop_instance: UID


class Inspector:
    """Reads instances back."""

    def __init__(self, readers: Readers, workers: Workers, layout: Layout) -> None:
        self._readers = readers
        self._workers = workers
        self._layout = layout

    async def inspect(self, references: Sequence[Reference]) -> AsyncIterator[tuple[Reference, Condition]]:
        """Yield each reference with its condition.

        Raises OutOfResources and MatchesNotCounted when the index cannot be asked.
        """
        for start in range(0, len(references), CHUNK):
            chunk = references[start : start + CHUNK]
            known = await self._look_up(chunk)
            for reference in chunk:
                yield reference, await self._condition(reference, known.get(reference.sop_instance))

    async def _look_up(self, references: Sequence[Reference]) -> dict[str, tuple[Located, bytes]]:
        connection = await self._readers.acquire()
        usable = False
        try:
            uids = dumps([reference.sop_instance for reference in references])
            rows = await connection.execute_fetchall(_LOOK_UP, (uids,))
            usable = True
        except sqlite3.Error as error:
            raise MatchesNotCounted(f"the index cannot be read: {error}") from error
        finally:
            self._readers.release(connection, usable=usable)
        return {
            row[0]: (Located(UID(row[1]), UID(row[0]), UID(row[2]), row[3], row[4], row[5]), row[6])
            for row in rows
        }

    async def _condition(self, reference: Reference, known: tuple[Located, bytes] | None) -> Condition:
        if known is None:
            return Condition.ABSENT
        located, expected = known
        if located.sop_class != reference.sop_class:
            return Condition.OTHER_CLASS
        try:
            found = await in_file(self._workers, self._layout, located, _read_back)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                return Condition.UNREAD
            log.error("instance.damaged", sop_instance=located.sop_instance, reason=error.strerror)
            return Condition.DAMAGED
        if found != expected:
            reason = "its size or its File Meta is another" if found is None else "its digest is another"
            log.error("instance.damaged", sop_instance=located.sop_instance, reason=reason)
            return Condition.DAMAGED
        return Condition.SOUND


def _read_back(file: ObjectFile) -> bytes | None:
    """In a worker thread: the digest of the data set; None when the file cannot be the one."""
    if file.size != file.located.size:
        return None
    # What the kernel still holds of it says nothing about the disk. Pages not yet written stay.
    os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        position = file.data_offset()
    except CannotUnderstand:
        return None
    content = digest()
    while piece := file.read(position, PIECE):
        content.update(piece)
        position += len(piece)
    return content.digest()
