"""Transcoded objects in the hands of other people's programs: DCMTK, GDCM, dicom3tools."""

import re
from pathlib import Path

import numpy as np
import pytest

from pacsnode.dicom.part10 import read_file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE, name_of
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand
from pacsnode.pixels import plan
from tests.conftest import needs, run
from tests.support.pixels import distinct_images, pixels_of, transcoded

SMALL = 70_000  # bytes
# Native, and one of each kind: depths, signs, colours, palettes, frames of odd length
IMAGES = [
    path
    for path in distinct_images()
    if path.stat().st_size < SMALL and read_file_meta(path.read_bytes()).transfer_syntax in plan.NATIVE
    and path.name not in ("badVR.dcm", "nested_priv_SQ.dcm")
]  # fmt: skip
DECODERS = {
    plan.JPEG_LS_LOSSLESS: "dcmdjpls",
    plan.JPEG_LOSSLESS_SV1: "dcmdjpeg",
    plan.RLE_LOSSLESS: "dcmdrle",
    plan.JPEG_2000_LOSSLESS: "gdcmconv",
}


def made(path: Path, target: UID, tmp_path: Path) -> Path:
    """A transcoded file; skips where there is no such form."""
    try:
        data = transcoded(path, target)
    except (CannotTranscode, CannotUnderstand) as error:
        pytest.skip(str(error))
    result = tmp_path / "made.dcm"
    result.write_bytes(data)
    return result


@pytest.mark.parametrize(
    "target", [pytest.param(uid, marks=needs(program), id=name_of(uid)) for uid, program in DECODERS.items()]
)
@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
async def test_another_codec_finds_the_same_samples(path: Path, target: UID, tmp_path: Path) -> None:
    file, decoded = made(path, target, tmp_path), tmp_path / "decoded.dcm"
    program = DECODERS[target]
    options = ("--raw",) if program == "gdcmconv" else ()
    finished = await run(program, *options, str(file), str(decoded))
    assert finished.status == 0, finished.output
    _, before = pixels_of(path, tmp_path)
    _, after = pixels_of(decoded, tmp_path)
    assert np.array_equal(before, after)


@needs("dcmdump")
@pytest.mark.parametrize("path", distinct_images(), ids=lambda path: path.name)
async def test_dcmtk_reads_what_is_made_without_complaint(path: Path, tmp_path: Path) -> None:
    before = complaints((await run("dcmdump", "-q", "-M", str(path))).output)
    for target in (IMPLICIT_VR_LE, EXPLICIT_VR_BE):
        file = made(path, target, tmp_path)
        finished = await run("dcmdump", "-M", str(file))
        assert finished.status == 0
        assert complaints(finished.output) <= before


def complaints(output: str) -> set[str]:
    return {line for line in output.splitlines() if line.startswith(("E:", "F:"))}


@needs("dciodvfy")
@pytest.mark.parametrize("target", [EXPLICIT_VR_LE, *DECODERS], ids=name_of)
@pytest.mark.parametrize("path", IMAGES[::3], ids=lambda path: path.name)
async def test_dciodvfy_finds_no_new_errors(path: Path, target: UID, tmp_path: Path) -> None:
    before = await errors_of(path)
    after = await errors_of(made(path, target, tmp_path))
    assert after <= before


async def errors_of(path: Path) -> set[str]:
    """What dciodvfy calls an error, without the numbers in it."""
    output = (await run("dciodvfy", str(path))).output
    return {re.sub(r"[0-9]+", "n", line) for line in output.splitlines() if line.startswith("Error")}
