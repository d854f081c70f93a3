"""Objects that arrive as metadata and bulk data, put together in worker processes (PS3.18 10.5.1.4).

Each part becomes a file beside the results of the workers while it arrives; when the body has ended, a worker
makes a file of each object, which is stored as one that arrived whole.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO, Final

from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.errors import CannotUnderstand, RequestRefused
from pacsnode.pixels.job import Bulk, Composition
from pacsnode.pixels.pool import Transcoded
from pacsnode.web.facade import Facade
from pacsnode.web.media import JSON, OCTETS, XML

METADATA_TYPES: Final = (JSON, XML)
PARTS_LIMIT: Final = 20_000  # each is a file for as long as the request lasts
METADATA_LIMIT: Final = 256 * 2**20  # bytes of one metadata part
WRITE_SIZE: Final = 2**20  # bytes gathered for one hop to a thread


@dataclass(frozen=True, slots=True)
class _Metadata:
    media_type: str
    path: Path


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
            self._folder = Path(await asyncio.to_thread(mkdtemp, dir=await self._spool(), prefix="store-"))
        if len(self._metadata) + len(self._bulk) >= PARTS_LIMIT:
            raise RequestRefused(413, f"more than {PARTS_LIMIT} parts")
        media_type = headers.get("content-type", OCTETS).partition(";")[0].strip()
        path = self._folder / str(len(self._metadata) + len(self._bulk))
        if media_type.lower() in METADATA_TYPES:
            self._metadata.append(_Metadata(media_type.lower(), path))
            return ArrivingPart(path, METADATA_LIMIT)
        self._bulk.append(Bulk(headers.get("content-location", ""), media_type, str(path)))
        return ArrivingPart(path, None)

    async def objects(self, source: str) -> AsyncIterator[Transcoded | Exception]:
        """The file of each object, or why there is none; whoever takes it discards it."""
        for metadata in self._metadata:
            try:
                count = 1
                if metadata.media_type == JSON:
                    count = await asyncio.to_thread(_count, metadata.path)
            except CannotUnderstand as error:
                yield error
                continue
            for index in range(count):
                composition = Composition(metadata.media_type, index, tuple(self._bulk), source)
                try:
                    made = await self._facade.transcoder.compose(metadata.path, composition)
                except CannotUnderstand as error:
                    yield error
                    continue
                yield made

    def read(self, made: Transcoded) -> AsyncIterator[memoryview]:
        return self._facade.archive.read_file(made.path, EXPLICIT_VR_LE, made.size)

    async def remove(self) -> None:
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, True)

    async def _spool(self) -> Path:
        spool = self._facade.transcoder.spool
        await asyncio.to_thread(spool.mkdir, parents=True, exist_ok=True)
        return spool


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


def _count(path: Path) -> int:
    """How many objects a JSON part holds. Raises CannotUnderstand."""
    try:
        parsed = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CannotUnderstand(f"the metadata is no JSON: {error}") from error
    return len(parsed) if isinstance(parsed, list) else 1
