"""The picture in its viewport: region, mirror, scale and the shape of pixels (PS3.18 8.3.5.1.3)."""

from typing import Final

from PIL import Image
from pydicom import Dataset

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.request import Region, Viewport

LARGEST: Final = 8192  # pixels a side of what is made on the way; a tiny region must not fill the memory
_SPACINGS: Final = (
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
    *("PresentationPixelSpacing", "PresentationPixelAspectRatio"),  # in a Displayed Area Selection
)
_SQUARE_ENOUGH: Final = 0.01  # two spacings that differ less are the same, rounded


def fitted(picture: Image.Image, viewport: Viewport | None, attributes: Dataset) -> Image.Image:
    """The region of the viewport as large as fits, undistorted; without a viewport all pixels as they are.

    Raises CannotUnderstand for an empty region.
    """
    if viewport is None:
        return picture
    stretch = pixel_height(attributes)
    left, top, right, bottom = _region(picture, viewport)
    if viewport.flip_x:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, right = picture.width - right, picture.width - left
    if viewport.flip_y:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        top, bottom = picture.height - bottom, picture.height - top
    wide, high = right - left, (bottom - top) * stretch
    scale = min(viewport.width / wide, viewport.height / high)
    size = (max(round(wide * scale), 1), max(round(high * scale), 1))
    smooth = Image.Resampling.BILINEAR if scale >= 1 else Image.Resampling.BOX
    return picture.resize(size, smooth, box=(left, top, right, bottom))


def cut(picture: Image.Image, region: Region) -> Image.Image:
    """The pixels of a region, one at least."""
    left, right = (round(one * picture.width) for one in (region.left, region.right))
    top, bottom = (round(one * picture.height) for one in (region.top, region.bottom))
    left, top = min(left, picture.width - 1), min(top, picture.height - 1)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def around(viewport: Viewport | None, region: Region) -> Viewport | None:
    """The viewport of a whole picture whose region fits into another viewport."""
    if viewport is None:
        return None
    width = viewport.width / (region.right - region.left)
    height = viewport.height / (region.bottom - region.top)
    shrink = min(LARGEST / max(width, height), 1.0)
    return Viewport(max(round(width * shrink), 1), max(round(height * shrink), 1))


def pixel_height(attributes: Dataset) -> float:
    """How many times as high as wide a pixel is, 1 if unsaid (PS3.3 C.7.6.3.1.7, C.7.6.2.1.1, C.10.4)."""
    for keyword in _SPACINGS:
        value = attributes.get(keyword)
        try:
            high, wide = (float(one) for one in value)
        except (TypeError, ValueError):
            continue
        if high > 0 and wide > 0:
            return 1.0 if abs(high / wide - 1) < _SQUARE_ENOUGH else high / wide
    return 1.0


def _region(picture: Image.Image, viewport: Viewport) -> tuple[float, float, float, float]:
    """Left, top, right and bottom within the picture."""
    wide = picture.width - viewport.left if viewport.region_width is None else viewport.region_width
    high = picture.height - viewport.top if viewport.region_height is None else viewport.region_height
    right, bottom = min(viewport.left + wide, picture.width), min(viewport.top + high, picture.height)
    if right - viewport.left <= 0 or bottom - viewport.top <= 0:
        raise CannotUnderstand("the region of the viewport is not in the image")
    return viewport.left, viewport.top, right, bottom
