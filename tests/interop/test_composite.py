"""Composite Instance Root Retrieve and Retrieve Without Bulk Data: pynetdicom, storescp and pydicom.

Real objects go in; what comes out is compared with what pydicom reads in the files (PS3.4 Y, Z).
"""

import asyncio
import struct
import warnings
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_dataset
from pynetdicom import AE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CompositeInstanceRetrieveWithoutBulkDataGet as WITHOUT_BULK_DATA
from pynetdicom.sop_class import CompositeInstanceRootRetrieveGet as GET
from pynetdicom.sop_class import CompositeInstanceRootRetrieveMove as MOVE

from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.uid import UID
from pacsnode.node import Node
from tests.conftest import needs, real_objects, settings_for
from tests.support.compare import differences
from tests.support.destination import free_address
from tests.support.getting import Got, get, in_file
from tests.support.objects import Part10, encoded, part10
from tests.support.pixels import pixels_of
from tests.support.programs import storescp
from tests.support.sending import send_files

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
MPEG4 = "1.2.840.10008.1.2.4.102"
MULTI_FRAME = (
    "emri_small.dcm",
    "emri_small_big_endian.dcm",
    "emri_small_jpeg_2k_lossless.dcm",
    "emri_small_jpeg_ls_lossless.dcm",
    "emri_small_RLE.dcm",
    "examples_ybr_color.dcm",
    "liver_nonbyte_aligned.dcm",
    "rtdose.dcm",
    "eCT_Supplemental.dcm",
)
SINGLE = (
    "CT_small.dcm",
    "waveform_ecg.dcm",
    "reportsi.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm",
    "color-pl.dcm",
)
BULK = {0x7FE00010, 0x7FE00008, 0x7FE00009, 0x00287FE0, 0x56000020, 0x60003000, 0x60023000, 0x00420011}


@dataclass(frozen=True)
class Filled:
    """A node and the files it has."""

    node: Node
    items: dict[str, Part10]
    destination: str

    async def get(
        self,
        name: str | Iterable[str],
        *,
        sop_class: str = GET,
        takes: tuple[str, ...] | None = None,
        level: str = "IMAGE",
        **keys: object,
    ) -> Got:
        """C-GET by pynetdicom, which takes an object as it is stored, or in the transfer syntaxes `takes`."""
        items = [self.items[one] for one in ([name] if isinstance(name, str) else name)]
        kinds = sorted({(item.sop_class, takes or (item.transfer_syntax,)) for item in items})
        return await get(self.node.dimse_port, sop_class, asked(level, items, **keys), kinds)


class _Items(dict[str, Part10]):
    """By name; a test that wants one of the shared objects is skipped where they are not."""

    def __missing__(self, name: str) -> Part10:
        pytest.skip(f"{name} is not here")


def asked(level: str, items: Iterable[Part10], **keys: object) -> Dataset:
    data_set = Dataset()
    data_set.QueryRetrieveLevel = level
    data_set.SOPInstanceUID = [item.sop for item in items]
    for keyword, value in keys.items():
        setattr(data_set, keyword, value)
    return data_set


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Filled]:
    folder = tmp_path_factory.mktemp("composite")
    items = _Items()
    for path in real_objects():
        if path.name in (*MULTI_FRAME, *SINGLE) and path.name not in items:
            # They have UIDs in common: each is to be had
            items[path.name] = part10(renamed(path, folder / path.name, len(items)))
    for path in (video(folder), document(folder)):
        items[path.name] = part10(path)
    address = free_address()
    async with Node(settings_for(folder / "root", peers={"STORESCP": address})) as node:
        assert set(await send_files(node.dimse_port, items.values())) == {0x0000}
        yield Filled(node, items, address)


