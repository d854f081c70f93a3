"""Display shutters: what of the image is covered (PS3.3 C.7.6.11, C.7.6.15, C.11.12)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

from pacsnode.pixels.rendering.ink import ink_of
from pacsnode.pixels.rendering.overlay import plane_of

Pixels = NDArray[np.uint8]

BITMAP: Final = "BITMAP"
_BLACK: Final = 0


def shut(pixels: Pixels, attributes: Dataset, frame: int) -> Pixels:
    """The picture with everything outside the shutters in their gray value or colour, black if unsaid.

    `frame` counts from 1.
    """
    shapes = attributes.get("ShutterShape")
    if not shapes:
        return pixels
    names = [shapes] if isinstance(shapes, str) else list(shapes)
    visible = np.ones(pixels.shape[:2], np.bool_)
    for name in names:
        if name == BITMAP:
            drawn = _unmasked(attributes, frame)
        else:
            drawn = _visible(str(name), attributes, (pixels.shape[1], pixels.shape[0]))
        if drawn is not None and drawn.shape == visible.shape:
            visible &= drawn
    covered = pixels.copy()
    gray, color = "ShutterPresentationValue", "ShutterPresentationColorCIELabValue"
    covered[~visible] = ink_of(attributes, gray, color, pixels.ndim == 3, _BLACK)
    return covered


def shutter_group(attributes: Dataset) -> int | None:
    """The overlay group that is a shutter, and no overlay (PS3.3 C.11.7)."""
    group = attributes.get("ShutterOverlayGroup")
    return group if isinstance(group, int) else None


def _unmasked(attributes: Dataset, frame: int) -> NDArray[np.bool_] | None:
    """What a bitmap leaves open; None when it is missing or damaged."""
    group = shutter_group(attributes)
    mask = plane_of(attributes, group, frame) if group is not None else None
    return None if mask is None else mask == 0


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
