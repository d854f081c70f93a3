"""Rendered resources and thumbnails, asked as OHIF, Weasis and a browser ask, beside DCMTK's pictures."""

import asyncio
import email
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
from pydicom.uid import (
    EncapsulatedCDAStorage,
    EncapsulatedPDFStorage,
    EncapsulatedSTLStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from pacsnode.node import Node
from pacsnode.web.pictures import Pictures
from tests.conftest import needs, real_object, settings_for
from tests.pixels.rendering.test_thumbnails import text_stl
from tests.support.objects import Part10, part10
from tests.support.sending import send_files
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs("dcmpsmk")]

OHIF_HEADER = 'multipart/related; type="application/octet-stream"'
BROWSER_IMAGE = "image/jxl;q=0,image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
NAMES = (
    "CT_small.dcm",
    "rtdose.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
    "rtplan.dcm",
    "SC_rgb_small_odd.dcm",
)
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
)

SCRIPT = b"<html><script>alert(document.domain)</script></html>"
CDA = (
    b'<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3">'
    b'<script xmlns="http://www.w3.org/1999/xhtml">alert(document.domain)</script></ClinicalDocument>'
)


@dataclass
class Web:
    client: httpx.AsyncClient
    items: dict[str, Part10]

    async def get(self, name: str, resource: str, header: str = "*/*", **parameters: str) -> httpx.Response:
        item = self.items[name]
        path = f"/studies/{item.study}/series/{item.series}/instances/{item.sop}/{resource}"
        return await self.client.get(path, headers={"Accept": header}, params=parameters)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Web]:
    folder = tmp_path_factory.mktemp("rendered")
    items = {name: part10(real_object(name)) for name in NAMES}
    items["pdf"] = part10(_document(folder, EncapsulatedPDFStorage, "application/pdf", PDF))
    items["stl"] = part10(_document(folder, EncapsulatedSTLStorage, "model/stl", text_stl()))
    items["page"] = part10(_document(folder, EncapsulatedPDFStorage, "text/html", SCRIPT))
    items["cda"] = part10(_document(folder, EncapsulatedCDAStorage, "text/xml", CDA))
    items["state"] = part10(_state_object(folder / "state.dcm"))
    async with Node(settings_for(folder / "root")) as node:
        assert set(await send_files(node.dimse_port, list(items.values()))) == {0}
        base = f"http://127.0.0.1:{node.web_port}/dicomweb"
        async with httpx.AsyncClient(base_url=base, timeout=60) as client:
            yield Web(client, items)


def _document(folder: Path, sop_class: str, media_type: str, document: bytes) -> Path:
    data_set = dcmread(real_object("CT_small.dcm"), stop_before_pixels=True)
    for tag in [element.tag for element in data_set if element.tag.group in (0x0028, 0x0043, 0x0018)]:
        del data_set[tag]
    data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = sop_class
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.MIMETypeOfEncapsulatedDocument = media_type
    data_set.EncapsulatedDocument = document + bytes(len(document) % 2)
    data_set.EncapsulatedDocumentLength = len(document)
    path = folder / f"{data_set.SOPInstanceUID}.dcm"
    data_set.save_as(path)
    return path


def _state_object(path: Path) -> Path:
    """A presentation state of CT_small made by DCMTK, with a window and turned."""
    subprocess.run(["dcmpsmk", str(real_object("CT_small.dcm")), str(path)], check=True, capture_output=True)
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
    return opened


def parts_of(answer: httpx.Response) -> list[bytes]:
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content)
    return [bytes(part.get_payload(decode=True)) for part in message.get_payload()]


