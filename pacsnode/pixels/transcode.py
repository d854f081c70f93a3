"""A data set in another transfer syntax (PS3.5 8.2, 10, A). Worker processes only.

Everything but the pixel data and the attributes that say how it is encoded keeps its value, the SOP Instance
UID too: what is sent is the same image. Frames go through one by one. What was encoded is decoded again and
compared, since a codec that is wrong on some rare form of pixels must not go unnoticed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from io import BytesIO
from itertools import chain
from typing import BinaryIO, Final

import numpy as np

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand
from pacsnode.pixels import codec, plan
from pacsnode.pixels.codec import Frame, Samples
from pacsnode.pixels.deflate import Deflating, Sink, inflated
from pacsnode.pixels.frames import encoded_frames, packed, write_encapsulated
from pacsnode.pixels.image import (
    EXTENDED_OFFSET_TABLE,
    Image,
    allocated_bits,
    describe,
    forget_offset_tables,
    has_embedded_overlay,
    in_other_order,
    mark_lossy,
    says_lossless,
    set_bits,
    set_color,
)
from pacsnode.pixels.recode import (
    PIXEL_DATA,
    Buffer,
    DataSet,
    Element,
    Fragments,
    Sequence,
    element_head,
    read,
    written,
)

NATIVE_LIMIT: Final = 0xFFFFFFFE  # bytes; the longest value that a length of 32 bits can tell (PS3.5 8.1.1)

_METHODS: Final = {
    plan.JPEG_BASELINE: "ISO_10918_1",
    plan.JPEG_EXTENDED: "ISO_10918_1",
    plan.JPEG_LS_NEAR_LOSSLESS: "ISO_14495_1",
    plan.JPEG_2000: "ISO_15444_1",
    plan.HTJ2K: "ISO_15444_15",
}  # PS3.3 C.7.6.1.1.5.1


def transcode(source: memoryview, stored: UID, target: UID, out: BinaryIO) -> None:
    """Write the encoded data set `source`, which is in `stored`, to `out` in `target`.

    Raises CannotTranscode when the object has no form in `target`, CannotUnderstand when it is damaged.
    """
    if target not in plan.targets_of(stored, recompress_lossy=True):
        raise CannotTranscode(f"{target} cannot be made of {stored}")
    write_as(opened(source, stored), stored, target, out)


def opened(source: memoryview, stored: UID) -> DataSet:
    """The data set in `source`. Raises CannotUnderstand when it is damaged."""
    if stored in DEFLATED_TRANSFER_SYNTAXES:
        source = inflated(source)
    return read(source, encoding_of(stored))


def write_as(data_set: DataSet, stored: UID, target: UID, out: BinaryIO) -> None:
    """Write a data set that was read in `stored` in `target`; raises as transcode() does."""
    if stored == target:
        sink = Deflating(out) if target in DEFLATED_TRANSFER_SYNTAXES else out
        _write(data_set, target, sink)
        if isinstance(sink, Deflating):
            sink.finish()
        return
    if not plan.is_renamed(stored, target):
        _convert_nested(data_set, stored, target)
    if target in plan.NATIVE:
        _write_native(data_set, stored, target, out)
    else:
        _write_encapsulated(data_set, stored, target, out)


def _write_native(data_set: DataSet, stored: UID, target: UID, out: BinaryIO) -> None:
    """Write the data set with uncompressed pixel data, deflated as a whole if `target` is."""
    element = data_set.find(PIXEL_DATA)
    sink = Deflating(out) if target in DEFLATED_TRANSFER_SYNTAXES else out
    if element is None:
        _write(data_set, target, sink)
    else:
        length, value = _native_value(data_set, element, stored, target)

        def write_pixel_data() -> None:
            sink.write(element_head(PIXEL_DATA, element.vr or b"OW", length, encoding_of(target)))
            for part in value:
                sink.write(part)

        _write(data_set, target, sink, write_pixel_data)
    if isinstance(sink, Deflating):
        sink.finish()


def _write_encapsulated(data_set: DataSet, stored: UID, target: UID, out: BinaryIO) -> None:
    """Write the data set with compressed pixel data."""
    element = data_set.find(PIXEL_DATA)
    if element is None:
        raise CannotTranscode("there is no Pixel Data to compress")
    if plan.is_renamed(stored, target):
        _write(data_set, target, out)
        return
    frames: Iterable[Samples]
    if isinstance(element.value, Fragments):
        image, frames = _decoded(data_set, element.value, stored)
    else:
        image = describe(data_set)
        parts = tuple(_reordered(data_set, element, stored, target))
        frames = _native_frames(parts[0] if len(parts) == 1 else b"".join(parts), image)
    codec.check_encodable(target, image, has_embedded_overlay(data_set))
    set_color(data_set, image, codec.encoded_photometric(target, image))
    image = codec.encoded_form(image)
    encoded = (_encoded(target, samples, image) for samples in frames)
    _write(data_set, target, out, lambda: write_encapsulated(out, encoded, image.frames))


def _write(
    data_set: DataSet, target: UID, out: Sink, write_pixel_data: Callable[[], None] | None = None
) -> None:
    """Write all elements; Pixel Data by itself when it is not at hand."""
    encoding = encoding_of(target)
    for element in data_set.elements:
        if element.tag == PIXEL_DATA and write_pixel_data is not None:
            write_pixel_data()
            continue
        for part in written(data_set, element, encoding):
            out.write(part)


def _native_value(
    data_set: DataSet, element: Element, stored: UID, target: UID
) -> tuple[int, Iterable[Buffer]]:
    """The length of native pixel data and its parts; the attributes are made to agree with it."""
    if not isinstance(element.value, Fragments):
        return _length(element), _reordered(data_set, element, stored, target)
    image, frames = _decoded(data_set, element.value, stored)
    length = (image.bits_per_frame * image.frames + 15) // 16 * 2
    if length > NATIVE_LIMIT:
        raise CannotTranscode(f"{length} bytes are too long for native Pixel Data")
    element.vr = b"OB" if image.allocated <= 8 else b"OW"
    parts = packed(frames) if image.allocated == 1 else _padded(frames, length)
    if encoding_of(target).little_endian:
        return length, parts
    return length, (
        swapped for part in parts for swapped in in_other_order(part, image.allocated, element.vr)
    )


def _length(element: Element) -> int:
    if isinstance(element.value, (Sequence, Fragments)):
        raise CannotUnderstand("Pixel Data is a sequence")
    return len(element.value)


def _reordered(data_set: DataSet, element: Element, stored: UID, target: UID) -> Iterable[Buffer]:
    """Native pixel data in the byte order of the target."""
    if isinstance(element.value, (Sequence, Fragments)):
        raise CannotUnderstand("Pixel Data is a sequence")
    if encoding_of(stored).little_endian == encoding_of(target).little_endian:
        return (element.value,)
    return in_other_order(element.value, allocated_bits(data_set), element.vr)


def _decoded(data_set: DataSet, fragments: Fragments, stored: UID) -> tuple[Image, Iterator[Samples]]:
    """Decode the frames; the attributes, and the image that is returned, are those of the decoded form.

    The first frame is decoded at once: its stream says what the attributes have to be.
    """
    image = describe(data_set)
    if image.allocated not in codec.WIDTHS:
        raise CannotTranscode(f"compressed pixel data with {image.allocated} bits allocated")
    streams = encoded_frames(fragments, image.frames, data_set.raw(EXTENDED_OFFSET_TABLE))
    first = codec.decode(stored, next(streams), image)
    if first.precision > max(8, image.allocated):
        bits = min(width for width in codec.WIDTHS if width >= first.precision)
        image = replace(image, allocated=bits, stored=first.precision, high_bit=first.precision - 1)
        set_bits(data_set, image)
    if first.lossy or (stored in (plan.JPEG_2000, plan.HTJ2K) and not says_lossless(data_set)):
        encoded_length = sum(map(len, fragments.values))
        mark_lossy(data_set, image.bits_per_frame * image.frames / 8 / encoded_length, _METHODS[stored])
    set_color(data_set, image, first.photometric)
    forget_offset_tables(data_set)
    described = image
    frames = chain((first,), (codec.decode(stored, stream, described) for stream in streams))
    image = replace(image, photometric=first.photometric, planar=False)
    return image, (_cells(frame, image) for frame in frames)


def _cells(frame: Frame, image: Image) -> Samples:
    if frame.photometric != image.photometric:
        raise CannotUnderstand(f"frames are in {image.photometric} and in {frame.photometric}")
    return codec.cells(frame, image)


def _padded(frames: Iterable[Samples], length: int) -> Iterator[Buffer]:
    """The frames one behind the other, the last byte added where the whole is odd (PS3.5 8.1.1)."""
    written_length = 0
    for samples in frames:
        data = samples.tobytes()
        written_length += len(data)
        yield data
    if written_length != length:
        yield bytes(length - written_length)


def _native_frames(value: Buffer, image: Image) -> Iterator[Samples]:
    """The frames of native pixel data. Raises CannotUnderstand when it is too short for them."""
    length = image.bits_per_frame // 8
    if len(value) < length * image.frames:
        raise CannotUnderstand(f"{len(value)} bytes of pixel data for {image.frames} frames of {length}")
    view = memoryview(value)
    return (codec.native_samples(view[n * length : (n + 1) * length], image) for n in range(image.frames))


def _encoded(target: UID, samples: Samples, image: Image) -> bytes:
    """Encode a frame, and see that it can be decoded to the same."""
    if target != plan.RLE_LOSSLESS:
        samples = codec.stored_samples(samples, image)
    stream = codec.encode(target, samples, image)
    decoded = codec.cells(codec.decode(target, stream, image), image)
    if not np.array_equal(decoded.view(samples.dtype), samples):
        raise CannotTranscode(f"the encoder of {target} is not true to these pixels")
    return stream


def _convert_nested(data_set: DataSet, stored: UID, target: UID) -> None:
    """Make pixel data in sequences native, in the right byte order: icons (PS3.3 C.7.6.1.1.6, PS3.5 A.4)."""
    for element in data_set.elements:
        if not isinstance(element.value, Sequence):
            continue
        for item in element.value.items:
            nested = item.find(PIXEL_DATA)
            if nested is not None:
                buffer = BytesIO()
                for part in _native_value(item, nested, stored, target)[1]:
                    buffer.write(part)
                nested.value = buffer.getvalue()
            _convert_nested(item, stored, target)
