"""Headers read by comparison are those that a scan finds, whatever comes; a scan is for the first few."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence

from pacsnode.archive.rows import RowBuilder
from pacsnode.dicom import header_form
from pacsnode.dicom.header import BULK_LIMIT, Header, HeaderIncomplete, scan
from pacsnode.dicom.header_form import FORMS, WIDENED, HeaderReader
from pacsnode.dicom.information_model import INDEXED_TAGS
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand
from tests.support.objects import encoded, made

SYNTAXES = [EXPLICIT_VR_LE, IMPLICIT_VR_LE]


def image(number: int, series: int = 1, **values: object) -> Dataset:
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 100"
    data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data_set.SOPInstanceUID = f"1.2.3.{series}.{number}"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1.2.3", f"1.2.3.{series}"
    data_set.PatientName, data_set.PatientID = "Müller^Eva", "P1"
    data_set.InstanceNumber = number
    data_set.ImagePositionPatient = [0, 0, number * 1.25]
    item = Dataset()
    item.CodeValue = "T-1"
    data_set.ProcedureCodeSequence = Sequence([item])
    data_set.Rows = data_set.Columns = 4
    data_set.BitsAllocated = 16
    data_set.PixelData = bytes(32)
    data_set["PixelData"].VR = "OW"
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


def outcome(read: Callable[[], Header]) -> object:
    try:
        header = read()
    except (CannotUnderstand, HeaderIncomplete) as error:
        return type(error), str(error)
    return header.transfer_syntax, header.encoding, header.kept, header.values


def agree(reader: HeaderReader, data: bytes, transfer_syntax: UID) -> None:
    scanned = outcome(lambda: scan(data, transfer_syntax, len(data), INDEXED_TAGS))
    assert outcome(lambda: reader.read(data, transfer_syntax, len(data))) == scanned


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was scanned."""
    sizes: list[int] = []

    def noted(start: bytes, transfer_syntax: UID, size: int, wanted: frozenset[int]) -> Header:
        sizes.append(size)
        return scan(start, transfer_syntax, size, wanted)

    monkeypatch.setattr(header_form, "scan", noted)
    return sizes


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_two_objects_of_a_series_are_scanned_and_then_what_is_new_in_it(
    scans: list[int], transfer_syntax: UID
) -> None:
    reader = HeaderReader(INDEXED_TAGS)
    implicit = transfer_syntax == IMPLICIT_VR_LE
    for number in range(9, 120):  # values become longer
        agree(reader, encoded(image(number), implicit=implicit), transfer_syntax)
    assert len(scans) == 2
    for number in range(20):
        agree(reader, encoded(image(number, PatientComments=f"{number}"), implicit=implicit), transfer_syntax)
    assert len(scans) == 4, "one element more, then its value"


def test_series_that_come_at_the_same_time_have_a_form_each(scans: list[int]) -> None:
    reader = HeaderReader(INDEXED_TAGS)
    for number in range(20):
        for series in range(FORMS):
            agree(reader, encoded(image(number, series)), EXPLICIT_VR_LE)
    assert len(scans) == 2 * FORMS


def test_a_series_in_which_nothing_stays_the_same_is_given_up(scans: list[int]) -> None:
    reader = HeaderReader(INDEXED_TAGS)
    for number in range(1, 40):
        private = {tag: "x" for tag in range(number)}
        data_set = image(number)
        for tag, value in private.items():
            data_set.add_new(0x00290010 + tag, "LO", value)
        agree(reader, encoded(data_set), EXPLICIT_VR_LE)
    assert len(scans) == 39
    assert not reader._forms
    [known] = reader._series.values()
    assert known.left == 0
    assert WIDENED < 39


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
@pytest.mark.parametrize("wrong", ["cut", "flipped", "longer"])
def test_damage_is_told_as_by_a_scan(transfer_syntax: UID, wrong: str) -> None:
    reader = HeaderReader(INDEXED_TAGS)
    implicit = transfer_syntax == IMPLICIT_VR_LE
    for number in (1, 22, 3):
        agree(reader, encoded(image(number), implicit=implicit), transfer_syntax)
    whole = encoded(image(44), implicit=implicit)
    for at in range(len(whole)):
        damaged = {
            "cut": whole[:at],
            "flipped": whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :],
            "longer": whole[:at] + b"\0\0" + whole[at:],
        }[wrong]
        agree(reader, damaged, transfer_syntax)
    agree(reader, whole, transfer_syntax)


