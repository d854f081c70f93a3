"""What viewers are made of, in Chromium, cross-origin: cornerstone's loader and the JS dicomweb-client.

The truth is pydicom's reading of the same objects.
"""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom.data
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut
from pydicom.uid import generate_uid

from pacsnode.dicom.uid import UID
from pacsnode.node import Node
from pacsnode.pixels.plan import DECODABLE_LOSSY
from tests.conftest import real_objects, settings_for
from tests.support.browser import Answers, script, workshop

# All objects are looked at before the first test: a minute and a half, more where others work too
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
LONGEST = 20_000_000  # bytes of an object
LOSSY_DIFFERENCE = 3  # levels between two decoders; none where nothing was lost
# Where cornerstone has something else than what is stored, and why. Each is tried: what no longer differs is
# to be taken from here.
DIFFER = {
    "cornerstone's JPEG of 12 bits is 15 levels off": (
        *("JPEG-lossy.dcm", "JPGExtended.dcm", "JPEGExtended_1s_1f_u_16_12.dcm"),
        *("RG2_JPLY.dcm", "RG2_JPLY_fixed.dcm"),
    ),
    "RGB in JPEG without Adobe's marker: cornerstone takes it for YCbCr": (
        *("SC_jpeg_no_color_transform.dcm", "JPEGBaseline/SC_rgb_jpeg_lossy_gdcm.dcm"),
    ),
    "the codestream contradicts Pixel Representation: cornerstone goes by the one, pydicom by the other": (
        *("J2K_pixelrep_mismatch.dcm", "TOSHIBA_J2K_OpenJPEGv2Regression.dcm"),
        *("TOSHIBA_J2K_SIZ0_PixRep1.dcm", "TOSHIBA_J2K_SIZ1_PixRep0.dcm"),
    ),
    "cornerstone knows RLE of 8 bits and of gray 16 bits": (
        *("SC_rgb_rle_16bit.dcm", "SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_rle_32bit.dcm"),
        *("SC_rgb_rle_32bit_2frame.dcm", "rtdose_rle.dcm", "rtdose_rle_1frame.dcm"),
    ),
    "cornerstone leaves single bits packed": (
        *("liver.dcm", "liver_1frame.dcm", "liver_expb.dcm", "liver_expb_1frame.dcm"),
        *("liver_nonbyte_aligned.dcm", "liver_deflate.dcm", "liver_nonbyte_aligned_deflate.dcm"),
    ),
    "cornerstone does not spread the colours of YBR_FULL_422": ("SC_ybr_full_422_uncompressed.dcm",),
    "cornerstone reads no segmented palette": ("gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"),
    "cornerstone reads no Double Float Pixel Data": ("parametric_map_double_float.dcm",),
    "the object is damaged, and its frame refused": ("MR_truncated.dcm", "badVR.dcm"),
    "the codestream is of another size than the attributes say": (
        *("JPEG2000-embedded-sequence-delimiter.dcm", "966.dcm"),
    ),
}
REASONS = {name: reason for reason, names in DIFFER.items() for name in names}
# pydicom cannot decode them, or takes words of a palette in big endian for little: the same in another form
SAME_PICTURE = {
    "SC_rgb_jpeg_gdcm.dcm": "SC_rgb_rle.dcm",
    "liver_deflate.dcm": "liver.dcm",
    "liver_rle.dcm": "liver.dcm",
    "liver_nonbyte_aligned_deflate.dcm": "liver_nonbyte_aligned.dcm",
    "liver_nonbyte_aligned_rle.dcm": "liver_nonbyte_aligned.dcm",
    "OBXXXX1A_expb.dcm": "OBXXXX1A.dcm",
    "OBXXXX1A_expb_2frame.dcm": "OBXXXX1A_2frame.dcm",
}
KNOWN_COMPLAINTS = {
    "Error: The image does not have a complete color palette. R, G, and B palette data are required."
}
NOT_STORED = {
    "SC_rgb_jpeg.dcm": "pydicom cannot write what it has read",
    "NM_Kakadu44_SOTmarkerincons.dcm": "the node refuses it: its data set is cut off",
}
TYPES = {
    "Uint8Array": np.uint8,
    "Uint8ClampedArray": np.uint8,
    "Int16Array": np.int16,
    "Uint16Array": np.uint16,
    "Int32Array": np.int32,
    "Uint32Array": np.uint32,
    "Float32Array": np.float32,
}


