"""Some frames of a compressed object, decoded one behind the other (PS3.18 8.7.3.3.1). Worker processes only.

The data set is not parsed: the node knows where the frames are, so that a frame of an object with thousands
of them costs what it costs alone.
"""

from dataclasses import replace
from typing import BinaryIO

import numpy as np

from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand
from pacsnode.pixels import codec
from pacsnode.pixels.image import Image, describe
from pacsnode.pixels.job import Decoding
from pacsnode.pixels.recode import DataSet, Element


def decode_frames(source: memoryview, stored: UID, decoding: Decoding, out: BinaryIO) -> None:
    """Write the frames in native format, little endian; each begins with a byte of its own.

    Raises CannotTranscode when frames of that transfer syntax cannot be decoded, CannotUnderstand.
    """
    if not codec.can_decode(stored):
        raise CannotTranscode(f"frames in {stored} cannot be decoded")
    values = (Element(int(tag, 16), None, bytes.fromhex(value)) for tag, value in decoding.attributes)
    image = describe(DataSet(list(values)))
    if image.allocated not in codec.WIDTHS:
        raise CannotTranscode(f"compressed pixel data with {image.allocated} bits allocated")
    for start, end, length in decoding.frames:
        stream = _joined(source[start:end])[: length or None]
        out.write(_native(codec.decode(stored, stream, image), image))


def _joined(items: memoryview) -> bytes:
    """The stream of a frame from its fragments (PS3.5 A.4)."""
    values = []
    position = 0
    while position + 8 <= len(items):
        begin = position + 8
        position = begin + int.from_bytes(items[position + 4 : begin], "little")
        values.append(items[begin:position])
    if position != len(items):
        raise CannotUnderstand("a frame does not end where the next one begins")
    return b"".join(values)


def _native(frame: codec.Frame, image: Image) -> bytes:
    if image.allocated == 1:
        return np.packbits(frame.samples.ravel().astype(np.uint8) & 1, bitorder="little").tobytes()
    if frame.precision > max(8, image.allocated):  # the attribute is wrong, as transcode() has it
        width = min(width for width in codec.WIDTHS if width >= frame.precision)
        image = replace(image, allocated=width, stored=frame.precision)
    samples = codec.cells(frame, image)
    if image.planar and image.is_color:  # who asks for frames goes by the attributes of the object
        samples = samples.transpose(2, 0, 1)
    return samples.tobytes()
