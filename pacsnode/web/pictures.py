"""Rendered forms made in worker processes, and the last ones remembered."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from pacsnode.archive.archive import Archive
from pacsnode.archive.locate import Located
from pacsnode.errors import CannotUnderstand, RequestRefused
from pacsnode.pixels.job import Picturing, StateFile
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
        made = await self._make(located, Picturing(rendering, await self._state_file(state)))
        self._remember(key, made)
        return made

    async def _make(self, located: Located, picturing: Picturing) -> bytes:
        path, offset = await self._archive.file_of(located)
        coercion = await self._archive.coercion_of(located)
        try:
            made = await self._transcoder.render(path, offset, located.transfer_syntax, picturing, coercion)
        except CannotUnderstand as error:
            raise RequestRefused(406, str(error)) from error
        return await made.take()

    async def _state_file(self, state: Located | None) -> StateFile | None:
        if state is None:
            return None
        path, offset = await self._archive.file_of(state)
        return StateFile(str(path), offset, state.transfer_syntax)

    def _remember(self, key: _Key, made: bytes) -> None:
        if len(made) > LARGEST:
            return
        self._size += len(made) - len(self._remembered.pop(key, b""))
        self._remembered[key] = made
        while self._size > REMEMBERED:
            self._size -= len(self._remembered.popitem(last=False)[1])
