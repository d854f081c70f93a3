"""Writing past the page cache: the file is what was appended, however it is cut."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacsnode.archive.direct import BLOCK, CAPACITY, DirectWriter, is_supported

LENGTHS = st.sampled_from(
    [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 70_001, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2 * CAPACITY + 5]
)


def pattern(length: int, seed: int) -> bytes:
    return (bytes(range(seed % 200, seed % 200 + 51)) * (length // 51 + 1))[:length]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if not is_supported(tmp_path):
        pytest.skip("this file system has no direct writes")
    return tmp_path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(LENGTHS, max_size=4), min_size=1, max_size=4))
def test_the_file_holds_what_was_appended(folder: Path, appends: list[list[int]]) -> None:
    path = folder / "written"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
    written = []
    try:
        writer = DirectWriter(descriptor)
        for number, lengths in enumerate(appends):
            buffers = [pattern(length, number * 7 + at) for at, length in enumerate(lengths)]
            writer.append(buffers, last=number == len(appends) - 1)
            written += buffers
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"".join(written)


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    is_supported(tmp_path)
    assert list(tmp_path.iterdir()) == []
