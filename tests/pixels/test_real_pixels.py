"""Real images in other transfer syntaxes: the same samples, read by pydicom and DCMTK; true attributes."""

import shutil
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from pydicom import Dataset

from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, name_of
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand
from pacsnode.pixels import plan
from tests.support.compare import differences
from tests.support.pixels import JPEG, Pixels, distinct_images, pixels_of, transcoded

SMALL = 50_000  # bytes; a longer file is made into two forms, a small one into all
UNREADABLE = {
    "966.dcm": "its codestream is damaged",
    "JPEG2000-embedded-sequence-delimiter.dcm": "its codestream is damaged",
}
NO_IMAGE = {"badVR.dcm", "nested_priv_SQ.dcm"}  # their pixel data lacks what would describe it
# pydicom 3.0 does not read these; the same image is there in another form
SAME_AS = {
    f"{name}_{form}.dcm": f"{name}.dcm"
    for name in ("liver", "liver_nonbyte_aligned")
    for form in ("rle", "deflate", "j2k")
}
UNREADABLE_BY_DCMTK = {"SC_rgb_jpeg.dcm"}  # Adobe's marker is two bytes short

DESCRIBING = {
    *(0x00280002, 0x00280004, 0x00280006, 0x00280100, 0x00280101, 0x00280102, 0x00282110, 0x00282112),
    *(0x00282114, 0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00010),
}
PALETTES = {0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222, 0x00281223}
READABLE = [path for path in distinct_images() if path.name not in UNREADABLE and path.name not in NO_IMAGE]


def targets(path: Path) -> list[UID]:
    """All that can be made of a file; of a large one the usual form and one compressed."""
    found = plan.targets_of(stored_syntax(path), recompress_lossy=True)[1:]
    compressed = [uid for uid in found if uid in plan.ENCODABLE]
    if path.stat().st_size < SMALL:
        return list(found)
    chosen = compressed[crc32(path.name.encode()) % len(compressed)] if compressed else None
    return [uid for uid in found if uid in (chosen, EXPLICIT_VR_LE)]


def stored_syntax(path: Path) -> UID:
    return read_file_meta(path.read_bytes()).transfer_syntax


@cache
def expected(path: Path, scratch: Path) -> tuple[Dataset, Pixels]:
    """Pixels that somebody else has decoded."""
    if path.name in UNREADABLE_BY_DCMTK:
        pytest.skip("DCMTK cannot read the original")
    return pixels_of(path.with_name(SAME_AS.get(path.name, path.name)), scratch)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dcmdjpeg")


CASES = [(path, target) for path in READABLE for target in targets(path)]


@pytest.mark.parametrize(
    ("path", "target"), CASES, ids=[f"{path.stem}-{name_of(target)}" for path, target in CASES]
)
def test_the_samples_are_those_of_the_original(path: Path, target: UID, scratch: Path) -> None:
    if (target in JPEG or stored_syntax(path) in JPEG) and not shutil.which("dcmdjpeg"):
        pytest.skip("dcmdjpeg is not installed")
    try:
        made = transcoded(path, target)
    except CannotTranscode:
        assert target in plan.ENCODABLE  # which some images have no form in; what they have is never refused
        return
    _, before = expected(path, scratch)
    _, after = pixels_of(made, scratch)
    assert np.array_equal(before, after)


@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.name)
def test_nothing_but_the_description_of_the_pixels_changes(path: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.dcm"
    made.write_bytes(transcoded(path, EXPLICIT_VR_LE))
    changed = {int(tag.strip("()").replace(",", ""), 16) for tag in differences(path, made, private=False)}
    turned_round = PALETTES if stored_syntax(path) == EXPLICIT_VR_BE else set()  # words that pydicom leaves
    assert changed <= DESCRIBING | turned_round


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_damaged_image_is_refused(name: str) -> None:
    path = next((path for path in distinct_images() if path.name == name), None)
    if path is None:
        pytest.skip("is not here")
    with pytest.raises(CannotUnderstand):
        transcoded(path, EXPLICIT_VR_LE)
