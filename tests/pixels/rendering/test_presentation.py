"""pixels.rendering: presentation states made by DCMTK, shown as DCMTK shows them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread

from pacsnode.pixels.rendering.ink import ink_of
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


def test_a_presentation_lut_is_that_of_dcmtk(state: Dataset, tmp_path: Path) -> None:
    """C.11.6.1.1: the input spans all entries."""
    table = Dataset()
    table.LUTDescriptor = [256, 0, 12]
    entries = [round(4095 * (entry / 255) ** 2) for entry in range(256)]
    table.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    del state.PresentationLUTShape
    state.PresentationLUTSequence = [table]
    theirs = by_dcmtk(state, tmp_path)
    assert distance(picture_under(opened(CT), 1, dcmread(tmp_path / "state.dcm"), None), theirs) < 1


def overlay(target: Dataset, group: int, layer: str | None, rows: slice) -> None:
    """An overlay plane with these rows set."""
    plane = np.zeros((128, 128), np.uint8)
    plane[rows] = 1
    target.add_new((group, 0x0010), "US", 128)
    target.add_new((group, 0x0011), "US", 128)
    target.add_new((group, 0x0040), "CS", "G")
    target.add_new((group, 0x0050), "SS", [1, 1])
    target.add_new((group, 0x0100), "US", 1)
    target.add_new((group, 0x0102), "US", 0)
    target.add_new((group, 0x3000), "OW", np.packbits(plane, bitorder="little").tobytes())
    if layer is not None:
        target.add_new((group, 0x1001), "CS", layer)


def test_a_bitmap_shutter_covers_what_it_marks(state: Dataset) -> None:
    whole = np.asarray(picture_under(opened(CT), 1, state, None))
    overlay(state, 0x6002, None, np.s_[:40])
    state.ShutterShape, state.ShutterOverlayGroup, state.ShutterPresentationValue = "BITMAP", 0x6002, 32896
    shut = np.asarray(picture_under(opened(CT), 1, state, None))
    assert (shut[:40] == 128).all()
    assert (shut[40:] == whole[40:]).all()


def test_overlays_are_drawn_where_they_are_activated(state: Dataset) -> None:
    """C.11.7: in a layer that is named; a group of the state takes the place of the image's."""
    image = opened(CT)
    overlay(image.attributes, 0x6000, None, np.s_[10:20])
    overlay(image.attributes, 0x6002, None, np.s_[30:40])
    overlay(image.attributes, 0x6004, None, np.s_[50:60])
    overlay(state, 0x6004, "GRAY", np.s_[70:80])
    state.add_new((0x6000, 0x1001), "CS", "WHITE")
    state.add_new((0x6002, 0x1001), "CS", "")
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = "GRAY", 1
    layer.GraphicLayerRecommendedDisplayGrayscaleValue = 0x8080
    state.GraphicLayerSequence = [layer]
    drawn = np.asarray(picture_under(image, 1, state, None))
    white, gray = ((drawn == level).all(axis=1).nonzero()[0].tolist() for level in (255, 128))
    assert (white, gray) == (list(range(10, 20)), list(range(70, 80)))


def test_gray_levels_are_shown_in_the_colours_of_a_pseudo_color_state(state: Dataset) -> None:
    gray = np.asarray(picture_under(opened(CT), 1, state, None))
    ramp = np.arange(4096, dtype="<u2") * 16
    for colour, entries in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", ramp * 0)):
        setattr(state, f"{colour}PaletteColorLookupTableDescriptor", [4096, 0, 16])
        setattr(state, f"{colour}PaletteColorLookupTableData", entries.tobytes())
    coloured = np.asarray(picture_under(opened(CT), 1, state, None), int)
    assert np.abs(coloured[:, :, 0] - gray).max() <= 1
    assert np.abs(coloured[:, :, 1] - (255 - gray.astype(int))).max() <= 1
    assert coloured[:, :, 2].max() == 0


