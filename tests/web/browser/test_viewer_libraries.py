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
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from pacsnode.node import Node
from tests.conftest import settings_for, shared_data
from tests.support.browser import Answers, script, workshop

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
# Object: the greatest difference between two decoders of it, which is none where nothing was lost
DECODED = {
    "CT_small.dcm": 0,
    "MR_small_implicit.dcm": 0,
    "MR_small_bigendian.dcm": 0,
    "image_dfl.dcm": 0,
    "examples_rgb_color.dcm": 0,
    "rtdose_1frame.dcm": 0,
    "MR_small_RLE.dcm": 0,
    "SC_rgb_rle_2frame.dcm": 0,
    "SC_rgb_jpeg_dcmtk.dcm": 3,
    "examples_ybr_color.dcm": 3,
    "SC_rgb_jpeg_gdcm.dcm": 0,
    "MR_small_jpeg_ls_lossless.dcm": 0,
    "MR_small_jp2klossless.dcm": 0,
    "examples_jpeg2k.dcm": 0,
    "693_J2KI.dcm": 1,
    "HTJ2KLossless_08_RGB.dcm": 0,
    "HTJ2K_08_RGB.dcm": 1,
}
# pydicom has no JPEG Lossless under a licence of ours: another lossless form of the same picture tells
SAME_PICTURE = {"SC_rgb_jpeg_gdcm.dcm": "SC_rgb_rle.dcm"}
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


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One browser does everything: a start of Chromium takes longer than all the pictures."""
    folder = await workshop(tmp_path_factory.mktemp("browser"))
    await script(folder, "build.mjs")
    objects = {name: found for name in DECODED if (found := _object(name)) is not None}
    web = {"cors_methods": ["GET", "HEAD", "POST"]}
    async with Node(settings_for(tmp_path_factory.mktemp("node") / "root", web=web)) as node:
        root = f"http://127.0.0.1:{node.web_port}/dicomweb"
        async with httpx.AsyncClient(timeout=20) as client:
            for one in objects.values():
                await _store(client, root, one)
        given = await script(folder, "drive.mjs", _work(root, objects))
        results = {one["name"]: one["result"] for one in given["answers"] if "result" in one}
        errors = {one["name"]: one["error"] for one in given["answers"] if "error" in one}
        yield Scene(root, objects, Answers(results, errors, given["complaints"]))


def _object(name: str) -> Dataset | None:
    """The object with UIDs of its own: the variants of one image share theirs."""
    folders = [BUNDLED, shared_data() or BUNDLED]
    path = next((path for folder in folders for path in folder.rglob(name)), None)
    if path is None:
        return None
    found = dcmread(path)
    found.Modality = found.get("Modality") or "OT"  # cornerstone stumbles where it lacks
    found.StudyInstanceUID, found.SeriesInstanceUID = generate_uid(), generate_uid()
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return found


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
    upload = {"root": root, "objects": [base64.b64encode(_part10(_object(UPLOADED))).decode()]}
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


@pytest.mark.parametrize("name", DECODED)
async def test_cornerstone_decodes_what_pydicom_does(scene: Scene, name: str) -> None:
    if name not in scene.objects:
        pytest.skip(f"{name} is not here")
    assert name not in scene.answers.errors, scene.answers.errors[name]
    result = scene.answers.results[name]
    cells = np.frombuffer(base64.b64decode(result["cells"]), TYPES[result["type"]])
    one = scene.objects[name]
    wanted = (dcmread(BUNDLED / SAME_PICTURE[name]) if name in SAME_PICTURE else one).pixel_array
    if int(one.get("NumberOfFrames") or 1) > 1:
        wanted = wanted[0]
    assert (result["rows"], result["columns"]) == (one.Rows, one.Columns)
    assert np.abs(cells.astype(float) - wanted.astype(float).ravel()).max() <= DECODED[name]


async def test_the_javascript_client_finds_and_gets(scene: Scene) -> None:
    results, ct = scene.answers.results, scene.objects["CT_small.dcm"]
    assert [one["0020000D"]["Value"] for one in results["study list"]] == [[ct.StudyInstanceUID]]
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
    assert scene.answers.errors == {}
    assert scene.answers.complaints == []
