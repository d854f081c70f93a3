"""The picture turned, cut and scaled as a presentation state wants it (PS3.3 C.10.4, C.10.6; PS3.4 N.2.6)."""

from dataclasses import dataclass
from typing import Final

from PIL import Image
from pydicom import Dataset

from pacsnode.pixels.rendering.geometry import pixel_height
from pacsnode.pixels.rendering.graphics import Place
from pacsnode.pixels.rendering.presentation import Presentation
from pacsnode.pixels.rendering.request import Viewport

_LARGEST: Final = 8192  # pixels a side; a magnification ratio must not fill the memory
_TURNS: Final = {
    90: Image.Transpose.ROTATE_270,  # Pillow turns the other way round
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A picture and where the points of the image have come to lie in it."""

    picture: Image.Image
    box: tuple[int, int, int, int]  # left, top, right, bottom of what is shown, in pixels of the image
    rotation: int
    mirrored: bool

    def place(self, x: float, y: float, in_area: bool) -> Place:
        """`in_area`: x and y are parts of the displayed area, else pixels of the image from its corner."""
        if not in_area:
            left, top, right, bottom = self.box
            x, y = (x - left) / (right - left), (y - top) / (bottom - top)
            x, y = {0: (x, y), 90: (1 - y, x), 180: (1 - x, 1 - y), 270: (y, 1 - x)}[self.rotation]
            x = 1 - x if self.mirrored else x
        return x * self.picture.width, y * self.picture.height


def staged(
    picture: Image.Image, presentation: Presentation, viewport: Viewport | None, attributes: Dataset
) -> Stage:
    """Cut out the displayed area, turn it, mirror it and make it fit."""
    area = presentation.area
    box = (0, 0, picture.width, picture.height)
    if area is not None:
        box = (area.left - 1, area.top - 1, area.right, area.bottom)
        picture = picture.crop(box)
    stretch = pixel_height(attributes)
    if presentation.rotation:
        picture = picture.transpose(_TURNS[presentation.rotation])
        stretch = 1 / stretch if presentation.rotation in (90, 270) else stretch
    if presentation.mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = _size(picture, viewport, stretch, area.magnified if area is not None else None)
    if size != picture.size:
        smooth = Image.Resampling.BILINEAR if size[0] >= picture.width else Image.Resampling.BOX
        picture = picture.resize(size, smooth)
    return Stage(picture, box, presentation.rotation, presentation.mirrored)


def _size(
    picture: Image.Image, viewport: Viewport | None, stretch: float, magnified: float | None
) -> tuple[int, int]:
    wide, high = float(picture.width), float(picture.height)
    if viewport is not None:
        high *= stretch
        scale = min(viewport.width / wide, viewport.height / high)
    else:
        scale = min(magnified or 1.0, _LARGEST / max(wide, high))
    return max(round(wide * scale), 1), max(round(high * scale), 1)
