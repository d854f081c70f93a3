"""A picture of an RT Structure Set: the contours of one plane, each in its ROI's colour (PS3.3 C.8.8.6)."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

Colour = tuple[int, int, int]

SIDE: Final = 512  # pixels
MOST: Final = 50_000  # contours looked at
_MARGIN: Final = 24  # pixels
_UNSAID: Final = (255, 255, 0)
# By the axis that the planes lie across, what is to the right and what is downwards: axis and direction (LPS)
_VIEWS: Final = {0: ((1, 1), (2, -1)), 1: ((0, 1), (2, -1)), 2: ((0, 1), (1, 1))}


@dataclass(frozen=True, slots=True)
class _Contour:
    roi: int
    colour: Colour
    is_closed: bool
    points: NDArray[np.float64]  # (points, 3), mm in the coordinates of the patient


def contours_picture(attributes: Dataset) -> Image.Image | None:
    """The plane with most ROIs; None when nothing is contoured."""
    contours = list(_contours(attributes))[:MOST]
    if not contours:
        return None
    across = int(np.argmin(sum(np.ptp(one.points, axis=0) for one in contours)))
    planes = defaultdict(list)
    for one in contours:
        planes[round(float(one.points[:, across].mean()), 1)].append(one)
    return _drawn(max(planes.values(), key=_worth), across)


def _worth(plane: list[_Contour]) -> tuple[int, int]:
    """How much there is to be seen: ROIs that are more than a point, then points."""
    return len({one.roi for one in plane if len(one.points) > 1}), sum(len(one.points) for one in plane)


def _contours(attributes: Dataset) -> Iterator[_Contour]:
    """Those that can be read."""
    for roi, item in enumerate(attributes.get("ROIContourSequence") or ()):
        colour = _colour(item.get("ROIDisplayColor"))
        for contour in item.get("ContourSequence") or ():
            try:
                points = np.array(contour.get("ContourData") or (), np.float64).reshape(-1, 3)
            except (TypeError, ValueError):
                continue
            if len(points) and np.isfinite(points).all():
                kind = str(contour.get("ContourGeometricType") or "")
                yield _Contour(roi, colour, kind.startswith("CLOSED"), points)


def _colour(value: object) -> Colour:
    try:
        red, green, blue = (min(max(int(part), 0), 255) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return _UNSAID
    return red, green, blue


def _drawn(contours: list[_Contour], across: int) -> Image.Image:
    (right, right_sign), (down, down_sign) = _VIEWS[across]
    flat = [one.points[:, (right, down)] * (right_sign, down_sign) for one in contours]
    everything = np.concatenate(flat)
    least, greatest = everything.min(axis=0), everything.max(axis=0)
    scale = (SIDE - 2 * _MARGIN) / max(float((greatest - least).max()), 1e-9)
    picture = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(picture)
    for one, points in zip(contours, flat, strict=True):
        places = [(x, y) for x, y in ((points - (least + greatest) / 2) * scale + SIDE / 2).tolist()]
        if one.is_closed:
            places.append(places[0])
        if len(places) > 1:
            draw.line(places, fill=one.colour, width=2)
        else:
            (x, y), size = places[0], 3
            draw.ellipse((x - size, y - size, x + size, y + size), fill=one.colour)
    return picture
