"""Display shutters: what of the image is covered (PS3.3 C.7.6.11, C.7.6.15)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

Pixels = NDArray[np.uint8]

_P_VALUES: Final = 65535


def shut(pixels: Pixels, attributes: Dataset) -> Pixels:
    """The picture with everything outside the shutters in the Shutter Presentation Value, black if unsaid."""
    shapes = attributes.get("ShutterShape")
    if not shapes:
        return pixels
    names = [shapes] if isinstance(shapes, str) else list(shapes)
    visible = np.ones(pixels.shape[:2], np.bool_)
    for name in names:
        drawn = _visible(str(name), attributes, (pixels.shape[1], pixels.shape[0]))
        if drawn is not None:
            visible &= drawn
    covered = pixels.copy()
    covered[~visible] = int(attributes.get("ShutterPresentationValue") or 0) * 255 // _P_VALUES
    return covered


def _visible(shape: str, attributes: Dataset, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """What one shutter leaves open; None when its attributes are missing."""
    mask = Image.new("1", size, 0)
    draw = ImageDraw.Draw(mask)
    try:
        match shape:
            case "RECTANGULAR":
                left, right = (
                    int(attributes.ShutterLeftVerticalEdge),
                    int(attributes.ShutterRightVerticalEdge),
                )
                top, bottom = (
                    int(attributes.ShutterUpperHorizontalEdge),
                    int(attributes.ShutterLowerHorizontalEdge),
                )
                # the edges themselves are covered (PS3.3 C.7.6.11)
                draw.rectangle((left, top, right - 2, bottom - 2), fill=1)
            case "CIRCULAR":
                row, column = (int(one) - 1 for one in attributes.CenterOfCircularShutter)
                radius = int(attributes.RadiusOfCircularShutter)
                draw.ellipse((column - radius, row - radius, column + radius, row + radius), fill=1)
            case "POLYGONAL":
                places = [int(one) - 1 for one in attributes.VerticesOfThePolygonalShutter]
                draw.polygon(list(zip(places[1::2], places[::2], strict=True)), fill=1)
            case _:
                return None
    except (AttributeError, TypeError, ValueError):
        return None
    return np.asarray(mask, np.bool_)
