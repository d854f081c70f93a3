"""Elements in another encoding: the values stay, whatever is around them."""

import struct
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence as PydicomSequence

from pacsnode.dicom.header import Encoding, encoding_of
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.sop_class import (
    DEFLATED_TRANSFER_SYNTAXES,
    EXPLICIT_VR_BE,
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
)
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.recode import DataSet, read, vr_of, write
from tests.conftest import real_objects
from tests.support.compare import differences
from tests.support.objects import encoded_as
from tests.support.truth import REFUSED

IMPLICIT, EXPLICIT, BIG = map(encoding_of, (IMPLICIT_VR_LE, EXPLICIT_VR_LE, EXPLICIT_VR_BE))
REAL = [path for path in real_objects() if path.name not in REFUSED]


def recoded(data: bytes, source: Encoding, target: Encoding) -> bytes:
    return b"".join(write(read(memoryview(data), source), target))


@pytest.fixture
def report() -> Dataset:
    """Every kind of value: text, numbers of all lengths, tags, nested sequences, private elements."""
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "Ünïcödé"
    inner.PixelRepresentation = 1
    inner.add_new(0x00280106, "SS", -5)
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.PatientName = "Müller^Jörg"
    data_set.Rows = 258
    data_set.add_new(0x00089459, "FL", 1.5)
    data_set.add_new(0x00186028, "FD", [1.25, -2.5])
    data_set.add_new(0x00280009, "AT", [0x00181063])
    data_set.add_new(0x7FE00003, "UV", 2**40 + 1)
    data_set.ConceptNameCodeSequence = PydicomSequence([inner, inner])
    data_set.ContentSequence = PydicomSequence([])
    data_set.add_new(0x00091001, "UN", b"\x01\x02")
    data_set.add_new(0x00090010, "LO", "NOBODY KNOWS")
    return data_set


@pytest.mark.parametrize("source", [IMPLICIT, EXPLICIT, BIG], ids=["implicit", "explicit", "big"])
@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT, BIG], ids=["implicit", "explicit", "big"])
def test_a_data_set_is_written_as_pydicom_writes_it(
    report: Dataset, source: Encoding, target: Encoding
) -> None:
    assert recoded(encoded_as(report, source), source, target) == encoded_as(report, target)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_real_object_comes_back_from_every_encoding(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    meta = read_file_meta(data)
    if meta.transfer_syntax in DEFLATED_TRANSFER_SYNTAXES:
        pytest.skip("is inflated first")
    source = encoding_of(meta.transfer_syntax)
    plain = recoded(data[meta.data_offset :], source, source)
    other = BIG if source == EXPLICIT else EXPLICIT
    assert recoded(recoded(plain, source, other), other, source) == plain
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(data[: meta.data_offset] + plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not differences(path, copy)


def test_a_value_too_long_for_the_short_form_becomes_un() -> None:
    text = b"1\\" * 40_000
    implicit = struct.pack("<HHI", 0x3006, 0x0050, len(text)) + text
    head = struct.pack("<HH2sHI", 0x3006, 0x0050, b"UN", 0, len(text))
    assert recoded(implicit, IMPLICIT, EXPLICIT) == head + text
    assert recoded(head + text, EXPLICIT, IMPLICIT) == implicit


def test_items_of_un_stay_implicit_wherever_they_go() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 10) + struct.pack("<HHIH", 0x0028, 0x0010, 2, 7)
    delimiter = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    value = item + delimiter
    explicit = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + value
    big = struct.pack(">HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + value
    assert recoded(explicit, EXPLICIT, BIG) == big


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00280106, b"SS"),  # by Pixel Representation
        (0x00280010, b"US"),
        (0x60003000, b"OW"),
        (0x00283006, b"OW"),
        (0x00090010, b"LO"),
        (0x00091001, b"UN"),
        (0x00290000, b"UL"),
        (0x0029FFFF, b"UN"),
    ],
)
def test_a_vr_that_was_not_encoded_is_looked_up(tag: int, vr: bytes) -> None:
    data_set = DataSet()
    data_set.set(0x00280103, b"US", b"\1\0")
    assert vr_of(data_set, tag) == vr


def test_sequences_deeper_than_any_real_one_are_refused_cleanly() -> None:
    one = struct.pack("<HHI", 0x0040, 0xA730, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(CannotUnderstand, match="nested"):
        recoded(one * 10_000, IMPLICIT, EXPLICIT)


@given(st.binary(max_size=200), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes, encoding: Encoding) -> None:
    try:
        data_set = read(memoryview(data), encoding)
    except CannotUnderstand:
        return
    for target in (IMPLICIT, EXPLICIT, BIG):
        b"".join(write(data_set, target))
