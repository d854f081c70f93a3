"""Instances of some frames of real objects: pydicom reads the frames that were asked for, dciodvfy finds no
new fault, and nothing is decoded on the way (PS3.4 Y.3)."""

import re
import shutil
import subprocess
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.filereader import read_dataset
from pydicom.uid import UID as KnownUID

from pacsnode.dicom.frame_range import CALCULATED_FRAME_LIST, SIMPLE_FRAME_LIST, TIME_RANGE, FrameRange
from pacsnode.dicom.part10 import file_meta, read_file_meta
from pacsnode.dicom.sop_class import DEFLATED, EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import (
    CannotCreateInstance,
    CannotExtractFrames,
    CannotUnderstand,
    FramesNotFound,
    NotTimeBased,
    OperationError,
)
from pacsnode.pixels.extract import extract
from pacsnode.pixels.job import Extraction
from pacsnode.pixels.transcode import opened, write_as
from tests.conftest import needs, real_objects
from tests.support.objects import encoded
from tests.support.pixels import pixels_of

pytestmark = pytest.mark.filterwarnings("ignore")

NEW = UID("2.25.4711")


def the(*numbers: float, tag: int = SIMPLE_FRAME_LIST) -> FrameRange:
    return FrameRange(tag, numbers)


def cut(data: memoryview, stored: UID, frame_range: FrameRange) -> bytes:
    """The encoded data set of the new instance."""
    data_set = opened(data, stored)
    extract(data_set, stored, Extraction(NEW, frame_range, "PACSNODE", "20260102030405.000000+0000"))
    out = BytesIO()
    write_as(data_set, stored, stored, out)
    return out.getvalue()


def cut_file(path: Path, frame_range: FrameRange) -> bytes:
    data = path.read_bytes()
    meta = read_file_meta(data)
    new = cut(memoryview(data)[meta.data_offset :], meta.transfer_syntax, frame_range)
    return file_meta(meta.sop_class or UID("1.2.3"), NEW, meta.transfer_syntax, "PACSNODE") + new


def cut_made(data_set: Dataset, frame_range: FrameRange, stored: UID = EXPLICIT_VR_LE) -> Dataset:
    new = cut(memoryview(encoded(data_set)), stored, frame_range)
    head = file_meta(UID(data_set.SOPClassUID), NEW, stored, "PACSNODE")
    return dcmread(BytesIO(head + new))


def multi_frame() -> list[Path]:
    """The real objects with several frames whose pixels pydicom reads, of each name one."""
    found: dict[str, Path] = {}
    for path in real_objects():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True)
        number = str(header.get("NumberOfFrames") or "")
        if number.isdigit() and int(number) > 1 and "too_short" not in path.name:
            found.setdefault(path.name, path)
    return list(found.values())


def compressed() -> list[Path]:
    return [path for path in multi_frame() if dcmread(path).file_meta.TransferSyntaxUID.is_encapsulated]


def readable() -> list[Path]:
    """pydicom decodes neither RLE of one bit nor deflated frames."""
    return [path for path in multi_frame() if not re.match("liver.*_(rle|deflate)", path.name)]


@pytest.mark.parametrize("path", readable(), ids=lambda path: path.name)
def test_real_frames(path: Path, tmp_path: Path) -> None:
    source, pixels = pixels_of(path, tmp_path)
    count = int(source.NumberOfFrames)
    numbers = sorted({2, count - 1, count} & set(range(1, count + 1)))
    new, frames = pixels_of(cut_file(path, the(*numbers)), tmp_path)
    expected = pixels[[number - 1 for number in numbers]]
    assert np.array_equal(frames.reshape(expected.shape), expected)
    assert new.NumberOfFrames == len(numbers)


@pytest.mark.parametrize("path", compressed(), ids=lambda path: path.name)
def test_compressed_frames_are_the_same_bytes(path: Path) -> None:
    compressed_frames_are_the_same(path, cut_file(path, the(2)), [2])


def compressed_frames_are_the_same(path: Path, new: bytes, numbers: list[int]) -> None:
    one, other = dcmread(path), dcmread(BytesIO(new))
    before = list(generate_frames(one.PixelData, number_of_frames=int(one.NumberOfFrames)))
    after = list(generate_frames(other.PixelData, number_of_frames=len(numbers)))
    assert after == [before[number - 1] for number in numbers]


