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
    """A picture and where the points of the image have come to lie in it.

    `box`: left, top, right, bottom of the displayed area, in pixels of the image. `size`: how large that is
    in pixels of the picture, which shows it from `corner` on.
    """

    picture: Image.Image
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    corner: tuple[int, int]
    rotation: int
    mirrored: bool

    def place(self, x: float, y: float, in_area: bool) -> Place:
        """`in_area`: x and y are parts of the displayed area, else pixels of the image from its corner."""
        if not in_area:
            left, top, right, bottom = self.box
            x, y = (x - left) / (right - left), (y - top) / (bottom - top)
            x, y = {0: (x, y), 90: (1 - y, x), 180: (1 - x, 1 - y), 270: (y, 1 - x)}[self.rotation]
            x = 1 - x if self.mirrored else x
        return x * self.size[0] - self.corner[0], y * self.size[1] - self.corner[1]


def staged(
    picture: Image.Image,
    presentation: Presentation,
    viewport: Viewport | None,
    attributes: Dataset,
    whole: bool = False,
) -> Stage:
    """Cut out the displayed area, turn it, mirror it and make it fit.

    What a state magnifies is as large as it says, and its middle shown where the viewport is too small for
    all of it (PS3.18 8.3.5.1.6), unless `whole`.
    """
    area = presentation.area
    box = (0, 0, picture.width, picture.height)
    if area is not None:
        box = (area.left - 1, area.top - 1, area.right, area.bottom)
        picture = picture.crop(box)
    stretch = area.stretch if area is not None else pixel_height(attributes)
    if presentation.rotation:
        picture = picture.transpose(_TURNS[presentation.rotation])
        stretch = 1 / stretch if presentation.rotation in (90, 270) else stretch
    if presentation.mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    magnified = area.magnified if area is not None and not (whole and viewport) else None
    size = _size(picture, viewport, stretch, magnified)
    if size != picture.size:
        smooth = Image.Resampling.BILINEAR if size[0] >= picture.width else Image.Resampling.BOX
        picture = picture.resize(size, smooth)
    corner = (0, 0)
    if viewport is not None:
        corner = (max(size[0] - viewport.width, 0) // 2, max(size[1] - viewport.height, 0) // 2)
        last = (min(corner[0] + viewport.width, size[0]), min(corner[1] + viewport.height, size[1]))
        if last != size:
            picture = picture.crop((*corner, *last))
    return Stage(picture, box, size, corner, presentation.rotation, presentation.mirrored)


def _size(
    picture: Image.Image, viewport: Viewport | None, stretch: float, magnified: float | None
) -> tuple[int, int]:
    wide, high = float(picture.width), float(picture.height)
    if viewport is not None:
        high *= stretch
    if viewport is not None and magnified is None:
        scale = min(viewport.width / wide, viewport.height / high)
    else:
        scale = min(magnified or 1.0, _LARGEST / max(wide, high))
    return max(round(wide * scale), 1), max(round(high * scale), 1)
