"""An object made of metadata and bulk data that came apart (PS3.18 10.5.1.4, 10.5.2). Worker processes only.

Compressed frames stay what they are, in the transfer syntax of their media type; PNG and GIF, for which
there is none, become uncompressed. What the metadata leaves out of the Image Pixel Description is told by
the frames. Pixel data goes from file to file; nothing that was sent is left out, or the object is refused.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from pacsnode.dicom.json_model import TagPath
from pacsnode.dicom.json_reading import elements_of, models_of
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.dicom.xml_model import Model, model_of
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.job import Bulk, Composition
from pacsnode.pixels.sent_pixels import Pixels, pixels_of

_XML: Final = "application/dicom+xml"
_PIXEL_DATA: Final = 0x7FE00010
_PIXEL_DATA_KEY: Final = "7FE00010"


def split(metadata: bytes, out: BinaryIO) -> None:
    """Write the objects of a JSON array, one a line. Raises CannotUnderstand."""
    for model in models_of(metadata):
        out.write(json.dumps(model).encode() + b"\n")


def compose(composition: Composition, metadata: bytes, out: BinaryIO) -> None:
    """Write the file of one object: File Meta and data set. Raises CannotUnderstand, CannotTranscode."""
    model = _model(composition, metadata)
    parts = _parts_of(composition.bulk)
    pixels = _pixels(model, parts)
    uids = [_uid(model, tag) for tag in ("00080016", "00080018")]
    elements = list(elements_of(model, parts.value))
    transfer_syntax = EXPLICIT_VR_LE if pixels is None else pixels.transfer_syntax
    out.write(file_meta(uids[0], uids[1], transfer_syntax, composition.source))
    for tag, encoded in elements:
        if pixels is not None and tag > _PIXEL_DATA:
            pixels.write(out)
            pixels = None
        out.write(encoded)
    if pixels is not None:
        pixels.write(out)


def _model(composition: Composition, metadata: bytes) -> Model:
    """The JSON Model object of the object to be made."""
    if composition.media_type == _XML:
        return model_of(metadata)
    (model,) = models_of(metadata)
    return {str(key).upper(): value for key, value in model.items()}


def _uid(model: Model, tag: str) -> UID:
    attribute = model.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    if not (isinstance(values, list) and len(values) == 1 and isinstance(values[0], str) and values[0]):
        raise CannotUnderstand("the metadata lacks SOP Class or Instance UID")
    return UID(values[0])


def _pixels(model: Model, parts: "_Parts") -> Pixels | None:
    """The pixel data that came in parts, described in the model; None when there is none of that kind."""
    attribute = model.get(_PIXEL_DATA_KEY)
    if not isinstance(attribute, dict) or "BulkDataURI" not in attribute:
        return None
    del model[_PIXEL_DATA_KEY]
    return pixels_of(model, parts.named(attribute["BulkDataURI"]))


class _Parts:
    """The bulk data of a request, by the URIs that metadata has for it."""

    def __init__(self, bulk: Iterable[Bulk]) -> None:
        self._at: defaultdict[str, list[Bulk]] = defaultdict(list)
        for one in bulk:
            place = _path(one.uri)
            self._at[place].append(one)
            while "/" in place:  # frames lie below the pixel data they are of
                place = place.rpartition("/")[0]
                self._at[place].append(one)

    def named(self, uri: object) -> list[Bulk]:
        """The part of that location, or those below it, one for each frame. Raises CannotUnderstand."""
        parts = self._at.get(_path(str(uri))) if uri else None
        if not parts:
            raise CannotUnderstand(f"no part has the bulk data {str(uri)[:80]!r}")
        return parts

    def value(self, uri: str, _path: TagPath, _vr: str) -> bytes:
        """The value of an element that is not Pixel Data."""
        value = b"".join(map(_read, self.named(uri)))
        return value + bytes(len(value) & 1)


@lru_cache(maxsize=1)
def _parts_of(path: str) -> _Parts:
    """The parts of a request: all its objects ask for them, one after the other."""
    with open(path, "rb") as file:
        return _Parts(Bulk(*one) for one in json.load(file))


def _path(uri: str) -> str:
    """What of a URI tells parts apart: the authority may be written or not, and with it the first slash."""
    parts = urlsplit(uri)
    return (parts.path + ("?" + parts.query if parts.query else "")).strip("/") or uri


def _read(bulk: Bulk) -> bytes:
    with open(bulk.path, "rb") as file:
        return file.read()
