"""Annotations of a presentation state drawn on the picture: graphics and text (PS3.3 C.10.5, C.10.7)."""

from collections.abc import Callable, Iterator
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset

from pacsnode.pixels.rendering.ink import Ink

Place = tuple[float, float]
Inks = Callable[[str], Ink]
"""What is drawn in a layer, by its name, is drawn in this."""
Placement = Callable[[float, float, bool], Place]
"""Where a point lies in the picture; the flag tells whether it is given relative to the displayed area."""

_LEAST_FONT: Final = 9  # pixels
_FONT_SHARE: Final = 40  # a line of text is a fortieth of the picture's height


def draw_annotations(
    picture: Image.Image, annotations: tuple[Dataset, ...], place: Placement, inks: Inks
) -> Image.Image:
    """The picture with graphic and text objects; those that cannot be read are left out."""
    if not annotations:
        return picture
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    for annotation in annotations:
        ink = inks(str(annotation.get("GraphicLayer") or ""))
        for graphic in annotation.get("GraphicObjectSequence") or ():
            _draw_graphic(draw, graphic, place, ink)
        for text in annotation.get("TextObjectSequence") or ():
            _draw_text(draw, text, place, ink, font_for(picture))
    return drawn


def font_for(picture: Image.Image) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(picture.height // _FONT_SHARE, _LEAST_FONT))


def _draw_graphic(draw: ImageDraw.ImageDraw, graphic: Dataset, place: Placement, ink: Ink) -> None:
    """PS3.3 C.10.5.1.2: what the points of each type mean."""
    relative = str(graphic.get("GraphicAnnotationUnits")) == "DISPLAY"
    points = [place(x, y, relative) for x, y in _pairs(graphic.get("GraphicData"))]
    filled = ink if str(graphic.get("GraphicFilled") or "N") == "Y" else None
    match str(graphic.get("GraphicType")), len(points):
        case "POINT", count if count >= 1:
            (x, y) = points[0]
            draw.line((x - 3, y, x + 3, y), ink)
            draw.line((x, y - 3, x, y + 3), ink)
        case (("POLYLINE" | "INTERPOLATED"), count) if count >= 2:
            if filled is not None and points[0] == points[-1]:
                draw.polygon(points, fill=filled)
            draw.line(points, ink)
        case "CIRCLE", 2:
            (x, y), on = points
            radius = ((on[0] - x) ** 2 + (on[1] - y) ** 2) ** 0.5
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, fill=filled)
        case "ELLIPSE", 4:
            draw.polygon(_ellipse(points), outline=ink, fill=filled)


def _ellipse(points: list[Place]) -> list[Place]:
    """The ends of the major axis, then of the minor axis, as a closed line."""
    from math import cos, pi, sin

    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points
    x, y = (ax + bx) / 2, (ay + by) / 2
    major, minor = ((bx - ax) / 2, (by - ay) / 2), ((dx - cx) / 2, (dy - cy) / 2)
    turns = [2 * pi * step / 90 for step in range(91)]
    return [
        (x + major[0] * cos(t) + minor[0] * sin(t), y + major[1] * cos(t) + minor[1] * sin(t)) for t in turns
    ]


def _draw_text(
    draw: ImageDraw.ImageDraw,
    text: Dataset,
    place: Placement,
    ink: Ink,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Text in its bounding box, or beside its anchor point with a line to that (PS3.3 C.10.5.1.1)."""
    words = str(text.get("UnformattedTextValue") or "").replace("\r\n", "\n")
    box, anchor = (
        list(_pairs(text.get("BoundingBoxTopLeftHandCorner"))),
        list(_pairs(text.get("AnchorPoint"))),
    )
    if box:
        corner = place(*box[0], str(text.get("BoundingBoxAnnotationUnits")) == "DISPLAY")
    elif anchor:
        x, y = place(*anchor[0], str(text.get("AnchorPointAnnotationUnits")) == "DISPLAY")
        corner = (x + 6, y - 6)
    else:
        return
    if anchor and str(text.get("AnchorPointVisibility") or "N") == "Y":
        draw.line([place(*anchor[0], str(text.get("AnchorPointAnnotationUnits")) == "DISPLAY"), corner], ink)
    draw.multiline_text(corner, words, fill=ink, font=font)


def _pairs(value: object) -> Iterator[Place]:
    numbers = [float(one) for one in value or ()]  # type: ignore[attr-defined]
    yield from zip(numbers[::2], numbers[1::2], strict=False)
