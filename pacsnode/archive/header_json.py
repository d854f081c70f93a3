"""DICOM JSON of objects from the headers that are kept with the index, where those are enough. Pure.

A kept header lacks bulk values, and does not tell which. But what it lacks besides pixel data is longer than
the File Meta Information of any file of ours, so the length of the file proves that there is nothing else.
Of uncompressed images that is nearly all, and no file has to be opened for them.
"""

import re
from typing import Final

from pacsnode.archive.locate import Located
from pacsnode.archive.object_json import bulk_uris
from pacsnode.dicom.header import BULK_LIMIT, encoding_of
from pacsnode.dicom.json_model import JsonEncoder
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE

_PIXEL_DATA: Final = 0x7FE00010
_LEAST_META: Final = 144  # bytes of a file before its data set: preamble, prefix, group length (PS3.10 7.1)
_HEAD: Final = 8  # bytes of an element before its value, at least
_BEHIND: Final = re.compile(r'"(?:7FE|[89A-F]).{5}":\{"vr"')  # elements that belong behind pixel data
_SYNTAXES: Final = frozenset({EXPLICIT_VR_LE, IMPLICIT_VR_LE})


def header_json(kept: bytes, study: str, series: str, located: Located, encoder: JsonEncoder) -> str | None:
    """The object of an instance, as object_json(); None when the file has to be read for it.

    Raises CannotUnderstand.
    """
    if located.transfer_syntax not in _SYNTAXES:
        return None
    bulk = bulk_uris(study, series, located.sop_instance)
    text = encoder.encode(kept, encoding_of(located.transfer_syntax), bulk)
    pixels = _pixels(text)
    if pixels is None or _BEHIND.search(text):
        return None
    rest = located.size - len(kept) - pixels
    if not _LEAST_META + _HEAD <= rest <= _LEAST_META + _HEAD + BULK_LIMIT + _HEAD:
        return None
    return f'{text[:-1]},"{_PIXEL_DATA:08X}":{{"vr":"OW","BulkDataURI":"{bulk((_PIXEL_DATA,))}"}}}}'


def _pixels(text: str) -> int | None:
    """Bytes of pixel data, by the attributes that describe it; None where they do not, or its VR is open.

    With 16 bits allocated the VR is OW (PS3.5 8.2).
    """
    allocated = _number(text, '"00280100":{"vr":"US","Value":[')
    rows, columns = (_number(text, f'"002800{tag}":{{"vr":"US","Value":[') for tag in (10, 11))
    samples = _number(text, '"00280002":{"vr":"US","Value":[')
    frames = _number(text, '"00280008":{"vr":"IS","Value":[') if '"00280008"' in text else 1
    if allocated != 16 or rows is None or columns is None or samples is None or frames is None:
        return None
    return rows * columns * samples * frames * 2


def _number(text: str, head: str) -> int | None:
    """The value of an attribute that is there once, in a sequence or not."""
    start = text.find(head)
    if start < 0 or text.find(head, start + 1) >= 0:
        return None
    number = text[start + len(head) : text.find("]", start)]
    return int(number) if number.isdigit() and len(number) < 10 else None
