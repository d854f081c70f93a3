"""The header scan against pydicom's own reading, on every real object at hand, and against hostile bytes."""

import logging
import mmap
import os
import struct
import time
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from pacsnode.dicom import header
from pacsnode.dicom.header import (
    BULK_LIMIT,
    ELEMENT_LIMIT,
    NESTING_LIMIT,
    Encoding,
    Header,
    HeaderIncomplete,
    encoding_of,
    scan,
)
from pacsnode.dicom.information_model import INDEXED_TAGS
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.sop_class import (
    DEFLATED,
    EXPLICIT_VR_BE,
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    TRANSFER_SYNTAXES,
)
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

JPEG = UID("1.2.840.10008.1.2.4.50")
PATIENT_NAME, PATIENT_ID, ROWS = 0x00100010, 0x00100020, 0x00280010
WANTED = frozenset({PATIENT_NAME, PATIENT_ID, ROWS})
UNDEFINED = 0xFFFFFFFF
ENCODINGS = (IMPLICIT_VR_LE, EXPLICIT_VR_LE, EXPLICIT_VR_BE, DEFLATED)
CUT_OFF = {"MR_truncated.dcm", "rtplan_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"}


def real_files() -> list[Path]:
    """pydicom's bundled files, and the collection beside the repository when it is there."""
    bundled = Path(pydicom.data.__file__).parent
    named = os.environ.get("PACSNODE_TEST_DATA")
    shared = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    paths = (path for folder in (bundled, shared) for path in sorted(folder.rglob("*")))
    return [path for path in paths if path.is_file() and path.read_bytes()[128:132] == b"DICM"]


def data_set_of(path: Path) -> tuple[bytes, UID]:
    data = path.read_bytes()
    try:
        meta = read_file_meta(data)
    except CannotUnderstand as error:
        pytest.skip(str(error))
    return data[meta.data_offset :], meta.transfer_syntax


def as_pydicom_reads(data: bytes, encoding: Encoding) -> Dataset:
    return read_dataset(BytesIO(data), encoding.implicit, encoding.little_endian)


