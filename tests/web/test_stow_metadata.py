"""STOW-RS of metadata and bulk data: what is made of them is what was taken apart."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames

from tests.conftest import real_object
from tests.support.objects import stored_files

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BOUNDARY = "apart"
PIXELS = "bulk/pixels"
Part = tuple[str, str, bytes]


def metadata_of(path: Path) -> dict[str, Any]:
    """The attributes as DICOM JSON, the pixel data by reference."""
    data_set = dcmread(path)
    del data_set.PixelData
    model = data_set.to_json_dict()
    model["7FE00010"] = {"vr": "OW", "BulkDataURI": PIXELS}
    return {key: value for key, value in model.items() if value.get("Value", [1])}


async def store(web: httpx.AsyncClient, *parts: Part, root: str = "application/dicom+json") -> httpx.Response:
    chunks = [
        f"--{BOUNDARY}\r\nContent-Type: {media_type}\r\nContent-Location: {location}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for media_type, location, content in parts
    ]
    header = f'multipart/related; type="{root}"; boundary={BOUNDARY}'
    return await web.post(
        "/dicomweb/studies",
        content=b"".join([*chunks, f"--{BOUNDARY}--".encode()]),
        headers={"Content-Type": header, "Accept": "application/dicom+json"},
    )


def json_part(*models: dict[str, Any]) -> Part:
    return ("application/dicom+json", "", json.dumps(models).encode())


def only(root: Path) -> Dataset:
    (path,) = stored_files(root)
    return dcmread(path)


async def test_uncompressed_pixels(web: httpx.AsyncClient, root: Path) -> None:
    truth = dcmread(real_object("CT_small.dcm"))
    pixels = ("application/octet-stream", PIXELS, truth.PixelData)
    answer = await store(web, json_part(metadata_of(real_object("CT_small.dcm"))), pixels)
    assert answer.status_code == 200, answer.text
    made = only(root)
    assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(made.pixel_array, truth.pixel_array)
    assert made.PatientName == truth.PatientName
    assert made.RescaleIntercept == truth.RescaleIntercept


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", "image/jpeg"),
        ("SC_rgb_jpeg_dcmtk.dcm", "image/jpeg"),
        ("MR_small_jp2klossless.dcm", "image/jp2"),
        ("MR_small_jpeg_ls_lossless.dcm", "image/jls"),
    ],
)
async def test_compressed_frames_stay_as_they_are(
    web: httpx.AsyncClient, root: Path, name: str, media_type: str
) -> None:
    truth = dcmread(real_object(name))
    (frame,) = generate_frames(truth.PixelData, number_of_frames=1)
    model = metadata_of(real_object(name))
    for key in list(model):
        if key.startswith("0028") and key < "00281000":
            del model[key]  # the frame says it itself
    answer = await store(web, json_part(model), (media_type, PIXELS, frame))
    assert answer.status_code == 200, answer.text
    made = only(root)
    assert next(generate_frames(made.PixelData, number_of_frames=1)).rstrip(b"\0") == frame.rstrip(b"\0")
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"):
        assert made[keyword].value == truth[keyword].value
    if name != "JPGLosslessP14SV1_1s_1f_8b.dcm":
        assert made.file_meta.TransferSyntaxUID == truth.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("form", ["PNG", "GIF"])
async def test_pictures_become_pixels(web: httpx.AsyncClient, root: Path, form: str) -> None:
    picture = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10) * 4)
    buffer = BytesIO()
    picture.save(buffer, form)
    part = (f"image/{form.lower()}", PIXELS, buffer.getvalue())
    answer = await store(web, json_part(metadata_of(real_object("CT_small.dcm"))), part)
    assert answer.status_code == 200, answer.text
    made = only(root)
    found = made.pixel_array if made.SamplesPerPixel == 1 else made.pixel_array[:, :, 0]
    assert np.array_equal(found, np.asarray(picture))


async def test_a_document_in_xml(web: httpx.AsyncClient, root: Path) -> None:
    document = (
        '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
        '<DicomAttribute tag="00080016" vr="UI"><Value number="1">1.2.840.10008.5.1.4.1.1.104.1</Value>'
        '</DicomAttribute><DicomAttribute tag="00080018" vr="UI"><Value number="1">2.25.3</Value>'
        '</DicomAttribute><DicomAttribute tag="0020000D" vr="UI"><Value number="1">2.25.1</Value>'
        '</DicomAttribute><DicomAttribute tag="0020000E" vr="UI"><Value number="1">2.25.2</Value>'
        '</DicomAttribute><DicomAttribute tag="00420011" vr="OB"><BulkData uri="doc"/></DicomAttribute>'
        '<DicomAttribute tag="00420012" vr="LO"><Value number="1">application/pdf</Value></DicomAttribute>'
        "</NativeDicomModel>"
    )
    xml = ("application/dicom+xml", "", document.encode())
    answer = await store(web, xml, ("application/pdf", "doc", b"%PDF-odd!"), root="application/dicom+xml")
    assert answer.status_code == 200, answer.text
    assert only(root).EncapsulatedDocument == b"%PDF-odd!\0"


async def test_several_objects_and_one_that_is_none(web: httpx.AsyncClient, root: Path) -> None:
    truth = dcmread(real_object("CT_small.dcm"))
    models = [metadata_of(real_object("CT_small.dcm")) for _ in range(3)]
    for number, model in enumerate(models):
        model["00080018"]["Value"] = [f"2.25.{number + 5}"]
    del models[1]["00080018"]
    answer = await store(
        web, json_part(*models), ("application/octet-stream", f"http://other/{PIXELS}", truth.PixelData)
    )
    assert answer.status_code == 202 or answer.status_code == 409, answer.text
    assert "0008119A" in answer.json()


@pytest.mark.parametrize(
    "parts",
    [
        [("application/dicom+json", "", b"{not json")],
        [("application/dicom+json", "", b"[[[[]]]]")],
        [json_part({"00080018": {"vr": "UI", "Value": ["2.25.1"]}})],
        [("application/dicom+xml", "", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")],
    ],
    ids=["no json", "no objects", "no class", "entities"],
)
async def test_what_cannot_be_understood_is_refused(
    web: httpx.AsyncClient, root: Path, parts: list[Part]
) -> None:
    answer = await store(web, *parts)
    assert answer.status_code == 409, answer.text
    assert answer.json()["0008119A"]["Value"][0]["00081197"]["Value"] == [0xC000]
    assert not list((root / "transcoded").glob("store-*"))


async def test_a_bomb_is_refused(web: httpx.AsyncClient) -> None:
    buffer = BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    model = metadata_of(real_object("CT_small.dcm"))
    answer = await store(web, json_part(model), ("image/png", PIXELS, buffer.getvalue()))
    assert answer.status_code == 409
