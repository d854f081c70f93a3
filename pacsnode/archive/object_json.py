"""DICOM JSON of stored objects, from their files: bulk data by reference (PS3.18 10.4.1.1.2, F.2). Blocking.

Of most files 16 KiB are read: pixel data is last, and its length is told. Whatever else there is, long
sequences or fragments, is looked at in a mapping; but the fragments of long objects are passed over with
reads, since a mapping of 2 GB is resident memory, and holds up the other threads at each page.
"""

import os
import struct
import zlib
from contextlib import suppress
from mmap import ACCESS_READ, MADV_RANDOM, mmap
from typing import Final

from pacsnode.archive.files import Layout
from pacsnode.archive.frame_index import PIXEL_DATA
from pacsnode.archive.locate import Located
from pacsnode.archive.object_file import ObjectFile
from pacsnode.archive.outgoing import open_object
from pacsnode.dicom.header import INFLATE_LIMIT, HeaderIncomplete, encoding_of
from pacsnode.dicom.json_model import BulkUri, JsonEncoder, TagPath
from pacsnode.dicom.part10 import data_offset_of
from pacsnode.dicom.places import UNDEFINED, Places
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES
from pacsnode.errors import CannotUnderstand

HEAD: Final = 16 * 1024  # bytes
MAPPED: Final = 32 * 2**20  # bytes of a file
_NO_FRAGMENTS: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def bulk_path(path: TagPath) -> str:
    """How an element is named below `bulkdata/`: `00480105/1/00282000` is in the first item of a sequence.

    Tags and numbers of items, from 1 on, take turns.
    """
    steps = (f"{step:08X}" if place % 2 == 0 else str(step) for place, step in enumerate(path))
    return "/".join(steps)


def instance_path(study: str, series: str, instance: str) -> str:
    """The path of an instance below the base URI of the services."""
    return f"/studies/{study}/series/{series}/instances/{instance}"


def bulk_uris(study: str, series: str, instance: str) -> BulkUri:
    """What makes the BulkDataURIs of an instance; they begin behind the base URI of the services."""
    base = instance_path(study, series, instance) + "/bulkdata/"
    return lambda path: base + bulk_path(path)


def announce(layout: Layout, located: Located) -> None:
    """Have the beginning of a file read from the disk, without waiting for it."""
    with suppress(OSError):
        descriptor = open_object(layout, located)
        try:
            os.posix_fadvise(descriptor, 0, HEAD, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def object_json(layout: Layout, study: str, series: str, located: Located, encoder: JsonEncoder) -> str:
    """The object of a stored instance; its BulkDataURIs begin behind the base URI of the services.

    Raises OSError, CannotUnderstand.
    """
    bulk = bulk_uris(study, series, located.sop_instance)
    encoding = encoding_of(located.transfer_syntax)
    descriptor = open_object(layout, located)
    try:
        size = os.fstat(descriptor).st_size
        if located.transfer_syntax in DEFLATED_TRANSFER_SYNTAXES:
            return encoder.encode(_inflated(descriptor, size), encoding, bulk)
        head = os.pread(descriptor, HEAD, 0)
        try:
            text, end = encoder.encode_head(head, encoding, bulk, data_offset_of(head), size)
            if end >= size:
                return text
            tail = os.pread(descriptor, HEAD, end)  # padding or a signature
            rest, tail_end = encoder.encode_head(tail, encoding, bulk, 0, size - end)
            if tail_end >= size - end:
                return f"{text[:-1]},{rest[1:]}" if len(rest) > 2 else text
        except HeaderIncomplete:
            pass
        if size > MAPPED and (short := _without_fragments(ObjectFile(located, descriptor, size))) is not None:
            return encoder.encode(short, encoding, bulk)
        with mmap(descriptor, 0, access=ACCESS_READ) as mapping:
            mapping.madvise(MADV_RANDOM)  # the pixels in between are not wanted
            return encoder.encode(mapping, encoding, bulk, data_offset_of(head))
    finally:
        os.close(descriptor)


def _without_fragments(file: ObjectFile) -> bytes | None:
    """The data set, its pixel data encapsulated and empty; None where that is no short way."""
    places = Places(file.read, file.data_offset(), file.size, encoding_of(file.located.transfer_syntax))
    for place in places.elements():
        if place.tag == PIXEL_DATA and place.length == UNDEFINED:
            end = places.end(place)
            if place.value + file.size - end > MAPPED:
                return None
            start = file.data_offset()
            return file.read(start, place.value - start) + _NO_FRAGMENTS + file.read(end, file.size - end)
    return None


def _inflated(descriptor: int, size: int) -> bytes:
    """A deflated data set (PS3.5 A.5)."""
    content = os.pread(descriptor, size, 0)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(memoryview(content)[data_offset_of(content[:HEAD]) :], INFLATE_LIMIT)
    except zlib.error as error:
        raise CannotUnderstand("the deflated data set is damaged") from error
    if not inflater.eof:
        raise CannotUnderstand("the deflated data set is cut off, or too long")
    return data
