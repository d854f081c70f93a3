"""An object made of metadata and bulk data that came apart (PS3.18 10.5.1.4, 10.5.2). Worker processes only.

Compressed frames stay what they are, in the transfer syntax of their media type; PNG and GIF, for which
there is none, become uncompressed. What the metadata leaves out of the Image Pixel Description is told by
the frames.
"""

import json
import struct
from collections.abc import Sequence
from io import BytesIO
from typing import BinaryIO, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.dicom.xml_model import Model, model_of
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.job import Bulk, Composition
from pacsnode.pixels.stream import Head, jpeg_2000_head, jpeg_head

_XML: Final = "application/dicom+xml"
_OCTETS: Final = "application/octet-stream"
_PIXEL_DATA: Final = 0x7FE00010
_PIXEL_DATA_KEY: Final = "7FE00010"
_JP2: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_HTJ2K_CAPABILITY: Final = 0xFF50  # marker CAP: the blocks are coded as Part 15 has it
_VIDEO: Final = {
    "video/mpeg": UID("1.2.840.10008.1.2.4.100"),
    "video/mp4": UID("1.2.840.10008.1.2.4.102"),
    "video/H265": UID("1.2.840.10008.1.2.4.107"),
    "video/h265": UID("1.2.840.10008.1.2.4.107"),
}


def compose(composition: Composition, metadata: bytes, out: BinaryIO) -> None:
    """Write the file of one object: File Meta and data set. Raises CannotUnderstand."""
    model = _model(composition, metadata)
    pixels = _named(model.pop(_PIXEL_DATA_KEY, {}).get("BulkDataURI"), composition.bulk)
    data_set = _data_set(model, composition.bulk)
    transfer_syntax = _set_pixel_data(data_set, pixels) if pixels else EXPLICIT_VR_LE
    uids = [UID(str(data_set.get(keyword, ""))) for keyword in ("SOPClassUID", "SOPInstanceUID")]
    if not all(uids):
        raise CannotUnderstand("the metadata lacks SOP Class or Instance UID")
    out.write(file_meta(uids[0], uids[1], transfer_syntax, composition.source))
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    try:
        write_dataset(buffer, data_set)
    except Exception as error:  # pydicom raises what it likes about values that are none
        raise CannotUnderstand(f"the metadata cannot be encoded: {error}") from error
    out.write(buffer.getvalue())


def _model(composition: Composition, metadata: bytes) -> Model:
    """The JSON Model object of the object to be made, without what belongs to a file (10.5.1.4)."""
    if composition.media_type == _XML:
        model = model_of(metadata)
    else:
        try:
            parsed = json.loads(metadata)
            model = (parsed if isinstance(parsed, list) else [parsed])[composition.index]
            model = {str(key).upper(): dict(value) for key, value in model.items()}
        except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise CannotUnderstand(f"the metadata is no DICOM JSON: {error}") from error
    return {key: value for key, value in model.items() if not key.startswith("0002")}


def _data_set(model: Model, bulk: Sequence[Bulk]) -> Dataset:
    """The attributes, with the bulk data that is not Pixel Data in its places."""

    def value(_tag: str, _vr: str, uri: str) -> bytes:
        parts = _named(uri, bulk)
        if not parts:
            raise CannotUnderstand(f"no part has the bulk data {uri[:80]}")
        return _padded(b"".join(map(_read, parts)))

    try:
        return Dataset.from_json(model, value)
    except CannotUnderstand:
        raise
    except Exception as error:  # of pydicom's converters
        raise CannotUnderstand(f"the metadata cannot be read: {error}") from error


def _named(uri: object, bulk: Sequence[Bulk]) -> list[Bulk]:
    """The parts a BulkDataURI means: the one of that location, or several below it, one for each frame."""
    if not isinstance(uri, str) or not uri:
        return []
    place = _path(uri)
    return [one for one in bulk if _path(one.uri) == place or _path(one.uri).startswith(place + "/")]


def _path(uri: str) -> str:
    """What of a URI tells parts apart: the authority may be written or not."""
    split = urlsplit(uri)
    return (split.path + ("?" + split.query if split.query else "")).rstrip("/") or uri


def _set_pixel_data(data_set: Dataset, parts: Sequence[Bulk]) -> UID:
    """Put the pixel data in its place; returns the transfer syntax it makes."""
    media_type = parts[0].media_type
    streams = [_read(part) for part in parts]
    if media_type == _OCTETS:
        data_set.add_new(_PIXEL_DATA, _native_vr(data_set), _padded(b"".join(streams)))
        return EXPLICIT_VR_LE
    if media_type in ("image/png", "image/gif"):
        _set_decoded(data_set, streams)
        return EXPLICIT_VR_LE
    if media_type in _VIDEO:
        _encapsulated(data_set, streams)
        return _VIDEO[media_type]
    frames = [_codestream(stream) for stream in streams]
    head, transfer_syntax = _described(media_type, frames[0])
    _describe(data_set, head, len(frames), transfer_syntax)
    _encapsulated(data_set, frames)
    return transfer_syntax


