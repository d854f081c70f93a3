"""Data sets that are one deflate stream (PS3.5 A.5)."""

import zlib
from typing import Final, Protocol

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.recode import Buffer

INFLATE_LIMIT: Final = (
    2**30
)  # bytes; deflate makes 1 GB out of 1 MB, no real object of that syntax is as long


class Sink(Protocol):
    """Where an encoded data set goes, part by part."""

    def write(self, part: Buffer, /) -> object: ...


def inflated(source: Buffer) -> memoryview:
    """The data set in a deflate stream. Raises CannotUnderstand when it is damaged or too long."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(source, INFLATE_LIMIT)
    except zlib.error as error:
        raise CannotUnderstand("the deflated data set is damaged") from error
    if not inflater.eof:
        raise CannotUnderstand(f"the deflated data set is cut off, or longer than {INFLATE_LIMIT} bytes")
    return memoryview(data)


class Deflating:
    """Deflates what is written to it into another sink."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._length = 0
        self._deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)

    def write(self, part: Buffer) -> None:
        self._put(self._deflater.compress(part))

    def finish(self) -> None:
        """End the stream, padded to an even length."""
        self._put(self._deflater.flush())
        self._put(bytes(self._length & 1))

    def _put(self, deflated: bytes) -> None:
        self._length += len(deflated)
        self._out.write(deflated)