def encoded(dataset: Dataset, transfer_syntax: UID = EXPLICIT_VR_LE) -> bytes:
    encoding = encoding_of(transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little_endian
    write_dataset(buffer, dataset)
    data: bytes = buffer.getvalue()
    return deflated(data) if transfer_syntax == DEFLATED else data


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def short(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def long(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size) + value


def bare(tag: int, value: bytes = b"", length: int | None = None) -> bytes:
    """An element with implicit VR, an item or a delimiter."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


ITEM_END, SEQUENCE_END = bare(0xFFFEE00D), bare(0xFFFEE0DD)
NAME, ID = short(PATIENT_NAME, b"PN", b"DOE^JOHN"), short(PATIENT_ID, b"LO", b"1234")


def scanned(data: bytes, transfer_syntax: UID = EXPLICIT_VR_LE, wanted: frozenset[int] = WANTED) -> Header:
    return scan(data, transfer_syntax, len(data), wanted)


@pytest.fixture
def small() -> Dataset:
    """Elements of every length form, sequences of both, pixel data and something behind it."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "T-04000", "Breast"
    empty = Dataset()
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.PatientID, dataset.PatientComments = "Doe^John", "", "none"
    dataset.AnatomicRegionSequence = Sequence([item, empty])
    dataset.ProcedureCodeSequence = Sequence([item])
    dataset["ProcedureCodeSequence"].is_undefined_length = True
    dataset.ProcedureCodeSequence[0].is_undefined_length_sequence_item = True
    dataset.Rows = 2
    dataset.add_new(0x00410010, "LO", "SOMEBODY")
    dataset.add_new(0x00411001, "UN", b"abcd")
    dataset.add_new(0x7FE00010, "OW", bytes(8))
    dataset.add_new(0xFFFCFFFC, "OB", bytes(4))
    return dataset


@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name)
def test_a_real_object_is_read_as_pydicom_reads_it(path: Path) -> None:
    data, transfer_syntax = data_set_of(path)
    if path.name in CUT_OFF:
        with pytest.raises(CannotUnderstand):
            scanned(data, transfer_syntax)
        return
    encoding = encoding_of(transfer_syntax)
    inflated = zlib.decompress(data, -zlib.MAX_WBITS) if transfer_syntax == DEFLATED else data
    original = as_pydicom_reads(inflated, encoding)

    found = scanned(data, transfer_syntax, frozenset(map(int, original.keys())))

    kept = as_pydicom_reads(found.kept, encoding)
    for tag in original.keys():  # noqa: SIM118 - iterating a Dataset converts its elements
        element = original.get_item(tag)
        if tag not in kept:
            assert is_bulk(element), f"{tag} was left out"
            assert tag not in found.values
        elif isinstance(element, RawDataElement):
            same = kept.get_item(tag)
            assert (same.VR, same.value) == (element.VR, element.value)
            assert found.values[tag] == (element.value or b"")
        else:
            assert kept[tag] == element
            assert tag in found.values
    assert set(kept.keys()) <= set(original.keys())


def is_bulk(element: RawDataElement | DataElement) -> bool:
    if element.tag.group == 0x7FE0:
        return True
    if isinstance(element, DataElement):
        return element.VR == "SQ" and len(encoded(Dataset({element.tag: element}))) > ELEMENT_LIMIT
    vr = element.VR or pydicom.datadict.DicomDictionary.get(element.tag, ("UN",))[0]
    limit = (
        BULK_LIMIT
        if vr in ("OB", "OW", "OF", "OD", "OL", "OV", "UN", "US or OW", "OB or OW")
        else ELEMENT_LIMIT
    )
    return element.length > limit


@pytest.mark.parametrize("path", real_files()[::5], ids=lambda path: path.name)
def test_a_first_part_is_enough_or_is_known_not_to_be(path: Path) -> None:
    data, transfer_syntax = data_set_of(path)
    if path.name in CUT_OFF:
        return
    whole = scanned(data, transfer_syntax, INDEXED_TAGS)
    for length in (0, 1, 9, 100, 1000, 5000, 16384, len(data) - 1, len(data)):
        try:
            assert scan(data[:length], transfer_syntax, len(data), INDEXED_TAGS) == whole
        except HeaderIncomplete:
            assert length < len(data)


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"])
def test_any_buffer_is_scanned_alike(name: str, tmp_path: Path) -> None:
    path = next(path for path in real_files() if path.name == name)
    data, transfer_syntax = data_set_of(path)
    (tmp_path / "data").write_bytes(data)
    whole = scanned(data, transfer_syntax)

    with (tmp_path / "data").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert scan(mapped, transfer_syntax, len(data), WANTED) == whole
    assert scan(bytearray(data), transfer_syntax, len(data), WANTED) == whole
    assert scan(memoryview(data), transfer_syntax, len(data), WANTED) == whole


def test_a_long_header_in_a_mapping_is_read_beyond_the_window() -> None:
    data = b"".join(short(0x00090000 + number, b"LT", bytes(6000)) for number in range(0x1000, 0x1020)) + NAME
    assert len(data) > header.WINDOW
    assert scan(memoryview(data), EXPLICIT_VR_LE, len(data), WANTED) == scanned(data)
    assert scanned(data).kept == data


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
def test_an_absent_attribute_is_no_key_and_an_empty_one_is_empty(
    small: Dataset, transfer_syntax: UID
) -> None:
    found = scanned(encoded(small, transfer_syntax), transfer_syntax, WANTED | {0x00100030})
    rows = b"\0\2" if transfer_syntax == EXPLICIT_VR_BE else b"\2\0"
    assert found.values == {PATIENT_NAME: b"Doe^John", PATIENT_ID: b"", ROWS: rows}


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
def test_everything_but_pixel_data_is_kept_byte_for_byte(small: Dataset, transfer_syntax: UID) -> None:
    data = encoded(small, transfer_syntax)
    del small["PixelData"]
    encoding = encoding_of(transfer_syntax)
    as_encoded = {DEFLATED: EXPLICIT_VR_LE}.get(transfer_syntax, transfer_syntax)
    found = scanned(data, transfer_syntax)
    assert found.kept == encoded(small, as_encoded)
    assert as_pydicom_reads(found.kept, encoding) == small
    assert (found.transfer_syntax, found.encoding) == (transfer_syntax, encoding)


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
def test_a_data_set_cut_off_anywhere_is_refused(small: Dataset, transfer_syntax: UID) -> None:
    """Only a cut between two top-level elements leaves a data set."""
    whole = encoded(small, transfer_syntax)
    ends = {0, len(whole)}
    if transfer_syntax != DEFLATED:
        tags = sorted(small.keys())
        ends |= {
            len(encoded(Dataset({tag: small[tag] for tag in tags[:n]}), transfer_syntax))
            for n in range(len(tags))
        }
    for length in range(len(whole)):
        if length in ends:
            continue
        with pytest.raises(CannotUnderstand):
            scanned(whole[:length], transfer_syntax)


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
def test_a_first_part_of_any_length_is_enough_or_is_known_not_to_be(
    small: Dataset, transfer_syntax: UID
) -> None:
    data = encoded(small, transfer_syntax)
    whole = scanned(data, transfer_syntax)
    for length in range(len(data)):
        try:
            assert scan(data[:length], transfer_syntax, len(data), WANTED) == whole
        except HeaderIncomplete:
            continue


def test_pixel_data_of_defined_length_need_not_be_there_yet() -> None:
    start = NAME + long(0x7FE00010, b"OW", b"", length=2**30)
    assert scan(start, EXPLICIT_VR_LE, len(start) + 2**30, WANTED).kept == NAME
    with pytest.raises(CannotUnderstand):
        scan(start, EXPLICIT_VR_LE, len(start) + 2**30 - 1, WANTED)
    with pytest.raises(HeaderIncomplete):  # something is behind it
        scan(start, EXPLICIT_VR_LE, len(start) + 2**30 + 8, WANTED)


def test_encapsulated_pixel_data_is_walked_to_its_end() -> None:
    frames = encapsulate([bytes(1000), b"\xfe\xff\xdd\xe0" * 100])  # a delimiter inside a frame is none
    pixels = long(0x7FE00010, b"OB", frames, UNDEFINED) + SEQUENCE_END
    behind = long(0xFFFCFFFC, b"OB", bytes(4))
    data = NAME + pixels + behind

    assert scanned(data, JPEG).kept == NAME + behind
    for length in range(len(NAME) + 8, len(NAME + pixels)):
        with pytest.raises(CannotUnderstand):
            scanned(data[:length], JPEG)
        with pytest.raises(HeaderIncomplete):
            scan(data[:length], JPEG, len(data), WANTED)


@pytest.mark.parametrize(
    ("element", "is_kept"),
    [
        (long(0x00291010, b"OB", bytes(BULK_LIMIT)), True),
        (long(0x00291010, b"OB", bytes(BULK_LIMIT + 2)), False),
        (long(0x00291010, b"UN", bytes(BULK_LIMIT + 2)), False),
        (long(0x0040A160, b"UT", b"x" * ELEMENT_LIMIT), True),
        (long(0x0040A160, b"UT", b"x" * (ELEMENT_LIMIT + 2)), False),
        (long(0x0040A730, b"SQ", bare(0xFFFEE000, bytes(ELEMENT_LIMIT))), False),
        (long(0x0040A730, b"SQ", bare(0xFFFEE000, bytes(ELEMENT_LIMIT)) + SEQUENCE_END, UNDEFINED), False),
        (long(0x7FE00001, b"OV", bytes(8)), False),
        (long(0x7FE00008, b"OF", bytes(8)), False),
    ],
)
def test_bulk_is_left_out_and_its_neighbours_kept(element: bytes, is_kept: bool) -> None:
    behind = short(0xFFFA0001, b"LO", b"zz")
    data = NAME + element + behind
    found = scanned(data, wanted=WANTED | {0x00291010, 0x0040A160, 0x0040A730})
    assert found.kept == (data if is_kept else NAME + behind)
    assert (len(found.values) == 2) == is_kept


@pytest.mark.parametrize(
    ("tag", "is_kept"),
    [
        (0x00281201, False),  # OW: Red Palette Color Lookup Table Data
        (0x00283006, False),  # US or OW: LUT Data
        (0x60003000, False),  # OB or OW, a repeating group: Overlay Data
        (0x00291010, False),  # private
        (0x00104000, True),  # LT: Patient Comments
        (0x00081140, True),  # SQ: Referenced Image Sequence
    ],
)
def test_bulk_with_implicit_vr_is_known_from_the_dictionary(tag: int, is_kept: bool) -> None:
    data = bare(tag, bytes(BULK_LIMIT + 2))
    assert scanned(data, IMPLICIT_VR_LE).kept == (data if is_kept else b"")


def test_elements_out_of_order_are_taken() -> None:
    data = ID + NAME + short(0x00080020, b"DA", b"20260101")
    found = scanned(data)
    assert found.kept == data
    assert found.values == {PATIENT_ID: b"1234", PATIENT_NAME: b"DOE^JOHN"}


def test_an_element_without_vr_among_others_is_taken() -> None:
    data = NAME + bare(PATIENT_ID, b"1234") + short(ROWS, b"US", b"\2\0")
    assert scanned(data).values == {PATIENT_NAME: b"DOE^JOHN", PATIENT_ID: b"1234", ROWS: b"\2\0"}


def test_a_vr_nobody_knows_has_the_long_form_and_is_not_kept() -> None:
    """PS3.5 6.2: every VR to come has two reserved bytes and a length of four."""
    data = NAME + long(0x00100011, b"QQ", b"abcd") + ID
    assert scanned(data).kept == NAME + ID


@pytest.mark.parametrize("inner", [bare(PATIENT_ID, b"1234"), ID])
def test_an_unknown_sequence_holds_implicit_vr_or_what_is_met(inner: bytes) -> None:
    """PS3.5 6.2.2: UN of undefined length is a sequence with implicit VR; some writers left it explicit."""
    items = bare(0xFFFEE000, inner + ITEM_END, UNDEFINED) + SEQUENCE_END
    data = NAME + long(0x00101010, b"UN", items, UNDEFINED) + short(ROWS, b"US", b"\2\0")
    found = scanned(data)
    assert found.kept == data
    assert found.values == {PATIENT_NAME: b"DOE^JOHN", ROWS: b"\2\0"}


def nested(levels: int) -> bytes:
    opening = bare(0x0040A730, b"", UNDEFINED) + bare(0xFFFEE000, b"", UNDEFINED)
    return opening * levels + (ITEM_END + SEQUENCE_END) * levels


def test_nesting_is_kept_as_long_as_pydicom_can_read_it() -> None:
    data = nested(NESTING_LIMIT)
    assert scanned(data, IMPLICIT_VR_LE).kept == data
    assert as_pydicom_reads(data, encoding_of(IMPLICIT_VR_LE))[0x0040A730].VR == "SQ"


def test_ten_thousand_nested_sequences_are_passed_and_not_kept() -> None:
    name = bare(PATIENT_NAME, b"DOE^JOHN")
    data = name + nested(10_000) + bare(0x00420010, b"ab")
    assert scanned(data, IMPLICIT_VR_LE).kept == name + bare(0x00420010, b"ab")
    with pytest.raises(CannotUnderstand):
        scanned(name + nested(10_000)[:-8], IMPLICIT_VR_LE)


@pytest.mark.parametrize(
    "data",
    [
        NAME + long(0x7FE00010, b"OW", b"", 0xFFFFFFF0),
        NAME + long(0x0040A730, b"SQ", b"", 0xFFFFFFF0),
        NAME + bare(PATIENT_ID, b"", 0xFFFFFFF0),
        NAME + long(0x0040A730, b"SQ", bare(0xFFFEE000, b"", 0xFFFFFFF0), UNDEFINED),
        NAME + long(0x7FE00010, b"OB", bare(0xFFFEE000, b"", 0xFFFFFFF0), UNDEFINED),
        NAME
        + long(0x0040A730, b"SQ", bare(0xFFFEE000, bare(PATIENT_ID, b"", 0xFFFFFFF0), UNDEFINED), UNDEFINED),
    ],
)
def test_a_length_beyond_the_data_set_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(CannotUnderstand):
        scanned(data)


@pytest.mark.parametrize(
    "data",
    [
        bare(0xFFFEE00D) + NAME,  # delimiters and items at the top level
        bare(0xFFFEE000, NAME),
        long(0x0040A160, b"UT", b"no items at all", UNDEFINED),
        long(0x0040A730, b"SQ", ITEM_END + SEQUENCE_END, UNDEFINED),
        long(0x0040A730, b"SQ", bare(0xFFFEE000, SEQUENCE_END, UNDEFINED) + SEQUENCE_END, UNDEFINED),
        short(0x00000002, b"UI", b"1.2\0"),  # a command set
        short(0x00020010, b"UI", b"1.2\0"),  # File Meta
        bytes(4096),
        b"\xff" * 4096,
        b"<html>" * 100,
    ],
)
def test_what_is_no_data_set_is_refused(data: bytes) -> None:
    for transfer_syntax in ENCODINGS:
        with pytest.raises(CannotUnderstand):
            scanned(data, transfer_syntax)


def test_a_data_set_in_another_encoding_than_it_says_is_refused(small: Dataset) -> None:
    with pytest.raises(CannotUnderstand):
        scanned(encoded(small, EXPLICIT_VR_LE), IMPLICIT_VR_LE)
    with pytest.raises(CannotUnderstand):
        scanned(encoded(small, EXPLICIT_VR_LE), DEFLATED)
    with pytest.raises(CannotUnderstand):
        scanned(encoded(small, EXPLICIT_VR_BE), EXPLICIT_VR_LE)


def test_a_deflate_bomb_in_the_pixel_data_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "INFLATE_LIMIT", 2**20)
    bomb = deflated(NAME + long(0x7FE00010, b"OW", bytes(2**24)))
    assert len(bomb) < 2**15
    assert scanned(bomb, DEFLATED).kept == NAME
    frames = long(0x7FE00010, b"OB", bare(0xFFFEE000, bytes(2**24)) + SEQUENCE_END, UNDEFINED)
    assert scanned(deflated(NAME + frames), DEFLATED).kept == NAME


