"""Rendered forms made in worker processes, and the last ones remembered."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from pacsnode.archive.archive import Archive
from pacsnode.archive.locate import Located
from pacsnode.errors import CannotUnderstand, RequestRefused
from pacsnode.pixels.job import Picturing, StoredFile
from pacsnode.pixels.pool import Transcoder
from pacsnode.pixels.rendering.request import Rendering

REMEMBERED: Final = 32 * 2**20  # bytes; some thousand thumbnails
LARGEST: Final = 2**20  # bytes; what is larger is made again


@dataclass(frozen=True, slots=True)
class _Key:
    token: int
    coerced: int
    rendering: Rendering
    state: int | None


class Pictures:
    """Makes rendered forms. One for all requests: the same thumbnail is asked for again and again."""

    def __init__(self, archive: Archive, transcoder: Transcoder) -> None:
        self._archive = archive
        self._transcoder = transcoder
        self._remembered: OrderedDict[_Key, bytes] = OrderedDict()
        self._size = 0

    async def picture(self, located: Located, rendering: Rendering, state: Located | None = None) -> bytes:
        """The bytes of a rendered form.

        Raises RequestRefused (406) when the object has none or is damaged, OutOfResources, OSError.
        """
        key = _Key(located.token, located.coerced, rendering, None if state is None else state.token)
        if (known := self._remembered.get(key)) is not None:
            self._remembered.move_to_end(key)
            return known
        shown_by = None if state is None else self._file(state)
        made = await self._make(located, Picturing(rendering, shown_by))
        self._remember(key, made)
        return made

    async def _make(self, located: Located, picturing: Picturing) -> bytes:
        coercion = await self._archive.coercion_of(located)
        try:
            return await self._transcoder.render(self._file(located), picturing, coercion)
        except CannotUnderstand as error:
            raise RequestRefused(406, str(error)) from error

    def _file(self, located: Located) -> StoredFile:
        return StoredFile(self._archive.paths_of(located), located.transfer_syntax)

    def _remember(self, key: _Key, made: bytes) -> None:
        if len(made) > LARGEST:
            return
        self._size += len(made) - len(self._remembered.pop(key, b""))
        self._remembered[key] = made
        while self._size > REMEMBERED:
            self._size -= len(self._remembered.popitem(last=False)[1])
