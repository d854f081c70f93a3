"""The query parameters of rendered resources (PS3.18 8.3.5.1). What is ill-formed is refused with 400."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pacsnode.errors import RequestRefused
from pacsnode.pixels.rendering.request import Rendering, Viewport, Window, WindowFunction

ANNOTATIONS: Final = frozenset({"patient", "technique"})
ICC_PROFILES: Final = frozenset({"no", "yes", "srgb", "adobergb", "rommrgb"})
LARGEST: Final = 8192  # pixels a side of a viewport
THUMBNAIL_SIDE: Final = 256  # pixels, where a thumbnail is asked for without a viewport

_FUNCTIONS: Final = {
    "linear": WindowFunction.LINEAR,
    "linear-exact": WindowFunction.LINEAR_EXACT,
    "sigmoid": WindowFunction.SIGMOID,
}
_KEYWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_WITHOUT_PROFILE: Final = frozenset({"image/gif", "image/jxl", "video/mp4"})


def rendering_of(parameters: Mapping[str, str], media_type: str) -> Rendering:
    """What the parameters of a rendered resource ask for. Raises RequestRefused (400)."""
    rendering = Rendering(media_type)
    if "annotation" in parameters:
        known = ANNOTATIONS.intersection(annotation_words(parameters["annotation"]))
        rendering = replace(rendering, annotation=tuple(sorted(known)))
    if "quality" in parameters:
        rendering = replace(rendering, quality=quality_of(parameters["quality"]))
    if "viewport" in parameters:
        rendering = replace(rendering, viewport=viewport_of(parameters["viewport"]))
    if "window" in parameters:
        rendering = replace(rendering, window=window_of(parameters["window"]))
    if "iccprofile" in parameters:
        profile = parameters["iccprofile"]
        if profile not in ICC_PROFILES:
            raise RequestRefused(400, f"iccprofile is one of {', '.join(sorted(ICC_PROFILES))}")
        if profile != "no" and media_type in _WITHOUT_PROFILE:
            raise RequestRefused(400, f"{media_type} holds no ICC profile")
        rendering = replace(rendering, icc_profile=profile)
    return rendering


def thumbnail_of(parameters: Mapping[str, str], media_type: str) -> Rendering:
    """What the parameters of a thumbnail ask for (8.3.5.2). Raises RequestRefused (400)."""
    viewport = Viewport(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    if "viewport" in parameters:
        if parameters["viewport"].count(",") != 1:
            raise RequestRefused(400, "the viewport of a thumbnail is width,height")
        viewport = viewport_of(parameters["viewport"])
    return Rendering(media_type, viewport=viewport, quality=80, thumbnail=True)


def annotation_words(text: str) -> list[str]:
    """The keywords of `annotation` (8.3.5.1.1), unknown ones included. Raises RequestRefused (400)."""
    words = [word.strip() for word in text.split(",")]
    if not all(map(_KEYWORD.fullmatch, words)):
        raise RequestRefused(400, "annotation is a list of keywords: patient, technique")
    return words


def viewport_of(text: str) -> Viewport:
    """`vw,vh[,[sx],[sy],[sw],[sh]]` (8.3.5.1.3). Raises RequestRefused (400)."""
    parts = [part.strip() for part in text.split(",")]
    if not 2 <= len(parts) <= 6 or (len(parts) > 2 and not parts[-1]):
        raise RequestRefused(400, "viewport is width,height, then the region as x,y,width,height if wanted")
    width, height = (side_of(part) for part in parts[:2])
    left, top, region_width, region_height = (decimal_of(part) for part in (parts[2:] + [""] * 4)[:4])
    if region_width == 0 or region_height == 0:
        raise RequestRefused(400, "the region of the viewport is empty")
    return Viewport(
        width,
        height,
        abs(left or 0.0),
        abs(top or 0.0),
        None if region_width is None else abs(region_width),
        None if region_height is None else abs(region_height),
        flip_x=(region_width or 0) < 0,
        flip_y=(region_height or 0) < 0,
    )


def window_of(text: str) -> Window:
    """`center,width,function` (8.3.5.1.4). Raises RequestRefused (400)."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or parts[2].lower() not in _FUNCTIONS:
        raise RequestRefused(400, "window is center,width and one of linear, linear-exact, sigmoid")
    center, width = (decimal_of(part) for part in parts[:2])
    function = _FUNCTIONS[parts[2].lower()]
    least = 1.0 if function is WindowFunction.LINEAR else 0.0
    if center is None or width is None or width < least or (width == 0 and least == 0):
        raise RequestRefused(400, "window has a center and a width above 0, at least 1 for linear")
    return Window(center, width, function)


def quality_of(text: str) -> int:
    """The quality of lossy compression (8.3.5.1.2). Raises RequestRefused (400)."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 100):
        raise RequestRefused(400, "quality is a number from 1 to 100")
    return int(text)


def side_of(text: str) -> int:
    """A side of a viewport, in pixels. Raises RequestRefused (400)."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= LARGEST):
        raise RequestRefused(400, f"the sides of the viewport are from 1 to {LARGEST} pixels")
    return int(text)


def decimal_of(text: str) -> float | None:
    """A decimal number, None for none. Raises RequestRefused (400)."""
    if not text:
        return None
    if re.fullmatch(r"[+-]?[0-9]{1,9}(\.[0-9]{0,9})?", text) is None:
        raise RequestRefused(400, f"{text[:20]!r} is no decimal number")
    return float(text)
