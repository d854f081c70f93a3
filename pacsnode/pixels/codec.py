"""The codecs: one frame decoded to samples, or encoded from them (PS3.5 8.2, A.4, G). Worker processes only.

imagecodecs (libjpeg-turbo, OpenJPEG) for JPEG, JPEG 2000, HTJ2K and the runs of RLE; pyjpegls (CharLS) for
JPEG-LS, since it takes the precision. Both may crash on a hostile stream, therefore the process of its own.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import imagecodecs
import jpeg_ls
import numpy as np
from numpy.typing import NDArray

from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand
from pacsnode.pixels import plan
from pacsnode.pixels.image import Image
from pacsnode.pixels.recode import Buffer
from pacsnode.pixels.stream import Head, jpeg_2000_head, jpeg_head

Samples = NDArray[np.integer]

WIDTHS: Final = (1, 8, 16, 32)  # bits allocated that compressed frames are decoded to
RLE_HEADER_LENGTH: Final = 64  # bytes: the number of segments and the offsets of 15 (PS3.5 G.5)
RLE_MAX_SEGMENTS: Final = 15


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: (rows, columns, samples) numbers, whose lowest `precision` bits count."""

    samples: Samples
    precision: int
    photometric: str
    lossy: bool


def can_decode(transfer_syntax: UID) -> bool:
    return transfer_syntax in _DECODERS


def decode(transfer_syntax: UID, stream: bytes, image: Image) -> Frame:
    """Decode one frame. Raises CannotUnderstand when it is damaged or no frame of such an image."""
    try:
        frame = _DECODERS[transfer_syntax](stream, image)
    except (CannotUnderstand, MemoryError):
        raise
    except Exception as error:  # the codecs have no base class in common, and raise what they like
        raise CannotUnderstand(f"a frame cannot be decoded: {error}") from error
    samples = frame.samples.reshape(image.rows, image.columns, image.samples)
    return Frame(samples, frame.precision, frame.photometric, frame.lossy)


def encode(transfer_syntax: UID, samples: Samples, image: Image) -> bytes:
    """Encode the samples of one frame without loss. Raises CannotTranscode when the encoder cannot."""
    try:
        return _ENCODERS[transfer_syntax](samples, image)
    except MemoryError:
        raise
    except Exception as error:  # see decode(); CharLS has too little room for noise of a few pixels
        raise CannotTranscode(f"a frame cannot be encoded: {error}") from error