@needs("dcmj2pnm")
async def test_a_window_is_that_of_dcmtk(web: Web, tmp_path: Path) -> None:
    answer = await web.get("CT_small.dcm", "rendered", "image/png", window="40,400,linear")
    out = tmp_path / "truth.pnm"
    command = ["dcmj2pnm", "--write-raw-pnm", "+Ww", "40", "400", str(real_object("CT_small.dcm")), str(out)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    ours, theirs = np.asarray(picture(answer), int), np.asarray(Image.open(out), int)
    assert np.abs(ours - theirs).max() <= 1


async def test_what_a_picture_is_asked_with(web: Web) -> None:
    for accept, media_type in (
        ("image/jpeg", "JPEG"),
        ("image/png", "PNG"),
        ("image/jpeg;q=0.1, image/gif", "GIF"),
        (BROWSER_IMAGE, "JPEG"),
        ("*/*", "JPEG"),
    ):
        assert picture(await web.get("CT_small.dcm", "rendered", accept)).format == media_type
    ohif = await web.get("CT_small.dcm", "rendered", OHIF_HEADER, accept="image/jpeg")
    assert picture(ohif).format == "JPEG"
    refused = await web.get("CT_small.dcm", "rendered", "image/tiff")
    assert refused.status_code == 406
    assert "image/jpeg" in refused.json()["detail"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": "1,2"},
        {"window": "1,0,linear"},
        {"window": "1,2,cubic"},
        {"viewport": "0,5"},
        {"viewport": "99999,5"},
        {"viewport": "a,b"},
        {"viewport": "5,5,0,0,0,0"},
        {"viewport": "5,5,,,"},
        {"quality": "0"},
        {"quality": "101"},
        {"quality": "high"},
        {"annotation": ""},
        {"iccprofile": "cmyk"},
    ],
    ids=str,
)
async def test_a_wrong_parameter_is_refused(web: Web, wrong: dict[str, str]) -> None:
    answer = await web.get("CT_small.dcm", "rendered", "image/jpeg", **wrong)
    assert answer.status_code == 400
    assert answer.json()["detail"]


async def test_unknown_annotations_are_warned_of(web: Web) -> None:
    answer = await web.get("CT_small.dcm", "rendered", "image/png", annotation="patient,weather")
    assert "weather" in answer.headers["warning"]
    plain = picture(await web.get("CT_small.dcm", "rendered", "image/png"))
    assert np.abs(np.asarray(picture(answer), int) - np.asarray(plain, int)).max() > 100


async def test_frames_of_a_multi_frame_image(web: Web) -> None:
    n_frames = int(dcmread(real_object("rtdose.dcm")).NumberOfFrames)
    assert picture(await web.get("rtdose.dcm", "rendered", "image/jpeg")).format == "JPEG"
    assert getattr(picture(await web.get("rtdose.dcm", "rendered", "image/gif")), "n_frames", 1) == n_frames
    every = parts_of(await web.get("rtdose.dcm", "rendered", "multipart/related; type=image/png"))
    some = parts_of(await web.get("rtdose.dcm", "frames/3,1/rendered", "multipart/related; type=image/png"))
    assert len(every) == n_frames
    assert some == [every[2], every[0]]
    alone = await web.get("rtdose.dcm", "frames/3/rendered", "image/png")
    assert alone.content == every[2]
    assert (await web.get("rtdose.dcm", "frames/99/rendered", "image/png")).status_code == 404
    assert (await web.get("rtdose.dcm", "frames/0/rendered", "image/png")).status_code == 400


async def test_reports_documents_and_waveforms(web: Web) -> None:
    report = await web.get("test-SR.dcm", "rendered", "text/html,application/xhtml+xml,*/*;q=0.8")
    assert report.headers["content-type"].startswith("text/html")
    assert "3 cm" in report.text
    document = await web.get("pdf", "rendered", "text/html,application/xhtml+xml,*/*;q=0.8")
    assert document.headers["content-type"] == "application/pdf"
    assert document.content == PDF
    assert picture(await web.get("pdf", "rendered", "image/png")).size[0] == 300
    model = await web.get("stl", "rendered")
    assert (model.headers["content-type"], model.content) == ("model/stl", text_stl())
    assert picture(await web.get("waveform_ecg.dcm", "rendered")).size[0] > 500
    assert (await web.get("rtplan.dcm", "rendered", "image/jpeg")).status_code == 406


@pytest.mark.parametrize(
    ("name", "resource", "content"),
    [
        ("page", "bulkdata/00420011", SCRIPT),
        ("cda", "bulkdata/00420011", CDA),
        ("cda", "rendered", CDA),
        ("test-SR.dcm", "rendered", b""),
    ],
)
async def test_a_document_runs_no_script_in_a_browser(
    web: Web, name: str, resource: str, content: bytes
) -> None:
    """It would run with the rights of all pages of this server: a sandbox gives it an origin of its own."""
    answer = await web.get(name, resource, "text/html,application/xhtml+xml,text/xml,*/*;q=0.8")
    assert answer.status_code == 200
    assert answer.content.startswith(content)
    policy = [part.strip() for part in answer.headers["content-security-policy"].split(";")]
    assert "sandbox" in policy  # without allow-scripts, allow-same-origin
    assert "default-src 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_browser_still_shows_pdf(web: Web) -> None:
    for resource in ("rendered", "bulkdata/00420011"):
        answer = await web.get("pdf", resource, "text/html,application/pdf,*/*;q=0.8")
        assert answer.headers["content-type"] == "application/pdf"
        assert "content-security-policy" not in answer.headers  # a sandbox shuts out Chromium's viewer


