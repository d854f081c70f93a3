"""Stored values to gray levels: Modality LUT, VOI LUT, Presentation LUT (PS3.3 C.11.1, C.11.2, C.11.6).

Integers go through a table. Where slope, intercept and window are told it is one of all values, and kept,
since the images of a series have them in common; else one of the values between the least and the greatest of
the frame. Real numbers are computed each.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from pacsnode.pixels.rendering.functional_groups import copied
from pacsnode.pixels.rendering.request import Window, WindowFunction
from pacsnode.pixels.rendering.source import Values

Gray = NDArray[np.uint8]

_TABLE_LIMIT: Final = 2**20  # entries; beyond, computing each pixel is cheaper than the table
_SHORT: Final = 2  # bytes of a value that is an index as it is
# What the attributes of floating point pixel data begin with (PS3.3 C.7.5.1.1.2, C.7.6.24)
_FLOAT_PADDING: Final = {"<f4": "Float", "<f8": "DoubleFloat"}
_TABLES: Final = 16  # kept, of 64 KiB at most
_WHITE: Final = 255


def gray_levels(stored: Values, shown: Dataset, window: Window | None, inverse: bool) -> Gray:
    """A frame in 256 gray levels, 0 black.

    `shown`: the attributes that hold for this frame (functional_groups.flattened). `window` instead of the
    object's own VOI LUT. `inverse`: small values are bright (MONOCHROME1, Presentation LUT Shape INVERSE).
    """
    padding = _padding(stored, shown)
    fixed = window or (None if _has_table(shown) else own_window(shown))
    line = _line(shown)
    is_short = stored.dtype.kind in "iu" and stored.dtype.itemsize <= _SHORT
    if fixed is None or line is None or not is_short or _has_table(shown, "PresentationLUTSequence"):
        return _levels(stored, shown, window, inverse, padding)
    table = _table(stored.dtype.str, line, fixed, inverse)
    levels = table.take(stored.view(f"<u{stored.dtype.itemsize}"))
    return levels if padding is None else np.where(padding, np.uint8(0), levels)


@lru_cache(_TABLES)
def _table(dtype: str, line: tuple[float, float], window: Window, inverse: bool) -> Gray:
    """The level of each cell there is, by its bits."""
    width = np.dtype(dtype).itemsize
    values = np.arange(2 ** (8 * width), dtype=f"<u{width}").view(dtype)
    return _gray(_FUNCTIONS[window.function](values * line[0] + line[1], window), inverse)


def _levels(
    stored: Values, shown: Dataset, window: Window | None, inverse: bool, padding: NDArray[np.bool_] | None
) -> Gray:
    """What is not to be had from a table of all values."""
    visible = stored if padding is None else stored[~padding]
    if visible.size == 0:
        return np.zeros(stored.shape, np.uint8)
    least, greatest = visible.min(), visible.max()
    if padding is not None and stored.dtype.kind == "f":
        stored = np.where(padding, least, stored)  # what is no number has no level

    def level(values: Values) -> Gray:
        fractions = _voi(modality_values(values, shown), shown, window, _ends(least, greatest, stored, shown))
        return _gray(_p_values(fractions, shown), inverse)

    levels = _through_table(stored, level)
    if padding is not None:
        levels = np.where(padding, np.uint8(0), levels)
    return levels


def _gray(fractions: Values, inverse: bool) -> Gray:
    levels: Gray = np.rint(fractions * _WHITE).astype(np.uint8)
    return _WHITE - levels if inverse else levels


def modality_values(stored: Values, shown: Dataset) -> Values:
    """What the stored values mean (PS3.3 C.11.1): by Modality LUT Sequence, or slope and intercept."""
    line = _line(shown)
    if line is None:
        converted: Values = apply_modality_lut(stored, shown)
        return converted
    return stored if line == (1.0, 0.0) else stored * line[0] + line[1]


def _line(shown: Dataset) -> tuple[float, float] | None:
    """Slope and intercept of the Modality LUT, 1 and 0 where there is none; None for a table."""
    slope = _numbers(shown, "RescaleSlope")
    if not slope and (dose := _numbers(shown, "DoseGridScaling")):
        return dose[0], 0.0
    if _has_table(shown, "ModalityLUTSequence"):
        return None
    intercept = _numbers(shown, "RescaleIntercept")
    return (slope[0] or 1.0, intercept[0] if intercept else 0.0) if slope else (1.0, 0.0)


def _through_table(stored: Values, level: Callable[[Values], Gray]) -> Gray:
    """Compute the levels of a frame, each value once where that is less."""
    if not np.issubdtype(stored.dtype, np.integer):
        return level(stored)
    least, greatest = int(stored.min()), int(stored.max())
    if greatest - least >= min(_TABLE_LIMIT, max(stored.size, 256)):
        return level(stored)
    if stored.dtype.itemsize > _SHORT:
        return level(np.arange(least, greatest + 1, dtype=np.int64))[stored.astype(np.int64) - least]
    # The table begins with 0, negative values stand at its end, where numpy looks for them
    positive, negative = np.arange(greatest + 1, dtype=np.int64), np.arange(min(least, 0), 0, dtype=np.int64)
    return level(np.concatenate((positive, negative))).take(cast("NDArray[np.integer]", stored))


def _ends(least: float, greatest: float, stored: Values, shown: Dataset) -> tuple[float, float]:
    """The least and the greatest visible value behind the Modality LUT."""
    both = cast(Values, np.array([least, greatest]).astype(stored.dtype))
    ends = modality_values(both, shown)
    return float(ends.min()), float(ends.max())


def _voi(values: Values, shown: Dataset, window: Window | None, ends: tuple[float, float]) -> Values:
    """Fractions of white: by the window asked for, the object's LUT or window, or from end to end."""
    if window is None and _has_table(shown):
        return _by_table(values, shown)
    window = window or own_window(shown) or _window_of(*ends)
    return _FUNCTIONS[window.function](values.astype(np.float64), window)


