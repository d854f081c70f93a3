"""The header of an object as the index keeps it: compressed, quickly (dicom.header tells what is kept).

Zstandard takes half the time of zlib for the kilobyte that a header is, most of which zlib spends on clearing
its tables. Rows of earlier versions are zlib streams; the first byte tells.
"""

import sys
import zlib
from typing import Final

from pacsnode.errors import CannotUnderstand

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_FAST: Final = zstd.ZstdCompressor(level=1)  # may be shared by threads: a call that ends a frame is atomic
_ZSTANDARD: Final = b"("  # the first byte of its frames (RFC 8878 3.1.1); a zlib stream has another


def compressed(kept: bytes) -> bytes:
    """The bytes for the index."""
    return _FAST.compress(kept, mode=zstd.ZstdCompressor.FLUSH_FRAME)


def restored(row: bytes) -> bytes:
    """The header again. Raises CannotUnderstand when the row is damaged."""
    try:
        return zstd.decompress(row) if row[:1] == _ZSTANDARD else zlib.decompress(row)
    except (zstd.ZstdError, zlib.error) as error:
        raise CannotUnderstand("the header kept in the index is damaged") from error
