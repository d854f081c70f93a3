"""Stored values to red, green and blue of eight bits (PS3.3 C.7.6.3.1.2, C.7.9, C.11.15; PS3.4 N.2.4)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut, convert_color_space

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.source import Values

Rgb = NDArray[np.uint8]

_YBR: Final = frozenset({"YBR_FULL", "YBR_FULL_422"})


def is_color(photometric: str) -> bool:
    return photometric == "PALETTE COLOR" or not photometric.startswith("MONOCHROME")


def rgb(stored: Values, photometric: str, attributes: Dataset) -> Rgb:
    """A frame of (rows, columns, samples) as RGB. Raises CannotUnderstand for colours nobody defines."""
    if photometric == "PALETTE COLOR":
        return _eight_bits(apply_color_lut(stored[:, :, 0], attributes), _palette_bits(attributes))
    if stored.shape[2] != 3:
        raise CannotUnderstand(
            f"{photometric or 'no photometric interpretation'} with {stored.shape[2]} samples"
        )
    eight = _eight_bits(stored, int(attributes.get("BitsStored") or 8))
    if photometric in _YBR:
        converted: Rgb = convert_color_space(eight, "YBR_FULL", "RGB")
        return converted
    return eight


def pseudo_colors(levels: NDArray[np.uint8], attributes: Dataset) -> Rgb:
    """Gray levels, which span all entries of the palette, in its colours (PS3.4 N.2.4)."""
    entries, first, _ = (int(one) for one in attributes.RedPaletteColorLookupTableDescriptor)
    indices = np.rint(np.arange(256) * ((entries or 65536) - 1) / 255).astype(np.int64) + first
    table = _eight_bits(apply_color_lut(indices, attributes), _palette_bits(attributes))
    return table[levels]


def _palette_bits(attributes: Dataset) -> int:
    """Bits of an entry. Some say 16 and fill 8 (PS3.3 C.7.6.3.1.6 knows of them)."""
    return int(attributes.RedPaletteColorLookupTableDescriptor[2]) or 16


def _eight_bits(samples: Values, bits: int) -> Rgb:
    """The upper eight of `bits` bits."""
    if bits <= 8 and int(samples.max(initial=0)) < 256:
        scaled: Rgb = (samples if bits == 8 else samples.astype(np.uint32) * 255 // (2**bits - 1)).astype(
            np.uint8
        )
        return scaled
    return np.asarray(samples.astype(np.uint32) >> max(bits - 8, 0)).clip(0, 255).astype(np.uint8)
