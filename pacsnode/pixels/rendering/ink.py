"""The gray values and colours that objects name for shutters and layers (PS3.3 C.10.7.1.1, C.11.12)."""

from typing import Final

from pydicom import Dataset

Ink = int | tuple[int, int, int]
"""A gray level, for pictures in shades of gray, or red, green and blue: 0 to 255 each."""

_MOST: Final = 65535  # the greatest P-Value, and the greatest part of a CIELab value
# From XYZ under D50, the white of the profile connection space, to linear sRGB (IEC 61966-2-1), by Bradford
_WHITE_D50: Final = (0.9642, 1.0, 0.8249)
_TO_SRGB: Final = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)


def ink_of(attributes: Dataset, gray: str, color: str, is_color: bool, default: int) -> Ink:
    """What the attributes `gray` (a P-Value) and `color` (CIELab) say; gray `default` where they do not."""
    if is_color and (lab := _numbers(attributes.get(color), 3)):
        return _srgb(lab)
    level = _numbers(attributes.get(gray), 1)
    shade = min(level[0], _MOST) * 255 // _MOST if level else default
    return (shade, shade, shade) if is_color else shade


def _srgb(lab: list[int]) -> tuple[int, int, int]:
    """CIELab in three times 16 bits, as ICC profiles have it, to sRGB."""
    lightness = lab[0] / _MOST * 100
    a, b = (one / _MOST * 255 - 128 for one in lab[1:])
    middle = (lightness + 16) / 116
    roots = (middle + a / 500, middle, middle - b / 200)
    xyz = [white * _cube(root) for white, root in zip(_WHITE_D50, roots, strict=True)]
    red, green, blue = (sum(weight * part for weight, part in zip(row, xyz, strict=True)) for row in _TO_SRGB)
    return _encoded(red), _encoded(green), _encoded(blue)


def _cube(root: float) -> float:
    return root**3 if root > 6 / 29 else 3 * (6 / 29) ** 2 * (root - 4 / 29)


def _encoded(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


def _numbers(value: object, count: int) -> list[int]:
    """As many whole numbers as there should be, else none."""
    try:
        numbers = [int(value)] if count == 1 else [int(one) for one in value]  # type: ignore[call-overload,attr-defined]
    except (TypeError, ValueError):
        return []
    return numbers if len(numbers) == count else []