@needs("dciodvfy")
@pytest.mark.parametrize("path", multi_frame(), ids=lambda path: path.name)
def test_dciodvfy_finds_no_new_fault(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.dcm"
    new.write_bytes(cut_file(path, the(1, 2)))
    assert faults(new) - faults(path) == set()
    new.write_bytes(cut_file(path, the(2)))
    assert faults(new) - faults(path) == set()


def faults(path: Path) -> set[str]:
    program = shutil.which("dciodvfy")
    assert program is not None
    done = subprocess.run((program, path), capture_output=True, text=True, errors="replace", check=False)
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


def real(name: str) -> Path:
    return next(path for path in real_objects() if path.name == name)


# What the new instance says of itself


def test_the_new_instance_tells_where_it_is_from() -> None:
    source = dcmread(real("examples_ybr_color.dcm"))
    asked = the(2, 9, 3, 12, 0xFFFFFFFF, 5, tag=CALCULATED_FRAME_LIST)
    first = cut_file(real("examples_ybr_color.dcm"), asked)
    new = dcmread(BytesIO(first))
    assert {new.SOPInstanceUID, new.file_meta.MediaStorageSOPInstanceUID} == {str(NEW)}
    assert (new.SOPClassUID, new.SeriesInstanceUID) == (source.SOPClassUID, source.SeriesInstanceUID)
    (item,) = new.FrameExtractionSequence
    assert item.MultiFrameSourceSOPInstanceUID == source.SOPInstanceUID
    assert list(item.CalculatedFrameList) == [2, 9, 3, 12, 0xFFFFFFFF, 5]
    assert new.NumberOfFrames == 7  # 2 5 8 12 17 22 27
    (equipment,) = new.ContributingEquipmentSequence
    (purpose,) = equipment.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109105", "DCM")
    assert equipment.StationName == "PACSNODE"
    assert new.InstanceCreationDate == "20260102"
    assert not any(element.tag.is_private for element in new)


def test_the_new_instance_is_dated_on_the_clock_of_its_source() -> None:
    new = cut_made(sequence_of(2, TimezoneOffsetFromUTC="-0400"), the(1))
    assert (new.InstanceCreationDate, new.InstanceCreationTime) == ("20260101", "230405")


def test_frames_of_extracted_frames_append_to_the_history(tmp_path: Path) -> None:
    once = tmp_path / "once.dcm"
    once.write_bytes(cut_file(real("examples_ybr_color.dcm"), the(*range(1, 11))))
    twice = dcmread(BytesIO(cut_file(once, the(3, 4))))
    assert [list(item.SimpleFrameList) for item in twice.FrameExtractionSequence] == [
        list(range(1, 11)),
        [3, 4],
    ]
    assert len(twice.ContributingEquipmentSequence) == 2


# Times


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [((0, 0.07), [1, 2, 3]), ((0.033333, 0.034), [2]), ((0.89, 100), [28, 29, 30])],
)
def test_a_time_range_by_frame_time(asked: tuple[float, float], numbers: list[int], tmp_path: Path) -> None:
    path = real("examples_ybr_color.dcm")  # 33.333 ms a frame
    new = cut_file(path, the(*asked, tag=TIME_RANGE))
    compressed_frames_are_the_same(path, new, numbers)
    assert list(dcmread(BytesIO(new)).FrameExtractionSequence[0].TimeRange) == list(asked)


def sequence_of(count: int, **attributes: object) -> Dataset:
    """A made multi-frame image whose frames are their numbers."""
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.3.4"
    data_set.ContentDate, data_set.ContentTime = "20260101", "120000"
    data_set.NumberOfFrames, data_set.Rows, data_set.Columns = count, 3, 1
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.BitsAllocated = data_set.BitsStored = 8
    data_set.HighBit, data_set.PixelRepresentation = 7, 0
    native = bytes(number for number in range(1, count + 1) for _ in range(3))
    data_set.add_new(0x7FE00010, "OB", native + bytes(len(native) & 1))
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    return data_set


def frames_of(data_set: Dataset) -> list[int]:
    return list(data_set.PixelData[: 3 * data_set.NumberOfFrames : 3])


def test_a_frame_time_vector_goes_on_telling_the_times() -> None:
    vector = {"FrameTimeVector": [0, 100, 50, 25, 200], "FrameIncrementPointer": 0x00181065}
    source = sequence_of(5, FrameDelay=10, **vector)
    new = cut_made(source, the(0.1, 0.2, tag=TIME_RANGE))  # at 10, 110, 160, 185, 385 ms
    assert frames_of(new) == [2, 3, 4]
    assert list(new.FrameTimeVector) == [0, 50, 25]
    assert new.FrameDelay == 110
    sparse = cut_made(source, the(1, 3, 5))
    assert (list(sparse.FrameTimeVector), sparse.FrameDelay) == ([0, 150, 225], 10)


