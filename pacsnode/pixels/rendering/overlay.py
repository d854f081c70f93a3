"""Overlay planes on the picture (PS3.3 C.9.2, C.11.7)."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pacsnode.pixels.rendering.ink import Ink

Pixels = NDArray[np.uint8]

GROUPS: Final = range(0x6000, 0x6020, 2)
_ORIGIN: Final = 0x0050
_FRAME_ORIGIN: Final = 0x0051
_DATA: Final = 0x3000
_WHITE: Final = 255


def draw_overlays(
    pixels: Pixels, attributes: Dataset, frame: int, inks: Mapping[int, Ink] | None = None
) -> Pixels:
    """Draw the overlay planes that have data of their own; a damaged one is left out.

    `frame` counts from 1. `inks`: the groups that are to be drawn, and in what; None: all, in white.
    """
    for group in GROUPS if inks is None else inks:
        plane = plane_of(attributes, group, frame)
        if plane is not None:
            row, column = _numbers(attributes, group, _ORIGIN) or [1, 1]
            ink = _WHITE if inks is None else inks[group]
            pixels = _burnt(pixels, plane, row - 1, column - 1, ink)
    return pixels


def has_data(attributes: Dataset, group: int) -> bool:
    return (group, _DATA) in attributes


def plane_of(attributes: Dataset, group: int, frame: int) -> NDArray[np.uint8] | None:
    """The plane of a group for a frame (PS3.3 C.9.2.1.4); without frames of its own it is for all of them."""
    if not has_data(attributes, group):
        return None
    try:
        plane: NDArray[np.uint8] = attributes.overlay_array(group)
    except Exception:  # pydicom raises what it likes, and the image itself is whole
        return None
    if plane.ndim == 2:
        return plane
    number = frame - (_numbers(attributes, group, _FRAME_ORIGIN) or [1])[0]
    return plane[number] if 0 <= number < len(plane) else None


def _numbers(attributes: Dataset, group: int, element: int) -> list[int]:
    value = attributes[group, element].value if (group, element) in attributes else None
    if value is None or value == "":
        return []
    return [int(one) for one in value] if isinstance(value, Sequence) else [int(value)]


def _burnt(pixels: Pixels, plane: NDArray[np.uint8], row: int, column: int, ink: Ink) -> Pixels:
    """The picture with a plane on it whose first pixel lies at `row` and `column`, outside as well."""
    top, left = max(row, 0), max(column, 0)
    part = plane[top - row : pixels.shape[0] - row, left - column : pixels.shape[1] - column]
    if part.size == 0:
        return pixels
    burnt = pixels.copy()
    burnt[top : top + part.shape[0], left : left + part.shape[1]][part > 0] = ink
    return burnt
