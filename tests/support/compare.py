"""Element by element: what was sent beside what was stored."""

from collections.abc import Iterator
from pathlib import Path

from pydicom import DataElement, Dataset, dcmread

# dcmtk and others leave out or add group lengths and trailing padding, both without meaning (PS3.5 7.2, 7.9).
_WITHOUT_MEANING = {0xFFFCFFFC}


def differences(sent: Path, stored: Path, *, private: bool = True) -> list[str]:
    """The tags whose values differ. `private`: look at private elements, whose VR implicit encoding loses."""
    one, other = _values(dcmread(sent), private), _values(dcmread(stored), private)
    return sorted(str(tag) for tag in one.keys() | other.keys() if one.get(tag) != other.get(tag))


def _values(data_set: Dataset, private: bool) -> dict[object, object]:
    return {element.tag: _value(element, private) for element in _elements(data_set, private)}


def _elements(data_set: Dataset, private: bool) -> Iterator[DataElement]:
    for element in data_set:
        if element.tag.element == 0 or element.tag in _WITHOUT_MEANING:
            continue
        if private or not element.tag.is_private:
            yield element


def _value(element: DataElement, private: bool) -> object:
    if element.VR == "SQ":
        return [_values(item, private) for item in element.value]
    if isinstance(element.value, bytes):
        return element.value.rstrip(b"\0")  # padded to even length by who encodes it
    if element.VR == "DS" and element.value:
        numbers = element.value if element.VM > 1 else [element.value]
        return [float(f"{float(number):.12g}") for number in numbers]  # odil writes 0.7 as .6999999999999999
    return element.value if element.value not in (None, "") else None
