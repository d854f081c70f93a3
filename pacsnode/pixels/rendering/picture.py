"""A frame from its stored values to a picture (PS3.4 N.2)."""

from typing import Final

from PIL import Image

from pacsnode.pixels.rendering.colour import is_color, rgb
from pacsnode.pixels.rendering.functional_groups import flattened
from pacsnode.pixels.rendering.geometry import fitted
from pacsnode.pixels.rendering.grayscale import gray_levels
from pacsnode.pixels.rendering.overlay import draw_overlays
from pacsnode.pixels.rendering.request import Viewport, Window
from pacsnode.pixels.rendering.source import Source

_INVERTED: Final = "MONOCHROME1"


def picture_of(source: Source, frame: int, window: Window | None, viewport: Viewport | None) -> Image.Image:
    """The picture of a frame, counted from 1, in shades of gray or in RGB. Raises CannotUnderstand."""
    shown = flattened(source.attributes, frame)
    stored, photometric = source.frame(frame)
    if is_color(photometric):
        pixels = rgb(stored, photometric, shown)
    else:
        inverse = (photometric == _INVERTED) != (shown.get("PresentationLUTShape") == "INVERSE")
        if photometric == _INVERTED and shown.get("PresentationLUTShape") == "INVERSE":
            inverse = True  # both say the same of one image (PS3.3 C.8.11.1)
        pixels = gray_levels(stored[:, :, 0], shown, window, inverse)
    pixels = draw_overlays(pixels, shown, frame)
    return fitted(Image.fromarray(pixels), viewport, shown)