def test_frames_at_equal_distances_keep_a_frame_time_others_get_a_vector() -> None:
    source = sequence_of(6, FrameTime=40, FrameIncrementPointer=0x00181063, CineRate=25)
    every_other = cut_made(source, the(2, 4, 6))
    assert (every_other.FrameTime, every_other.FrameDelay) == (80, 40)
    assert "CineRate" not in every_other
    uneven = cut_made(source, the(1, 2, 5))
    assert (uneven.FrameIncrementPointer, list(uneven.FrameTimeVector)) == (0x00181065, [0, 40, 120])
    assert "FrameTime" not in uneven
    run = cut_made(source, the(3, 4, 5))
    assert (run.FrameTime, run.CineRate, run.FrameDelay) == (40, 25, 80)


def test_a_time_range_by_frame_reference_date_times() -> None:
    groups = []
    for second in (0, 1, 3):
        content = Dataset()
        content.FrameReferenceDateTime = f"2026010113000{second}.5+0100"
        group = Dataset()
        group.FrameContentSequence = [content]
        groups.append(group)
    source = sequence_of(3, PerFrameFunctionalGroupsSequence=groups, TimezoneOffsetFromUTC="+0000")
    new = cut_made(source, the(1.5, 3.5, tag=TIME_RANGE))
    assert frames_of(new) == [2, 3]
    first, second = new.PerFrameFunctionalGroupsSequence
    assert first.FrameContentSequence[0].FrameReferenceDateTime == "20260101130001.5+0100"
    assert second.FrameContentSequence[0].FrameReferenceDateTime == "20260101130003.5+0100"


# Other attributes that speak of frames


def test_frame_numbers_are_those_of_the_new_instance() -> None:
    mask = Dataset()
    mask.MaskOperation, mask.ApplicableFrameRange, mask.MaskFrameNumbers = "AVG_SUB", [1, 2, 3, 6], [2]
    lost = Dataset()
    lost.MaskOperation, lost.MaskFrameNumbers = "AVG_SUB", [1]
    source = sequence_of(
        6,
        RepresentativeFrameNumber=4,
        FrameNumbersOfInterest=[1, 4, 5],
        FrameOfInterestDescription=["one", "four", "five"],
        MaskSubtractionSequence=[mask, lost],
        RecommendedViewingMode="SUB",
        PositionerPrimaryAngleIncrement=[0, 1, 2, 3, 4, 5],
        StopTrim=6,
    )
    new = cut_made(source, the(2, 4, 5))
    assert new.RepresentativeFrameNumber == 2
    assert list(new.FrameNumbersOfInterest) == [2, 3]
    assert list(new.FrameOfInterestDescription) == ["four", "five"]
    (kept,) = new.MaskSubtractionSequence
    assert (kept.MaskFrameNumbers, list(kept.ApplicableFrameRange)) == (1, [1, 1, 2, 3])
    assert list(new.PositionerPrimaryAngleIncrement) == [1, 3, 4]
    assert "StopTrim" not in new
    without = cut_made(source, the(3, 6))
    assert not {"MaskSubtractionSequence", "RecommendedViewingMode", "RepresentativeFrameNumber"} & set(
        without.dir()
    )


def test_an_overlay_of_several_frames_stays_with_them() -> None:
    source = sequence_of(4)
    planes = [[1, 0, 1], [0, 1, 1], [1, 1, 1]]
    source.add_new(0x60000010, "US", 3)
    source.add_new(0x60000011, "US", 1)
    source.add_new(0x60000015, "IS", 3)
    source.add_new(0x60000051, "US", 2)  # from the second frame on
    bits = np.packbits(np.array(planes, np.uint8), bitorder="little").tobytes()
    source.add_new(0x60003000, "OW", bits)
    new = cut_made(source, the(1, 3, 4))
    assert (new[0x60000015].value, new[0x60000051].value) == (2, 2)
    unpacked = np.unpackbits(np.frombuffer(new[0x60003000].value, np.uint8), bitorder="little")[:6]
    assert unpacked.tolist() == [0, 1, 1, 1, 1, 1]
    assert 0x60003000 not in cut_made(source, the(1))


def test_the_planes_of_a_dose_stay_where_they_are() -> None:
    path = real("rtdose.dcm")
    source, new = dcmread(path), dcmread(BytesIO(cut_file(path, the(4, 5, 8))))

    def places(dose: Dataset) -> list[float]:
        return [float(dose.ImagePositionPatient[2]) + float(one) for one in dose.GridFrameOffsetVector]

    assert new.GridFrameOffsetVector[0] == source.GridFrameOffsetVector[0] == 0
    assert np.allclose(places(new), [places(source)[n] for n in (3, 4, 7)])