def _described(media_type: str, frame: bytes) -> tuple[Head, UID]:
    """What a compressed frame says of itself, and the transfer syntax it is (Table 8.7.3-5)."""
    if media_type in ("image/jpeg", "image/jls"):
        head = jpeg_head(frame)
        if media_type == "image/jls":
            return head, UID(f"1.2.840.10008.1.2.4.{81 if head.lossy else 80}")
        if not head.lossy:
            return head, UID("1.2.840.10008.1.2.4.57")
        return head, UID(f"1.2.840.10008.1.2.4.{50 if head.precision == 8 else 51}")
    if media_type in ("image/jp2", "image/jpx", "image/jph", "image/jphc"):
        head = jpeg_2000_head(frame)
        is_ht = struct.pack(">H", _HTJ2K_CAPABILITY) in frame[:256]
        number = (203 if head.lossy else 201) if is_ht else (91 if head.lossy else 90)
        return head, UID(f"1.2.840.10008.1.2.4.{number}")
    raise CannotUnderstand(f"pixel data is not taken as {media_type[:60]}")


def _codestream(stream: bytes) -> bytes:
    """A JPEG 2000 codestream without the boxes of a JP2 file around it (PS3.5 A.4.4)."""
    if not stream.startswith(_JP2):
        return stream
    position = 0
    while position + 8 <= len(stream):
        length, kind = struct.unpack_from(">I4s", stream, position)
        body = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", stream, body)
            body += 8
        end = position + length if length else len(stream)
        if kind == b"jp2c":
            return stream[body:end]
        if end <= position:
            break
        position = end
    raise CannotUnderstand("a JP2 file without a codestream")


def _describe(data_set: Dataset, head: Head, frames: int, transfer_syntax: UID) -> None:
    """Complete the Image Pixel Description by what the frames say (10.5.2); what is there stays."""
    color = head.samples > 1
    is_jpeg = transfer_syntax in (UID("1.2.840.10008.1.2.4.50"), UID("1.2.840.10008.1.2.4.51"))
    transformed = "YBR_FULL_422" if is_jpeg else "YBR_RCT" if not head.lossy else "YBR_ICT"
    photometric = (transformed if head.transformed is not False else "RGB") if color else "MONOCHROME2"
    _set_missing(
        data_set,
        Rows=head.rows,
        Columns=head.columns,
        SamplesPerPixel=head.samples,
        PhotometricInterpretation=photometric,
        BitsAllocated=8 if head.precision <= 8 else 16,
        BitsStored=head.precision,
        HighBit=head.precision - 1,
        PixelRepresentation=int(head.signed),
    )
    if color:
        _set_missing(data_set, PlanarConfiguration=0)
    if frames > 1:
        data_set.NumberOfFrames = frames
    if head.lossy:
        _set_missing(data_set, LossyImageCompression="01")


def _set_decoded(data_set: Dataset, streams: Sequence[bytes]) -> None:
    """Uncompressed pixels of PNG or GIF files; transparency is dropped (10.5.2 notes 3 to 5)."""
    frames = [frame for stream in streams for frame in _decoded(stream)]
    first = frames[0]
    if any(frame.shape != first.shape or frame.dtype != first.dtype for frame in frames):
        raise CannotUnderstand("the frames differ in size")
    bits = 8 * first.dtype.itemsize
    samples = first.shape[2] if first.ndim == 3 else 1
    values = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "Rows": first.shape[0],
        "Columns": first.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    if samples == 3:
        data_set.PlanarConfiguration = 0
    if len(frames) > 1:
        data_set.NumberOfFrames = len(frames)
    data_set.add_new(_PIXEL_DATA, "OB" if bits == 8 else "OW", _padded(b"".join(f.tobytes() for f in frames)))


def _decoded(stream: bytes) -> list[NDArray[np.integer]]:
    try:
        picture = Image.open(BytesIO(stream), formats=("PNG", "GIF"))
        frames: list[NDArray[np.integer]] = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            if picture.mode in ("I;16", "I;16B", "I;16L"):
                frames.append(np.asarray(picture).astype("<u2"))
            else:
                gray = picture.mode in ("L", "1", "LA")
                frames.append(np.asarray(picture.convert("L" if gray else "RGB")))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises what it likes about damaged files, bombs included
        raise CannotUnderstand(f"a picture cannot be decoded: {error}") from error
    return frames


def _encapsulated(data_set: Dataset, frames: Sequence[bytes]) -> None:
    data_set.add_new(_PIXEL_DATA, "OB", encapsulate(list(frames)))
    data_set[_PIXEL_DATA].is_undefined_length = True


def _native_vr(data_set: Dataset) -> str:
    return "OW" if int(data_set.get("BitsAllocated") or 16) > 8 else "OB"


def _set_missing(data_set: Dataset, **values: object) -> None:
    for keyword, value in values.items():
        if data_set.get(keyword) in (None, ""):
            setattr(data_set, keyword, value)


def _read(bulk: Bulk) -> bytes:
    with open(bulk.path, "rb") as file:
        return file.read()


def _padded(value: bytes) -> bytes:
    return value + bytes(len(value) & 1)
