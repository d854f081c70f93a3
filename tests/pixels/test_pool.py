"""Worker processes: one that dies, hangs or wants too much costs its object and nothing else."""

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image
from pydicom import Dataset

from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand, OperationError, OutOfResources
from pacsnode.pixels import plan
from pacsnode.pixels.job import Picturing, StoredFile
from pacsnode.pixels.pool import Transcoded, Transcoder, TranscoderOptions
from pacsnode.pixels.rendering.request import Rendering, Viewport
from pacsnode.pixels.worker import SHARED
from tests.support.objects import encoded, made
from tests.support.raw import CT_IMAGE

SIDE = 1024  # pixels; some tenths of a second to encode as JPEG 2000


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest_asyncio.fixture
async def transcoder(spool: Path) -> AsyncIterator[Transcoder]:
    transcoder = Transcoder(spool, TranscoderOptions(workers=2))
    yield transcoder
    await transcoder.close()


def stored(path: Path, data: bytes, transfer_syntax: UID = EXPLICIT_VR_LE) -> tuple[Path, int, UID]:
    """A file of ours, as Transcoder.transcode takes it."""
    head = file_meta(UID(CT_IMAGE), UID("1.2.3"), transfer_syntax, "TEST")
    path.write_bytes(head + data)
    return path, len(head), transfer_syntax


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, int, UID]:
    """A large image of noise."""
    return stored(tmp_path / "image.dcm", image_of(SIDE, SIDE, os.urandom(2 * SIDE * SIDE)))


def image_of(rows: int, columns: int, pixels: bytes, frames: int = 1) -> bytes:
    data_set = Dataset()
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.NumberOfFrames = frames
    data_set.Rows, data_set.Columns = rows, columns
    data_set.BitsAllocated = data_set.BitsStored = 16
    data_set.HighBit, data_set.PixelRepresentation = 15, 0
    data_set.add_new(0x7FE00010, "OW", pixels)
    return encoded(data_set)


@pytest.fixture
def report(tmp_path: Path) -> tuple[Path, int, UID]:
    return stored(tmp_path / "small.dcm", made(1).data)


async def workers_of_this_process(at_least: int = 1) -> list[int]:
    """The worker processes that run, as the kernel knows them."""
    async with asyncio.timeout(20):
        while True:
            found = [pid for pid in children() if b"pacsnode.pixels.worker" in command(pid)]
            if len(found) >= at_least:
                return found
            await asyncio.sleep(0)


def files_in(folder: Path) -> set[Path]:
    return set(folder.iterdir())


def leave(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"left over")


