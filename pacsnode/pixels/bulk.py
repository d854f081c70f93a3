"""An instance without its bulk data (PS3.4 Z.1.3). Worker processes only."""

from typing import Final

from pacsnode.pixels.recode import DataSet
from pacsnode.pixels.recode import Sequence as Items

WAVEFORM_SEQUENCE: Final = 0x54000100
WAVEFORM_DATA: Final = 0x54001010

# Table Z.1-1, top level only: the pixel data of icons stays
_BULK: Final = frozenset(
    {
        0x00287FE0,  # Pixel Data Provider URL
        0x00420011,  # Encapsulated Document
        0x56000020,  # Spectroscopy Data
        0x7FE00008,  # Float Pixel Data
        0x7FE00009,  # Double Float Pixel Data
        0x7FE00010,  # Pixel Data
    }
)
_REPEATING: Final = frozenset({0x50003000, 0x5000200C, 0x60003000})  # Curve, Audio Sample, Overlay Data
_EVEN_GROUPS: Final = 0xFF01FFFF  # masks the number of a repeating group, so that private groups do not match


def leave_out_bulk_data(data_set: DataSet) -> None:
    """Remove the attributes of Table Z.1-1, and the data of waveforms; nothing else changes."""
    data_set.elements = [element for element in data_set.elements if not _is_bulk(element.tag)]
    waveforms = data_set.find(WAVEFORM_SEQUENCE)
    if waveforms is not None and isinstance(waveforms.value, Items):
        for item in waveforms.value.items:
            item.remove(WAVEFORM_DATA)


def _is_bulk(tag: int) -> bool:
    return tag in _BULK or tag & _EVEN_GROUPS in _REPEATING