def test_a_part_of_a_concatenation_is_none_any_more() -> None:
    source = sequence_of(
        3, ConcatenationUID="1.2.3", InConcatenationNumber=1, ConcatenationFrameOffsetNumber=0
    )
    new = cut_made(source, the(1, 2, 3))
    assert new.dir("oncatenation") == []
    assert frames_of(new) == [1, 2, 3]


# Encapsulated


@pytest.mark.parametrize("per_frame", [1, 3])
def test_fragments_of_a_frame_stay_together(per_frame: int) -> None:
    streams = [b"\xff\xd8\xff" + bytes([number]) * 601 for number in range(5)]
    source = sequence_of(5)
    source.add_new(0x7FE00010, "OB", encapsulate(streams, fragments_per_frame=per_frame))
    source["PixelData"].is_undefined_length = True
    new = cut_made(source, the(2, 5), UID("1.2.840.10008.1.2.4.50"))
    before = list(generate_frames(source.PixelData, number_of_frames=5))
    assert list(generate_frames(new.PixelData, number_of_frames=2)) == [before[1], before[4]]


def test_an_extended_offset_table_stays_one() -> None:
    streams = [bytes([number]) * (600 + 2 * number) for number in range(4)]
    source = sequence_of(4)
    value, offsets, lengths = encapsulate_extended(streams)
    source.add_new(0x7FE00010, "OB", value)
    source["PixelData"].is_undefined_length = True
    source.ExtendedOffsetTable, source.ExtendedOffsetTableLengths = offsets, lengths
    new = cut_made(source, the(2, 4), UID("1.2.840.10008.1.2.4.50"))
    table = (new.ExtendedOffsetTable, new.ExtendedOffsetTableLengths)
    assert list(generate_frames(new.PixelData, number_of_frames=2, extended_offsets=table)) == [
        streams[1],
        streams[3],
    ]
    assert np.frombuffer(table[1], "<u8").tolist() == [602, 606]


# What cannot be


@pytest.mark.parametrize(
    ("source", "frame_range", "error"),
    [
        (sequence_of(3), the(4, 5), FramesNotFound),
        (sequence_of(3), the(3, 4), CannotExtractFrames),
        (sequence_of(3), the(0, 1, tag=TIME_RANGE), NotTimeBased),
        (sequence_of(3, FrameTime=1000), the(7, 8, tag=TIME_RANGE), FramesNotFound),
        (sequence_of(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.20"), the(1), CannotCreateInstance),
        (sequence_of(3, DimensionOrganizationType="TILED_FULL"), the(1), CannotCreateInstance),
        (sequence_of(3, NumberOfFrames=None), the(1), CannotCreateInstance),
        (sequence_of(3, PixelData=b"\0\0"), the(1), CannotExtractFrames),
        (sequence_of(3, PerFrameFunctionalGroupsSequence=[Dataset()]), the(1), CannotExtractFrames),
    ],
)
def test_what_cannot_be_extracted(
    source: Dataset, frame_range: FrameRange, error: type[OperationError]
) -> None:
    with pytest.raises(error):
        cut_made(source, frame_range)


def test_video_is_not_cut() -> None:
    source = sequence_of(4)
    source.add_new(0x7FE00010, "OB", encapsulate([b"stream"]))
    source["PixelData"].is_undefined_length = True
    mpeg = UID("1.2.840.10008.1.2.4.102")
    with pytest.raises(CannotExtractFrames):
        cut_made(source, the(1), mpeg)
    assert cut_made(source, the(1, 2, 3, 4), mpeg).NumberOfFrames == 4


def test_a_deflated_data_set_is_one_again() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(encoded(sequence_of(4))) + deflater.flush()
    new = cut(memoryview(data), DEFLATED, the(2, 3))
    inflated = zlib.decompress(new, wbits=-zlib.MAX_WBITS)
    assert frames_of(read_dataset(BytesIO(inflated), False, True)) == [2, 3]


def test_damaged_fragments_are_not_guessed() -> None:
    source = sequence_of(4)
    source.add_new(0x7FE00010, "OB", encapsulate([b"none", b"tell"], has_bot=False))
    source["PixelData"].is_undefined_length = True
    with pytest.raises(CannotUnderstand):
        cut_made(source, the(1), UID(KnownUID("1.2.840.10008.1.2.5")))
