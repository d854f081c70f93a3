"""A ZIP archive written as it is sent, nothing compressed, of any length (APPNOTE 6.3.10, 4.3 and 4.5.3).

The standard library writes to files only; what is here is the headers. Every file has its length behind it,
in 64 bits, since neither it nor the checksum is known when the file begins.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

_VERSION: Final = 45  # 4.5: 64 bits
_FLAGS: Final = 0x0808  # lengths follow the data; names are UTF-8
_TIME, _DATE = 0, 0x21  # 1 January 1980: the archive of an object is the same each time
_LONG: Final = 0xFFFFFFFF
_MANY: Final = 0xFFFF

_LOCAL: Final = struct.Struct("<IHHHHHIIIHH")
_DESCRIPTOR: Final = struct.Struct("<IIQQ")
_CENTRAL: Final = struct.Struct("<IHHHHHHIIIHHHHHII")
_EXTRA: Final = struct.Struct("<HHQQQ")
_END_64: Final = struct.Struct("<IQHHIIQQQQ")
_LOCATOR_64: Final = struct.Struct("<IIQI")
_END: Final = struct.Struct("<IHHHHIIH")


@dataclass(slots=True)
class _Entry:
    name: bytes
    offset: int
    length: int = 0
    checksum: int = 0


class ZipWriter:
    """Gives the bytes around the files, in this order: begin, counted ..., end_of_file; at last, end."""

    def __init__(self) -> None:
        self._position = 0
        self._entries: list[_Entry] = []

    def begin(self, name: str) -> bytes:
        """The header of a file."""
        entry = _Entry(name.encode(), self._position)
        self._entries.append(entry)
        # An extra field of 64 bits tells readers that the descriptor has 64 bits as well
        extra = struct.pack("<HHQQ", 1, 16, 0, 0)
        head = _LOCAL.pack(
            0x04034B50, _VERSION, _FLAGS, 0, _TIME, _DATE, 0, _LONG, _LONG, len(entry.name), len(extra)
        )
        return self._passed(head + entry.name + extra)

    def counted(self, piece: bytes | memoryview) -> bytes | memoryview:
        """Some bytes of the file, taken into account."""
        entry = self._entries[-1]
        entry.checksum = zlib.crc32(piece, entry.checksum)
        entry.length += len(piece)
        self._position += len(piece)
        return piece

    def end_of_file(self) -> bytes:
        entry = self._entries[-1]
        return self._passed(_DESCRIPTOR.pack(0x08074B50, entry.checksum, entry.length, entry.length))

    def end(self) -> bytes:
        """The directory."""
        start, count = self._position, len(self._entries)
        directory = b"".join(map(_central, self._entries))
        size = len(directory)
        end_64 = _END_64.pack(0x06064B50, 44, _VERSION, _VERSION, 0, 0, count, count, size, start)
        locator = _LOCATOR_64.pack(0x07064B50, 0, start + size, 1)
        end = _END.pack(0x06054B50, 0, 0, _MANY, _MANY, _LONG, _LONG, 0)
        return directory + end_64 + locator + end

    def _passed(self, data: bytes) -> bytes:
        self._position += len(data)
        return data


def _central(entry: _Entry) -> bytes:
    extra = _EXTRA.pack(1, 24, entry.length, entry.length, entry.offset)
    head = _CENTRAL.pack(
        *(0x02014B50, _VERSION, _VERSION, _FLAGS, 0, _TIME, _DATE, entry.checksum, _LONG, _LONG),
        *(len(entry.name), len(extra), 0, 0, 0, 0, _LONG),
    )
    return head + entry.name + extra
