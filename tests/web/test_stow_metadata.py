"""STOW-RS of metadata and bulk data: what is made of them is what was taken apart."""

import asyncio
import json
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from shutil import which
from typing import Any

import av
import httpx
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_charset_files
from pydicom.encaps import generate_frames

from tests.conftest import real_object
from tests.support.objects import stored_files

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BOUNDARY = "apart"
PIXELS = "bulk/pixels"
JPEG_XL_LOSSLESS = "1.2.840.10008.1.2.4.110"
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
    assert answer.status_code == 202, answer.text
    assert [one["00081155"]["Value"] for one in answer.json()["00081199"]["Value"]] == [
        ["2.25.5"],
        ["2.25.7"],
    ]
    assert "00081198" not in answer.json()
    assert len(answer.json()["0008119A"]["Value"]) == 1


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


async def test_a_part_that_did_not_come_is_missed_and_the_object_named(
    web: httpx.AsyncClient, root: Path
) -> None:
    """Without its pixel data an image must not be stored."""
    model = metadata_of(real_object("CT_small.dcm"))
    answer = await store(web, json_part(model), ("application/octet-stream", "bulk/other", b"1234"))
    assert answer.status_code == 409, answer.text
    (failed,) = answer.json()["00081198"]["Value"]
    assert failed["00081155"]["Value"] == model["00080018"]["Value"]
    assert failed["00081197"]["Value"] == [0xC000]
    assert not list(stored_files(root))