def renamed(path: Path, copy: Path, number: int) -> Path:
    """A file with a SOP Instance UID of its own, as pydicom writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = dcmread(path)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"2.25.47110{number}"
        data_set.save_as(copy)
    return copy


def video(folder: Path) -> Path:
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.4.1", "2.25.81"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.8", "2.25.80"
    data_set.Rows = data_set.Columns = 16
    data_set.NumberOfFrames, data_set.FrameTime = 100, 40
    data_set.PixelData = encapsulate([b"a stream of MPEG-4"])
    data_set["PixelData"].VR, data_set["PixelData"].is_undefined_length = "OB", True
    return written(folder / "video.dcm", data_set, MPEG4)


def document(folder: Path) -> Path:
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.104.1", "2.25.91"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.9", "2.25.90"
    data_set.DocumentTitle, data_set.EncapsulatedDocument = "Report", b"%PDF-1.4 and so on"
    return written(folder / "document.dcm", data_set, EXPLICIT)


def written(path: Path, data_set: Dataset, syntax: str) -> Path:
    meta = file_meta(UID(data_set.SOPClassUID), UID(data_set.SOPInstanceUID), UID(syntax), "TEST")
    path.write_bytes(meta + encoded(data_set))
    return path


# Instances


async def test_instances_come_as_they_are_stored(filled: Filled) -> None:
    got = await filled.get(["CT_small.dcm", "emri_small_RLE.dcm"])
    items = [filled.items["CT_small.dcm"], filled.items["emri_small_RLE.dcm"]]
    assert {(sop, data) for sop, _, data in got.stored} == {(item.sop, item.data) for item in items}
    assert (got.final.Status, got.final.NumberOfCompletedSuboperations) == (0x0000, 2)


@needs("storescp")
async def test_frames_and_instances_move(filled: Filled, tmp_path: Path) -> None:
    items = [filled.items["emri_small_jpeg_ls_lossless.dcm"]]

    def move(level: str, **keys: object) -> Dataset:
        association = AE("PYNETDICOM").associate(
            "127.0.0.1", filled.node.dimse_port, contexts=[build_context(MOVE)]
        )
        statuses = association.send_c_move(asked(level, items, **keys), "STORESCP", MOVE)
        (*_, (final, _)) = statuses
        association.release()
        return final

    async with storescp(filled.destination, tmp_path / "got", "STORESCP", "+xa"):
        whole = await asyncio.to_thread(move, "IMAGE")
        frames = await asyncio.to_thread(move, "FRAME", SimpleFrameList=[3, 7])
    assert (whole.Status, frames.Status) == (0x0000, 0x0000)
    found = {dcmread(path).NumberOfFrames: path for path in (tmp_path / "got").iterdir()}
    assert found.keys() == {10, 2}
    _, expected = pixels_of(items[0].path, tmp_path)
    _, pixels = pixels_of(found[2], tmp_path)
    assert np.array_equal(pixels, expected[[2, 6]])


# Frames


@pytest.mark.parametrize("name", MULTI_FRAME)
@pytest.mark.parametrize("takes", [None, (IMPLICIT,)], ids=["as stored", "implicit"])
async def test_frames_are_those_that_pydicom_reads(
    filled: Filled, name: str, takes: tuple[str, ...] | None, tmp_path: Path
) -> None:
    item = filled.items[name]
    source, pixels = pixels_of(item.path, tmp_path)
    numbers = [1, int(source.NumberOfFrames)]
    got = await filled.get(name, takes=takes, level="FRAME", SimpleFrameList=numbers)
    assert (got.final.Status, got.final.NumberOfCompletedSuboperations) == (0x0000, 1)
    ((sop, syntax, data),) = got.stored
    assert sop != item.sop
    new, frames = pixels_of(in_file(sop, syntax, data), tmp_path)
    assert str(new.SOPInstanceUID) == sop
    assert (str(new.SOPClassUID), str(new.SeriesInstanceUID)) == (item.sop_class, item.series)
    (extraction,) = new.FrameExtractionSequence
    assert str(extraction.MultiFrameSourceSOPInstanceUID) == item.sop
    assert list(extraction.SimpleFrameList) == numbers
    expected = pixels[[0, -1]]
    if name == "examples_ybr_color.dcm" and takes:  # lossy colour is decompressed to RGB
        assert new.LossyImageCompression == "01"
        assert frames.shape == expected.shape
    else:
        assert np.array_equal(frames.reshape(expected.shape), expected)


async def test_nothing_is_left_behind(filled: Filled) -> None:
    """The new instance is a file until it has been sent, or could not be."""
    await filled.get("emri_small.dcm", takes=(IMPLICIT,), level="FRAME", SimpleFrameList=[1, 2])
    got = await filled.get("emri_small.dcm", takes=(MPEG4,), level="FRAME", SimpleFrameList=[1, 2])
    assert (got.final.Status, got.final.NumberOfFailedSuboperations) == (0xA702, 1)
    root = Path(filled.node.settings.node.storage)
    assert list((root / "transcoded").iterdir()) == []


async def test_compressed_frames_are_not_touched(filled: Filled) -> None:
    source = dcmread(filled.items["examples_ybr_color.dcm"].path)
    got = await filled.get("examples_ybr_color.dcm", level="FRAME", CalculatedFrameList=[2, 0xFFFFFFFF, 9])
    before = list(generate_frames(source.PixelData, number_of_frames=30))
    after = list(generate_frames(got.only.PixelData, number_of_frames=4))
    assert after == [before[number - 1] for number in (2, 11, 20, 29)]


async def test_a_time_range(filled: Filled) -> None:
    got = await filled.get("examples_ybr_color.dcm", level="FRAME", TimeRange=[0.1, 0.2])
    assert (got.final.Status, got.only.NumberOfFrames) == (0x0000, 3)  # at 133, 167 and 200 ms


@pytest.mark.parametrize(
    ("name", "keys", "status"),
    [
        ("emri_small.dcm", {"SimpleFrameList": [11, 12]}, 0xAA00),
        ("emri_small.dcm", {"CalculatedFrameList": [11, 0xFFFFFFFF, 1]}, 0xAA00),
        ("CT_small.dcm", {"SimpleFrameList": [1]}, 0xAA01),
        ("reportsi.dcm", {"SimpleFrameList": [1]}, 0xAA01),
        ("video.dcm", {"SimpleFrameList": [1]}, 0xAA02),
        ("video.dcm", {"TimeRange": [0.0, 1.0]}, 0xAA02),
        ("emri_small.dcm", {"SimpleFrameList": [9, 11]}, 0xAA02),
        ("emri_small.dcm", {"TimeRange": [0.0, 1.0]}, 0xAA03),
        ("emri_small.dcm", {}, 0xAA04),
        ("emri_small.dcm", {"SimpleFrameList": [1], "TimeRange": [0.0, 1.0]}, 0xAA04),
        ("emri_small.dcm", {"SimpleFrameList": [2, 2]}, 0xAA04),
        ("emri_small.dcm", {"SimpleFrameList": [0, 2]}, 0xAA04),
        ("emri_small.dcm", {"CalculatedFrameList": [1, 2]}, 0xAA04),
        ("emri_small.dcm", {"CalculatedFrameList": [1, 5, 2, 5, 9, 1]}, 0xAA04),
        ("emri_small.dcm", {"CalculatedFrameList": [5, 1, 1]}, 0xAA04),
        ("emri_small.dcm", {"TimeRange": [2.0, 1.0]}, 0xAA04),
        (["emri_small.dcm", "rtdose.dcm"], {"SimpleFrameList": [1]}, 0xAA04),
    ],
)
async def test_frames_that_cannot_be_had(
    filled: Filled, name: str | list[str], keys: dict[str, object], status: int
) -> None:
    got = await filled.get(name, level="FRAME", **keys)
    assert [f"{one.Status:04X}" for one in got.statuses if one.Status != 0xFF00] == [f"{status:04X}"]
    assert got.final.ErrorComment
    assert got.stored == []


async def test_no_other_level_and_no_relational_retrieval(filled: Filled) -> None:
    for level in ("STUDY", "SERIES", "PATIENT"):
        got = await filled.get("CT_small.dcm", level=level)
        assert got.final.Status == 0xA900
    unknown = Part10(Path(), "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1", "1", EXPLICIT, b"")
    lost = Filled(filled.node, {"lost": unknown}, "")
    assert (await lost.get("lost")).final.Status == 0x0000
    assert (await lost.get("lost", level="FRAME", SimpleFrameList=[1])).final.Status == 0xAA00


# Without bulk data


@pytest.mark.parametrize("takes", [(EXPLICIT,), (IMPLICIT,)], ids=["explicit", "implicit"])
@pytest.mark.parametrize("name", [*MULTI_FRAME, *SINGLE, "video.dcm", "document.dcm"])
async def test_everything_but_bulk_data(
    filled: Filled, name: str, takes: tuple[str, ...], tmp_path: Path
) -> None:
    item = filled.items[name]
    got = await filled.get(name, sop_class=WITHOUT_BULK_DATA, takes=takes)
    assert (got.final.Status, got.final.NumberOfCompletedSuboperations) == (0x0000, 1)
    ((sop, syntax, data),) = got.stored
    assert (sop, syntax) == (item.sop, takes[0])
    arrived = tmp_path / "arrived.dcm"
    arrived.write_bytes(in_file(sop, syntax, data))
    expected = dcmread(item.path)
    for tag in BULK & {int(element.tag) for element in expected}:
        del expected[tag]
    for waveform in expected.get("WaveformSequence", []):
        del waveform.WaveformData
    stripped = tmp_path / "stripped.dcm"
    expected.save_as(stripped)
    assert differences(stripped, arrived, private=takes == (EXPLICIT,)) == []


async def test_a_requestor_that_takes_only_the_stored_syntax_gets_the_header_in_it(filled: Filled) -> None:
    got = await filled.get("video.dcm", sop_class=WITHOUT_BULK_DATA)
    assert got.stored[0][1] == MPEG4
    assert "PixelData" not in got.only
    assert got.only.NumberOfFrames == 100


async def test_icons_stay(filled: Filled, tmp_path: Path) -> None:
    icon = Dataset()
    icon.Rows = icon.Columns = 2
    icon.BitsAllocated = icon.BitsStored = 8
    icon.HighBit, icon.SamplesPerPixel, icon.PixelRepresentation = 7, 1, 0
    icon.PhotometricInterpretation = "MONOCHROME2"
    icon.add_new(0x7FE00010, "OW", struct.pack("<4B", 1, 2, 3, 4))
    data_set = dcmread(filled.items["CT_small.dcm"].path)
    del data_set.file_meta
    data_set.SOPInstanceUID, data_set.IconImageSequence = "2.25.99", [icon]
    item = part10(written(tmp_path / "icon.dcm", data_set, EXPLICIT))
    assert await send_files(filled.node.dimse_port, [item]) == [0x0000]
    got = await Filled(filled.node, {"icon": item}, "").get("icon", sop_class=WITHOUT_BULK_DATA)
    ((_, _, data),) = got.stored
    arrived = read_dataset(BytesIO(data), False, True)
    assert arrived.IconImageSequence[0].PixelData == b"\1\2\3\4"
    assert "PixelData" not in arrived
