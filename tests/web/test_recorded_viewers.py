"""The requests of Weasis and Slim, in their order and with their headers, each following what the last said.

Weasis builds on the Retrieve URL of every answer and asks unscoped for single objects; Slim wants bulk data
and Image Type, and whole annotation objects.
"""

import email.parser
import email.policy
from collections.abc import AsyncIterator
from io import BytesIO

import httpx
import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread

from pacsnode.node import Node
from tests.conftest import settings_for
from tests.support.viewed_study import SLICES, part10, viewed_study

pytestmark = pytest.mark.asyncio(loop_scope="module")

STUDY_FIELDS = (
    "00080020,00080030,00080050,00080061,00080090,00081030,00100010,00100020,00100021,00100030,00100040,"
    "0020000D,00200010"
)
WHOLE = 'multipart/related;type="application/dicom";transfer-syntax=*'
FRAMES = ", ".join(
    f'multipart/related; type="{media}"; transfer-syntax={syntax}'
    for media, syntax in (
        ("image/jls", "1.2.840.10008.1.2.4.80"),
        ("image/jls", "1.2.840.10008.1.2.4.81"),
        ("image/jp2", "1.2.840.10008.1.2.4.90"),
        ("image/jp2", "1.2.840.10008.1.2.4.91"),
        ("image/jpx", "1.2.840.10008.1.2.4.92"),
        ("application/octet-stream", "*"),
        ("image/jpeg", "1.2.840.10008.1.2.4.50"),
    )
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def held(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Node, list[Dataset]]]:
    objects = viewed_study()
    async with Node(settings_for(tmp_path_factory.mktemp("viewers") / "root")) as node:
        body = b"".join(
            b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part10(one) + b"\r\n" for one in objects
        )
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        async with httpx.AsyncClient(timeout=20) as client:
            url = f"http://127.0.0.1:{node.web_port}/dicomweb/studies"
            stored = await client.post(url, content=body + b"--b--", headers={"Content-Type": kind})
            assert stored.status_code == 200, stored.text
        yield node, objects


@pytest.fixture
def objects(held: tuple[Node, list[Dataset]]) -> list[Dataset]:
    return held[1]