async def test_text_of_every_script_is_kept_as_utf_8(web: httpx.AsyncClient, root: Path) -> None:
    model = metadata_of(real_object("CT_small.dcm"))
    name = {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    model["00100010"] = {"vr": "PN", "Value": [name]}
    model["00100020"] = {"vr": "LO", "Value": ["Größe"]}
    model["00080005"] = {"vr": "CS", "Value": ["ISO_IR 100"]}
    pixels = ("application/octet-stream", PIXELS, dcmread(real_object("CT_small.dcm")).PixelData)
    assert (await store(web, json_part(model), pixels)).status_code == 200
    made = only(root)
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert str(made.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert made.PatientID == "Größe"
    (found,) = (await web.get("/dicomweb/studies", params={"PatientID": "Größe"})).json()
    assert found["00100010"]["Value"] == [name]


async def test_pixel_data_may_be_inline_and_need_not_be_last(web: httpx.AsyncClient, root: Path) -> None:
    truth = dcmread(real_object("CT_small.dcm"))
    for number, element in enumerate(
        ({"InlineBinary": b64encode(truth.PixelData).decode()}, {"BulkDataURI": PIXELS})
    ):
        model = metadata_of(real_object("CT_small.dcm"))
        model["7FE00010"] = {"vr": "OW", **element}
        model["FFFCFFFC"] = {"vr": "OB", "InlineBinary": "AAAA"}
        model["00080018"]["Value"] = [f"2.25.{number}"]
        pixels = ("application/octet-stream", PIXELS, truth.PixelData)
        assert (await store(web, json_part(model), pixels)).status_code == 200
    for path in stored_files(root):
        made = dcmread(path)
        assert made.PixelData == truth.PixelData
        assert made.DataSetTrailingPadding == b"\0\0\0\0"


async def test_colours_of_16_bits_stay_what_they_are(web: httpx.AsyncClient, root: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 2**16, (5, 7, 4)).astype(np.uint16)
    part = ("image/png", PIXELS, imagecodecs.png_encode(pixels))
    assert (await store(web, json_part(metadata_of(real_object("CT_small.dcm"))), part)).status_code == 200
    made = only(root)
    assert (made.SamplesPerPixel, made.BitsStored) == (3, 16)
    assert np.array_equal(made.pixel_array, pixels[:, :, :3])


async def test_each_frame_is_a_part_and_none_may_be_missing(web: httpx.AsyncClient, root: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (3, 9, 9), np.uint8)
    frames = [imagecodecs.jpegxl_encode(frame, lossless=True) for frame in pixels]
    parts = [
        (f"image/jxl; transfer-syntax={JPEG_XL_LOSSLESS}", f"{PIXELS}/frames/{number}", frame)
        for number, frame in enumerate(frames, 1)
    ]
    model = metadata_of(real_object("CT_small.dcm"))
    for key in list(model):
        if key.startswith("0028"):
            del model[key]
    assert (await store(web, json_part(model), *parts)).status_code == 200
    made = only(root)
    assert made.file_meta.TransferSyntaxUID == JPEG_XL_LOSSLESS
    assert (made.NumberOfFrames, made.Rows, made.BitsStored) == (3, 9, 8)
    found = list(generate_frames(made.PixelData, number_of_frames=3))
    assert [one[: len(frame)] for one, frame in zip(found, frames, strict=True)] == frames
    model["00280008"] = {"vr": "IS", "Value": [4]}
    model["00080018"]["Value"] = ["2.25.9"]
    assert (await store(web, json_part(model), *parts)).status_code == 409


@pytest.mark.parametrize(
    ("codec", "form", "media_type", "syntax"),
    [
        ("libx264", "mp4", "video/mp4", "1.2.840.10008.1.2.4.102"),
        ("libx265", "mp4", "video/H265", "1.2.840.10008.1.2.4.107"),
        ("mpeg2video", "mpeg", "video/mpeg", "1.2.840.10008.1.2.4.100"),
    ],
)
async def test_a_video_stays_what_it_is_and_tells_what_it_shows(
    web: httpx.AsyncClient, root: Path, codec: str, form: str, media_type: str, syntax: str
) -> None:
    video = film(codec, form, frames=12)
    model = metadata_of(real_object("CT_small.dcm"))
    for key in list(model):
        if key.startswith("0028"):
            del model[key]
    model["00080016"]["Value"] = ["1.2.840.10008.5.1.4.1.1.77.1.1.1"]
    answer = await store(web, json_part(model), (media_type, PIXELS, video))
    assert answer.status_code == 200, answer.text
    made = only(root)
    assert made.file_meta.TransferSyntaxUID == syntax
    assert (made.Rows, made.Columns, made.NumberOfFrames) == (64, 96, 12)
    assert (made.PhotometricInterpretation, made.SamplesPerPixel) == ("YBR_PARTIAL_420", 3)
    assert made.FrameTime == 40
    path = f"/dicomweb/studies/{made.StudyInstanceUID}/series/{made.SeriesInstanceUID}/instances"
    stream = await web.get(
        f"{path}/{made.SOPInstanceUID}/pixeldata", headers={"Accept": f"{media_type}; transfer-syntax=*"}
    )
    assert stream.content[: len(video)] == video
    with av.open(BytesIO(stream.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


def film(codec: str, form: str, frames: int) -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 * number, np.uint8), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.skipif(which("dcm2json") is None, reason="DCMTK is not installed")
@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_rle.dcm", "rtplan.dcm", "chrRuss.dcm"])
async def test_what_dcmtk_takes_apart_is_put_together_again(
    web: httpx.AsyncClient, root: Path, tmp_path: Path, name: str
) -> None:
    """Every attribute as dcm2json writes it of the original and of what was stored."""
    source = real_object(name) if not name.startswith("chr") else Path(get_charset_files(name)[0])
    truth = dcmread(source)
    model = await as_json(source, tmp_path)
    parts = []
    if "PixelData" in truth:
        frames = int(truth.get("NumberOfFrames", 1))
        encapsulated = truth.file_meta.TransferSyntaxUID.is_encapsulated
        data = (
            list(generate_frames(truth.PixelData, number_of_frames=frames))
            if encapsulated
            else [truth.PixelData]
        )
        media_type = "image/dicom-rle" if encapsulated else "application/octet-stream"
        parts = [(media_type, f"{PIXELS}/{number}", frame) for number, frame in enumerate(data)]
        model["7FE00010"] = {"vr": "OW", "BulkDataURI": PIXELS}
    assert "SOPInstanceUID" in truth
    answer = await store(web, json_part(model), *parts)
    assert answer.status_code == 200, answer.text
    (path,) = stored_files(root)
    again = await as_json(path, tmp_path)
    for one in (model, again):
        one.pop("7FE00010", None)
        one.pop("00080005", None)
    assert again == model
    assert not parts or np.array_equal(dcmread(path).pixel_array, truth.pixel_array)


async def as_json(path: Path, folder: Path) -> dict[str, Any]:
    """A data set as DCMTK has it, without Pixel Data, which it writes as no JSON where that is compressed."""
    data_set = dcmread(path)
    data_set.pop("PixelData", None)
    dcmwrite(folder / "apart.dcm", data_set)
    process = await asyncio.create_subprocess_exec(
        "dcm2json", "-q", "-fc", str(folder / "apart.dcm"), stdout=asyncio.subprocess.PIPE
    )
    text, _ = await process.communicate()
    return json.loads(text)