def _has_table(shown: Dataset, keyword: str = "VOILUTSequence") -> bool:
    table = shown.get(keyword)
    return bool(table) and all(table[0].get(name) is not None for name in ("LUTDescriptor", "LUTData"))


def own_window(shown: Dataset) -> Window | None:
    """The first window of the object (PS3.3 C.11.2.1.2)."""
    centers, widths = _numbers(shown, "WindowCenter"), _numbers(shown, "WindowWidth")
    if not centers or not widths:
        return None
    try:
        function = WindowFunction(str(shown.get("VOILUTFunction") or "LINEAR").strip().upper())
    except ValueError:
        function = WindowFunction.LINEAR
    least = 1.0 if function is WindowFunction.LINEAR else 0.0
    if widths[0] < least or (widths[0] == 0 and function is not WindowFunction.LINEAR):
        return None
    return Window(centers[0], widths[0], function)


def _window_of(least: float, greatest: float) -> Window:
    """The window that shows all from the least value, black, to the greatest, white."""
    return Window((least + greatest) / 2, max(greatest - least, 1e-9), WindowFunction.LINEAR_EXACT)


def _by_table(values: Values, shown: Dataset) -> Values:
    """The first VOI LUT of the object; its entries are as wide as its descriptor says (PS3.3 C.11.2.1.1)."""
    looked_up = apply_voi(np.rint(values).astype(np.int64), shown)
    bits = int(shown.VOILUTSequence[0].LUTDescriptor[2]) or 16
    fractions: Values = np.clip(looked_up / float(2**bits - 1), 0.0, 1.0)
    return fractions


def _p_values(fractions: Values, shown: Dataset) -> Values:
    """Fractions of white behind the Presentation LUT; its input spans all its entries (PS3.3 C.11.6.1.1)."""
    if not _has_table(shown, "PresentationLUTSequence"):
        return fractions
    table = copied(shown)
    table.VOILUTSequence = shown.PresentationLUTSequence
    entries = int(shown.PresentationLUTSequence[0].LUTDescriptor[0]) or 2**16
    return _by_table(fractions * (entries - 1), table)


def _linear(values: Values, window: Window) -> Values:
    """PS3.3 C.11.2.1.2.1. A width of 1 makes a threshold."""
    if window.width <= 1:
        return (values > window.center - 0.5).astype(np.float64)
    fractions: Values = np.clip((values - (window.center - 0.5)) / (window.width - 1) + 0.5, 0.0, 1.0)
    return fractions


def _linear_exact(values: Values, window: Window) -> Values:
    """PS3.3 C.11.2.1.3.2."""
    fractions: Values = np.clip((values - window.center) / window.width + 0.5, 0.0, 1.0)
    return fractions


def _sigmoid(values: Values, window: Window) -> Values:
    """PS3.3 C.11.2.1.3.1."""
    exponents = np.clip(-4 * (values - window.center) / window.width, -700, 700)
    return np.asarray(1 / (1 + np.exp(exponents)))


_FUNCTIONS: Final[dict[WindowFunction, Callable[[Values, Window], Values]]] = {
    WindowFunction.LINEAR: _linear,
    WindowFunction.LINEAR_EXACT: _linear_exact,
    WindowFunction.SIGMOID: _sigmoid,
}


def _padding(stored: Values, shown: Dataset) -> NDArray[np.bool_] | None:
    """Where there is no image (PS3.3 C.7.5.1.1.2): it stays black and does not count for the window."""
    kind = _FLOAT_PADDING.get(stored.dtype.str, "")
    values = _numbers(shown, f"{kind}PixelPaddingValue")
    padding: NDArray[np.bool_] = ~np.isfinite(stored) if kind else np.zeros((), np.bool_)
    if values:
        first, last = sorted((values + _numbers(shown, f"{kind}PixelPaddingRangeLimit") + values)[:2])
        padding = padding | ((stored >= first) & (stored <= last))
    return padding if padding.any() else None


def _numbers(shown: Dataset, keyword: str) -> list[float]:
    value = shown.get(keyword)
    if value is None or value == "":
        return []
    try:
        return [float(one) for one in (value if not isinstance(value, (str, float, int)) else [value])]
    except (TypeError, ValueError):
        return []
