"""Damaged objects, as they may come from anybody: frames are found, or said not to be there, soon."""

import os
import tempfile
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacsnode.archive.frame_index import PixelData, fragments_of, index_frames, read_frame
from pacsnode.archive.locate import Located
from pacsnode.archive.object_file import ObjectFile, readable
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

FILES = Path(pydicom.data.__file__).parent / "test_files"
SMALL = [
    (FILES / name).read_bytes()
    for name in (
        "MR_small_RLE.dcm",
        "emri_small_jpeg_2k_lossless.dcm",
        "liver_1frame.dcm",
        "ExplVR_BigEnd.dcm",
        "image_dfl.dcm",
        "SC_rgb_rle_2frame.dcm",
    )
    if (FILES / name).is_file()
]


def opened(data: bytes) -> ObjectFile:
    """A file that has a descriptor only; the caller closes it."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        syntax = read_file_meta(data).transfer_syntax
        located = Located(UID("1"), UID("1"), syntax, "", len(data), 1)
        return ObjectFile(located, os.dup(file.fileno()), len(data))


def frames(file: ObjectFile) -> list[bytes]:
    source = readable(file)
    found: list[bytes] = []
    for trusting in (True, False):
        pixels: PixelData | None = index_frames(source, trust_tables=trusting)
        if pixels is not None:
            numbers = range(1, min(pixels.frames, 50) + 1)
            found = [bytes(read_frame(source, pixels, number)) for number in numbers]
    return found


def test_there_are_files() -> None:
    assert len(SMALL) >= 4


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=2000, max_examples=150)
@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    st.integers(0, 1 << 20),
)
def test_whatever_is_changed_nothing_but_its_own_error_comes(
    data: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    changed = bytearray(data)
    for place, value in changes:
        start = 400 + place % (len(changed) - 400)
        changed[start : start + len(value)] = value
    if cut % 3 == 0:
        del changed[400 + cut % (len(changed) - 400) :]
    file = opened(bytes(changed))
    try:
        frames(file)
        fragments_of(readable(file))
    except CannotUnderstand:
        pass
    finally:
        os.close(file.descriptor)


@pytest.mark.parametrize("offsets", [(0, 2**63), (0, 2**64 - 1), (1, 2), (0, 0)])
def test_an_extended_offset_table_of_nonsense_is_not_believed(offsets: tuple[int, int]) -> None:
    data = (FILES / "SC_rgb_rle_2frame.dcm").read_bytes()
    begin = data.index(b"\xe0\x7f\x10\x00OB")
    tables = b"".join(
        b"\xe0\x7f"
        + tag
        + b"\0OV\0\0"
        + (16).to_bytes(4, "little")
        + b"".join(n.to_bytes(8, "little") for n in values)
        for tag, values in ((b"\x01", offsets), (b"\x02", (5, 5)))
    )
    plain, changed = opened(data), opened(data[:begin] + tables + data[begin:])
    try:
        assert frames(plain) == frames(changed)
        assert len(frames(plain)) == 2
    finally:
        os.close(plain.descriptor)
        os.close(changed.descriptor)


@pytest.mark.parametrize("ending", [b"", b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0"])
def test_behind_long_sequences_native_pixel_data_is_found_from_the_end(ending: bytes) -> None:
    """With the trailing padding of (FFFC,FFFC) it is not the last element: it is found all the same."""
    data = (FILES / "CT_small.dcm").read_bytes()
    begin = data.index(b"\xe0\x7f\x10\x00OW")
    end = begin + 12 + int.from_bytes(data[begin + 8 : begin + 12], "little")
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x18\0\x10\x91SQ\0\0\0\0\0\0" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    groups = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + 300 * item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    file = opened(data[:begin] + groups + data[begin:end] + ending)

    try:
        assert frames(file) == [data[begin + 12 : end]]
    finally:
        os.close(file.descriptor)
