"""A stored object as rendering sees it: its attributes, and the stored values of its frames (PS3.5 8.1)."""

import json
from contextlib import suppress
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.json_model import JsonEncoder
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID
from pacsnode.dicom.xml_model import native_model
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels import codec
from pacsnode.pixels.deflate import inflated
from pacsnode.pixels.frames import fragments_of_frames
from pacsnode.pixels.image import (
    DOUBLE_FLOAT_PIXEL_DATA,
    EXTENDED_OFFSET_TABLE,
    FLOAT_PIXEL_DATA,
    Image,
    describe,
    in_other_order,
)
from pacsnode.pixels.plan import VIDEO
from pacsnode.pixels.recode import PIXEL_DATA, DataSet, Element, Fragments, Sequence, read, swapped

Values = NDArray[np.integer] | NDArray[np.floating]

_FLOATS: Final = {FLOAT_PIXEL_DATA: "f4", DOUBLE_FLOAT_PIXEL_DATA: "f8"}
_FIRST_BULK: Final = 0x7FE00000
_HEAD: Final = 64 * 1024  # bytes that hold the attributes of most objects


class Source:
    """An encoded data set. `attributes` is everything before the pixel data, as pydicom reads it."""

    def __init__(self, data: memoryview, transfer_syntax: UID) -> None:
        if transfer_syntax in DEFLATED_TRANSFER_SYNTAXES:
            data = inflated(data)
        encoding = encoding_of(transfer_syntax)
        self._transfer_syntax = transfer_syntax
        self._little_endian = encoding.little_endian
        self._data = data
        self._encoding = encoding
        self._data_set = read(data, encoding)
        self.attributes = _attributes(data, encoding.implicit, encoding.little_endian)
        if not encoding.little_endian:
            _turn(self.attributes)
        self._pixels = _pixel_element(self._data_set)

    @property
    def has_pixels(self) -> bool:
        return self._pixels is not None

    @property
    def is_video(self) -> bool:
        """Whether its frames are one stream (PS3.5 8.2.5 to 8.2.8)."""
        return self.has_pixels and self._transfer_syntax in VIDEO

    def stream(self) -> bytes:
        """All fragments of encapsulated pixel data, joined. Raises CannotUnderstand."""
        value = self._pixels.value if self._pixels is not None else None
        if not isinstance(value, Fragments):
            raise CannotUnderstand("the pixel data is not encapsulated")
        return b"".join(value.values)

    def as_xml(self) -> bytes:
        """The whole data set as a Native DICOM Model (PS3.19 A.1); for what has no pixels."""
        return native_model(json.loads(JsonEncoder().encode(bytes(self._data), self._encoding)))

    @property
    def n_frames(self) -> int:
        return describe_float(self._data_set, self._pixels).frames if self._pixels else 0

    def frame(self, number: int) -> tuple[Values, str]:
        """The stored values of a frame, (rows, columns, samples), and their Photometric Interpretation.

        `number` counts from 1. Raises CannotUnderstand.
        """
        if self._pixels is None:
            raise CannotUnderstand("the object has no pixel data")
        image = describe_float(self._data_set, self._pixels)
        if not 1 <= number <= image.frames:
            raise CannotUnderstand(f"there is no frame {number} among {image.frames}")
        value = self._pixels.value
        if isinstance(value, Fragments):
            return self._decoded(value, image, number)
        if isinstance(value, Sequence):
            raise CannotUnderstand("Pixel Data is a sequence")
        return self._native(memoryview(value), image, number - 1)

    def compressed(self, number: int) -> bytes:
        """The stream of a frame, counted from 1; empty when it is not compressed."""
        if self._pixels is None or not isinstance(self._pixels.value, Fragments):
            return b""
        return self._stream(self._pixels.value, describe(self._data_set), number)

    def _stream(self, fragments: Fragments, image: Image, number: int) -> bytes:
        offsets = self._data_set.raw(EXTENDED_OFFSET_TABLE)
        span = fragments_of_frames(fragments, image.frames, offsets)[number - 1]
        return b"".join(fragments.values[span])

    def _decoded(self, fragments: Fragments, image: Image, number: int) -> tuple[Values, str]:
        stream = self._stream(fragments, image, number)
        frame = codec.decode(self._transfer_syntax, stream, image)
        cells = codec.cells(frame, image)
        kind = "i" if image.signed else "u"
        return cells.view(f"<{kind}{cells.dtype.itemsize}"), frame.photometric

    def _in_order(self, value: memoryview, start: int, end: int, allocated: int) -> memoryview:
        """Bytes of native pixel data, little endian; a frame may begin in the middle of a word of OW."""
        if self._little_endian:
            return value[start:end]
        assert self._pixels is not None
        before = start % 2
        words = value[start - before : end + (end - start + before) % 2]
        turned = b"".join(in_other_order(words, allocated, self._pixels.vr))
        return memoryview(turned)[before : before + end - start]

    def _native(self, value: memoryview, image: Image, index: int) -> tuple[Values, str]:
        assert self._pixels is not None
        length = image.bits_per_frame
        if (index + 1) * length > len(value) * 8:
            raise CannotUnderstand(f"frame {index + 1} is not in the {len(value)} bytes of pixel data")
        if image.allocated == 1:
            return _bits(value, index * length, length).reshape(
                image.rows, image.columns, 1
            ), image.photometric
        some = self._in_order(value, index * length // 8, (index + 1) * length // 8, image.allocated)
        if self._pixels.tag in _FLOATS:
            floats = np.frombuffer(some, "<" + _FLOATS[self._pixels.tag])
            return floats.reshape(image.rows, image.columns, 1), image.photometric
        photometric = "YBR_FULL" if image.is_subsampled else image.photometric
        return _stored_bits(codec.native_samples(some, image), image), photometric


def describe_float(data_set: DataSet, pixels: Element) -> Image:
    """The image of pixel data of any kind; those of floats have no Bits Stored (PS3.3 C.7.6.24)."""
    if pixels.tag in _FLOATS:
        bits = 8 * int(_FLOATS[pixels.tag][1])
        data_set.set(0x00280100, b"US", bits.to_bytes(2, "little"))
    return describe(data_set)


def _pixel_element(data_set: DataSet) -> Element | None:
    return next((found for tag in (PIXEL_DATA, *_FLOATS) if (found := data_set.find(tag))), None)


def _attributes(data: memoryview, implicit: bool, little_endian: bool) -> Dataset:
    is_over = False

    def is_pixel_data(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal is_over
        is_over = bool(tag >= _FIRST_BULK)
        return is_over

    if len(data) > _HEAD:  # else all the pixels would be copied
        with suppress(Exception):  # what is cut off may look like anything
            attributes = read_dataset(BytesIO(data[:_HEAD]), implicit, little_endian, stop_when=is_pixel_data)
            if is_over:
                return attributes
    return read_dataset(BytesIO(data), implicit, little_endian, stop_when=is_pixel_data)


def _turn(attributes: Dataset) -> None:
    """Put the bytes of all OW in the order of little endian: palettes, overlays, waveforms, LUTs."""
    for element in attributes:
        if element.VR == "SQ":
            for item in element.value:
                _turn(item)
        elif element.VR == "OW" and isinstance(element.value, bytes):
            element.value = bytes(swapped(element.value, 2))
    attributes.set_original_encoding(attributes.original_encoding[0], True)


def _bits(value: memoryview, first: int, count: int) -> NDArray[np.uint8]:
    """Cells of one bit, the first in the lowest bit of its byte (PS3.5 8.1.1)."""
    start, end = first // 8, (first + count + 7) // 8
    bits = np.unpackbits(np.frombuffer(value[start:end], np.uint8), bitorder="little")
    return bits[first - start * 8 :][:count]


def _stored_bits(samples: codec.Samples, image: Image) -> Values:
    """The bits that are stored, as the numbers they are; what else a cell holds is dropped (PS3.5 8.1.2)."""
    width = 8 * samples.dtype.itemsize
    above = width - 1 - image.high_bit
    kind = "i" if image.signed else "u"
    if above == 0 and image.stored == width:
        return samples.view(f"<{kind}{width // 8}")
    shifted: Values = np.left_shift(samples, above) if above > 0 else samples
    values: Values = np.right_shift(shifted.view(f"<{kind}{width // 8}"), width - image.stored)
    return values