def children() -> list[int]:
    """But for the one that forks what other tests run, see tests.support.command."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, found) if b"support/command.py" not in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_result_is_a_file_of_the_encoded_data_set(
    transcoder: Transcoder, report: tuple[Path, int, UID], spool: Path
) -> None:
    result = await transcoder.transcode(*report, IMPLICIT_VR_LE)
    assert result.transfer_syntax == IMPLICIT_VR_LE
    assert result.path.parent == spool
    assert result.path.read_bytes()[:8] == struct.pack("<HHI", 0x0008, 0x0005, 10)
    assert result.size == result.path.stat().st_size
    await result.discard()
    assert not files_in(spool)


async def test_nothing_runs_before_the_first_object(transcoder: Transcoder, spool: Path) -> None:
    assert not children()
    assert not files_in(spool.parent)


async def test_a_worker_is_used_again(transcoder: Transcoder, report: tuple[Path, int, UID]) -> None:
    await transcoder.transcode(*report, IMPLICIT_VR_LE)
    first = await workers_of_this_process()
    await transcoder.transcode(*report, IMPLICIT_VR_LE)
    assert await workers_of_this_process() == first


async def test_what_a_killed_node_left_in_the_spool_goes_at_first_use(
    transcoder: Transcoder, report: tuple[Path, int, UID], spool: Path
) -> None:
    leave(spool / "77.transcoded")
    leave(spool / "store-abc.transcoded" / "0")
    await transcoder.transcode(*report, IMPLICIT_VR_LE)
    assert spool / "77.transcoded" not in files_in(spool)
    assert not (spool / "store-abc.transcoded").exists()
    folder = await transcoder.new_folder("store-")
    assert folder.parent == spool


async def test_a_worker_killed_in_the_middle_costs_one_object(
    transcoder: Transcoder, image: tuple[Path, int, UID], spool: Path
) -> None:
    jobs = [asyncio.create_task(transcoder.transcode(*image, plan.JPEG_2000_LOSSLESS)) for _ in range(6)]
    victim = (await workers_of_this_process(at_least=2))[0]
    os.kill(victim, signal.SIGKILL)
    results = await asyncio.gather(*jobs, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    assert [type(failure) for failure in failures] == [CannotUnderstand]
    made_files = {result.path for result in results if isinstance(result, Transcoded)}
    assert files_in(spool) == made_files
    assert len({path.read_bytes() for path in made_files}) == 1


async def test_a_worker_killed_while_idle_costs_nothing(
    transcoder: Transcoder, report: tuple[Path, int, UID]
) -> None:
    before = await transcoder.transcode(*report, IMPLICIT_VR_LE)
    (victim,) = await workers_of_this_process()
    os.kill(victim, signal.SIGKILL)
    after = await transcoder.transcode(*report, IMPLICIT_VR_LE)
    assert after.path.read_bytes() == before.path.read_bytes()


async def test_an_object_that_takes_too_long_fails_alone(
    spool: Path, image: tuple[Path, int, UID], report: tuple[Path, int, UID]
) -> None:
    transcoder = Transcoder(spool, TranscoderOptions(workers=1, time_limit=0.01))
    with pytest.raises(CannotTranscode, match="longer"):
        await transcoder.transcode(*image, plan.JPEG_2000_LOSSLESS)
    assert not files_in(spool)
    assert not children()
    await transcoder.close()


async def test_an_object_that_takes_too_much_memory_fails_alone(
    spool: Path, tmp_path: Path, report: tuple[Path, int, UID]
) -> None:
    side = 8192
    big = stored(tmp_path / "big.dcm", image_of(side, side, bytes(2 * side * side)))
    transcoder = Transcoder(spool, TranscoderOptions(workers=1, memory_limit=200 * 2**20))
    with pytest.raises(OperationError):
        await transcoder.transcode(*big, plan.JPEG_2000_LOSSLESS)
    assert not files_in(spool)
    await transcoder.transcode(*report, IMPLICIT_VR_LE)
    await transcoder.close()


async def test_many_frames_take_no_more_memory_than_a_few(spool: Path, tmp_path: Path) -> None:
    """400 MB of frames pass a worker that may have 200."""
    frames, side = 800, 512
    path, offset, syntax = stored(tmp_path / "cine.dcm", image_of(side, side, b"", frames))
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<I", 2 * side * side * frames))
        file.truncate(file.tell() + 2 * side * side * frames)
    transcoder = Transcoder(spool, TranscoderOptions(workers=1, memory_limit=200 * 2**20))
    packed = await transcoder.transcode(path, offset, syntax, plan.RLE_LOSSLESS)
    unpacked = await transcoder.transcode(packed.path, 0, plan.RLE_LOSSLESS, EXPLICIT_VR_LE)
    assert unpacked.size > 2 * side * side * frames
    await transcoder.close()


async def test_cancelling_stops_the_worker_and_leaves_no_file(
    transcoder: Transcoder, image: tuple[Path, int, UID], spool: Path
) -> None:
    job = asyncio.create_task(transcoder.transcode(*image, plan.JPEG_2000_LOSSLESS))
    await workers_of_this_process()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert not children()
    assert not files_in(spool)


async def test_closing_ends_everything(transcoder: Transcoder, image: tuple[Path, int, UID]) -> None:
    jobs = [asyncio.create_task(transcoder.transcode(*image, plan.JPEG_2000_LOSSLESS)) for _ in range(4)]
    await workers_of_this_process(at_least=2)
    await transcoder.close()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(result) for result in results} <= {CannotUnderstand, OutOfResources}
    assert not children()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1000], id="cut off"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: os.urandom(5000), id="noise"),
    ],
)
async def test_a_damaged_object_fails_and_the_worker_lives(
    transcoder: Transcoder,
    tmp_path: Path,
    report: tuple[Path, int, UID],
    damage: Callable[[bytes], bytes],
) -> None:
    await transcoder.transcode(*report, IMPLICIT_VR_LE)
    workers = await workers_of_this_process()
    damaged = stored(tmp_path / "damaged.dcm", damage(image_of(64, 64, bytes(8192))))
    with pytest.raises((CannotUnderstand, CannotTranscode)):
        await transcoder.transcode(*damaged, plan.RLE_LOSSLESS)
    assert await workers_of_this_process() == workers


async def test_a_missing_file_fails_alone(transcoder: Transcoder, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="No such file"):
        await transcoder.transcode(tmp_path / "none.dcm", 0, EXPLICIT_VR_LE, IMPLICIT_VR_LE)


async def test_the_event_loop_does_not_wait_for_codecs(
    transcoder: Transcoder, image: tuple[Path, int, UID]
) -> None:
    jobs = asyncio.gather(*(transcoder.transcode(*image, plan.JPEG_2000_LOSSLESS) for _ in range(4)))
    longest = 0.0
    while not jobs.done():
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - started)
    await jobs
    assert longest < 0.25  # seconds; 20 ms when the machine has nothing else to do


def test_the_node_starts_without_codecs() -> None:
    code = "import sys, pacsnode.node, pacsnode.pixels.pool; print(*sys.modules)"
    started = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    codecs = {"imagecodecs", "pacsnode.pixels.codec", "pacsnode.pixels.transcode"}
    assert not codecs & set(started.stdout.split())


async def test_a_picture_is_made_in_a_worker(
    transcoder: Transcoder, image: tuple[Path, int, UID], spool: Path
) -> None:
    path, _, transfer_syntax = image
    file = StoredFile((str(path.with_name("moved.dcm")), str(path)), transfer_syntax)
    small = await transcoder.render(file, Picturing(Rendering("image/jpeg", viewport=Viewport(64, 64))))
    large = await transcoder.render(file, Picturing(Rendering("image/png", viewport=Viewport(2048, 2048))))
    assert len(small) < SHARED < len(large)
    for picture, side in ((small, 64), (large, 2048)):
        with Image.open(BytesIO(picture)) as opened:
            opened.load()
            assert opened.size == (side, side)
    assert not files_in(spool)
    with pytest.raises(CannotUnderstand, match="nothing is rendered as"):
        await transcoder.render(file, Picturing(Rendering("image/tiff")))
    with pytest.raises(OperationError, match="No such file"):
        await transcoder.render(replace(file, paths=(str(path.with_name("gone")),)), Picturing(Rendering("")))
