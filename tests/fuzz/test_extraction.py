"""Multi-frame objects with bytes changed: frames are cut, or the error is one that has a status."""

import random
from io import BytesIO
from pathlib import Path

import pytest

from pacsnode.dicom.frame_range import CALCULATED_FRAME_LIST, SIMPLE_FRAME_LIST, TIME_RANGE, FrameRange
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.sop_class import IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import OperationError
from pacsnode.pixels.bulk import leave_out_bulk_data
from pacsnode.pixels.extract import extract
from pacsnode.pixels.job import Extraction
from pacsnode.pixels.transcode import opened, write_as
from tests.conftest import real_objects

NAMES = (
    "emri_small.dcm",
    "emri_small_RLE.dcm",
    "emri_small_big_endian.dcm",
    "eCT_Supplemental.dcm",
    "rtdose.dcm",
    "liver_nonbyte_aligned_j2k.dcm",
)
RANGES = (
    FrameRange(SIMPLE_FRAME_LIST, (1, 2)),
    FrameRange(CALCULATED_FRAME_LIST, (1, 0xFFFFFFFF, 2)),
    FrameRange(TIME_RANGE, (0.0, 5.0)),
)
ROUNDS = 150
HEADER = 6000  # bytes that are changed; behind them is pixel data, which is not read


def objects() -> list[Path]:
    found = {path.name: path for path in real_objects() if path.name in NAMES}
    return list(found.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", objects(), ids=lambda path: path.name)
def test_changed_bytes(path: Path) -> None:
    random_ = random.Random(path.name)
    data = path.read_bytes()
    meta = read_file_meta(data)
    for _ in range(ROUNDS):
        changed = bytearray(data[meta.data_offset :])
        for _ in range(random_.randint(1, 6)):
            place = random_.randrange(min(len(changed), HEADER))
            changed[place] = random_.choice((0, 1, 0x7F, 0xFF, random_.randrange(256)))
        attempt(bytes(changed), meta.transfer_syntax, random_.choice(RANGES))


def attempt(data: bytes, stored: UID, frame_range: FrameRange) -> None:
    extraction = Extraction(UID("2.25.1"), frame_range, "TEST", "20260102030405.000000+0000")
    try:
        data_set = opened(memoryview(data), stored)
        extract(data_set, stored, extraction)
        write_as(data_set, stored, stored, BytesIO())
        data_set = opened(memoryview(data), stored)
        leave_out_bulk_data(data_set)
        write_as(data_set, stored, IMPLICIT_VR_LE, BytesIO())
    except OperationError:
        return