@pytest_asyncio.fixture(loop_scope="module")
async def web(held: tuple[Node, list[Dataset]]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{held[0].web_port}", timeout=20) as client:
        yield client


async def found(web: httpx.AsyncClient, url: str) -> list[dict]:
    answer = await web.get(url, headers={"Accept": "application/dicom+json"})
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def value(result: dict, tag: str) -> object:
    return result[tag]["Value"][0]


def parts(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """Content-Type and bytes of each part, by the parser of the standard library."""
    assert answer.status_code == 200, answer.text
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.content)
    assert message.is_multipart()
    return [(one["content-type"], one.get_payload(decode=True) or b"") for one in message.iter_parts()]


@pytest.mark.parametrize("key", ["0020000D={study}", "00100020=VW-55", "00080050=A1004"])
async def test_weasis_opens_a_study(web: httpx.AsyncClient, objects: list[Dataset], key: str) -> None:
    ct = objects[0]
    query = key.format(study=ct.StudyInstanceUID)
    (study,) = await found(web, f"/dicomweb/studies?{query}&includefield={STUDY_FIELDS}")
    assert set(STUDY_FIELDS.split(",")) <= set(study)
    assert value(study, "00100010") == {"Alphabetic": "Müller^Jürgen"}
    assert set(study["00080061"]["Value"]) == {"CT", "SEG", "RTSTRUCT", "DOC"}

    path = f"/dicomweb/studies/{value(study, '0020000D')}/series"
    listed = await found(web, f"{path}?includefield=0008103E,00080060,0020000E,00200011,00081190")
    descriptions = {value(one, "00080060"): value(one, "0008103E") for one in listed}
    assert descriptions["CT"] == "Schädel 5.0"

    (series,) = [one for one in listed if value(one, "00080060") == "CT"]
    url = str(value(series, "00081190"))
    instances = await found(web, f"{url}/instances?includefield=00080018,00200013,00081190")
    assert [value(one, "00200013") for one in instances] == list(range(1, SLICES + 1))
    for one, original in zip(instances, objects, strict=False):
        ((media_type, whole),) = parts(await web.get(str(value(one, "00081190")), headers={"Accept": WHOLE}))
        assert media_type.startswith("application/dicom")
        assert dcmread(BytesIO(whole)) == original

    thumbnail = await web.get(f"{url}/thumbnail?viewport=256%2C256", headers={"Accept": "image/jpeg"})
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert thumbnail.content.startswith(b"\xff\xd8\xff")


async def test_weasis_asks_unscoped_for_a_series_and_an_instance(
    web: httpx.AsyncClient, objects: list[Dataset]
) -> None:
    ct = objects[0]
    (series,) = await found(
        web, f"/dicomweb/series?0020000E={ct.SeriesInstanceUID}&includefield={STUDY_FIELDS}"
    )
    (instance,) = await found(
        web, f"/dicomweb/instances?00080018={ct.SOPInstanceUID}&includefield={STUDY_FIELDS}"
    )
    for one in (series, instance):
        assert value(one, "0020000D") == ct.StudyInstanceUID
        assert value(one, "00100020") == "VW-55"
        assert value(one, "00081030") == "CT Schädel nativ"
    assert str(value(instance, "00081190")).endswith(f"/instances/{ct.SOPInstanceUID}")


async def test_behind_a_proxy_weasis_is_led_back_through_it(
    web: httpx.AsyncClient, objects: list[Dataset]
) -> None:
    forwarded = {"Forwarded": 'for=10.0.0.1;host="pacs.example:8443";proto=https'}
    path = f"/dicomweb/studies/{objects[0].StudyInstanceUID}"
    for url in (f"{path}/series", f"{path}/instances", "/dicomweb/studies"):
        for one in (await web.get(url, headers=forwarded)).json():
            assert str(value(one, "00081190")).startswith(f"https://pacs.example:8443{path}")
    for one in (await web.get(f"{path}/metadata", headers=forwarded)).json():
        for uri in (found for member in one.values() if (found := member.get("BulkDataURI"))):
            assert uri.startswith(f"https://pacs.example:8443{path}")


async def test_slim_lists_images_and_reads_frames_bulk_data_and_annotations(
    web: httpx.AsyncClient, objects: list[Dataset]
) -> None:
    ct, segmentation = objects[0], objects[SLICES]
    everything = await found(web, "/dicomweb/studies?ModalitiesInStudy=CT")
    page = await found(web, "/dicomweb/studies?ModalitiesInStudy=CT&limit=10&offset=0")
    assert everything == page

    study = f"/dicomweb/studies/{ct.StudyInstanceUID}"
    url = f"{study}/series/{ct.SeriesInstanceUID}"
    instances = await found(web, f"{url}/instances?Modality=CT&includefield=ImageType")
    assert [one["00080008"]["Value"] for one in instances] == [list(ct.ImageType)] * SLICES

    metadata = await found(web, f"{url}/instances/{ct.SOPInstanceUID}/metadata")
    assert metadata[0]["00280010"]["Value"] == [ct.Rows]
    frames = await web.get(f"{url}/instances/{ct.SOPInstanceUID}/frames/1", headers={"Accept": FRAMES})
    ((media_type, cells),) = parts(frames)
    assert "application/octet-stream" in media_type
    assert "1.2.840.10008.1.2.1" in media_type
    assert cells == ct.PixelData

    document = objects[-1]
    series = f"{study}/series/{document.SeriesInstanceUID}"
    (described,) = await found(web, f"{series}/instances/{document.SOPInstanceUID}/metadata")
    encapsulated = described["00420011"]
    if "BulkDataURI" in encapsulated:
        accept = {"Accept": 'multipart/related; type="application/octet-stream"'}
        ((_, content),) = parts(await web.get(encapsulated["BulkDataURI"], headers=accept))
        assert content == document.EncapsulatedDocument
    else:
        assert encapsulated["InlineBinary"]

    whole = await web.get(
        f"{study}/series/{segmentation.SeriesInstanceUID}/instances/{segmentation.SOPInstanceUID}",
        headers={"Accept": 'multipart/related; type="application/dicom"'},
    )
    ((_, content),) = parts(whole)
    assert dcmread(BytesIO(content)) == segmentation
