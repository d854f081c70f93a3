"""DICOM JSON of stored objects: fragments that are passed over leave the same as those that are mapped."""

import warnings
from mmap import mmap as mapping
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import UID as Uid

from pacsnode.archive import object_json as module
from pacsnode.archive.files import Layout
from pacsnode.archive.locate import Located
from pacsnode.archive.object_json import object_json
from pacsnode.dicom.json_model import JsonEncoder
from pacsnode.dicom.uid import UID
from tests.conftest import real_objects
from tests.support.objects import part10

ENCAPSULATED = [path for path in real_objects() if Uid(part10(path).transfer_syntax).is_encapsulated]


@pytest.mark.parametrize("path", ENCAPSULATED, ids=lambda path: path.name)
def test_fragments_are_passed_over(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = dcmread(path)
        data_set.add_new(0x00091001, "OB", bytes(20_000))  # so that the head is not enough
        data_set.add_new(0x00091002, "SQ", [])
        data_set.add_new(0xFFFCFFFC, "OB", bytes(100))
        try:
            dcmwrite(tmp_path / "object.dcm", data_set)
        except Exception:
            pytest.skip("pydicom cannot write what it has read")
        pixels = data_set.get("PixelData", b"")
        if not pixels or len(pixels) % 2:
            pytest.skip("its pixel data is cut off")
    size = (tmp_path / "object.dcm").stat().st_size
    item = part10(path)
    located = Located(UID(item.sop_class), UID(item.sop), UID(item.transfer_syntax), "object.dcm", size, 1)
    layout = Layout(tmp_path)
    mapped = object_json(layout, item.study, item.series, located, JsonEncoder())
    assert '"7FE00010"' in mapped
    assert '"FFFCFFFC"' in mapped
    monkeypatch.setattr(module, "MAPPED", size - 1)

    def refuse(*_: object, **__: object) -> mapping:
        raise AssertionError("it is mapped")

    monkeypatch.setattr(module, "mmap", refuse)
    assert object_json(layout, item.study, item.series, located, JsonEncoder()) == mapped
