"""WADO-URI as Weasis, OHIF and pages with <img> ask it, beside the RESTful resources and pydicom."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from pacsnode.node import Node
from pacsnode.web.resources import RESOURCES
from tests.conftest import needs, real_objects, settings_for
from tests.support.objects import Part10, part10
from tests.support.sending import send_files

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs("dcmpsmk")]

NAMES = (
    "CT_small.dcm",
    "rtdose.dcm",
    "test-SR.dcm",
    "MR_small_RLE.dcm",
    "SC_rgb_small_odd.dcm",
    "JPEG2000.dcm",
)
DICOM = "application/dicom"


def real(name: str) -> Path:
    return next(path for path in real_objects() if path.name == name)


@dataclass
class Web:
    client: httpx.AsyncClient
    items: dict[str, Part10]
    root: Path

    def uids(self, name: str) -> dict[str, str]:
        item = self.items[name]
        uids = {"studyUID": item.study, "seriesUID": item.series, "objectUID": item.sop}
        return {"requestType": "WADO", **uids}

    async def get(self, name: str, header: str = "*/*", **parameters: object) -> httpx.Response:
        query = {**self.uids(name), **{key: value for key, value in parameters.items() if value is not None}}
        return await self.client.get("/wado", headers={"Accept": header}, params=query)

    async def rendered(self, name: str, **parameters: str) -> httpx.Response:
        item = self.items[name]
        path = f"/dicomweb/studies/{item.study}/series/{item.series}/instances/{item.sop}/rendered"
        return await self.client.get(path, headers={"Accept": "image/png"}, params=parameters)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Web]:
    folder = tmp_path_factory.mktemp("wado_uri")
    items = {name: part10(real(name)) for name in NAMES}
    items["state"] = part10(_state_object(folder / "state.dcm"))
    async with Node(settings_for(folder / "root")) as node:
        assert set(await send_files(node.dimse_port, list(items.values()))) == {0}
        base = f"http://127.0.0.1:{node.web_port}"
        async with httpx.AsyncClient(base_url=base, timeout=60) as client:
            yield Web(client, items, folder / "root")


def _state_object(path: Path) -> Path:
    """A presentation state of CT_small made by DCMTK: a window, turned by 90 degrees."""
    subprocess.run(["dcmpsmk", str(real("CT_small.dcm")), str(path)], check=True, capture_output=True)
    state = dcmread(path)
    window = Dataset()
    window.WindowCenter, window.WindowWidth = "40", "400"
    state.SoftcopyVOILUTSequence = [window]
    state.ImageRotation, state.ImageHorizontalFlip = 90, "N"
    state.save_as(path)
    return path


def picture(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    opened = Image.open(BytesIO(answer.content))
    assert answer.headers["content-type"] == Image.MIME[opened.format or ""]
    assert int(answer.headers["content-length"]) == len(answer.content)
    return opened


def pixels(answer: httpx.Response) -> np.ndarray:
    return np.asarray(picture(answer), int)


async def test_a_page_that_names_no_type_gets_a_jpeg_and_a_report_its_text(web: Web) -> None:
    assert picture(await web.get("CT_small.dcm")).size == (128, 128)
    assert picture(await web.get("CT_small.dcm", contentType="image/png;q=0.5, image/gif")).format == "GIF"
    report = await web.get("test-SR.dcm")
    assert report.headers["content-type"].startswith("text/html")
    assert (await web.get("test-SR.dcm", charset="ISO-8859-1")).status_code == 406
    assert (await web.get("test-SR.dcm", charset="ISO-8859-1,utf-8;q=0.5")).status_code == 200
    assert (await web.get("CT_small.dcm", "image/tiff", contentType="image/tiff")).status_code == 406


async def test_weasis_asks_for_files_and_thumbnails(web: Web) -> None:
    small = await web.get("CT_small.dcm", contentType="image/jpeg", imageQuality=70, rows=256, columns=256)
    assert picture(small).size == (256, 256)
    file = await web.get("CT_small.dcm", contentType=DICOM)
    assert file.headers["content-type"] == DICOM
    assert "objectUID" in file.headers["content-location"]
    original = dcmread(real("CT_small.dcm"))
    assert dcmread(BytesIO(file.content)) == original


async def test_the_transfer_syntax_is_the_one_asked_for_else_explicit_little_endian(web: Web) -> None:
    original = dcmread(real("MR_small_RLE.dcm"))
    default = dcmread(BytesIO((await web.get("MR_small_RLE.dcm", contentType=DICOM)).content))
    assert default.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(default.pixel_array, original.pixel_array)
    answer = await web.get("MR_small_RLE.dcm", contentType=DICOM, transferSyntax=JPEG2000Lossless)
    compressed = dcmread(BytesIO(answer.content))
    assert compressed.file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert np.array_equal(compressed.pixel_array, original.pixel_array)
    stored = await web.get("MR_small_RLE.dcm", contentType=DICOM, transferSyntax="*")  # as OHIF has it
    assert dcmread(BytesIO(stored.content)).PixelData == original.PixelData
    refused = await web.get("MR_small_RLE.dcm", contentType=DICOM, transferSyntax=ImplicitVRLittleEndian)
    able = refused.json()["detail"].partition("there are: ")[2].split(", ")
    assert refused.status_code == 406
    for one in able:  # and not what is refused over the web
        assert (await web.get("MR_small_RLE.dcm", contentType=DICOM, transferSyntax=one)).status_code == 200
    refused = await web.get("MR_small_RLE.dcm", contentType=DICOM, transferSyntax="1.2.840.10008.1.2.4.102")
    assert refused.status_code == 406
    assert ExplicitVRLittleEndian in refused.json()["detail"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"requestType": "WADOX"},
        {"requestType": ""},
        {"studyUID": ""},
        {"seriesUID": "a/../b"},
        {"objectUID": ["1.2", "1.3"]},
        {"contentType": "dicom"},
        {"contentType": "application/dicom,image/jpeg"},
        {"contentType": "application/dicom;transfer-syntax=1.2.840.10008.1.2.1"},
        {"contentType": "text/html;charset=utf-8"},
        {"contentType": DICOM, "transferSyntax": "explicit"},
        {"contentType": DICOM, "transferSyntax": ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]},
        {"contentType": DICOM, "anonymize": "no"},
        {"contentType": DICOM, "anonymize": ["yes", "yes"]},
        {"contentType": DICOM, "windowCenter": "40", "windowWidth": "400"},
        {"anonymize": "yes"},
        {"windowCenter": "40"},
        {"windowWidth": "400"},
        {"windowCenter": "a", "windowWidth": "400"},
        {"windowCenter": "40", "windowWidth": "0"},
        {"windowCenter": "40,400", "windowWidth": "1"},
        {"rows": "0", "columns": "5"},
        {"rows": "99999", "columns": "5"},
        {"rows": "5.5", "columns": "5"},
        {"region": "0,0,1"},
        {"region": "0,0,1,1,1"},
        {"region": "0.5,0,0.5,1"},
        {"region": "0,0,1.5,1"},
        {"region": "0,,1,1"},
        {"region": "-0.1,0,1,1"},
        {"region": "a,0,1,1"},
        {"imageQuality": "0"},
        {"imageQuality": "101"},
        {"imageAnnotation": "!"},
        {"frameNumber": "2"},
        {"frameNumber": "0"},
        {"frameNumber": "one"},
        {"presentationUID": "1.2"},
        {"presentationSeriesUID": "1.2"},
    ],
    ids=str,
)
async def test_a_wrong_request_is_refused_with_a_reason(web: Web, wrong: dict[str, object]) -> None:
    answer = await web.get("CT_small.dcm", **wrong)
    assert answer.status_code == 400
    assert answer.json()["detail"]


async def test_every_parameter_that_is_described_is_read(web: Web) -> None:
    (row,) = (row for row in RESOURCES if row.path == "/wado")
    needed = {"windowCenter": "windowWidth", "windowWidth": "windowCenter"}
    needed |= {"presentationUID": "presentationSeriesUID", "presentationSeriesUID": "presentationUID"}
    of_files = {"transferSyntax", "anonymize"}
    for parameter in row.parameters:
        name = parameter.name
        if name == "charset":
            assert (await web.get("test-SR.dcm", charset="!")).status_code == 406
            continue
        query: dict[str, object] = {name: "!"}
        if name in needed:
            query[needed[name]] = "1"
        if name in of_files:
            query["contentType"] = DICOM
        assert (await web.get("CT_small.dcm", **query)).status_code == 400, name
    assert (await web.get("CT_small.dcm", unknown="!")).status_code == 200


async def test_what_is_missing_and_what_is_not_here(web: Web) -> None:
    uids = web.uids("CT_small.dcm")
    for name in uids:
        others = {key: value for key, value in uids.items() if key != name}
        assert (await web.client.get("/wado", params=others)).status_code == 400
    for name in ("studyUID", "seriesUID", "objectUID"):
        assert (await web.client.get("/wado", params={**uids, name: "1.2.3"})).status_code == 404
    state = await web.get("CT_small.dcm", presentationSeriesUID="1.2", presentationUID="1.2")
    assert state.status_code == 404
    assert (await web.client.post("/wado", params=uids)).status_code == 405


@needs("dcmj2pnm")
async def test_a_window_is_that_of_dcmtk(web: Web, tmp_path: Path) -> None:
    answer = await web.get("CT_small.dcm", contentType="image/png", windowCenter="40", windowWidth="400")
    out = tmp_path / "truth.pnm"
    command = ["dcmj2pnm", "--write-raw-pnm", "+Ww", "40", "400", str(real("CT_small.dcm")), str(out)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    assert np.abs(pixels(answer) - np.asarray(Image.open(out), int)).max() <= 1


async def test_a_region_is_cut_out_and_scaled(web: Web) -> None:
    whole = pixels(await web.get("CT_small.dcm", contentType="image/png"))
    region = {"contentType": "image/png", "region": "0.25,0.5,0.75,1.0"}
    assert np.array_equal(pixels(await web.get("CT_small.dcm", **region)), whole[64:, 32:96])
    assert picture(await web.get("CT_small.dcm", **region, rows="32", columns="500")).size == (32, 32)
    assert picture(await web.get("CT_small.dcm", **region, rows="32")).size == (32, 32)
    assert picture(await web.get("CT_small.dcm", **region, columns="20")).size == (20, 20)
    tiny = {"contentType": "image/png", "region": "0.5,0.5,0.500001,0.500001"}
    assert picture(await web.get("CT_small.dcm", **tiny)).size == (1, 1)


async def test_frames_are_counted_from_one(web: Web) -> None:
    frames = int(dcmread(real("rtdose.dcm")).NumberOfFrames)
    first = await web.get("rtdose.dcm", contentType="image/png")
    third = await web.get("rtdose.dcm", contentType="image/png", frameNumber="3")
    assert np.array_equal(pixels(third), pixels(await _frame_of(web, "rtdose.dcm", 3)))
    assert first.content == (await web.get("rtdose.dcm", contentType="image/png", frameNumber="1")).content
    assert getattr(picture(await web.get("rtdose.dcm", contentType="image/gif")), "n_frames", 1) == frames
    assert (await web.get("rtdose.dcm", frameNumber=str(frames + 1))).status_code == 400
    assert (await web.get("test-SR.dcm", frameNumber="1")).status_code == 400


async def _frame_of(web: Web, name: str, number: int) -> httpx.Response:
    item = web.items[name]
    path = (
        f"/dicomweb/studies/{item.study}/series/{item.series}/instances/{item.sop}/frames/{number}/rendered"
    )
    return await web.client.get(path, headers={"Accept": "image/png"})


async def test_a_presentation_state_is_applied_before_the_region(web: Web) -> None:
    state = web.items["state"]
    named = {"presentationSeriesUID": state.series, "presentationUID": state.sop, "contentType": "image/png"}
    shown = pixels(await web.get("CT_small.dcm", **named))
    window = {"contentType": "image/png", "windowCenter": "40", "windowWidth": "400"}
    plain = pixels(await web.get("CT_small.dcm", **window))
    assert np.abs(shown - np.rot90(plain, -1)).max() <= 1
    part = pixels(await web.get("CT_small.dcm", **named, region="0,0,0.5,0.25"))
    assert np.array_equal(part, shown[:32, :64])
    assert picture(await web.get("CT_small.dcm", **named, region="0,0,0.5,0.25", rows="64")).size == (128, 64)
    assert np.array_equal(pixels(await web.get("state", contentType="image/png")), shown)
    assert (await web.get("CT_small.dcm", **named | window)).status_code == 400
    assert (await web.get("MR_small_RLE.dcm", **named)).status_code in (400, 404)


async def test_annotations_are_drawn(web: Web) -> None:
    plain = pixels(await web.get("CT_small.dcm", contentType="image/png"))
    for parameter in ("imageAnnotation", "annotation"):
        drawn = pixels(await web.get("CT_small.dcm", contentType="image/png", **{parameter: "patient"}))
        assert np.abs(drawn - plain).max() > 100


async def test_what_the_client_has_is_not_sent_again(web: Web) -> None:
    for parameters in ({}, {"contentType": DICOM}, {"contentType": DICOM, "anonymize": "yes"}):
        query = {**web.uids("CT_small.dcm"), **parameters}
        first = await web.client.get("/wado", params=query)
        assert "max-age" in first.headers["cache-control"]
        known = {"If-None-Match": first.headers["etag"]}
        assert (await web.client.get("/wado", params=query, headers=known)).status_code == 304
        head = await web.client.head("/wado", params=query)
        assert head.headers["content-length"] == str(len(first.content))
        assert not head.content


async def test_anonymize_removes_what_identifies(web: Web) -> None:
    original = dcmread(real("CT_small.dcm"))
    answer = await web.get("CT_small.dcm", contentType=DICOM, anonymize="yes")
    assert answer.status_code == 200, answer.text
    cleaned = dcmread(BytesIO(answer.content))
    assert cleaned.PatientIdentityRemoved == "YES"
    for value in (original.PatientID, original.StudyInstanceUID, original.SOPInstanceUID, original.StudyDate):
        assert str(value).encode() not in answer.content
    assert str(original.PatientName).encode() not in answer.content
    assert cleaned.SOPInstanceUID == cleaned.file_meta.MediaStorageSOPInstanceUID
    assert np.array_equal(cleaned.pixel_array, original.pixel_array)
    again = await web.get("CT_small.dcm", contentType=DICOM, anonymize="yes", transferSyntax=JPEG2000Lossless)
    compressed = dcmread(BytesIO(again.content))
    assert compressed.SOPInstanceUID == cleaned.SOPInstanceUID
    assert compressed.StudyInstanceUID == cleaned.StudyInstanceUID
    assert np.array_equal(compressed.pixel_array, original.pixel_array)
    key = web.root / "deidentification.key"
    assert key.stat().st_mode & 0o077 == 0


async def test_anonymize_is_refused_where_pixels_may_show_names(web: Web) -> None:
    answer = await web.get("SC_rgb_small_odd.dcm", contentType=DICOM, anonymize="yes")
    assert answer.status_code == 403
    assert "Burned In Annotation" in answer.json()["detail"]
