"""Objects that arrive as metadata and bulk data, put together in worker processes (PS3.18 10.5.1.4).

Each part becomes a file beside the results of the workers while it arrives; when the body has ended, a worker
makes a file of each object, which is stored as one that arrived whole.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Final

from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.errors import OperationError, RequestRefused
from pacsnode.pixels.job import Bulk, Composition
from pacsnode.pixels.pool import Transcoded
from pacsnode.web.facade import Facade
from pacsnode.web.media import JSON, OCTETS, XML, MediaRange, parse

METADATA_TYPES: Final = (JSON, XML)
PARTS_LIMIT: Final = 20_000  # each is a file for as long as the request lasts
METADATA_LIMIT: Final = 256 * 2**20  # bytes of one metadata part
TOLD_LIMIT: Final = 2**20  # bytes of metadata that are looked into for what failed
WRITE_SIZE: Final = 2**20  # bytes gathered for one hop to a thread


@dataclass(frozen=True, slots=True)
class NotMade:
    """Why an object could not be put together, and which one it is, where that can be told."""

    error: OperationError
    sop_class: UID | None = None
    sop_instance: UID | None = None


@dataclass(frozen=True, slots=True)
class _Metadata:
    media_type: str
    path: Path


@dataclass(frozen=True, slots=True)
class _Models:
    """The objects of a metadata part: a file, and where in it each begins, with its length."""

    path: Path
    places: Sequence[tuple[int, int]]
    made: Transcoded | None = None


class ArrivingParts:
    """The parts of one request. Used as a context: its files go at the end."""

    def __init__(self, facade: Facade) -> None:
        self._facade = facade
        self._folder: Path | None = None
        self._metadata: list[_Metadata] = []
        self._bulk: list[Bulk] = []

    async def begin(self, headers: dict[str, str]) -> "ArrivingPart":
        """The next part, by its headers."""
        if self._folder is None:
            self._folder = await self._facade.transcoder.new_folder("store-")
        if len(self._metadata) + len(self._bulk) >= PARTS_LIMIT:
            raise RequestRefused(413, f"more than {PARTS_LIMIT} parts")
        told = parse(headers.get("content-type", "")) or MediaRange(OCTETS)
        path = self._folder / str(len(self._metadata) + len(self._bulk))
        if told.type in METADATA_TYPES:
            self._metadata.append(_Metadata(told.type, path))
            return ArrivingPart(path, METADATA_LIMIT)
        self._bulk.append(
            Bulk(headers.get("content-location", ""), told.type, told.transfer_syntax, str(path))
        )
        return ArrivingPart(path, None)

    async def objects(self, source: str) -> AsyncIterator[Transcoded | NotMade]:
        """The file of each object, or why there is none; whoever takes it discards it. Raises OSError."""
        if self._folder is None:
            return
        bulk = self._folder / "bulk"
        await asyncio.to_thread(bulk.write_text, json.dumps([astuple(one) for one in self._bulk]))
        for metadata in self._metadata:
            try:
                models = await self._models(metadata)
            except OperationError as error:
                yield NotMade(error)
                continue
            try:
                for start, length in models.places:
                    composition = Composition(metadata.media_type, length, str(bulk), source)
                    try:
                        yield await self._facade.transcoder.compose(models.path, start, composition)
                    except OperationError as error:
                        yield NotMade(error, *await asyncio.to_thread(_uids, models, start, length))
            finally:
                if models.made is not None:
                    await models.made.discard()

    async def _models(self, metadata: _Metadata) -> _Models:
        """Where the objects of a part are. Raises OperationError, OSError."""
        if metadata.media_type == XML:
            status = await asyncio.to_thread(metadata.path.stat)
            return _Models(metadata.path, [(0, status.st_size)])
        made = await self._facade.transcoder.split(metadata.path)
        return _Models(made.path, await asyncio.to_thread(_lines, made.path), made)

    def read(self, made: Transcoded) -> AsyncIterator[memoryview]:
        return self._facade.archive.read_file(made.path, EXPLICIT_VR_LE, made.size)

    async def remove(self) -> None:
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, True)


class ArrivingPart:
    """One part on its way into its file."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self._path = path
        self._limit = limit
        self._gathered: list[bytes] = []
        self._waiting = 0
        self._size = 0

    async def write(self, data: memoryview) -> None:
        """Take the next bytes. Raises RequestRefused (413) for metadata beyond its limit, OSError."""
        self._gathered.append(bytes(data))
        self._waiting += len(data)
        self._size += len(data)
        if self._limit is not None and self._size > self._limit:
            raise RequestRefused(413, f"metadata of more than {self._limit} bytes")
        if self._waiting >= WRITE_SIZE:
            await self.end()

    async def end(self) -> None:
        """Bring what was gathered into the file."""
        gathered, self._gathered, self._waiting = self._gathered, [], 0
        await asyncio.to_thread(_append, self._path, gathered)

    def discard(self) -> None:
        self._gathered.clear()


def _append(path: Path, pieces: list[bytes]) -> None:
    file: BinaryIO
    with path.open("ab") as file:
        file.writelines(pieces)


def _lines(path: Path) -> list[tuple[int, int]]:
    with path.open("rb") as file:
        lengths = list(map(len, file))
    return list(zip(accumulate(lengths, initial=0), lengths, strict=False))


def _uids(models: _Models, start: int, length: int) -> list[UID | None]:
    """SOP Class and Instance UID of an object, as far as its JSON tells them at little cost."""
    if models.made is None or length > TOLD_LIMIT:
        return []
    with models.path.open("rb") as file:
        file.seek(start)
        model = json.loads(file.read(length))
    found = []
    for tag in ("00080016", "00080018"):
        attribute = model.get(tag)
        values = attribute.get("Value") if isinstance(attribute, dict) else None
        uid = values[0] if isinstance(values, list) and values else None
        found.append(UID(uid) if isinstance(uid, str) and is_uid(uid) else None)
    return found
