"""pixels.rendering: pictures beside those of DCMTK's dcmj2pnm."""

import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_rescale, apply_windowing

from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.picture import picture_of
from pacsnode.pixels.rendering.request import Viewport, Window, WindowFunction
from pacsnode.pixels.rendering.source import Source
from tests.conftest import needs, real_object, real_objects
from tests.pixels.rendering.test_source import opened
from tests.support.objects import encoded

# DCMTK knows neither functional groups nor 32 bits in big endian, and the last file's frame is damaged.
DIFFER = {"eCT_Supplemental.dcm", "JPEGLossless_1s_1f_i_16_16_bad.dcm"}


def by_dcmtk(path: Path, out: Path, *options: str) -> Image.Image | None:
    """The first frame, with the object's first window or else from least to greatest."""
    for window in (("+Wi", "1"), ("+Wm",)):
        command = ["dcmj2pnm", "+F", "1", "--write-raw-pnm", *window, *options, str(path), str(out)]
        if subprocess.run(command, capture_output=True, timeout=60).returncode == 0:
            return Image.open(out)
    return None


def distance(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of one size, in levels."""
    assert one.size == other.size
    return float(np.abs(np.asarray(one.convert("RGB"), int) - np.asarray(other.convert("RGB"), int)).mean())


@needs("dcmj2pnm")
@pytest.mark.parametrize("path", real_objects(), ids=lambda path: path.name)
def test_pictures_are_those_of_dcmtk(path: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            source = opened(path)
            picture = picture_of(source, 1, None, None) if source.has_pixels else None
        except CannotUnderstand:
            picture = None
    theirs = by_dcmtk(path, tmp_path / "picture.pnm") if picture else None
    if picture is None or theirs is None or path.name in DIFFER or "_expb" in path.name:
        pytest.skip("one of the two has no picture of it, or a wrong one")
    assert distance(picture, theirs) < 2


@needs("dcmj2pnm")
def test_a_window_is_that_of_dcmtk(tmp_path: Path) -> None:
    path = next(path for path in real_objects() if path.name == "CT_small.dcm")
    out = tmp_path / "picture.pnm"
    subprocess.run(["dcmj2pnm", "--write-raw-pnm", "+Ww", "40", "400", str(path), str(out)], check=True)
    assert distance(picture_of(opened(path), 1, Window(40, 400), None), Image.open(out)) < 0.6


def test_a_viewport_keeps_the_shape_and_mirrors() -> None:
    path = next(path for path in real_objects() if path.name == "CT_small.dcm")
    source = opened(path)
    whole = picture_of(source, 1, None, None)
    assert picture_of(source, 1, None, Viewport(64, 200)).size == (64, 64)
    half = picture_of(source, 1, None, Viewport(64, 128, 0, 0, 64, 128))
    assert distance(half, whole.crop((0, 0, 64, 128))) == 0
    mirrored = picture_of(source, 1, None, Viewport(128, 128, flip_x=True))
    assert distance(mirrored, whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0


@needs("dcmconv")
@pytest.mark.parametrize("name", ["examples_palette.dcm", "gdcm-US-ALOKA-16.dcm"])
def test_a_palette_is_read_beside_functional_groups_and_in_big_endian(name: str, tmp_path: Path) -> None:
    """The second is segmented (C.7.9.2)."""
    path = real_object(name)
    plain, grouped = opened(path), opened(path)
    measures, group = Dataset(), Dataset()
    measures.PixelSpacing = [1, 1]
    group.PixelMeasuresSequence = [measures]
    grouped.attributes.SharedFunctionalGroupsSequence = [group]
    assert distance(picture_of(grouped, 1, None, None), picture_of(plain, 1, None, None)) == 0
    subprocess.run(["dcmconv", "+tb", str(path), str(tmp_path / "big.dcm")], check=True)
    assert (
        distance(picture_of(opened(tmp_path / "big.dcm"), 1, None, None), picture_of(plain, 1, None, None))
        == 0
    )


@pytest.mark.parametrize("function", WindowFunction)
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "emri_small.dcm"])
def test_windows_are_those_of_pydicom(name: str, function: WindowFunction) -> None:
    """C.11.2.1.2, on signed values and on those with a slope and an intercept."""
    stored = dcmread(real_object(name))
    stored.WindowCenter, stored.WindowWidth, stored.VOILUTFunction = 300.5, 401, function.value
    stored.BitsStored = 16  # its output spans 16 bits then
    cells = stored.pixel_array if stored.pixel_array.ndim == 2 else stored.pixel_array[0]
    values = apply_rescale(cells, stored)
    windowed = apply_windowing(values, stored)
    ends = apply_windowing(np.array([-1e9, 1e9]), stored)
    theirs = (windowed - ends[0]) / (ends[1] - ends[0]) * 255
    picture = picture_of(opened(real_object(name)), 1, Window(300.5, 401, function), None)
    assert np.abs(np.asarray(picture, float) - theirs).max() <= 0.51


@pytest.mark.parametrize(
    ("keyword", "kind"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)]
)
def test_real_numbers_are_shown_from_end_to_end_without_those_that_are_none(
    keyword: str, kind: type[np.floating]
) -> None:
    cells = np.linspace(-0.5, 1.5, 64 * 64, dtype=kind).reshape(64, 64)
    cells[0, 0], cells[0, 1], cells[0, 2] = np.nan, np.inf, -1000
    data_set = Dataset()
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows, data_set.Columns, data_set.BitsAllocated = 64, 64, 8 * cells.itemsize
    setattr(data_set, keyword.replace("Data", "PaddingValue"), -1000.0)
    setattr(data_set, keyword, cells.tobytes())
    source = Source(memoryview(encoded(data_set)), EXPLICIT_VR_LE)
    shown = np.asarray(picture_of(source, 1, None, None), float)
    assert (shown[0, :3] == 0).all()
    visible = cells.astype(float).ravel()[3:]
    wanted = (visible - visible[0]) / (visible[-1] - visible[0]) * 255
    assert np.abs(shown.ravel()[3:] - wanted).max() <= 0.51
