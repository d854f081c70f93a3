"""Metadata from the kept header alone is what the file gives, and is not made where it would not be."""

import json
from pathlib import Path

import pydicom.data
import pytest
from pydicom import dcmread

from pacsnode.archive.files import Layout
from pacsnode.archive.header_json import header_json
from pacsnode.archive.locate import Located
from pacsnode.archive.object_json import object_json
from pacsnode.dicom.header import scan
from pacsnode.dicom.json_model import JsonEncoder
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

FILES = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
UNCOMPRESSED = ("MR_small.dcm", "MR_small_implicit.dcm")


def both(path: Path) -> tuple[str | None, str]:
    """What the header tells of a file, and what the file does. Raises CannotUnderstand."""
    content = path.read_bytes()
    meta = read_file_meta(content)
    data = content[meta.data_offset :]
    kept = scan(data, meta.transfer_syntax, len(data), frozenset()).kept
    located = Located(
        UID(meta.sop_class or "1.2"), UID("1.2.3"), meta.transfer_syntax, path.name, len(content), 1
    )
    told = header_json(kept, "1.2", "1.2.1", located, JsonEncoder())
    return told, object_json(Layout(path.parent), "1.2", "1.2.1", located, JsonEncoder())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_the_header_tells_is_what_the_file_does(path: Path) -> None:
    try:
        told, read = both(path)
    except CannotUnderstand:
        pytest.skip("nothing is stored of this")
    if told is not None:
        assert json.loads(told) == json.loads(read)


def without_padding(name: str, folder: Path) -> Path:
    """The file without what it has behind its pixel data, as scanners send it."""
    data_set = dcmread(next(path for path in FILES if path.name == name))
    data_set.pop(0xFFFCFFFC, None)
    data_set.save_as(folder / name)
    return folder / name


@pytest.mark.parametrize("name", UNCOMPRESSED)
def test_a_header_is_enough_for_uncompressed_images(name: str, tmp_path: Path) -> None:
    told, read = both(without_padding(name, tmp_path))
    assert told == read


@pytest.mark.parametrize(("more", "is_enough"), [(0, True), (600, True), (1100, False), (-500, False)])
def test_a_file_that_holds_something_else_too_is_read(more: int, is_enough: bool, tmp_path: Path) -> None:
    path = without_padding("MR_small.dcm", tmp_path)
    path.write_bytes(path.read_bytes() + bytes(max(more, 0)))
    meta = read_file_meta(path.read_bytes())
    data = path.read_bytes()[meta.data_offset : path.stat().st_size - max(more, 0)]
    kept = scan(data, meta.transfer_syntax, len(data), frozenset()).kept
    size = len(data) + meta.data_offset + more
    located = Located(UID("1.2"), UID("1.2.3"), meta.transfer_syntax, path.name, size, 1)
    assert (header_json(kept, "1.2", "1.2.1", located, JsonEncoder()) is not None) == is_enough


def test_private_values_that_the_index_does_not_keep_are_read_from_the_file(tmp_path: Path) -> None:
    told, read = both(without_padding("CT_small.dcm", tmp_path))  # 2 KB of a scanner's own
    assert told is None
    assert '"00431029"' in read
