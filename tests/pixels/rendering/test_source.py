"""pixels.rendering.source: the stored values of any frame are those pydicom reads."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from pacsnode.dicom.part10 import read_file_meta
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.source import Source
from tests.conftest import real_objects


def opened(path: Path) -> Source:
    data = memoryview(path.read_bytes())
    meta = read_file_meta(data)
    return Source(data[meta.data_offset :], meta.transfer_syntax)


@pytest.mark.parametrize("path", real_objects(), ids=lambda path: path.name)
def test_frames_hold_what_pydicom_reads(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = dcmread(path)
        try:
            source = opened(path)
        except CannotUnderstand:
            pytest.skip("damaged")
        if not source.has_pixels or str(data_set.get("PhotometricInterpretation")).startswith("YBR"):
            pytest.skip("pydicom reads other colours, or nothing")
        try:
            truth = data_set.pixel_array
        except Exception:
            pytest.skip("pydicom cannot decode it")
        for number in {1, (source.n_frames + 1) // 2, source.n_frames}:
            values, _ = source.frame(number)
            frame = truth[number - 1] if source.n_frames > 1 else truth
            assert np.array_equal(values, frame.reshape(values.shape))


def test_a_frame_that_is_not_there_is_refused() -> None:
    path = next(path for path in real_objects() if path.name == "CT_small.dcm")
    with pytest.raises(CannotUnderstand, match="no frame 2"):
        opened(path).frame(2)
