"""Pixels as other people's code reads them, and transcoding in this process."""

import subprocess
import warnings
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from pacsnode.dicom.part10 import file_meta, read_file_meta
from pacsnode.dicom.uid import UID
from pacsnode.pixels.transcode import transcode
from tests.conftest import real_objects
from tests.support.truth import REFUSED

Pixels = NDArray[np.generic]

# pydicom has no decoder of its own for these; dcmdjpeg makes them native for it
JPEG = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
_PLUGINS = {
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.5": "pydicom",
}


def transcoded(path: Path, target: UID) -> bytes:
    """A whole file in another transfer syntax."""
    data = path.read_bytes()
    meta = read_file_meta(data)
    out = BytesIO()
    transcode(memoryview(data)[meta.data_offset :], meta.transfer_syntax, target, out)
    head = file_meta(meta.sop_class or UID("1.2.3"), meta.sop_instance or UID("1.2.3.4"), target, "PACSNODE")
    return head + out.getvalue()


def pixels_of(file: Path | bytes, scratch: Path) -> tuple[Dataset, Pixels]:
    """The data set and its samples as pydicom has them, without colour conversion."""
    data = file if isinstance(file, bytes) else file.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = dcmread(BytesIO(data))
        syntax = str(data_set.file_meta.TransferSyntaxUID)
        if syntax in JPEG:
            data_set = dcmread(_decompressed(data, scratch))
        data_set.pixel_array_options(raw=True, decoding_plugin=_plugin(syntax))
        return data_set, data_set.pixel_array


def _plugin(transfer_syntax: str) -> str:
    if transfer_syntax.startswith(("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")):
        return "pylibjpeg"
    return _PLUGINS.get(transfer_syntax, "")


def _decompressed(data: bytes, scratch: Path) -> Path:
    encoded, decoded = scratch / "encoded.dcm", scratch / "decoded.dcm"
    encoded.write_bytes(data)
    subprocess.run(("dcmdjpeg", encoded, decoded), check=True, capture_output=True)
    return decoded


@cache
def distinct_images() -> tuple[Path, ...]:
    """Real objects with pixel data, of the same file once only."""
    seen: dict[bytes, Path] = {}
    for path in real_objects():
        if path.name not in REFUSED:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data_set = dcmread(path)
            if "PixelData" in data_set:
                seen.setdefault(path.read_bytes(), path)
    return tuple(seen.values())
