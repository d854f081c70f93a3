"""Rendered resources: pictures of frames, encoded (PS3.18 8.3.5, 10.4.1.1.3)."""

from typing import Final

from pydicom import Dataset

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.annotation import annotated
from pacsnode.pixels.rendering.encode import encoded
from pacsnode.pixels.rendering.functional_groups import flattened
from pacsnode.pixels.rendering.icc import IccProfile, in_color_space
from pacsnode.pixels.rendering.picture import picture_of, picture_under
from pacsnode.pixels.rendering.request import Rendering
from pacsnode.pixels.rendering.source import Source

DEFAULT_DELAY: Final = 100.0  # ms a frame, where the object says nothing
ANIMATED: Final = frozenset({"image/gif"})


def rendered(source: Source, rendering: Rendering, state: Dataset | None = None) -> bytes:
    """The frames as one file, under a presentation state where one is given. Raises CannotUnderstand."""
    if len(rendering.frames) > 1 and rendering.media_type not in ANIMATED:
        raise CannotUnderstand(f"{rendering.media_type} holds one frame")
    pictures = []
    profile = b""
    for frame in rendering.frames:
        shown = flattened(source.attributes, frame)
        if state is None:
            picture = picture_of(source, frame, rendering.window, rendering.viewport)
        else:
            picture = picture_under(source, frame, state, rendering.viewport)
        owner = state if state is not None and "ICCProfile" in state else shown
        picture, profile = in_color_space(picture, IccProfile(rendering.icc_profile), owner)
        if rendering.annotation:
            picture = annotated(picture, shown, rendering.annotation, frame)
        pictures.append(picture)
    delay = frame_delay(source.attributes)
    return encoded(pictures, rendering.media_type, rendering.quality, delay, profile)


def frame_delay(attributes: Dataset) -> float:
    """Milliseconds from frame to frame (PS3.3 C.7.6.5)."""
    for keyword, scale in (
        ("FrameTime", None),
        ("RecommendedDisplayFrameRate", 1000.0),
        ("CineRate", 1000.0),
    ):
        try:
            value = float(attributes.get(keyword) or 0)
        except (TypeError, ValueError):
            continue
        if value > 0:
            return value if scale is None else scale / value
    times = attributes.get("FrameTimeVector")
    try:
        intervals = [float(one) for one in times or ()][1:]
    except (TypeError, ValueError):
        intervals = []
    return sum(intervals) / len(intervals) if intervals and sum(intervals) > 0 else DEFAULT_DELAY