def test_a_deflate_bomb_before_the_pixel_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "INFLATE_LIMIT", 2**20)
    for element in (long(0x00091010, b"OB", bytes(2**24)), short(0x00091010, b"LO", b"x" * 60000) * 100):
        with pytest.raises(CannotUnderstand):
            scanned(deflated(NAME + element), DEFLATED)


def test_a_header_too_long_to_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "KEPT_LIMIT", 2**17)
    element = long(0x00091010, b"UT", b"x" * 60000)
    assert scanned(element * 2).kept == element * 2
    with pytest.raises(CannotUnderstand):
        scanned(element * 4)


@pytest.mark.parametrize(
    "data",
    [long(0x7FE00010, b"OB", b"") * 2000, long(0x7FE00010, b"OB", bare(0xFFFEE000) * 2000, UNDEFINED)],
)
def test_a_data_set_of_endless_tiny_pieces_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "STEPS_LIMIT", 1000)
    with pytest.raises(CannotUnderstand):
        scanned(data)


def test_a_megabyte_of_the_smallest_elements_takes_no_minute() -> None:
    began = time.monotonic()
    for data in (bare(PATIENT_NAME) * 2**17, bare(PATIENT_NAME)[:4] + nested(2**15), ID + nested(2**15)):
        for transfer_syntax in ENCODINGS:
            try_to_scan(data, transfer_syntax, len(data))
    assert time.monotonic() - began < 20


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(TRANSFER_SYNTAXES[:5]), st.integers(0, 20))
def test_any_bytes_are_a_data_set_or_refused(data: bytes, transfer_syntax: UID, missing: int) -> None:
    try_to_scan(data, transfer_syntax, len(data) + missing)
    try_to_scan(deflated(data), DEFLATED, len(data))


@settings(deadline=None)
@given(st.data())
def test_a_damaged_data_set_is_read_or_refused(data: st.DataObject) -> None:
    original = (
        NAME
        + ID
        + long(0x0040A730, b"SQ", bare(0xFFFEE000, ID + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED)
    )
    damaged = bytearray(original + long(0x7FE00010, b"OW", bytes(4)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for transfer_syntax in (EXPLICIT_VR_LE, EXPLICIT_VR_BE, IMPLICIT_VR_LE):
        try_to_scan(bytes(damaged), transfer_syntax, len(damaged))


def try_to_scan(data: bytes, transfer_syntax: UID, size: int) -> None:
    """Scan what may be anything: it is read, or one of the two errors says why not."""
    try:
        found = scan(data, transfer_syntax, size, WANTED)
    except CannotUnderstand:
        return
    except HeaderIncomplete:
        assert len(data) < size
        return
    assert found.values.keys() <= WANTED


@pytest.fixture(autouse=True)
def _quiet_oracle() -> Iterator[None]:
    """pydicom warns about what is odd in its own collection."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
