"""The header of an object as the index keeps it."""

import zlib

import pytest

from pacsnode.archive.kept import compressed, restored
from pacsnode.errors import CannotUnderstand


@pytest.mark.parametrize("kept", [b"", b"\x08\x00\x05\x00CS\x00\x00", bytes(range(256)) * 4000])
def test_a_header_comes_back_as_it_was(kept: bytes) -> None:
    assert restored(compressed(kept)) == kept


@pytest.mark.parametrize("window", [12, 15])
def test_rows_of_earlier_versions_are_read(window: int) -> None:
    former = zlib.compressobj(1, zlib.DEFLATED, window, 5)
    assert restored(former.compress(b"header" * 100) + former.flush()) == b"header" * 100


@pytest.mark.parametrize(
    "row", [b"", b"(\xb5/\xfd cut", b"x\x9c no stream", compressed(b"header" * 100)[:-9]]
)
def test_a_damaged_row_is_told(row: bytes) -> None:
    with pytest.raises(CannotUnderstand, match="damaged"):
        restored(row)