@dataclass(frozen=True)
class Scene:
    """A node with the objects, and what the browser made of them."""

    root: str
    objects: dict[str, Dataset]
    answers: Answers
    truth: dict[str, NDArray[np.generic]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One browser does everything: a start of Chromium takes longer than all the pictures."""
    folder = await workshop(tmp_path_factory.mktemp("browser"))
    await script(folder, "build.mjs")
    objects = _objects()
    web = {"cors_methods": ["GET", "HEAD", "POST"]}
    async with Node(settings_for(tmp_path_factory.mktemp("node") / "root", web=web)) as node:
        root = f"http://127.0.0.1:{node.web_port}/dicomweb"
        async with httpx.AsyncClient(timeout=20) as client:
            for one in objects.values():
                await _store(client, root, one)
            truth = {name: await _truth(client, root, name, one) for name, one in objects.items()}
        given = await script(folder, "drive.mjs", _work(root, objects), limit=400)
        results = {one["name"]: one["result"] for one in given["answers"] if "result" in one}
        errors = {one["name"]: one["error"] for one in given["answers"] if "error" in one}
        yield Scene(root, objects, Answers(results, errors, given["complaints"]), truth)


def _paths() -> dict[str, Path]:
    """The objects with pixels, by the names of their files, that were stored in one piece."""
    found = {path.name: path for path in real_objects() if path.stat().st_size < LONGEST}
    return {name: path for name, path in found.items() if name not in NOT_STORED and _has_pixels(path)}


def _reason(path: Path) -> str | None:
    """Why cornerstone has something else."""
    return REASONS.get(path.name) or REASONS.get(f"{path.parent.name}/{path.name}")


def _has_pixels(path: Path) -> bool:
    tags = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    return any(tag in dcmread(path, specific_tags=tags) for tag in tags)


def _objects() -> dict[str, Dataset]:
    """The objects with UIDs of their own: the variants of one image share theirs."""
    return {name: _object(path) for name, path in _paths().items()}


def _object(path: Path) -> Dataset:
    found = dcmread(path)
    found.Modality = found.get("Modality") or "OT"  # cornerstone stumbles where it lacks
    found.StudyInstanceUID, found.SeriesInstanceUID = generate_uid(), generate_uid()
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return found


async def _truth(client: httpx.AsyncClient, root: str, name: str, one: Dataset) -> NDArray[np.generic]:
    """The first frame as pydicom reads it, or else as the node decodes it; palettes applied."""
    path = _paths().get(SAME_PICTURE.get(name, ""))
    source = one if path is None else dcmread(path)
    try:
        cells = source.pixel_array
    except (RuntimeError, ValueError, AttributeError, NotImplementedError):
        return await _decoded(client, root, one)
    if int(source.get("NumberOfFrames") or 1) > 1:
        cells = cells[0]
    if source.PhotometricInterpretation != "PALETTE COLOR":
        return cells
    return apply_color_lut(cells, source) >> (source.RedPaletteColorLookupTableDescriptor[2] - 8)


async def _decoded(client: httpx.AsyncClient, root: str, one: Dataset) -> NDArray[np.generic]:
    answer = await client.get(f"{_url(root, _uids(one))}/frames/1", headers={"Accept": OCTETS})
    if answer.status_code != 200:
        return np.empty(0)  # of what is refused there is no truth
    body = answer.content.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
    kind = "i" if one.PixelRepresentation else "u"
    return np.frombuffer(body, f"<{kind}{one.BitsAllocated // 8}")


async def _store(client: httpx.AsyncClient, root: str, one: Dataset) -> None:
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + _part10(one) + b"\r\n--b--"
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    answer = await client.post(f"{root}/studies", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text


def _part10(one: Dataset) -> bytes:
    buffer = BytesIO()
    one.save_as(buffer)
    return buffer.getvalue()


def _work(root: str, objects: dict[str, Dataset]) -> list[dict[str, Any]]:
    work = [
        {"name": name, "function": "frame", "argument": {"root": root, "number": 1, **_names(one)}}
        for name, one in objects.items()
    ]
    names = _uids(objects["CT_small.dcm"])
    frames = _uids(objects["SC_rgb_rle_2frame.dcm"])
    calls = {
        "study list": ("searchForStudies", {"queryParams": {"PatientName": "*CompressedSamples^CT*"}}),
        "series": ("searchForSeries", {"studyInstanceUID": names["studyInstanceUID"]}),
        "instances": ("searchForInstances", {"studyInstanceUID": names["studyInstanceUID"]}),
        "study metadata": ("retrieveStudyMetadata", names),
        "instance": ("retrieveInstance", names),
        "series of objects": ("retrieveSeries", names),
        "study of objects": ("retrieveStudy", names),
        "frames": ("retrieveInstanceFrames", {**frames, "frameNumbers": [2, 1]}),
        "rendered": ("retrieveInstanceRendered", {**names, "mediaTypes": [{"mediaType": "image/jpeg"}]}),
        "png": ("retrieveInstanceFramesRendered", {**names, "frameNumbers": [1], **PNG}),
        "thumbnail": ("retrieveInstanceThumbnail", {**names, "mediaTypes": [{"mediaType": "image/jpeg"}]}),
        "bulk data": ("retrieveBulkData", {"BulkDataURI": _url(root, names) + "/bulkdata/7FE00010"}),
    }
    for name, (call, options) in calls.items():
        argument = {"root": root, "call": call, "options": options}
        work.append({"name": name, "function": "client", "argument": argument})
    study = f"{root}/studies/{names['studyInstanceUID']}"
    series = f"{study}/series/{names['seriesInstanceUID']}"
    for level, url in (("study", study), ("series", series), ("instance", _url(root, names))):
        for what in ("rendered", "thumbnail"):
            argument = {"url": f"{url}/{what}?viewport=256%2C256", "accept": "image/jpeg"}
            work.append({"name": f"{what} of {level}", "function": "fetched", "argument": argument})
        work.append(
            {"name": f"img of {level}", "function": "picture", "argument": {"url": f"{url}/thumbnail"}}
        )
    ohif = {"url": f"{_url(root, names)}/rendered?accept=image/jpeg", "accept": OCTETS}
    upload = {"root": root, "objects": [base64.b64encode(_part10(_object(BUNDLED / UPLOADED))).decode()]}
    return [
        *work,
        {"name": "rendered of OHIF", "function": "fetched", "argument": ohif},
        {"name": "upload", "function": "store", "argument": upload},
    ]


PNG = {"mediaTypes": [{"mediaType": "image/png"}]}
UPLOADED = "MR_small.dcm"
OCTETS = 'multipart/related; type="application/octet-stream"'


def _names(one: Dataset) -> dict[str, str]:
    return {
        "study": one.StudyInstanceUID,
        "series": one.SeriesInstanceUID,
        "instance": one.SOPInstanceUID,
    }


def _uids(one: Dataset) -> dict[str, str]:
    return {
        "studyInstanceUID": one.StudyInstanceUID,
        "seriesInstanceUID": one.SeriesInstanceUID,
        "sopInstanceUID": one.SOPInstanceUID,
    }


def _url(root: str, uids: dict[str, str]) -> str:
    study, series, instance = uids.values()
    return f"{root}/studies/{study}/series/{series}/instances/{instance}"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(reason=reason, strict=True)) if reason else name
        for name, reason in ((name, _reason(path)) for name, path in _paths().items())
    ],
)
async def test_cornerstone_decodes_what_pydicom_does(scene: Scene, name: str) -> None:
    assert name not in scene.answers.errors, scene.answers.errors[name]
    result, one, wanted = scene.answers.results[name], scene.objects[name], scene.truth[name]
    cells = np.frombuffer(base64.b64decode(result["cells"]), TYPES[result["type"]])
    allowed = LOSSY_DIFFERENCE if UID(one.file_meta.TransferSyntaxUID) in DECODABLE_LOSSY else 0
    assert (result["rows"], result["columns"]) == (one.Rows, one.Columns)
    assert np.abs(cells.astype(float) - wanted.astype(float).ravel()).max() <= allowed


async def test_the_javascript_client_finds_and_gets(scene: Scene) -> None:
    results, ct = scene.answers.results, scene.objects["CT_small.dcm"]
    assert [ct.StudyInstanceUID] in [one["0020000D"]["Value"] for one in results["study list"]]
    assert {one["00100010"]["Value"][0]["Alphabetic"] for one in results["study list"]} == {
        str(ct.PatientName)
    }
    assert [one["0020000E"]["Value"] for one in results["series"]] == [[ct.SeriesInstanceUID]]
    assert [one["00080018"]["Value"] for one in results["instances"]] == [[ct.SOPInstanceUID]]
    assert results["study metadata"][0]["00280010"]["Value"] == [ct.Rows]
    for name in ("instance", "series of objects", "study of objects"):
        assert dcmread(BytesIO(_bytes(results[name]))).PixelData == ct.PixelData
    assert _bytes(results["bulk data"]) == ct.PixelData


async def test_the_javascript_client_gets_frames_and_pictures(scene: Scene) -> None:
    results, rle = scene.answers.results, scene.objects["SC_rgb_rle_2frame.dcm"]
    second, first = (base64.b64decode(one["bytes"]) for one in results["frames"])
    assert (first, second) == tuple(plane.tobytes() for plane in rle.pixel_array)
    assert _bytes(results["rendered"]).startswith(b"\xff\xd8\xff")
    assert _bytes(results["thumbnail"]).startswith(b"\xff\xd8\xff")
    assert _bytes(results["png"]).startswith(b"\x89PNG")


def _bytes(result: Any) -> bytes:
    """The one buffer of an answer; the client makes a list of some."""
    (only,) = result if isinstance(result, list) else [result]
    return base64.b64decode(only["bytes"])


@pytest.mark.parametrize("level", ["study", "series", "instance"])
async def test_pictures_for_lists_of_studies(scene: Scene, level: str) -> None:
    results = scene.answers.results
    for what in ("rendered", "thumbnail"):
        got = results[f"{what} of {level}"]
        assert (got["status"], got["type"]) == (200, "image/jpeg")
        assert got["bytes"] > 1000
    assert results[f"img of {level}"]["width"] > 0


async def test_rendered_as_ohif_asks(scene: Scene) -> None:
    assert scene.answers.results["rendered of OHIF"]["status"] == 200
    assert scene.answers.results["rendered of OHIF"]["type"] == "image/jpeg"


async def test_a_page_stores_where_it_may_post(scene: Scene) -> None:
    report = scene.answers.results["upload"]
    assert "00081198" not in report  # Failed SOP Sequence
    (stored,) = report["00081199"]["Value"]
    assert stored["00081190"]["Value"][0].startswith(f"{scene.root}/studies/")


async def test_the_browser_complains_of_nothing(scene: Scene) -> None:
    assert set(scene.answers.errors) <= set(REASONS)
    assert set(scene.answers.complaints) <= KNOWN_COMPLAINTS
