"""Softcopy Presentation States: what they say of one image or frame (PS3.3 A.33, C.11; PS3.4 N.2).

Grayscale, colour and pseudo-colour states of single images; those that blend images are not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset

from pacsnode.dicom.uid import UID
from pacsnode.pixels.rendering.functional_groups import copied
from pacsnode.pixels.rendering.geometry import pixel_height
from pacsnode.pixels.rendering.ink import Ink, ink_of
from pacsnode.pixels.rendering.overlay import GROUPS, has_data
from pacsnode.pixels.rendering.shutter import shutter_group

# The modules of a state that take the place of the image's own attributes (PS3.4 N.2.1)
_MODALITY: Final = ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType")
_VOI: Final = ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")
_PALETTE_GROUP: Final = 0x0028
_ACTIVATION_LAYER: Final = 0x1001
_WHITE: Final = 255


@dataclass(frozen=True, slots=True)
class Area:
    """Displayed area in pixels of the image, (1, 1) its first: left, top, right, bottom (PS3.3 C.10.4).

    `magnified`: how many pixels of the picture one of the image makes; None: as large as fits.
    `stretch`: how many times as high as wide a pixel is.
    """

    left: int
    top: int
    right: int
    bottom: int
    magnified: float | None
    stretch: float


@dataclass(frozen=True, slots=True)
class Presentation:
    """A state as it concerns one image. `state` holds its shutter and what concerns all images alike."""

    state: Dataset
    inverse: bool
    rotation: int = 0  # degrees clockwise: 0, 90, 180, 270
    mirrored: bool = False  # after the rotation
    area: Area | None = None
    annotations: tuple[Dataset, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ReferencedFrame:
    """A frame of an image that a state shows; `frame` None: all of them."""

    series: UID
    sop_instance: UID
    frames: tuple[int, ...]


def referenced_images(state: Dataset) -> Iterator[ReferencedFrame]:
    """What a state shows, in its order (PS3.3 C.11.11)."""
    for series in state.get("ReferencedSeriesSequence") or ():
        for image in series.get("ReferencedImageSequence") or ():
            yield ReferencedFrame(
                UID(str(series.get("SeriesInstanceUID", ""))),
                UID(str(image.get("ReferencedSOPInstanceUID", ""))),
                _numbers(image.get("ReferencedFrameNumber")),
            )


def presented(state: Dataset, sop_instance: str, frame: int) -> Presentation:
    """What a state says of a frame, counted from 1."""
    rotation = int(state.get("ImageRotation") or 0) % 360
    selection = _first_for(state.get("DisplayedAreaSelectionSequence"), sop_instance, frame)
    annotations = list(_all_for(state.get("GraphicAnnotationSequence"), sop_instance, frame))
    order = {name: int(layer.get("GraphicLayerOrder") or 0) for name, layer in _layers(state).items()}
    annotations.sort(key=lambda one: order.get(str(one.get("GraphicLayer")), 0))
    return Presentation(
        state=state,
        inverse=str(state.get("PresentationLUTShape") or "") == "INVERSE",
        rotation=rotation if rotation in (90, 180, 270) else 0,
        mirrored=str(state.get("ImageHorizontalFlip") or "N") == "Y",
        area=_area(selection) if selection is not None else None,
        annotations=tuple(annotations),
    )


def ink_of_layer(state: Dataset, name: str, is_color: bool) -> Ink:
    """What is recommended for a layer, white if nothing is (PS3.3 C.10.7)."""
    layer = _layers(state).get(name, Dataset())
    gray, color = (
        "GraphicLayerRecommendedDisplayGrayscaleValue",
        "GraphicLayerRecommendedDisplayCIELabValue",
    )
    return ink_of(layer, gray, color, is_color, _WHITE)


def activated_overlays(state: Dataset, is_color: bool) -> dict[int, Ink]:
    """The overlay groups that are displayed, and in what (PS3.3 C.11.7): those that have a layer."""
    layers = {group: state.get((group, _ACTIVATION_LAYER)) for group in GROUPS}
    return {
        group: ink_of_layer(state, str(layer.value), is_color)
        for group, layer in layers.items()
        if layer is not None and layer.value and group != shutter_group(state)
    }


def has_palette(state: Dataset) -> bool:
    """Tell whether gray levels are shown in colours (PS3.3 A.33.3)."""
    return "RedPaletteColorLookupTableDescriptor" in state


def _layers(state: Dataset) -> dict[str, Dataset]:
    return {str(layer.get("GraphicLayer")): layer for layer in state.get("GraphicLayerSequence") or ()}


def attributes_under(state: Dataset, shown: Dataset, sop_instance: str, frame: int) -> Dataset:
    """The attributes of an image with those of the state in their place (PS3.4 N.2.1)."""
    result = copied(shown)
    for keyword in (*_MODALITY, *_VOI, "PresentationLUTShape"):
        if keyword in result:
            del result[keyword]
    _take(result, state, (*_MODALITY, "PresentationLUTSequence"))
    voi = _first_for(state.get("SoftcopyVOILUTSequence"), sop_instance, frame)
    if voi is not None:
        _take(result, voi, _VOI)
    palette = [element for element in state.group_dataset(_PALETTE_GROUP) if "Palette" in element.keyword]
    for element in palette:
        result[element.tag] = element
    for group in GROUPS:
        if has_data(state, group):
            _replace_overlay(result, state, group)
    return result


def _replace_overlay(target: Dataset, source: Dataset, group: int) -> None:
    for old in target.group_dataset(group):
        del target[old.tag]
    target.update(source.group_dataset(group))


def _take(target: Dataset, source: Dataset, keywords: tuple[str, ...]) -> None:
    for keyword in keywords:
        if keyword in source:
            target[keyword] = source[keyword]


def _first_for(items: object, sop_instance: str, frame: int) -> Dataset | None:
    return next(_all_for(items, sop_instance, frame), None)


def _all_for(items: object, sop_instance: str, frame: int) -> Iterator[Dataset]:
    """The items that name the image and frame, or no image at all."""
    for item in items or ():  # type: ignore[attr-defined]
        references = item.get("ReferencedImageSequence") or ()
        if not references or any(_names(one, sop_instance, frame) for one in references):
            yield item


def _names(reference: Dataset, sop_instance: str, frame: int) -> bool:
    frames = _numbers(reference.get("ReferencedFrameNumber"))
    return reference.get("ReferencedSOPInstanceUID") == sop_instance and (not frames or frame in frames)


def _area(selection: Dataset) -> Area | None:
    first = _numbers(selection.get("DisplayedAreaTopLeftHandCorner"))
    last = _numbers(selection.get("DisplayedAreaBottomRightHandCorner"))
    if len(first) != 2 or len(last) != 2:
        return None
    magnify = str(selection.get("PresentationSizeMode") or "") == "MAGNIFY"
    ratio = float(selection.get("PresentationPixelMagnificationRatio") or 1)
    left, right = sorted((first[0], last[0]))
    top, bottom = sorted((first[1], last[1]))
    return Area(left, top, right, bottom, ratio if magnify else None, pixel_height(selection))


def _numbers(value: object) -> tuple[int, ...]:
    if value is None or value == "":
        return ()
    try:
        return tuple(int(one) for one in value)  # type: ignore[attr-defined]
    except TypeError:
        return (int(value),)  # type: ignore[call-overload]
