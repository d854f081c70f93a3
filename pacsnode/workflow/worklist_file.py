"""Worklist items in files: what wlmscpfs and Orthanc read, and what the folder of the node takes (PS3.10)."""

from pathlib import Path
from typing import Final

from pacsnode.dicom.header import scan
from pacsnode.dicom.part10 import PREAMBLE_LENGTH, read_file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand
from pacsnode.workflow.worklist_item import WorklistItem

MAX_FILE: Final = 4 * 2**20  # bytes; items have some 2 KB


def items_of_file(path: Path) -> list[WorklistItem]:
    """The complete items in a file. Raises CannotUnderstand, IncompleteItem, OSError."""
    if path.stat().st_size > MAX_FILE:
        raise CannotUnderstand(f"longer than {MAX_FILE} bytes")
    items = items_of_data(path.read_bytes())
    for item in items:
        item.check(with_station=True)
    return items


def items_of_data(data: bytes) -> list[WorklistItem]:
    """The items in the bytes of a file, with or without File Meta. Raises CannotUnderstand."""
    if data[PREAMBLE_LENGTH : PREAMBLE_LENGTH + 4] == b"DICM":
        meta = read_file_meta(data)
        return _items_of(data[meta.data_offset :], meta.transfer_syntax)
    if data[1:2] != b"\0":  # every group of an item is below 0100H
        raise CannotUnderstand("this is no DICOM file")
    return _items_of(data, EXPLICIT_VR_LE if data[4:6].isalpha() else IMPLICIT_VR_LE)


def _items_of(data: bytes, transfer_syntax: UID) -> list[WorklistItem]:
    header = scan(data, transfer_syntax, len(data), frozenset())  # pydicom ends quietly at a cut-off value
    return WorklistItem.read(header.kept, transfer_syntax)