async def test_text_says_that_it_is_utf_8(web: Web) -> None:
    for media_type in ("text/plain", "text/html"):
        answer = await web.get("test-SR.dcm", "rendered", media_type)
        assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
        answer.content.decode("utf-8")


async def test_parts_tell_what_was_rendered_as_the_client_can_ask_for_it(web: Web) -> None:
    item = web.items["rtdose.dcm"]
    path = f"/studies/{item.study}/series/{item.series}/instances/{item.sop}"
    headers = {"Accept": "multipart/related; type=image/png", "X-Forwarded-Prefix": "/node"}
    answer = await web.client.get(f"{path}/frames/3,1/rendered", headers=headers)
    message = email.message_from_bytes(
        f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
    )
    places = [part["Content-Location"] for part in message.get_payload()]
    assert [place.partition("/node/dicomweb")[2] for place in places] == [
        f"{path}/frames/3",
        f"{path}/frames/1",
    ]


async def test_everything_has_a_thumbnail_at_every_level(web: Web) -> None:
    for name, item in web.items.items():
        if name == "page":
            continue  # nothing that could be drawn
        thumbnail = picture(await web.get(name, "thumbnail", "image/jpeg", viewport="64,64"))
        assert max(thumbnail.size) == 64, name
        for path in (f"/studies/{item.study}", f"/studies/{item.study}/series/{item.series}"):
            answer = await web.client.get(f"{path}/thumbnail", headers={"Accept": BROWSER_IMAGE})
            assert picture(answer).format == "JPEG"
    assert (await web.get("CT_small.dcm", "thumbnail", viewport="9,9,0,0")).status_code == 400


async def test_a_series_is_rendered_part_by_part_or_as_one_picture(web: Web) -> None:
    item = web.items["CT_small.dcm"]
    path = f"/studies/{item.study}/rendered"
    accept = {"Accept": "multipart/related; type=image/jpeg"}
    series = await web.client.get(f"/studies/{item.study}/series/{item.series}/rendered", headers=accept)
    answer = await web.client.get(path, headers=accept)
    assert len(parts_of(answer)) >= 1
    # A document that is none has no picture: the others are there, and the answer says so (Table 10.4.3-1)
    assert web.items["page"].study == item.study
    assert (answer.status_code, series.status_code) == (206, 206)
    count = len(parts_of(answer))
    assert answer.headers["warning"] == f'299 pacsnode "1 of {count + 1} pictures cannot be made"'
    only = await web.get("page", "rendered", accept["Accept"])
    assert only.status_code == 406
    newer_ohif = await web.client.get(path, headers={"Accept": "image/jpeg"}, params={"viewport": "32,32"})
    assert picture(newer_ohif).size == (32, 32)


async def test_a_client_that_goes_away_ends_the_rendering_of_what_it_wanted(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    async def slowly(*_: object) -> bytes:
        nonlocal made
        made += 1
        await asyncio.sleep(0.05)
        return b"picture"

    monkeypatch.setattr(Pictures, "picture", slowly)
    item, url = web.items["rtdose.dcm"], web.client.base_url
    path = f"/dicomweb/studies/{item.study}/series/{item.series}/instances/{item.sop}/rendered"
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept: multipart/related; type=image/png\r\n\r\n"
    writer.write(head.encode())
    await eventually(lambda: made == 2, "two of fifteen pictures are made")
    writer.close()
    await asyncio.sleep(0.5)
    assert made < 6


async def test_a_presentation_state_shows_its_image(web: Web) -> None:
    shown = picture(await web.get("state", "rendered", "image/png"))
    plain = picture(await web.get("CT_small.dcm", "rendered", "image/png", window="40,400,linear"))
    turned = plain.transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(shown, int) - np.asarray(turned, int)).max() <= 1
    assert (await web.get("state", "rendered", "image/png", window="1,2,linear")).status_code == 400
    assert (await web.get("state", "frames/1/rendered", "image/png")).status_code == 400


async def test_what_the_client_has_is_not_sent_again(web: Web) -> None:
    first = await web.get("CT_small.dcm", "thumbnail")
    item = web.items["CT_small.dcm"]
    path = f"/studies/{item.study}/series/{item.series}/instances/{item.sop}/thumbnail"
    again = await web.client.get(path, headers={"Accept": "*/*", "If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert not again.content
    assert (await web.client.head(path)).status_code == 200
