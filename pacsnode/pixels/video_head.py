"""What a video says of itself: MP4 (ISO 14496-12, -15) with H.264 or HEVC, MPEG-2 (ISO 13818-2).

Only heads are read, a mapping keeps the rest of the file out of memory. The transfer syntax is the one whose
profile and level the stream keeps to (PS3.5 8.2.5 to 8.2.8).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Final

from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand

_MPEG2_MAIN, _MPEG2_HIGH = UID("1.2.840.10008.1.2.4.100"), UID("1.2.840.10008.1.2.4.101")
_H264_41, _H264_42 = UID("1.2.840.10008.1.2.4.102"), UID("1.2.840.10008.1.2.4.104")
_HEVC_MAIN, _HEVC_MAIN_10 = UID("1.2.840.10008.1.2.4.107"), UID("1.2.840.10008.1.2.4.108")

_SEQUENCE_HEADER: Final = b"\0\0\1\xb3"
_PICTURE: Final = b"\0\0\1\0"
_RATES: Final = (0.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 60.0)  # Table 6-4
_MAIN_LEVEL: Final = (720, 576)  # pixels of Main Profile at Main Level
_SAMPLE_ENTRY: Final = 78  # bytes of a visual sample entry before its boxes (ISO 14496-12 12.1.3)
_BOX_LIMIT: Final = 10_000
_HEVC_LEVEL_51: Final = 153  # thirty times the level


@dataclass(frozen=True, slots=True)
class VideoHead:
    """A video stream. `frame_time` in milliseconds, 0 where it is not told."""

    rows: int
    columns: int
    frames: int
    frame_time: float
    bits: int
    transfer_syntax: UID


def mp4_head(video: mmap) -> VideoHead:
    """The first video track of an MP4 file. Raises CannotUnderstand, CannotTranscode."""
    try:
        for track in _within(video, [(0, len(video))], b"moov", b"trak"):
            media = list(_within(video, [track], b"mdia"))
            if any(video[start + 8 : start + 12] == b"vide" for start, _ in _within(video, media, b"hdlr")):
                return _track(video, media)
    except (struct.error, IndexError, ValueError):
        raise CannotUnderstand("an MP4 file is cut off") from None
    raise CannotUnderstand("that is no MP4 file with a video track")


def _track(video: mmap, media: list[tuple[int, int]]) -> VideoHead:
    table = list(_within(video, media, b"minf", b"stbl"))
    (entry, _), *_ = _within(video, table, b"stsd")
    size, codec = struct.unpack_from(">I4s", video, entry + 8)
    columns, rows = struct.unpack_from(">HH", video, entry + 16 + 24)
    boxes = [(entry + 16 + _SAMPLE_ENTRY, entry + 8 + size)]
    bits, transfer_syntax = _coding(video, codec, boxes)
    (sizes, _), *_ = _within(video, table, b"stsz")
    (frames,) = struct.unpack_from(">I", video, sizes + 8)
    return VideoHead(rows, columns, frames, _frame_time(video, media, frames), bits, transfer_syntax)


def _coding(video: mmap, codec: bytes, boxes: list[tuple[int, int]]) -> tuple[int, UID]:
    """Bits of a sample, and the transfer syntax."""
    if codec in (b"avc1", b"avc3"):
        (configuration, _), *_ = _within(video, boxes, b"avcC")
        level = video[configuration + 3]
        if level <= 42:
            return 8, _H264_41 if level <= 41 else _H264_42
        raise CannotTranscode(f"no transfer syntax has H.264 of level {level / 10:g}")
    if codec in (b"hvc1", b"hev1"):
        (configuration, _), *_ = _within(video, boxes, b"hvcC")
        profile, level = video[configuration + 1] & 0x1F, video[configuration + 12]
        if profile in (1, 2) and level <= _HEVC_LEVEL_51:
            return (8, _HEVC_MAIN) if profile == 1 else (10, _HEVC_MAIN_10)
        raise CannotTranscode(f"no transfer syntax has HEVC of profile {profile}, level {level / 30:g}")
    raise CannotTranscode(f"no transfer syntax has {codec.decode('latin-1')!r} video")


def _frame_time(video: mmap, media: list[tuple[int, int]], frames: int) -> float:
    """The duration of the track, by its frames."""
    (header, _), *_ = _within(video, media, b"mdhd")
    layout, place = (">IQ", 20) if video[header] else (">II", 12)
    scale, duration = struct.unpack_from(layout, video, header + place)
    return 1000 * duration / scale / frames if scale and frames else 0.0


def _within(video: mmap, places: list[tuple[int, int]], *path: bytes) -> Iterator[tuple[int, int]]:
    """Where the contents of the boxes of a path begin and end."""
    for start, end in places:
        for kind, begin, stop in _boxes(video, start, end):
            if kind == path[0]:
                yield from [(begin, stop)] if len(path) == 1 else _within(video, [(begin, stop)], *path[1:])


def _boxes(video: mmap, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_BOX_LIMIT):
        if position + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", video, position)
        begin = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", video, begin)
            begin += 8
        stop = position + length if length else end
        if not begin <= stop <= end:
            raise CannotUnderstand(f"an MP4 file is cut off, or broken at byte {position}")
        yield kind, begin, stop
        position = stop


def mpeg2_head(video: mmap) -> VideoHead:
    """An MPEG-2 stream, as such or in packets. Raises CannotUnderstand."""
    start = video.find(_SEQUENCE_HEADER, 0, 2**20)
    if start < 0 or start + 8 > len(video):
        raise CannotUnderstand("that is no MPEG-2 video")
    size, rate = int.from_bytes(video[start + 4 : start + 7]), video[start + 7] & 0x0F
    columns, rows = size >> 12, size & 0xFFF
    fps = _RATES[rate] if rate < len(_RATES) else 0.0
    is_main = columns <= _MAIN_LEVEL[0] and rows <= _MAIN_LEVEL[1]
    return VideoHead(
        rows=rows,
        columns=columns,
        frames=_count(video, _PICTURE, start),
        frame_time=1000 / fps if fps else 0.0,
        bits=8,
        transfer_syntax=_MPEG2_MAIN if is_main else _MPEG2_HIGH,
    )


def _count(video: mmap, pattern: bytes, position: int) -> int:
    count = 0
    while (position := video.find(pattern, position)) >= 0:
        count += 1
        position += len(pattern)
    return count
