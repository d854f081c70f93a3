"""A frame from its stored values to a picture (PS3.4 N.2)."""

from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from pacsnode.pixels.rendering.colour import is_color, pseudo_colors, rgb
from pacsnode.pixels.rendering.functional_groups import flattened
from pacsnode.pixels.rendering.geometry import fitted
from pacsnode.pixels.rendering.graphics import draw_annotations
from pacsnode.pixels.rendering.grayscale import gray_levels
from pacsnode.pixels.rendering.overlay import draw_overlays
from pacsnode.pixels.rendering.presentation import (
    activated_overlays,
    attributes_under,
    has_palette,
    ink_of_layer,
    presented,
)
from pacsnode.pixels.rendering.request import Viewport, Window
from pacsnode.pixels.rendering.shutter import shut
from pacsnode.pixels.rendering.source import Source
from pacsnode.pixels.rendering.stage import staged

Pixels = NDArray[np.uint8]


def picture_of(source: Source, frame: int, window: Window | None, viewport: Viewport | None) -> Image.Image:
    """The picture of a frame, counted from 1, in shades of gray or in RGB. Raises CannotUnderstand."""
    shown = flattened(source.attributes, frame)
    pixels = _pixels(source, frame, shown, window, _is_inverse(shown))
    pixels = draw_overlays(shut(pixels, shown, frame), shown, frame)
    return fitted(Image.fromarray(pixels), viewport, shown)


def picture_under(
    source: Source, frame: int, state: Dataset, viewport: Viewport | None, whole: bool = False
) -> Image.Image:
    """The picture of a frame as a presentation state shows it (PS3.4 N.2.1 to N.2.6).

    `whole`: also what the state magnifies fits into the viewport.
    """
    sop_instance = str(source.attributes.get("SOPInstanceUID", ""))
    presentation = presented(state, sop_instance, frame)
    shown = attributes_under(state, flattened(source.attributes, frame), sop_instance, frame)
    pixels = _pixels(source, frame, shown, None, presentation.inverse)
    if pixels.ndim == 2 and has_palette(state):
        pixels = pseudo_colors(pixels, shown)
    is_rgb = pixels.ndim == 3
    pixels = draw_overlays(shut(pixels, state, frame), shown, frame, activated_overlays(state, is_rgb))
    stage = staged(Image.fromarray(pixels), presentation, viewport, shown, whole)
    inks = partial(ink_of_layer, state, is_color=is_rgb)
    return draw_annotations(stage.picture, presentation.annotations, stage.place, inks)


def _pixels(source: Source, frame: int, shown: Dataset, window: Window | None, inverse: bool) -> Pixels:
    stored, photometric = source.frame(frame)
    if is_color(photometric):
        return rgb(stored, photometric, shown)
    return gray_levels(stored[:, :, 0], shown, window, inverse)


def _is_inverse(shown: Dataset) -> bool:
    """Whether small values are bright; MONOCHROME1 and INVERSE say the same of one image (PS3.3 C.8.11.1)."""
    monochrome1 = shown.get("PhotometricInterpretation") == "MONOCHROME1"
    return monochrome1 or str(shown.get("PresentationLUTShape")) == "INVERSE"
