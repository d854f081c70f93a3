"""The attributes that hold for one frame (PS3.3 C.7.6.16): its functional groups laid over the object's."""

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset

# The macros rendering reads; each is a sequence of one item within a functional group
MACROS: Final = (
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "FrameContentSequence",
    "FrameDisplayShutterSequence",
)


def flattened(attributes: Dataset, frame: int) -> Dataset:
    """The object's attributes, with those of frame `frame`, counted from 1, in their place.

    Sequences other than the macros above stay where they are.
    """
    items = list(_items(attributes, frame))
    if not items:
        return attributes
    shown = copied(attributes)
    for item in items:
        for element in item:
            shown[element.tag] = element
    return shown


def copied(attributes: Dataset) -> Dataset:
    """A data set of the same elements, which still knows the order of the bytes in those of OW."""
    copy = Dataset()
    copy.update(attributes)
    copy.set_original_encoding(*attributes.original_encoding)
    return copy


def _items(attributes: Dataset, frame: int) -> Iterator[Dataset]:
    """Items of macros, the shared first, so that those of the frame win."""
    groups = list(attributes.get("SharedFunctionalGroupsSequence") or ())[:1]
    groups += list(attributes.get("PerFrameFunctionalGroupsSequence") or ())[frame - 1 : frame]
    for group in groups:
        for macro in MACROS:
            if group.get(macro):
                yield group[macro].value[0]
