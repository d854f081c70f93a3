"""Pixel data as it is sent to be stored, in parts of a request (PS3.18 10.5.2). Worker processes only.

`pixels_of` completes the description of the image by what the parts say, and tells what is to be written.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from mmap import ACCESS_READ, mmap
from typing import BinaryIO, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.dicom.xml_model import Model
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels import plan
from pacsnode.pixels.job import Bulk
from pacsnode.pixels.stream import Head, jpeg_2000_head, jpeg_head
from pacsnode.pixels.video_head import VideoHead, mp4_head, mpeg2_head

OCTETS: Final = "application/octet-stream"
LONGEST: Final = 0xFFFFFFFE  # bytes of a value or fragment
PIECE: Final = 2**20  # bytes copied at once
HEAD: Final = 4 * 2**20  # bytes of a frame that are looked at; colour profiles stand before the size
_PIXEL_DATA: Final = struct.pack("<HH", 0x7FE0, 0x0010)
_ITEM: Final = struct.pack("<HH", 0xFFFE, 0xE000)
_END: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_JP2: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_HTJ2K_CAPABILITY: Final = b"\xff\x50"  # marker CAP: the blocks are coded as Part 15 has it

JPEG_2000_PART_2: Final = (UID("1.2.840.10008.1.2.4.92"), UID("1.2.840.10008.1.2.4.93"))
JPEG_XL: Final = tuple(UID(f"1.2.840.10008.1.2.4.{number}") for number in (112, 110, 111))
_H264: Final = tuple(
    UID(f"1.2.840.10008.1.2.4.{number}{part}") for number in range(102, 107) for part in ("", ".1")
)

Write = Callable[[BinaryIO], None]


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixel Data (7FE0,0010): the transfer syntax it makes, and what writes the element."""

    transfer_syntax: UID
    write: Write


