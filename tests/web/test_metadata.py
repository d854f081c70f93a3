"""Metadata of every real object over HTTP, compared with pydicom's reading; made ahead, kept, remade."""

import email
import json
import sqlite3
import warnings
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
import pytest_asyncio
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread

from pacsnode.archive.derived import FILE_NAME
from pacsnode.archive.metadata import Metadata
from pacsnode.node import Node
from tests.archive.conftest import store
from tests.conftest import SettingsOf, settings_for
from tests.support.files import bundled
from tests.support.objects import made, part10
from tests.support.truth import REFUSED
from tests.support.waiting import eventually

NATIVE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
STORABLE = [path for path in bundled() if path.name not in REFUSED]
AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*, */*;q=0.5'
JSON = {"Accept": "application/dicom+json"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def held(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node with all of pydicom's objects."""
    async with Node(settings_for(tmp_path_factory.mktemp("metadata"))) as node:
        for path in STORABLE:
            await store(node.archive, part10(path))
        yield node


@pytest_asyncio.fixture(loop_scope="module")
async def web(held: Node) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{held.web_port}/dicomweb"
    async with httpx.AsyncClient(base_url=url, timeout=20, headers=JSON) as client:
        yield client


def distinct() -> dict[str, Path]:
    """The first file of each SOP Instance UID: others under it are kept aside."""
    found: dict[str, Path] = {}
    for path in STORABLE:
        found.setdefault(part10(path).sop, path)
    return found


def instance_path(item: object) -> str:
    return f"/studies/{item.study}/series/{item.series}/instances/{item.sop}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", distinct().values(), ids=lambda path: path.name)
async def test_an_instance_is_what_pydicom_reads(web: httpx.AsyncClient, path: Path) -> None:
    item = part10(path)
    answer = await web.get(f"{instance_path(item)}/metadata")
    assert answer.status_code == 200, answer.text
    (found,) = json.loads(answer.content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dcmread(path)
        expected_tags = {f"{int(tag):08X}" for tag in list(expected.keys()) if tag.element}
    assert set(found) == expected_tags
    compare(expected, found, str(web.base_url), instance_path(item) + "/bulkdata/")


def compare(expected: Dataset, found: dict, base: str, bulk: str) -> None:
    """Text, numbers and inline binaries by value; references by where they lead."""
    for tag, attribute in found.items():
        element = expected.get_item(int(tag, 16))
        if "BulkDataURI" in attribute:
            assert attribute["BulkDataURI"].startswith(base.rstrip("/") + bulk)
            assert tag.startswith("7FE0") or tag == "00420011" or len(element.value) > 4096
        elif "InlineBinary" in attribute and isinstance(element.value, bytes):
            assert len(b64decode(attribute["InlineBinary"])) == len(element.value)
        elif attribute["vr"] == "SQ":
            for number, item in enumerate(attribute.get("Value", ()), 1):
                compare(expected[int(tag, 16)].value[number - 1], item, base, f"{bulk}{tag}/{number}/")
        elif attribute["vr"] in ("UI", "CS", "SH") and tag != "00080005":
            value = expected[int(tag, 16)].value
            assert attribute.get("Value", []) == [one.strip(" \0") or None for one in several(value)]


def several(value: object) -> list[str]:
    if value in (None, ""):
        return []
    return [value] if isinstance(value, str) else [str(one) for one in value]  # type: ignore[union-attr]


async def test_a_series_and_a_study_hold_their_instances_in_order(web: httpx.AsyncClient) -> None:
    for path in STORABLE[:40]:
        item = part10(path)
        instances = json.loads((await web.get(f"{instance_path(item)}/metadata")).content)
        series = json.loads((await web.get(f"/studies/{item.study}/series/{item.series}/metadata")).content)
        study = json.loads((await web.get(f"/studies/{item.study}/metadata")).content)
        assert instances[0] in series
        assert all(one in study for one in series)


async def test_every_reference_can_be_followed(web: httpx.AsyncClient) -> None:
    followed = 0
    for path in distinct().values():
        (found,) = json.loads((await web.get(f"{instance_path(part10(path))}/metadata")).content)
        for uri in references(found):
            if path.name == "badVR.dcm":  # Number of Frames "1A": no frames can be told apart
                continue
            answer = await web.get(uri, headers={"Accept": AS_STORED})
            assert answer.status_code == 200, (path.name, uri, answer.text)
            assert answer.content
            followed += 1
    assert followed > 30


def references(model: dict) -> Iterator[str]:
    for attribute in model.values():
        if "BulkDataURI" in attribute:
            yield attribute["BulkDataURI"]
        if attribute["vr"] == "SQ":
            for item in attribute.get("Value", ()):
                yield from references(item)


async def test_xml_parts(web: httpx.AsyncClient) -> None:
    item = part10(next(path for path in STORABLE if path.name == "CT_small.dcm"))
    answer = await web.get(
        f"/studies/{item.study}/metadata", headers={"Accept": "multipart/related; type=application/dicom+xml"}
    )
    boundary = answer.headers["content-type"].rpartition("=")[2]
    parts = answer.content.split(f"--{boundary}".encode())[1:-1]
    roots = [ElementTree.fromstring(part.partition(b"\r\n\r\n")[2]) for part in parts]
    names = [
        "".join(one.itertext())
        for root in roots
        for one in root.iter(f"{NATIVE}DicomAttribute")
        if one.get("keyword") == "SOPInstanceUID"
    ]
    assert item.sop in names
    heads = [email.message_from_bytes(part.lstrip()) for part in parts]
    locations = [head["Content-Location"] for head in heads]
    assert [one.split("/instances/")[1] for one in locations] == [f"{name}/metadata" for name in names]
    for location, root in zip(locations, roots, strict=True):
        alone = await web.get(location, headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
        (document,) = alone.content.split(b"\r\n\r\n")[1:]
        assert ElementTree.tostring(root) in ElementTree.tostring(
            ElementTree.fromstring(document.rpartition(b"\r\n--")[0])
        )
        assert location.encode() in alone.content


async def test_conditions_codings_and_errors(web: httpx.AsyncClient) -> None:
    item = part10(STORABLE[0])
    path = f"/studies/{item.study}/series/{item.series}/metadata"
    plain = await web.get(path, headers={"Accept-Encoding": "identity"})
    zipped = await web.get(path, headers={"Accept-Encoding": "gzip"})
    again = await web.get(path, headers={"Accept-Encoding": "gzip"})
    assert plain.content == zipped.content == again.content
    assert zipped.headers["content-encoding"] == "gzip"
    for answer in (plain, zipped):
        known = await web.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
    assert (await web.get("/studies/1.2.3/metadata")).status_code == 404
    assert (await web.get(f"/studies/{item.study}/series/1.2/metadata")).status_code == 404
    missing = f"/studies/{item.study}/series/{item.series}/instances/1.2/metadata"
    assert (await web.get(missing)).status_code == 404
    assert (await web.get("/studies/x/metadata")).status_code == 400
    assert (await web.get(path, headers={"Accept": "image/jpeg"})).status_code == 406
    assert (await web.head(path)).status_code == 200


async def test_references_go_through_the_proxy(web: httpx.AsyncClient) -> None:
    item = part10(STORABLE[0])
    path = f"/studies/{item.study}/series/{item.series}/metadata"
    answer = await web.get(path, headers={"Forwarded": 'proto=https;host="pacs.example:444"'})
    (uri,) = references(json.loads(answer.content)[0])
    assert uri.startswith(f"https://pacs.example:444/dicomweb{instance_path(item)}/bulkdata/7FE00010")
    rooted = await web.get(path, headers={"Host": "pacs"})
    assert next(references(json.loads(rooted.content)[0])).startswith("/dicomweb/studies/")


async def test_it_is_made_ahead_and_made_again_when_the_series_grows(
    settings_of: SettingsOf, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacsnode.archive.ahead.QUIET", 0.05)
    monkeypatch.setattr("pacsnode.archive.metadata.PART", 2000)  # so that a series has several
    monkeypatch.setattr("pacsnode.archive.metadata.ARRIVALS", 3)  # so that it is looked at several times
    async with Node(settings_of()) as node:
        for number in range(1, 21):
            await store(node.archive, made(number))
        kept = sqlite3.connect(root / FILE_NAME)
        count = "SELECT count(*) FROM part"
        await eventually(lambda: kept.execute(count).fetchone()[0] > 3, "the metadata is made")
        monkeypatch.setattr(Metadata, "_make", None)  # what is kept needs no making
        path = f"/dicomweb/studies/{made(1).study}/series/{made(1).series}/metadata"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.web_port}") as web:
            assert numbers(await web.get(path)) == list(range(1, 21))
            monkeypatch.undo()
            await store(node.archive, made(21))
            grown = await web.get(path)
            assert numbers(grown) == list(range(1, 22))
        kept.close()


def numbers(answer: httpx.Response) -> list[int]:
    return [one["00200013"]["Value"][0] for one in json.loads(answer.content)]


async def test_a_broken_file_of_derived_data_is_begun_anew(settings_of: SettingsOf, root: Path) -> None:
    root.mkdir()  # noqa: ASYNC240
    (root / FILE_NAME).write_bytes(b"not a database" * 100)
    async with Node(settings_of()) as node:
        await store(node.archive, made(1))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.web_port}") as web:
            answer = await web.get(f"/dicomweb/studies/{made(1).study}/metadata")
            assert numbers(answer) == [1]


async def test_an_object_whose_file_is_gone_is_left_out(settings_of: SettingsOf, root: Path) -> None:
    async with Node(settings_of()) as node:
        for number in (1, 2):
            await store(node.archive, made(number))
        lose(root, made(1).sop)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.web_port}") as web:
            answer = await web.get(f"/dicomweb/studies/{made(1).study}/metadata")
            assert answer.status_code == 200
            assert numbers(answer) == [2]
            alone = await web.get(f"/dicomweb{instance_path(made(1))}/metadata")
            assert alone.status_code == 500
            assert "cannot be read" in alone.json()["detail"]


def lose(root: Path, sop: str) -> None:
    for path in [one for one in root.rglob(f"{sop}.dcm") if one.is_file()]:
        path.unlink()


async def test_the_python_client(held: Node) -> None:
    import asyncio

    client = DICOMwebClient(f"http://127.0.0.1:{held.web_port}/dicomweb")
    path = next(path for path in STORABLE if path.name == "CT_small.dcm")
    item = part10(path)
    series = await asyncio.to_thread(client.retrieve_series_metadata, item.study, item.series)
    found = Dataset.from_json(next(one for one in series if one["00080018"]["Value"] == [item.sop]))
    expected = dcmread(path)
    assert found.PatientName == expected.PatientName
    assert found.PixelSpacing == expected.PixelSpacing