TAGS = [0x00080018, 0x00080020, 0x00081030, 0x00100010, 0x00100020, 0x00200013, 0x00280010, 0x00291001]
ELEMENTS = st.dictionaries(
    st.sampled_from(TAGS),
    st.tuples(
        st.sampled_from([b"LO", b"UI", b"US", b"UN", b"OB", b"SQ", b"ZZ"]),
        st.binary(max_size=6) | st.just(b"x" * BULK_LIMIT) | st.just(b"x" * (BULK_LIMIT + 2)),
    ),
)
PIXELS = st.sampled_from([None, b"", bytes(8), bytes(300)])


def element(tag: int, vr: bytes, value: bytes, transfer_syntax: UID) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if transfer_syntax == IMPLICIT_VR_LE:
        return head + struct.pack("<I", len(value)) + value
    if vr in (b"UN", b"OB", b"SQ"):
        return head + vr + b"\0\0" + struct.pack("<I", len(value)) + value
    return head + vr + struct.pack("<H", len(value)) + value


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
@given(objects=st.lists(st.tuples(ELEMENTS, PIXELS, st.booleans()), max_size=8), base=ELEMENTS)
def test_what_a_form_reads_is_what_a_scan_reads(
    transfer_syntax: UID,
    objects: list[tuple[dict[int, tuple[bytes, bytes]], bytes | None, bool]],
    base: dict[int, tuple[bytes, bytes]],
) -> None:
    reader = HeaderReader(INDEXED_TAGS)
    for changes, pixels, backwards in objects:
        elements = {**base, **changes, 0x0020000E: (b"UI", b"1.2.3\0")}
        parts = [element(tag, *elements[tag], transfer_syntax) for tag in sorted(elements, reverse=backwards)]
        if pixels is not None:
            parts.append(element(0x7FE00010, b"OB", pixels, transfer_syntax))
        agree(reader, b"".join(parts), transfer_syntax)


def test_rows_are_the_same_with_a_form(real_series: list[bytes]) -> None:
    remembering = RowBuilder()
    for data in real_series * 2:
        read = remembering.build(remembering.headers.read(data, EXPLICIT_VR_LE, len(data)))
        alone = RowBuilder().build(scan(data, EXPLICIT_VR_LE, len(data), INDEXED_TAGS))
        assert (read.values, read.path, read.sop_class) == (alone.values, alone.path, alone.sop_class)
        parents, expected = read.parents, alone.parents
        assert (parents.patient, parents.study, parents.series) == (
            expected.patient,
            expected.study,
            expected.series,
        )


@pytest.fixture(params=["plain", "character set", "patient", "rows"])
def real_series(request: pytest.FixtureRequest) -> list[bytes]:
    """Objects of a series that differ in values of an instance, of its patient, or in how text is encoded."""
    values: dict[str, Callable[[int], dict[str, object]]] = {
        "plain": lambda number: {"ContentTime": f"1010{number:02}"},
        "character set": lambda number: {"SpecificCharacterSet": ["ISO_IR 100", "ISO_IR 192"][number % 2]},
        "patient": lambda number: {"PatientName": f"Müller^Eva{number % 3}", "ContentDescription": "Mü"},
        "rows": lambda number: {"Rows": number, "ImageType": ["ORIGINAL", f"{number}"]},
    }
    return [encoded(image(number, **values[request.param](number))) for number in range(12)]


def test_a_large_object_of_which_the_beginning_is_at_hand_is_read_too(scans: list[int]) -> None:
    reader = HeaderReader(INDEXED_TAGS)
    for number in range(1, 6):
        data = made(number, pixels=200_000).data
        start = data[:100_000]
        read = reader.read(memoryview(start), EXPLICIT_VR_LE, len(data))
        scanned = scan(start, EXPLICIT_VR_LE, len(data), INDEXED_TAGS)
        assert (read.kept, read.values) == (scanned.kept, scanned.values)
    assert len(scans) == 2


def test_what_has_no_form_is_scanned(scans: list[int]) -> None:
    reader = HeaderReader(INDEXED_TAGS)
    big = image(1)
    for _ in range(4):
        data = b"\x00\x08\x00\x16UI\x00\x02" + b"1\0"  # big endian
        agree(reader, data, EXPLICIT_VR_BE)
    encapsulated = encoded(big)[: -12 - 32] + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    encapsulated += struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    for _ in range(4):
        agree(reader, encapsulated, UID("1.2.840.10008.1.2.4.50"))
    assert len(scans) == 8