@dataclass(frozen=True, slots=True)
class _Extent:
    """Some bytes of a file."""

    path: str
    offset: int
    length: int

    def head(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(min(self.length, HEAD))

    def copy(self, out: BinaryIO) -> None:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            left = self.length
            while left and (piece := file.read(min(left, PIECE))):
                out.write(piece)
                left -= len(piece)


def pixels_of(model: Model, parts: Sequence[Bulk]) -> Pixels:
    """The pixel data in `parts`, one a frame where they are compressed; the model is completed by it.

    Raises CannotUnderstand, CannotTranscode.
    """
    media_type = parts[0].media_type
    if any(part.media_type != media_type for part in parts):
        raise CannotUnderstand("the parts of the pixel data are of several media types")
    if media_type == OCTETS:
        return _native(model, [_whole(part) for part in parts])
    if media_type in ("image/png", "image/gif"):
        return _decoded(model, [_whole(part).path for part in parts])
    if media_type in ("video/mp4", "video/mpeg", "video/h265"):
        return _video(model, media_type, parts)
    return _frames(model, media_type, parts)


def _whole(part: Bulk) -> _Extent:
    with open(part.path, "rb") as file:
        return _Extent(part.path, 0, file.seek(0, 2))


def _native(model: Model, extents: Sequence[_Extent]) -> Pixels:
    length = sum(extent.length for extent in extents)
    allocated = value_of(model, "00280100")
    return Pixels(EXPLICIT_VR_LE, _native_writer(length, allocated, [extent.copy for extent in extents]))


def _native_writer(length: int, allocated: object, writers: Sequence[Write]) -> Write:
    if length > LONGEST:
        raise CannotUnderstand("the pixel data is longer than a value may be")
    vr = b"OB" if allocated in (1, 8, "1", "8") else b"OW"

    def write(out: BinaryIO) -> None:
        out.write(_PIXEL_DATA + vr + struct.pack("<HI", 0, length + length % 2))
        for writer in writers:
            writer(out)
        out.write(bytes(length % 2))

    return write


def _frames(model: Model, media_type: str, parts: Sequence[Bulk]) -> Pixels:
    """Compressed frames, as they are."""
    frames = [_codestream(_whole(part)) for part in parts]
    told = value_of(model, "00280008")
    if told is not None and str(told).strip() != str(len(frames)):
        raise CannotUnderstand(f"there are {len(frames)} frames, of {str(told)[:16]} that are told")
    if media_type == "image/dicom-rle":
        syntaxes: tuple[UID, ...] = (plan.RLE_LOSSLESS,)
        if value_of(model, "00280010") is None:
            raise CannotUnderstand("RLE says nothing of the image: the metadata has to describe it")
    elif media_type == "image/jxl":
        syntaxes = JPEG_XL
        if value_of(model, "00280010") is None:
            _describe(model, _jpeg_xl_head(frames[0]), JPEG_XL[0])
    else:
        head, syntaxes = _coded(media_type, frames[0].head())
        _describe(model, head, syntaxes[0])
    if len(frames) > 1:
        model["00280008"] = {"vr": "IS", "Value": [len(frames)]}
    return Pixels(_syntax(syntaxes, parts[0]), _encapsulated(frames))


def _coded(media_type: str, frame: bytes) -> tuple[Head, tuple[UID, ...]]:
    """What a frame says of itself, and the transfer syntaxes that have such streams (Table 8.7.3-5)."""
    if media_type == "image/jls":
        head = jpeg_head(frame)
        near = (plan.JPEG_LS_NEAR_LOSSLESS,)
        return head, near if head.lossy else (plan.JPEG_LS_LOSSLESS, *near)
    if media_type == "image/jpeg":
        head = jpeg_head(frame)
        if head.lossy:
            return head, (plan.JPEG_BASELINE if head.precision == 8 else plan.JPEG_EXTENDED,)
        return head, (plan.JPEG_LOSSLESS, plan.JPEG_LOSSLESS_SV1)
    if media_type not in ("image/jp2", "image/jpx", "image/jph", "image/jphc"):
        raise CannotUnderstand(f"pixel data is not taken as {media_type[:60]}")
    head = jpeg_2000_head(frame)
    if _HTJ2K_CAPABILITY in frame[:256]:
        lossless = (plan.HTJ2K_LOSSLESS, plan.HTJ2K_LOSSLESS_RPCL)
        return head, (plan.HTJ2K,) if head.lossy else (*lossless, plan.HTJ2K)
    if media_type == "image/jpx":
        return head, JPEG_2000_PART_2[1:] if head.lossy else JPEG_2000_PART_2
    return head, (plan.JPEG_2000,) if head.lossy else (plan.JPEG_2000_LOSSLESS, plan.JPEG_2000)


def _syntax(able: Sequence[UID], part: Bulk) -> UID:
    """The transfer syntax a part is said to be in, if it can be; else the first."""
    told = UID(part.transfer_syntax)
    return told if told in able else able[0]


def _codestream(extent: _Extent) -> _Extent:
    """A JPEG 2000 codestream without the boxes of a JP2 file around it (PS3.5 A.4.4)."""
    if not extent.length:
        raise CannotUnderstand("a frame is empty")
    with open(extent.path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as stream:
        if stream[: len(_JP2)] != _JP2:
            return extent
        position = 0
        while position + 16 <= len(stream):
            length, kind, longer = struct.unpack_from(">I4sQ", stream, position)
            body = position + (16 if length == 1 else 8)
            end = position + (longer if length == 1 else length) if length else len(stream)
            if kind == b"jp2c" and end <= len(stream):
                return _Extent(extent.path, body, end - body)
            if end <= position:
                break
            position = end
    raise CannotUnderstand("a JP2 file without a codestream")


def _jpeg_xl_head(frame: _Extent) -> Head:
    try:
        pixels = imagecodecs.jpegxl_decode(frame.head())
    except ValueError as error:
        raise CannotUnderstand(f"a frame is no JPEG XL: {error}") from None
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = 8 * pixels.dtype.itemsize
    return Head(pixels.shape[0], pixels.shape[1], samples, bits, False, False, False)


def _describe(model: Model, head: Head, transfer_syntax: UID) -> None:
    """Complete the Image Pixel Description by what a frame says (10.5.2); what is there stays."""
    color = head.samples > 1
    is_jpeg = transfer_syntax in (plan.JPEG_BASELINE, plan.JPEG_EXTENDED)
    transformed = "YBR_FULL_422" if is_jpeg else "YBR_RCT" if not head.lossy else "YBR_ICT"
    photometric = (transformed if head.transformed is not False else "RGB") if color else "MONOCHROME2"
    _set_missing(model, "00280002", "US", head.samples)
    _set_missing(model, "00280004", "CS", photometric)
    _set_missing(model, "00280010", "US", head.rows)
    _set_missing(model, "00280011", "US", head.columns)
    _set_missing(model, "00280100", "US", 8 if head.precision <= 8 else 16)
    _set_missing(model, "00280101", "US", head.precision)
    _set_missing(model, "00280102", "US", head.precision - 1)
    _set_missing(model, "00280103", "US", int(head.signed))
    if color:
        _set_missing(model, "00280006", "US", 0)
    if head.lossy:
        _set_missing(model, "00282110", "CS", "01")


def _video(model: Model, media_type: str, parts: Sequence[Bulk]) -> Pixels:
    """One stream, as it is (PS3.5 8.2.5 to 8.2.8)."""
    if len(parts) > 1:
        raise CannotUnderstand("a video is one part")
    extent = _whole(parts[0])
    if not extent.length:
        raise CannotUnderstand("the video is empty")
    with open(extent.path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as stream:
        head = mpeg2_head(stream) if media_type == "video/mpeg" else mp4_head(stream)
    _describe_video(model, head)
    able = (head.transfer_syntax, *_H264) if head.transfer_syntax in _H264 else (head.transfer_syntax,)
    pieces = [
        _Extent(extent.path, start, min(LONGEST, extent.length - start))
        for start in range(0, extent.length, LONGEST)
    ]
    return Pixels(_syntax(able, parts[0]), _encapsulated(pieces, is_stream=True))


def _describe_video(model: Model, head: VideoHead) -> None:
    _set_missing(model, "00280002", "US", 3)
    _set_missing(model, "00280004", "CS", "YBR_PARTIAL_420")
    _set_missing(model, "00280006", "US", 0)
    _set_missing(model, "00280008", "IS", head.frames)
    _set_missing(model, "00280010", "US", head.rows)
    _set_missing(model, "00280011", "US", head.columns)
    _set_missing(model, "00280100", "US", 8 if head.bits == 8 else 16)
    _set_missing(model, "00280101", "US", head.bits)
    _set_missing(model, "00280102", "US", head.bits - 1)
    _set_missing(model, "00280103", "US", 0)
    _set_missing(model, "00282110", "CS", "01")
    if head.frame_time and value_of(model, "00280009") is None:
        _set_missing(model, "00181063", "DS", round(head.frame_time, 6))
        model["00280009"] = {"vr": "AT", "Value": ["00181063"]}


def _encapsulated(frames: Sequence[_Extent], *, is_stream: bool = False) -> Write:
    """A fragment a frame behind a table of their offsets; of a stream there is none (PS3.5 A.4)."""
    lengths = [8 + frame.length + frame.length % 2 for frame in frames]
    offsets = [0, *accumulate(lengths[:-1])]
    table = b""
    if not is_stream and offsets[-1] <= LONGEST:
        table = struct.pack(f"<{len(offsets)}I", *offsets)

    def write(out: BinaryIO) -> None:
        out.write(_PIXEL_DATA + b"OB\0\0\xff\xff\xff\xff" + _ITEM + struct.pack("<I", len(table)) + table)
        for frame, length in zip(frames, lengths, strict=True):
            out.write(_ITEM + struct.pack("<I", length - 8))
            frame.copy(out)
            out.write(bytes(frame.length % 2))
        out.write(_END)

    return write


def _decoded(model: Model, paths: Sequence[str]) -> Pixels:
    """Uncompressed pixels of PNG or GIF files; transparency is dropped (10.5.2 notes 3 to 5)."""
    frames = [frame for path in paths for frame in _pictures(path)]
    first = frames[0]
    if any(frame.shape != first.shape or frame.dtype != first.dtype for frame in frames):
        raise CannotUnderstand("the frames differ in size")
    bits = 8 * first.dtype.itemsize
    samples = first.shape[2] if first.ndim == 3 else 1
    for tag, value in (
        ("00280002", samples), ("00280010", first.shape[0]), ("00280011", first.shape[1]), ("00280100", bits),
        ("00280101", bits), ("00280102", bits - 1), ("00280103", 0),
    ):  # fmt: skip
        model[tag] = {"vr": "US", "Value": [value]}
    model["00280004"] = {"vr": "CS", "Value": ["RGB" if samples == 3 else "MONOCHROME2"]}
    if samples == 3:
        model["00280006"] = {"vr": "US", "Value": [0]}
    if len(frames) > 1:
        model["00280008"] = {"vr": "IS", "Value": [len(frames)]}
    writers = [_array_writer(frame) for frame in frames]
    return Pixels(EXPLICIT_VR_LE, _native_writer(sum(frame.nbytes for frame in frames), bits, writers))


def _array_writer(frame: NDArray[np.integer]) -> Write:
    def write(out: BinaryIO) -> None:
        out.write(np.ascontiguousarray(frame).data)

    return write


def _pictures(path: str) -> list[NDArray[np.integer]]:
    """The frames of a picture: rows by columns, and by three where it has colours."""
    with open(path, "rb") as file:
        stream = file.read()
    try:
        picture = Image.open(BytesIO(stream), formats=("PNG", "GIF"))  # refuses what is too large to decode
        if picture.format == "PNG":
            # Pillow makes 8 bits of 16 where there are colours
            return [_opaque(imagecodecs.png_decode(stream))]
        frames = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            gray = picture.mode in ("L", "1", "LA")
            frames.append(np.asarray(picture.convert("L" if gray else "RGB")))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises what it likes about damaged files, bombs included
        raise CannotUnderstand(f"a picture cannot be decoded: {error}") from error
    return frames


def _opaque(pixels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Without the transparency, which is the last of two or four samples."""
    if pixels.ndim < 3 or pixels.shape[2] == 3:
        return pixels
    return pixels[:, :, 0] if pixels.shape[2] < 3 else pixels[:, :, :3]


def value_of(model: Model, tag: str) -> object:
    """The first value of an attribute, None where there is none."""
    attribute = model.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _set_missing(model: Model, tag: str, vr: str, value: int | float | str) -> None:
    if value_of(model, tag) in (None, ""):
        model[tag] = {"vr": vr, "Value": [value]}