def test_colours_of_shutters_and_layers_are_cielab(state: Dataset) -> None:
    """L* 53.24, a* 80.1, b* 67.2 is the red of sRGB, adapted to D50: 54.3, 80.8, 69.9."""
    named = Dataset()
    lab = (54.29, 80.81, 69.89)
    named.ShutterPresentationColorCIELabValue = [
        round(lab[0] / 100 * 65535),
        *(round((one + 128) / 255 * 65535) for one in lab[1:]),
    ]
    names = ("ShutterPresentationValue", "ShutterPresentationColorCIELabValue")
    red, green, blue = ink_of(named, *names, True, 0)
    assert red > 253
    assert max(green, blue) < 4
    assert ink_of(named, *names, False, 7) == 7


def test_what_is_magnified_is_cropped_to_the_viewport(state: Dataset) -> None:
    """PS3.18 8.3.5.1.6; annotations stay where the image has them."""
    whole = picture_under(opened(CT), 1, state, None)
    area = state.DisplayedAreaSelectionSequence[0]
    area.PresentationSizeMode, area.PresentationPixelMagnificationRatio = "MAGNIFY", 2
    large = picture_under(opened(CT), 1, state, None)
    assert large.size == (256, 256)
    shown = picture_under(opened(CT), 1, state, Viewport(100, 300))
    assert shown.size == (100, 256)
    assert distance(shown, large.crop((78, 0, 178, 256))) == 0
    fitted = picture_under(opened(CT), 1, state, Viewport(128, 128), whole=True)
    assert distance(fitted, whole) == 0
    graphic, annotation = Dataset(), Dataset()
    graphic.GraphicAnnotationUnits, graphic.GraphicType = "PIXEL", "POINT"
    row, column = np.argwhere(np.asarray(shown)[10:-10, 10:-10] == 0)[0] + 10  # where a point is seen
    graphic.GraphicData = [(column + 78) / 2, row / 2]
    annotation.GraphicObjectSequence = [graphic]
    state.GraphicAnnotationSequence = [annotation]
    drawn = picture_under(opened(CT), 1, state, Viewport(100, 300))
    rows, columns = np.nonzero(np.asarray(drawn, int) - np.asarray(shown, int))
    assert abs(rows.mean() - row) < 2
    assert abs(columns.mean() - column) < 2


def test_pixels_have_the_shape_the_state_gives_them(state: Dataset) -> None:
    """PS3.3 C.10.4, whatever the image says of its spacing; turned pixels are as wide as they were high."""
    (area,) = state.DisplayedAreaSelectionSequence
    area.pop("PresentationPixelSpacing", None)
    area.PresentationPixelAspectRatio = [2, 1]
    assert picture_under(opened(CT), 1, state, Viewport(200, 200)).size == (100, 200)
    state.ImageRotation = 90
    assert picture_under(opened(CT), 1, state, Viewport(200, 200)).size == (200, 100)


@pytest.mark.parametrize(
    ("kind", "points", "area"),
    [
        ("CIRCLE", [60, 60, 60, 80], 20 * 20 * np.pi),
        ("ELLIPSE", [40, 60, 80, 60, 60, 50, 60, 70], 20 * 10 * np.pi),
        ("POLYLINE", [40, 40, 60, 40, 60, 60, 40, 60, 40, 40], 20 * 20),
    ],
)
def test_graphics_are_filled_where_they_are_to_be(
    kind: str, points: list[int], area: float, state: Dataset
) -> None:
    """PS3.3 C.10.5.1.2."""
    graphic, annotation = Dataset(), Dataset()
    graphic.GraphicAnnotationUnits, graphic.GraphicType, graphic.GraphicFilled = "PIXEL", kind, "Y"
    graphic.GraphicData = points
    annotation.GraphicObjectSequence = [graphic]
    state.SoftcopyVOILUTSequence[0].WindowCenter = 30000  # all is black
    state.GraphicAnnotationSequence = [annotation]
    filled = np.asarray(picture_under(opened(CT), 1, state, None)) == 255
    assert abs(filled.sum() - area) < 0.12 * area
    graphic.GraphicFilled = "N"
    assert (np.asarray(picture_under(opened(CT), 1, state, None)) == 255).sum() < area / 2
