"""Rendered resources: an object, or frames of it, as one file (PS3.18 8.3.5, 10.4.1.1.3)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from PIL import Image
from pydicom import Dataset

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering import video
from pacsnode.pixels.rendering.annotation import annotated
from pacsnode.pixels.rendering.card import card, first_page
from pacsnode.pixels.rendering.contours import contours_picture
from pacsnode.pixels.rendering.encode import IMAGE_TYPES, encoded
from pacsnode.pixels.rendering.functional_groups import flattened
from pacsnode.pixels.rendering.geometry import around, cut, fitted
from pacsnode.pixels.rendering.icc import IccProfile, embedded_profile, in_color_space, own_profile
from pacsnode.pixels.rendering.model import MODEL_TYPES, model_picture
from pacsnode.pixels.rendering.picture import picture_of, picture_under
from pacsnode.pixels.rendering.report import report_html, report_text
from pacsnode.pixels.rendering.request import Rendering
from pacsnode.pixels.rendering.source import Source
from pacsnode.pixels.rendering.waveform import waveform_picture

DEFAULT_DELAY: Final = 100.0  # ms a frame, where the object says nothing
ANIMATED: Final = frozenset({"image/gif", "video/mp4"})
_PDF: Final = "application/pdf"
_TEXTS: Final[dict[str, Callable[[Source], bytes]]] = {
    "text/html": lambda source: report_html(source.attributes).encode(),
    "text/plain": lambda source: report_text(source.attributes).encode(),
    "text/xml": Source.as_xml,
}


def rendered(source: Source, rendering: Rendering, state: Dataset | None = None) -> bytes:
    """One file of the media type wanted, under a presentation state where one is given.

    Raises CannotUnderstand when the object has no such form or is damaged.
    """
    if rendering.media_type == source.attributes.get("MIMETypeOfEncapsulatedDocument"):
        return _document(source.attributes)
    if rendering.media_type in _TEXTS:
        if "ContentSequence" not in source.attributes:
            raise CannotUnderstand(f"the object has no text to be {rendering.media_type}")
        return _TEXTS[rendering.media_type](source)
    if rendering.media_type not in IMAGE_TYPES:
        raise CannotUnderstand(f"nothing is rendered as {rendering.media_type}")
    if not source.has_pixels or source.is_video:
        picture = _stand_in(source, rendering.thumbnail)
        if rendering.region is not None:
            picture = cut(picture, rendering.region)
        picture = fitted(picture, rendering.viewport, Dataset())
        return encoded([picture], rendering.media_type, rendering.quality, 0, b"")
    if len(rendering.frames) > 1 and rendering.media_type not in ANIMATED:
        raise CannotUnderstand(f"{rendering.media_type} holds one frame")
    return _frames(source, rendering, state)


def _frames(source: Source, rendering: Rendering, state: Dataset | None) -> bytes:
    pictures = []
    profile = b""
    for frame in rendering.frames:
        picture, profile = _frame(source, replace(rendering, frames=(frame,)), state)
        pictures.append(picture)
    delay = frame_delay(source.attributes)
    return encoded(pictures, rendering.media_type, rendering.quality, delay, profile)


def _frame(source: Source, rendering: Rendering, state: Dataset | None) -> tuple[Image.Image, bytes]:
    (frame,) = rendering.frames
    shown = flattened(source.attributes, frame)
    viewport, region = rendering.viewport, rendering.region
    if state is None:
        picture = picture_of(source, frame, rendering.window, None if region else viewport)
        if region is not None:
            picture = fitted(cut(picture, region), viewport, shown)
    else:
        # A region is one of what the state shows, its annotations and square pixels included (9.5.2.4)
        whole = rendering.thumbnail or region is not None
        picture = picture_under(source, frame, state, around(viewport, region) if region else viewport, whole)
        if region is not None:
            picture = fitted(cut(picture, region), viewport, Dataset())
    picture, profile = _in_color_space(picture, source, rendering, shown, state)
    if rendering.annotation:
        picture = annotated(picture, shown, rendering.annotation, frame)
    return picture, profile


def _in_color_space(
    picture: Image.Image, source: Source, rendering: Rendering, shown: Dataset, state: Dataset | None
) -> tuple[Image.Image, bytes]:
    """The picture with the profile of state, object or compressed frame, or the one that is asked for.

    What a state says of its colours goes into the picture unless that is not wanted (PS3.18 8.3.5.1.6).
    """
    wanted = IccProfile(rendering.icc_profile)
    by_state = own_profile(state) if state is not None else b""
    if wanted is IccProfile.UNSAID and by_state:
        wanted = IccProfile.YES
    if wanted in (IccProfile.NO, IccProfile.UNSAID):
        return picture, b""
    (frame,) = rendering.frames
    own = by_state or own_profile(shown) or embedded_profile(source.compressed(frame))
    return in_color_space(picture, wanted, own)


def _stand_in(source: Source, thumbnail: bool) -> Image.Image:
    """A picture of what is no image: its waveform, its first page; as thumbnail something that tells it."""
    attributes = source.attributes
    if "WaveformSequence" in attributes:
        return waveform_picture(attributes)
    kind = attributes.get("MIMETypeOfEncapsulatedDocument")
    if kind == _PDF:
        return first_page(_document(attributes))
    if not thumbnail:
        raise CannotUnderstand("the object has no picture")
    if source.is_video and video.IS_POSSIBLE:
        return video.video_picture(source.stream())
    if kind in MODEL_TYPES:
        return model_picture(_document(attributes), kind)
    return contours_picture(attributes) or card(attributes)


def _document(attributes: Dataset) -> bytes:
    """The encapsulated document, without the byte that made its length even (PS3.3 C.24.2)."""
    document = bytes(attributes.get("EncapsulatedDocument") or b"")
    length = attributes.get("EncapsulatedDocumentLength")
    return document[: int(length)] if length else document


def frame_delay(attributes: Dataset) -> float:
    """Milliseconds from frame to frame (PS3.3 C.7.6.5)."""
    if (time := _number(attributes, "FrameTime")) > 0:
        return time
    for keyword in ("RecommendedDisplayFrameRate", "CineRate"):
        if (rate := _number(attributes, keyword)) > 0:
            return 1000 / rate
    try:
        intervals = [float(one) for one in attributes.get("FrameTimeVector") or ()][1:]
    except (TypeError, ValueError):
        intervals = []
    return sum(intervals) / len(intervals) if sum(intervals) > 0 else DEFAULT_DELAY


def _number(attributes: Dataset, keyword: str) -> float:
    try:
        return float(attributes.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0.0
