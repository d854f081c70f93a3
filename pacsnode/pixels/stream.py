"""The heads of compressed frames: JPEG (ISO 10918-1 B), JPEG-LS (ISO 14495-1 C), JPEG 2000 (ISO 15444-1 A).

Read before a codec is let loose on a frame: what the stream says of its size must be what the data set says,
so that a hostile one cannot make the codec reserve memory; and what it says of itself rules (PS3.5 8.2).
"""

import struct
from dataclasses import dataclass
from typing import Final

from pacsnode.errors import CannotUnderstand

# Start of frame, all processes (ISO 10918-1 Table B.1), and JPEG-LS (ISO 14495-1 C.1.1)
_SOF: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SOF_LOSSLESS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_SOF_JPEG_LS: Final = 0xF7
_SOS: Final = 0xDA
_APP14: Final = 0xEE
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment
_CODESTREAM: Final = b"\xff\x4f\xff\x51"  # SOC and SIZ
_COD: Final = 0xFF52
_SOT: Final = 0xFF90


@dataclass(frozen=True, slots=True)
class Head:
    """What a stream says of itself. None: it does not say.

    `transformed`: the colours are YCbCr (JPEG: Adobe's APP14) or decorrelated (JPEG 2000: MCT).
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool
    lossy: bool
    transformed: bool | None


def jpeg_head(stream: bytes) -> Head:
    """Read the markers of a JPEG or JPEG-LS stream up to its first scan. Raises CannotUnderstand."""
    try:
        return _jpeg_head(stream)
    except (struct.error, IndexError):
        raise CannotUnderstand("a JPEG stream is cut off") from None


def _jpeg_head(stream: bytes) -> Head:
    if stream[:2] != b"\xff\xd8":
        raise CannotUnderstand("a frame is no JPEG stream")
    position = 2
    transformed: bool | None = None
    frame: tuple[int, int, int, int, int] | None = None
    while True:
        if stream[position] != 0xFF:
            raise CannotUnderstand(f"no marker in a JPEG stream, at byte {position}")
        marker = stream[position + 1]
        if marker == 0xFF or marker in _STANDALONE:  # fill bytes may stand before a marker
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", stream, position + 2)
        body = position + 4
        if marker == _SOS:
            break
        if marker in _SOF:
            frame = (marker, *struct.unpack_from(">BHHB", stream, body))
        elif marker == _APP14 and stream[body : body + 5] == b"Adobe" and length >= 14:
            transformed = stream[body + 11] != 0
        position += 2 + length
    if frame is None:
        raise CannotUnderstand("a JPEG stream without a frame header")
    kind, precision, rows, columns, samples = frame
    near = stream[body + 1 + 2 * stream[body]] if kind == _SOF_JPEG_LS else 0
    lossy = near > 0 if kind == _SOF_JPEG_LS else kind not in _SOF_LOSSLESS
    return Head(rows, columns, samples, precision, False, lossy, transformed)


def jpeg_2000_head(stream: bytes) -> Head:
    """Read the main header of a JPEG 2000 codestream, in JP2 boxes or not. Raises CannotUnderstand."""
    start = stream.find(_CODESTREAM)
    if start < 0:
        raise CannotUnderstand("a frame is no JPEG 2000 codestream")
    try:
        width, height, left, top = struct.unpack_from(">IIII", stream, start + 8)
        samples, depth = struct.unpack_from(">HB", stream, start + 40)
        irreversible, transformed = _coding_style(stream, start + 2)
    except (struct.error, IndexError):
        raise CannotUnderstand("a JPEG 2000 codestream is cut off") from None
    return Head(
        rows=height - top,
        columns=width - left,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        lossy=irreversible,
        transformed=transformed,
    )


def _coding_style(stream: bytes, position: int) -> tuple[bool, bool]:
    """Whether the wavelet is irreversible, and whether there is a multiple component transformation."""
    while True:
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == _COD:
            return stream[position + 13] == 0, stream[position + 8] != 0
        if marker == _SOT or marker < 0xFF00:
            raise CannotUnderstand("a JPEG 2000 codestream without coding style")
        position += 2 + length
