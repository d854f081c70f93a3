"""pixels.rendering: presentation states made by DCMTK, shown as DCMTK shows them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread

from pacsnode.pixels.rendering.picture import picture_under
from pacsnode.pixels.rendering.request import Viewport
from tests.conftest import needs, real_objects
from tests.pixels.rendering.test_picture import distance
from tests.pixels.rendering.test_source import opened

pytestmark = [needs("dcmpsmk"), needs("dcmp2pgm")]
CT = next(path for path in real_objects() if path.name == "CT_small.dcm")


@pytest.fixture
def state(tmp_path: Path) -> Dataset:
    """A presentation state of CT_small with a soft tissue window."""
    subprocess.run(["dcmpsmk", str(CT), str(tmp_path / "made.dcm")], check=True, capture_output=True)
    made = dcmread(tmp_path / "made.dcm")
    window = Dataset()
    window.WindowCenter, window.WindowWidth = "40", "400"
    made.SoftcopyVOILUTSequence = [window]
    made.ImageRotation, made.ImageHorizontalFlip = 0, "N"
    return made


def by_dcmtk(state: Dataset, folder: Path) -> Image.Image:
    state.save_as(folder / "state.dcm")
    command = ["dcmp2pgm", "-p", str(folder / "state.dcm"), str(CT), str(folder / "out.pgm")]
    subprocess.run(command, check=True, capture_output=True)
    return Image.open(folder / "out.pgm")


def inverse(state: Dataset) -> None:
    state.PresentationLUTShape = "INVERSE"


def turned(state: Dataset) -> None:
    state.ImageRotation = 90


def turned_and_mirrored(state: Dataset) -> None:
    state.ImageRotation, state.ImageHorizontalFlip = 270, "Y"


def other_rescale(state: Dataset) -> None:
    state.RescaleIntercept = "-900"


@pytest.mark.parametrize("change", [inverse, turned, turned_and_mirrored, other_rescale, lambda state: None])
def test_the_picture_is_that_of_dcmtk(
    change: Callable[[Dataset], None], state: Dataset, tmp_path: Path
) -> None:
    change(state)
    assert distance(picture_under(opened(CT), 1, state, None), by_dcmtk(state, tmp_path)) < 0.6


def test_a_displayed_area_is_cut_out_and_fitted(state: Dataset) -> None:
    whole = picture_under(opened(CT), 1, state, None)
    area = state.DisplayedAreaSelectionSequence[0]
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [21, 31], [80, 90]
    cut = picture_under(opened(CT), 1, state, None)
    assert distance(cut, whole.crop((20, 30, 80, 90))) == 0
    assert picture_under(opened(CT), 1, state, Viewport(120, 300)).size == (120, 120)


def test_shutters_cover_what_lies_outside(state: Dataset) -> None:
    whole = np.asarray(picture_under(opened(CT), 1, state, None))
    state.ShutterShape = ["RECTANGULAR", "CIRCULAR"]
    state.ShutterLeftVerticalEdge, state.ShutterRightVerticalEdge = 20, 100
    state.ShutterUpperHorizontalEdge, state.ShutterLowerHorizontalEdge = 10, 110
    state.CenterOfCircularShutter, state.RadiusOfCircularShutter = [60, 60], 45
    state.ShutterPresentationValue = 65535
    shut = np.asarray(picture_under(opened(CT), 1, state, None))
    rows, columns = np.mgrid[1:129, 1:129]
    open_ = (columns > 20) & (columns < 100) & (rows > 10) & (rows < 110)
    distances = np.hypot(rows - 60, columns - 60)
    assert (shut[~open_ | (distances > 46)] == 255).all()
    assert (shut[open_ & (distances < 44)] == whole[open_ & (distances < 44)]).all()


def test_graphics_follow_the_image_when_it_is_turned(state: Dataset) -> None:
    graphic = Dataset()
    graphic.GraphicAnnotationUnits, graphic.GraphicType = "PIXEL", "POINT"
    graphic.GraphicData = [10.5, 100.5]
    annotation = Dataset()
    annotation.GraphicObjectSequence = [graphic]
    state.ImageRotation = 90
    plain = np.asarray(picture_under(opened(CT), 1, state, None), int)
    state.GraphicAnnotationSequence = [annotation]
    drawn = np.asarray(picture_under(opened(CT), 1, state, None), int)
    rows, columns = np.nonzero(drawn - plain)
    assert abs(rows.mean() - 10) < 2
    assert abs(columns.mean() - (128 - 100)) < 2