def cells(frame: Frame, image: Image) -> Samples:
    """The samples as native cells: little endian, Bits Allocated wide, the sign carried up (PS3.5 8.1.1)."""
    width = 8 * max(1, image.allocated // 8)
    unsigned = frame.samples.astype(f"<u{width // 8}", copy=False)
    unused = width - frame.precision
    if unused <= 0:
        return unsigned
    if image.signed:
        signed: Samples = unsigned.view(f"<i{width // 8}")
        signed = np.right_shift(np.left_shift(signed, unused), unused)
        return signed
    masked: Samples = unsigned & np.array((1 << frame.precision) - 1, unsigned.dtype)
    return masked


def native_samples(value: Buffer, image: Image) -> Samples:
    """The samples of one frame in native format, colour by pixel (PS3.3 C.7.6.3.1.3)."""
    flat = np.frombuffer(value, f"<u{image.allocated // 8}")
    if image.is_subsampled:
        return _upsampled(flat, image)
    if image.planar and image.is_color:
        return flat.reshape(image.samples, image.rows, image.columns).transpose(1, 2, 0)
    return flat.reshape(image.rows, image.columns, image.samples)


def _upsampled(flat: Samples, image: Image) -> Samples:
    """YBR_FULL of YBR_FULL_422: Y1 Y2 Cb Cr holds for two pixels (PS3.3 C.7.6.3.1.2)."""
    pairs = flat.reshape(-1, 4)
    full = np.empty((len(pairs), 2, 3), flat.dtype)
    full[:, :, 0] = pairs[:, :2]
    full[:, :, 1:] = pairs[:, None, 2:]
    return full.reshape(image.rows, image.columns, 3)


def check_encodable(transfer_syntax: UID, image: Image, has_embedded_overlay: bool) -> None:
    """See that the tables of PS3.5 8.2.1 to 8.2.4 allow such an image. Raises CannotTranscode."""
    name = image.photometric
    is_rle = transfer_syntax == plan.RLE_LOSSLESS
    if image.allocated not in (8, 16):
        raise CannotTranscode(f"{image.allocated} bits allocated cannot be compressed")
    if (name, image.samples) not in _COMPRESSIBLE:
        raise CannotTranscode(f"{name} with {image.samples} samples cannot be compressed")
    if image.is_color and (image.signed or (name != "RGB" and image.allocated != 8)):
        raise CannotTranscode(f"signed samples, or {image.allocated} bits, in {name} cannot be compressed")
    if image.is_subsampled and (image.columns % 2 or image.planar):
        raise CannotTranscode(f"{name} in this form cannot be compressed")
    if not is_rle and (has_embedded_overlay or image.high_bit != image.stored - 1):
        # These encode Bits Stored from bit 0 on; RLE encodes whole cells, whatever is in them
        raise CannotTranscode("the unused bits of the cells hold more than the sign")
    if transfer_syntax in (plan.JPEG_LOSSLESS, plan.JPEG_LOSSLESS_SV1) and name.startswith("YBR"):
        # libjpeg-turbo either calls the components RGB, or gives them tables that itself reads wrongly
        raise CannotTranscode(f"{name} is not compressed as JPEG lossless")
    if transfer_syntax == plan.JPEG_LS_LOSSLESS and image.stored < 2:
        raise CannotTranscode("JPEG-LS needs 2 bits stored")


def stored_samples(samples: Samples, image: Image) -> Samples:
    """Only the bits that are stored, two's complement when they are signed."""
    frame = Frame(samples, image.stored, image.photometric, lossy=False)
    return cells(frame, image)


def encoded_photometric(transfer_syntax: UID, image: Image) -> str:
    """The Photometric Interpretation that the encoded form has (PS3.5 8.2.4)."""
    if image.is_subsampled:
        return "YBR_FULL"
    if transfer_syntax == plan.JPEG_2000_LOSSLESS and image.photometric == "RGB":
        return "YBR_RCT"
    return image.photometric


def encoded_form(image: Image) -> Image:
    """What an encoder is given: all samples, colour by pixel."""
    photometric = "YBR_FULL" if image.is_subsampled else image.photometric
    return replace(image, photometric=photometric, planar=False)


_COMPRESSIBLE: Final = {
    ("MONOCHROME1", 1), ("MONOCHROME2", 1), ("PALETTE COLOR", 1), ("RGB", 3), ("YBR_FULL", 3),
    ("YBR_FULL_422", 3),
}  # fmt: skip


def _check(head: Head, image: Image) -> None:
    """The stream must be one of this image; its precision may differ, its size may not."""
    if (head.rows, head.columns, head.samples) != (image.rows, image.columns, image.samples):
        raise CannotUnderstand(
            f"a stream of {head.columns} x {head.rows} x {head.samples} samples in an image of "
            f"{image.columns} x {image.rows} x {image.samples}"
        )
    if head.precision > WIDTHS[-1]:
        raise CannotUnderstand(f"a stream of {head.precision} bits")


def _decode_jpeg(stream: bytes, image: Image) -> Frame:
    """Colour is converted to RGB when it is lossy, as it could not be sent otherwise (PS3.5 8.2.1 note 6).

    The stream tells of its colours only if it has Adobe's marker; else the attribute does (note 2).
    """
    head = jpeg_head(stream)
    _check(head, image)
    photometric = image.photometric
    source = result = "RGB" if image.is_color else "GRAYSCALE"
    if image.is_color and head.lossy:
        is_ybr = head.transformed if head.transformed is not None else photometric.startswith("YBR")
        source = "YCBCR" if is_ybr else "RGB"
        photometric = "RGB"
    else:
        photometric = _full(image)
    if image.is_color and not head.lossy:
        # libjpeg-turbo 3.1 misreads lossless colour whose components have Huffman tables of their own
        samples = imagecodecs.jpegsof3_decode(stream)
    else:
        samples = imagecodecs.jpeg8_decode(stream, colorspace=source, outcolorspace=result)
    return Frame(samples, head.precision, photometric, head.lossy)


def _decode_jpeg_ls(stream: bytes, image: Image) -> Frame:
    head = jpeg_head(stream)
    _check(head, image)
    buffer, info = jpeg_ls.decode_pixel_data(stream)
    flat = np.frombuffer(buffer, "u1" if head.precision <= 8 else "<u2")
    if image.is_color and info["interleave_mode"] == 0:  # by component
        flat = flat.reshape(image.samples, image.rows, image.columns).transpose(1, 2, 0)
    return Frame(flat, head.precision, _full(image), head.lossy)


def _decode_jpeg_2000(stream: bytes, image: Image) -> Frame:
    """OpenJPEG turns the component transformation back: what was YBR_RCT or YBR_ICT is RGB (8.2.4 note 5)."""
    head = jpeg_2000_head(stream)
    _check(head, image)
    samples = imagecodecs.jpeg2k_decode(stream)
    is_rgb = image.photometric in ("YBR_RCT", "YBR_ICT")
    return Frame(samples, head.precision, "RGB" if is_rgb else _full(image), head.lossy)


def _decode_rle(stream: bytes, image: Image) -> Frame:
    """Each byte of each sample is a segment, the most significant first (PS3.5 G.2).

    Cells of one bit are one segment of packed bits, as those who write them do it.
    """
    if image.allocated == 1:
        (start,) = np.frombuffer(stream[4:8], "<u4")
        return Frame(
            _unpacked(imagecodecs.packbits_decode(stream[start:]), image), 1, image.photometric, lossy=False
        )
    width = image.allocated // 8
    length = image.rows * image.columns
    count, *offsets = np.frombuffer(stream[:RLE_HEADER_LENGTH], "<u4").tolist()
    if count != image.samples * width:
        raise CannotUnderstand(f"{count} RLE segments for {image.samples} samples of {width} bytes")
    ends = [*offsets[1:count], len(stream)]
    planes = np.empty((image.samples, width, length), np.uint8)
    for segment, (start, end) in enumerate(zip(offsets[:count], ends, strict=True)):
        plane = np.frombuffer(imagecodecs.packbits_decode(stream[start:end]), np.uint8)
        if len(plane) < length:
            raise CannotUnderstand(f"RLE segment {segment + 1} is too short")
        planes[segment // width, width - 1 - segment % width] = plane[:length]
    samples = np.ascontiguousarray(planes.transpose(2, 0, 1)).view(f"<u{width}")
    return Frame(samples, 8 * width, _full(image), lossy=False)


def _decode_native(stream: bytes, image: Image) -> Frame:
    """Native cells in a fragment, padded to an even length (PS3.5 A.4.11, A.4.12)."""
    if image.allocated == 1:
        return Frame(_unpacked(stream, image), 1, image.photometric, lossy=False)
    samples = native_samples(stream[: image.bits_per_frame // 8], image)
    return Frame(samples, image.allocated, _full(image), lossy=False)


def _decode_deflated(stream: bytes, image: Image) -> Frame:
    limit = (image.bits_per_frame + 7) // 8
    return _decode_native(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream, limit), image)


def _unpacked(packed: Buffer, image: Image) -> Samples:
    """Cells of one bit, the first in the least significant bit (PS3.5 8.2)."""
    count = image.rows * image.columns * image.samples
    if len(packed) * 8 < count:
        raise CannotUnderstand(f"{len(packed)} bytes of pixel data for {count} cells of one bit")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count, bitorder="little")


def _full(image: Image) -> str:
    return "YBR_FULL" if image.is_subsampled else image.photometric


def _encode_jpeg_ls(samples: Samples, image: Image) -> bytes:
    return bytes(
        jpeg_ls.encode_pixel_data(
            _masked(samples, image).tobytes(),
            lossy_error=0,
            rows=image.rows,
            columns=image.columns,
            samples_per_pixel=image.samples,
            bits_stored=image.stored,
            planar_configuration=0,
        )
    )


def _encode_jpeg_lossless(samples: Samples, image: Image) -> bytes:
    colours = "RGB" if image.is_color else "GRAYSCALE"
    return bytes(
        imagecodecs.jpeg8_encode(
            _masked(samples, image),
            lossless=True,
            predictor=1,
            bitspersample=max(2, image.stored),  # libjpeg-turbo encodes 2 to 16 bits
            colorspace=colours,
            outcolorspace=colours,
        )
    )


def _encode_jpeg_2000(samples: Samples, image: Image) -> bytes:
    stored = samples if image.is_color else samples[:, :, 0]
    return bytes(
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(stored),
            level=0,
            codecformat="J2K",
            reversible=True,
            mct=image.photometric == "RGB",
            bitspersample=image.stored,
        )
    )


def _encode_rle(samples: Samples, image: Image) -> bytes:
    """Rows are encoded apart from each other (PS3.5 G.3.1)."""
    width = image.allocated // 8
    planes = np.ascontiguousarray(samples).view(np.uint8).reshape(image.rows, image.columns, -1)
    segments = []
    for sample in range(image.samples):
        for byte in reversed(range(width)):
            plane = np.ascontiguousarray(planes[:, :, sample * width + byte])
            segment = bytes(imagecodecs.packbits_encode(plane, axis=-1))
            segments.append(segment + bytes(len(segment) & 1))
    header = np.zeros(RLE_MAX_SEGMENTS + 1, "<u4")
    header[0] = len(segments)
    header[1 : len(segments) + 1] = RLE_HEADER_LENGTH + np.cumsum([0, *map(len, segments[:-1])])
    return header.tobytes() + b"".join(segments)


def _masked(samples: Samples, image: Image) -> Samples:
    """Stored bits as unsigned numbers: JPEG and JPEG-LS know no others (PS3.5 8.2.1 note 4)."""
    unsigned = samples.view(f"<u{image.allocated // 8}") & np.array(
        (1 << image.stored) - 1, f"<u{image.allocated // 8}"
    )
    return np.ascontiguousarray(unsigned if image.is_color else unsigned[:, :, 0])


_DECODERS: Final[dict[UID, Callable[[bytes, Image], Frame]]] = {
    plan.JPEG_BASELINE: _decode_jpeg,
    plan.JPEG_EXTENDED: _decode_jpeg,
    plan.JPEG_LOSSLESS: _decode_jpeg,
    plan.JPEG_LOSSLESS_SV1: _decode_jpeg,
    plan.JPEG_LS_LOSSLESS: _decode_jpeg_ls,
    plan.JPEG_LS_NEAR_LOSSLESS: _decode_jpeg_ls,
    plan.JPEG_2000_LOSSLESS: _decode_jpeg_2000,
    plan.JPEG_2000: _decode_jpeg_2000,
    plan.HTJ2K_LOSSLESS: _decode_jpeg_2000,
    plan.HTJ2K_LOSSLESS_RPCL: _decode_jpeg_2000,
    plan.HTJ2K: _decode_jpeg_2000,
    plan.RLE_LOSSLESS: _decode_rle,
    plan.DEFLATED_FRAMES: _decode_deflated,
    plan.ENCAPSULATED_UNCOMPRESSED: _decode_native,
}
_ENCODERS: Final[dict[UID, Callable[[Samples, Image], bytes]]] = {
    plan.JPEG_LS_LOSSLESS: _encode_jpeg_ls,
    plan.JPEG_LOSSLESS: _encode_jpeg_lossless,
    plan.JPEG_LOSSLESS_SV1: _encode_jpeg_lossless,
    plan.JPEG_2000_LOSSLESS: _encode_jpeg_2000,
    plan.RLE_LOSSLESS: _encode_rle,
}
