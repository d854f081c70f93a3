"""What a retrieval sends: instances as they are stored, or what the workers make of them (PS3.5 10)."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from pacsnode.archive.locate import Located
from pacsnode.archive.outgoing import ReadAhead
from pacsnode.dicom.uid import UID
from pacsnode.pixels.pool import Transcoded
from pacsnode.services.room import Room


class Instances:
    """Stored instances, transcoded where the destination does not take them as they are.

    A service class whose instances are others has a class of its own below this one. They are ready while it
    is entered; what entering raises is the answer to the request.
    """

    def __init__(self, room: Room) -> None:
        self._archive = room.archive
        self._transcoder = room.transcoder

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def targets_of(self, stored: UID) -> tuple[UID, ...]:
        """The transfer syntaxes that what is stored in one can be sent in, the best first."""
        return self._transcoder.targets_of(stored)

    def choose(self, stored: UID, accepted: Collection[UID]) -> UID | None:
        """The best of those the destination accepts; None when there is none."""
        return next((target for target in self.targets_of(stored) if target in accepted), None)

    def is_at_hand(self, located: Located, target: UID) -> bool:
        """Whether the data set can go from the file as it is, by read()."""
        return located.transfer_syntax == target and not located.coerced

    def read(self, objects: Sequence[Located]) -> ReadAhead:
        """The data sets that are at hand, in order."""
        return self._archive.read(objects)

    @asynccontextmanager
    async def made(
        self, located: Located, target: UID
    ) -> AsyncIterator[tuple[AsyncGenerator[memoryview, None], int]]:
        """A data set made for the time of the block, and its length in bytes.

        Raises OperationError, OSError.
        """
        transcoded = await self._make(located, target)
        try:
            yield self._archive.read_file(transcoded.path, target, transcoded.size), transcoded.size
        finally:
            await transcoded.discard()

    async def _make(self, located: Located, target: UID) -> Transcoded:
        path, offset = await self._archive.file_of(located)
        coercion = await self._archive.coercion_of(located)
        return await self._transcoder.transcode(path, offset, located.transfer_syntax, target, coercion)
