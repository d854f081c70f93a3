"""WADO-RS: every real object comes back through every resource, and is what pydicom reads from the file."""

import asyncio
import email
import io
import warnings
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import httpx
import numpy as np
import pytest
import pytest_asyncio
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.fileset import FileSet, is_conformant_file_id

from pacsnode.dicom.uid import UID
from pacsnode.node import Node
from pacsnode.pixels.job import Decoding
from pacsnode.pixels.pool import Transcoded, Transcoder
from tests.conftest import at_least, real_objects, settings_for
from tests.support.objects import Part10
from tests.support.pixels import pixels_of
from tests.support.sending import send_files
from tests.support.truth import Truth
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = {EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED}
PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
OCTETS = 'multipart/related; type="application/octet-stream"'
OHIF = "multipart/related; type=application/octet-stream; transfer-syntax=*"


@dataclass
class Web:
    """A node that holds every real object, and a client of it."""

    node: Node
    client: httpx.AsyncClient
    truth: Truth
    root: Path

    async def get(self, path: str, accept: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={"Accept": accept, **headers})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Web]:
    root = tmp_path_factory.mktemp("wado") / "root"
    truth = Truth.of(real_objects())
    async with Node(settings_for(root)) as node:
        statuses = await send_files(node.dimse_port, truth.items)
        assert set(statuses) == {0}
        base = f"http://127.0.0.1:{node.web_port}/dicomweb"
        async with httpx.AsyncClient(base_url=base, timeout=60) as client:
            yield Web(node, client, truth, root)


def path_of(item: Part10) -> str:
    return f"/studies/{item.study}/series/{item.series}/instances/{item.sop}"


def parts_of(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a multipart answer, by the standard library."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content)
    assert message.get_content_type() == "multipart/related"
    found = []
    for part in message.get_payload():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        assert int(part["Content-Length"]) == len(content)
        found.append(({name.lower(): str(value) for name, value in part.items()}, content))
    return found


def read(path_or_bytes: Path | bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(path_or_bytes, bytes):
            return dcmread(io.BytesIO(path_or_bytes))
        return dcmread(path_or_bytes)


async def test_there_are_objects_of_many_kinds(web: Web) -> None:
    assert len({item.transfer_syntax for item in web.truth.items}) >= 8


async def test_every_instance_as_stored(web: Web) -> None:
    for item in web.truth.items:
        answer = await web.get(path_of(item), AS_STORED)
        assert answer.status_code == 200, (item.path, answer.text)
        ((headers, content),) = parts_of(answer)
        assert headers["content-location"].endswith(path_of(item))
        syntax = str(read(content).file_meta.TransferSyntaxUID)
        assert headers["content-type"] == f"application/dicom; transfer-syntax={syntax}"
        if item.transfer_syntax in (IMPLICIT, BIG_ENDIAN):
            assert syntax == EXPLICIT, item.path
        else:
            assert syntax == item.transfer_syntax, item.path
            assert content[len(content) - len(item.data) :] == item.data, item.path


async def test_instances_as_the_default_of_the_standard(web: Web) -> None:
    for item in web.truth.items[::2]:
        answer = await web.get(path_of(item), "application/dicom")
        assert answer.status_code == 200, (item.path, answer.text)
        syntax = str(read(answer.content).file_meta.TransferSyntaxUID)
        assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={syntax}"
        lossy = item.transfer_syntax not in NATIVE and syntax == item.transfer_syntax
        assert syntax == EXPLICIT or lossy, item.path


def native_frames(item: Part10, scratch: Path) -> list[bytes] | None:
    """The frames as PS3.18 8.7.3.3.1 sends them, by pydicom; None where it cannot read them."""
    try:
        data_set, pixels = pixels_of(item.path, scratch)
    except Exception:  # pydicom has no base class for what it cannot decode
        return None
    count = int(data_set.get("NumberOfFrames") or 1)
    frames = pixels if count > 1 else pixels[None]
    if data_set.BitsAllocated == 1:
        return [np.packbits(frame.ravel(), bitorder="little").tobytes() for frame in frames]
    if data_set.SamplesPerPixel > 1 and read(item.path).get("PlanarConfiguration") == 1:
        frames = np.moveaxis(frames, -1, 1)
    return [frame.astype(frame.dtype.newbyteorder("<")).tobytes() for frame in frames]


def stored_bits(frame: bytes, header: Dataset) -> bytes:
    """The bits that are stored: in native cells the others may hold anything, and pydicom clears them."""
    if header.get("BitsAllocated") != 16 or header.BitsStored == 16:
        return frame
    low = header.HighBit + 1 - header.BitsStored
    mask = ((1 << header.BitsStored) - 1) << low
    return (np.frombuffer(frame, "<u2") & np.uint16(mask)).tobytes()


async def test_every_frame_uncompressed_is_what_pydicom_decodes(web: Web, tmp_path: Path) -> None:
    compared = 0
    for item in web.truth.items:
        header = web.truth.headers[item.sop]
        if "Rows" not in header or header.get("PhotometricInterpretation") == "YBR_FULL_422":
            continue
        count = str(header.get("NumberOfFrames") or 1)
        if not count.isdigit() or int(count) * header.Rows * header.Columns > 2_000_000:
            continue  # they would take long, here and in pydicom
        wanted = await asyncio.to_thread(native_frames, item, tmp_path)
        if wanted is None:
            continue
        numbers = ",".join(map(str, range(1, len(wanted) + 1)))
        answer = await web.get(f"{path_of(item)}/frames/{numbers}", OCTETS)
        assert answer.status_code == 200, (item.path, answer.text)
        parts = parts_of(answer)
        assert [len(content) for _, content in parts] == [len(frame) for frame in wanted], item.path
        is_lossy = item.transfer_syntax in ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
        if not is_lossy:  # IDCTs differ
            sent = [stored_bits(content, header) for _, content in parts]
            assert sent == [stored_bits(frame, header) for frame in wanted], item.path
        for number, (headers, _) in enumerate(parts, 1):
            assert headers["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
            assert headers["content-location"].endswith(f"{path_of(item)}/frames/{number}")
        compared += 1
    assert compared > at_least(50, 20)


@pytest.mark.parametrize("one_hop", [4 * 2**20, 0])
async def test_a_frame_that_is_wanted_often_is_decoded_once(
    web: Web, monkeypatch: pytest.MonkeyPatch, one_hop: int
) -> None:
    """A request of some KB must not fill the disk with gigabytes of the same frame."""
    item = next(one for one in web.truth.items if one.path.name == "examples_ybr_color.dcm")
    alone = [(await web.get(f"{path_of(item)}/frames/{number}", OCTETS)) for number in (1, 2)]
    first, second = (parts_of(answer)[0][1] for answer in alone)
    monkeypatch.setattr("pacsnode.web.pixels.ONE_HOP", one_hop)
    decoded = []
    decode = Transcoder.decode_frames

    async def watched(transcoder: Transcoder, path: Path, stored: UID, task: Decoding) -> Transcoded:
        made = await decode(transcoder, path, stored, task)
        decoded.append((len(task.frames), made.size))
        return made

    monkeypatch.setattr(Transcoder, "decode_frames", watched)
    order = [2, 1, *[2] * 50]
    answer = await web.get(f"{path_of(item)}/frames/{','.join(map(str, order))}", OCTETS)
    assert answer.status_code == 200
    assert [content for _, content in parts_of(answer)] == [second, first, *[second] * 50]
    assert decoded == [(2, 2 * len(first))]


async def test_every_compressed_frame_is_the_stream_that_was_stored(web: Web) -> None:
    compared = 0
    for item in web.truth.items:
        if item.transfer_syntax in NATIVE:
            continue
        data_set = read(item.path)
        if "PixelData" not in data_set:
            continue
        count = int(data_set.get("NumberOfFrames") or 1)
        wanted = [bytes(one) for one in generate_frames(data_set.PixelData, number_of_frames=count)]
        order = [len(wanted), *range(1, len(wanted) + 1)]
        numbers = ",".join(map(str, order))
        answer = await web.get(f"{path_of(item)}/frames/{numbers}", OHIF)
        assert answer.status_code == 200, (item.path, answer.text)
        parts = parts_of(answer)
        assert [content for _, content in parts] == [wanted[number - 1] for number in order], item.path
        assert {headers["content-type"].partition("; ")[2] for headers, _ in parts} == {
            f"transfer-syntax={item.transfer_syntax}"
        }
        compared += 1
    assert compared > at_least(40, 5)


def bulk_elements(data_set: Dataset, order: str, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Every long value but pixel data: its path in a BulkDataURI, and its bytes."""
    for tag in list(data_set.keys()):
        raw = data_set.get_item(tag, keep_deferred=True)
        here = f"{path}{int(tag):08X}"
        if getattr(raw, "length", 0) < 64:
            continue
        try:
            items = data_set[tag].value if data_set[tag].VR == "SQ" else None
        except Exception:  # pydicom has no base class for what it cannot read
            continue
        if items is not None:
            for number, item in enumerate(items, 1):
                yield from bulk_elements(item, order, f"{here}/{number}/")
            continue
        if here.startswith("7FE0") or not isinstance(raw.value, bytes) or raw.length == 0xFFFFFFFF:
            continue
        value = raw.value
        if order == ">" and raw.VR in ("OW", "US", "SS", "AT"):
            value = np.frombuffer(value, ">u2").astype("<u2").tobytes()
        yield here, value


async def test_every_long_value_is_bulk_data_byte_by_byte(web: Web) -> None:
    compared = nested = 0
    for item in web.truth.items:
        order = ">" if item.transfer_syntax == BIG_ENDIAN else "<"
        found = list(bulk_elements(read(item.path), order))
        for path, value in found[:20]:
            answer = await web.get(f"{path_of(item)}/bulkdata/{path}", "application/octet-stream")
            assert answer.status_code == 200, (item.path, path, answer.text)
            assert answer.content == value, (item.path, path)
            compared += 1
            nested += "/" in path
    assert compared > at_least(100, 50)
    assert nested > 5


async def test_an_instance_asked_for_as_its_frames_is_its_pixel_data(web: Web) -> None:
    """Table 10.4.4-1, note 3."""
    item = next(item for item in web.truth.items if item.transfer_syntax == "1.2.840.10008.1.2.4.50")
    for accept in ("image/jpeg", 'multipart/related; type="image/jpeg"'):
        answer = await web.get(path_of(item), accept)
        assert answer.status_code == 200, answer.text
        pixel_data = await web.get(f"{path_of(item)}/pixeldata", accept)
        assert (
            next(generate_frames(read(item.path).PixelData, number_of_frames=1)).rstrip(b"\0")
            in answer.content
        )
        kept = answer.headers["content-type"].partition("; boundary")[0]
        assert kept == pixel_data.headers["content-type"].partition("; boundary")[0]


async def test_all_bulk_data_of_an_instance_is_what_its_parts_are_alone(web: Web) -> None:
    for item in web.truth.items[::7]:
        answer = await web.get(path_of(item) + "/bulkdata", OCTETS)
        if answer.status_code == 404:
            continue
        assert answer.status_code == 200, (item.path, answer.text)
        for headers, content in parts_of(answer):
            place = headers["content-location"].partition("/dicomweb")[2]
            alone = await web.get(place, "application/octet-stream")
            assert alone.status_code == 200, (item.path, place, alone.text)
            assert alone.content == content, (item.path, place)


async def test_pixel_data_is_that_of_the_object(web: Web) -> None:
    for item in web.truth.items:
        if item.transfer_syntax not in (EXPLICIT, IMPLICIT, DEFLATED):
            continue
        data_set = read(item.path)
        wanted = next((data_set[tag].value for tag in PIXELS if tag in data_set), None)
        answer = await web.get(path_of(item) + "/pixeldata", "application/octet-stream")
        if not wanted or "Rows" not in data_set or item.path.name == "badVR.dcm":
            assert answer.status_code in (404, 406), (item.path, answer.text)
            continue
        assert answer.status_code == 200, (item.path, answer.text)
        assert answer.content == wanted, item.path


async def test_a_study_by_an_independent_client(web: Web) -> None:
    client = DICOMwebClient(url=str(web.client.base_url).rstrip("/"))
    for study, items in list(web.truth.studies.items())[:12]:
        sent = {item.sop: item for item in items}
        found = await asyncio.to_thread(client.retrieve_study, study)
        assert {str(one.SOPInstanceUID) for one in found} == set(sent)
    item = next(item for item in web.truth.items if item.path.name == "CT_small.dcm")
    one = await asyncio.to_thread(client.retrieve_instance, item.study, item.series, item.sop)
    assert one.PixelData == read(item.path).PixelData
    series = await asyncio.to_thread(client.retrieve_series, item.study, item.series)
    assert item.sop in {str(one.SOPInstanceUID) for one in series}


async def test_frames_by_an_independent_client(web: Web) -> None:
    client = DICOMwebClient(url=str(web.client.base_url).rstrip("/"))
    tried = 0
    for item in web.truth.items:
        if item.transfer_syntax not in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"):
            continue
        data_set = read(item.path)
        count = int(data_set.get("NumberOfFrames") or 1)
        wanted = [bytes(one) for one in generate_frames(data_set.PixelData, number_of_frames=count)]
        media_type = "image/jp2" if item.transfer_syntax.endswith("90") else "image/jls"
        frames = await asyncio.to_thread(
            client.retrieve_instance_frames,
            item.study,
            item.series,
            item.sop,
            [count, 1],
            ((media_type, item.transfer_syntax),),
        )
        assert frames == [wanted[-1], wanted[0]], item.path
        as_stored = await asyncio.to_thread(
            client.retrieve_instance_frames,
            item.study,
            item.series,
            item.sop,
            [1],
            (("application/octet-stream", "*"),),
        )
        assert as_stored == [wanted[0]]
        tried += 1
    assert tried > at_least(8, 2)


async def test_bulk_data_by_an_independent_client(web: Web) -> None:
    client = DICOMwebClient(url=str(web.client.base_url).rstrip("/"))
    item = next(item for item in web.truth.items if item.path.name == "CT_small.dcm")
    url = f"{str(web.client.base_url).rstrip('/')}{path_of(item)}/bulkdata/7FE00010"
    assert await asyncio.to_thread(client.retrieve_bulkdata, url) == [read(item.path).PixelData]


async def test_a_series_and_a_study_hold_their_instances(web: Web) -> None:
    for (study, series), items in web.truth.series.items():
        if len(items) == 1:
            continue
        answer = await web.get(f"/studies/{study}/series/{series}", AS_STORED)
        assert answer.status_code == 200
        places = {headers["content-location"].rpartition("/")[2] for headers, _ in parts_of(answer)}
        assert places == {item.sop for item in items}


async def test_a_study_as_a_zip_archive(web: Web) -> None:
    study, items = max(web.truth.studies.items(), key=lambda pair: len(pair[1]))
    answer = await web.get(f"/studies/{study}", "application/zip;transfer-syntax=*")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = {name.rpartition("/")[2].removesuffix(".dcm"): name for name in archive.namelist()}
        assert set(names) == {item.sop for item in items}
        for item in items:
            assert str(read(archive.read(names[item.sop])).SOPInstanceUID) == item.sop


@pytest.mark.parametrize("syntax", ["*", EXPLICIT])
async def test_a_zip_archive_may_be_a_file_set(web: Web, tmp_path: Path, syntax: str) -> None:
    """Read back by pydicom's FileSet, and checked by DCMTK where it is installed."""
    told = 0
    for study, items in web.truth.studies.items():
        accept = f"application/zip;transfer-syntax={syntax}"
        answer = await web.get(f"/studies/{study}?dicomdir=true", accept)
        if answer.status_code == 406:
            continue
        folder = tmp_path / study
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            archive.extractall(folder)
        assert all(is_conformant_file_id(path.relative_to(folder)) for path in folder.rglob("*/I*"))
        file_set = FileSet(folder / "DICOMDIR")
        found = {str(one.SOPInstanceUID): one for one in file_set}
        assert set(found) <= {item.sop for item in items}
        told += len(found)
        for sop, one in found.items():
            data_set = read(Path(one.path))
            assert str(data_set.SOPInstanceUID) == sop
            assert data_set.file_meta.TransferSyntaxUID == one.ReferencedTransferSyntaxUIDInFile
            assert one.PatientID in (data_set.get("PatientID") or "UNKNOWN", data_set.get("PatientID"))
            assert (one.StudyInstanceUID, one.Modality) == (study, data_set.get("Modality") or "OT")
        if which("dcmdump") is not None:
            dump = await asyncio.create_subprocess_exec(
                "dcmdump", "-q", str(folder / "DICOMDIR"), stdout=asyncio.subprocess.DEVNULL
            )
            assert await dump.wait() == 0
    assert told >= at_least(75, 30)


async def test_a_file_set_of_a_series_and_of_an_instance_and_a_wrong_wish(web: Web, tmp_path: Path) -> None:
    (study, series), items = next(pair for pair in web.truth.series.items() if len(pair[1]) > 3)
    for path, count in ((f"/studies/{study}/series/{series}", len(items)), (path_of(items[0]), 1)):
        answer = await web.get(f"{path}?dicomdir=true", "application/zip;transfer-syntax=*")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert len(archive.namelist()) == count + 1
            (tmp_path / str(count)).write_bytes(archive.read("DICOMDIR"))
        assert len(dcmread(tmp_path / str(count)).DirectoryRecordSequence) == count + 3
        plain = await web.get(path, "application/zip;transfer-syntax=*")
        assert plain.headers["etag"] != answer.headers["etag"]
        assert plain.headers["content-location"].endswith(path)
    wrong = await web.get(f"/studies/{study}?dicomdir=maybe", "application/zip")
    assert wrong.status_code == 400


async def test_only_what_is_wanted_is_sent(web: Web) -> None:
    item = next(item for item in web.truth.items if item.path.name == "CT_small.dcm")
    path = path_of(item)
    whole = await web.get(path, "application/dicom")
    etag = whole.headers["etag"]
    assert (await web.get(path, "application/dicom", **{"If-None-Match": etag})).status_code == 304
    assert (await web.get(path, "application/dicom", **{"If-None-Match": '"other"'})).status_code == 200
    part = await web.get(path, "application/dicom", Range="bytes=128-131")
    beyond = await web.get(path, "application/dicom", Range="bytes=99999999-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")
    assert (part.status_code, part.content) == (206, b"DICM")
    assert part.headers["content-range"] == f"bytes 128-131/{len(whole.content)}"
    tail = await web.get(path, "application/dicom", Range="bytes=-10")
    assert tail.content == whole.content[-10:]
    rest = await web.get(path, "application/dicom", **{"Range": "bytes=100-", "If-Range": etag})
    assert rest.content == whole.content[100:]
    changed = await web.get(path, "application/dicom", **{"Range": "bytes=100-", "If-Range": '"other"'})
    assert changed.content == whole.content
    assert (await web.get(path, "application/dicom", Range="bytes=999999999-")).status_code == 416
    head = await web.client.head(path, headers={"Accept": "application/dicom"})
    assert head.headers["content-length"] == str(len(whole.content))
    assert head.content == b""
    multi = await web.get(path + "/frames/1", OCTETS)
    again = await web.get(path + "/frames/1", OCTETS, **{"If-None-Match": multi.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/studies/..%2f..%2fetc", "*/*", 404),
        ("/studies/1.2.3", "*/*", 404),
        ("/studies/abc/series/1/instances/2", "*/*", 400),
        ("/studies/1/series/1/instances/" + "1" * 65, "*/*", 400),
        ("{0}/frames/0", OCTETS, 400),
        ("{0}/frames/-1", OCTETS, 400),
        ("{0}/frames/1,,2", OCTETS, 400),
        ("{0}/frames/one", OCTETS, 400),
        ("{0}/frames/1e3", OCTETS, 400),
        ("{0}/frames/2", OCTETS, 404),
        ("{0}/frames/999999999", OCTETS, 404),
        ("{0}/frames/99999999999999", OCTETS, 400),
        ("{0}/frames/" + ",".join(["1"] * 10_001), OCTETS, 400),
        ("{0}/frames/1", "image/jpeg", 406),
        ("{0}/frames/1", "text/html", 406),
        ("{0}", "application/dicom, text/html", 400),
        ("{0}/frames/1", OCTETS + "; transfer-syntax=1.2.3", 406),
        ("{0}", "application/dicom; transfer-syntax=1.2.840.10008.1.2", 406),
        ("{0}", "application/dicom; transfer-syntax=nonsense", 406),
        ("{0}", "video/mp4", 406),
        ("{0}/bulkdata/nonsense", OCTETS, 400),
        ("{0}/bulkdata/00100010/0/00100010", OCTETS, 400),
        ("{0}/bulkdata/00990099", OCTETS, 404),
        ("{0}/bulkdata/00990099/1/00990099", OCTETS, 404),
        ("{0}/bulkdata/" + "/1/".join(["00081140"] * 40), OCTETS, 400),
        ("{0}/bulkdata/7FE00010", "image/png", 406),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(web: Web, path: str, accept: str, status: int) -> None:
    item = next(item for item in web.truth.items if item.path.name == "CT_small.dcm")
    answer = await web.get(path.format(path_of(item)), accept)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


async def test_a_file_that_is_lost_is_left_out_of_its_series_and_told(web: Web) -> None:
    (study, series), items = next(pair for pair in web.truth.series.items() if len(pair[1]) > 3)
    lost = web.root / "objects" / study / series / f"{items[0].sop}.dcm"
    aside = lost.with_suffix(".aside")
    lost.rename(aside)
    try:
        answer = await web.get(f"/studies/{study}/series/{series}", AS_STORED)
        assert answer.status_code == 206
        assert f"1 of {len(items)} instances" in answer.headers["warning"]
        assert len(parts_of(answer)) == len(items) - 1
        zipped = await web.get(f"/studies/{study}/series/{series}", "application/zip;transfer-syntax=*")
        assert (zipped.status_code, zipped.headers["warning"]) == (206, answer.headers["warning"])
        with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
            assert len(archive.namelist()) == len(items) - 1
        for accept in (AS_STORED, "application/dicom; transfer-syntax=*"):
            alone = await web.get(path_of(items[0]), accept)
            assert alone.status_code == 500  # it is ours to have it
            assert "file" in alone.json()["detail"]
    finally:
        aside.rename(lost)


async def test_the_query_parameter_goes_before_the_header(web: Web) -> None:
    item = next(item for item in web.truth.items if item.path.name == "CT_small.dcm")
    answer = await web.get(f"{path_of(item)}/frames/1?accept=application/octet-stream", OCTETS)
    assert answer.headers["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
    assert answer.content == read(item.path).PixelData


async def test_what_cannot_be_had_as_asked_is_left_out_and_told(web: Web) -> None:
    """JPEG Baseline is not made here: of a study, only what is stored so can be had in it."""
    baseline = "1.2.840.10008.1.2.4.50"
    study, items = next(
        (study, items)
        for study, items in web.truth.studies.items()
        if 0 < sum(item.transfer_syntax == baseline for item in items) < len(items)
    )
    wanted = {item.sop for item in items if item.transfer_syntax == baseline}
    answer = await web.get(
        f"/studies/{study}", f'multipart/related; type="application/dicom"; transfer-syntax={baseline}'
    )
    assert answer.status_code == 206
    assert {headers["content-location"].rpartition("/")[2] for headers, _ in parts_of(answer)} == wanted
    assert f"{len(items) - len(wanted)} of {len(items)}" in answer.headers["warning"]


async def test_an_explicit_transfer_syntax_is_made(web: Web) -> None:
    item = next(item for item in web.truth.items if item.path.name == "CT_small.dcm")
    for syntax in ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", DEFLATED):
        accept = f"application/dicom; transfer-syntax={syntax}"
        answer = await web.get(path_of(item), accept)
        assert answer.headers["content-type"] == accept
        assert str(read(answer.content).file_meta.TransferSyntaxUID) == syntax
        assert answer.headers["content-length"] == str(len(answer.content))
        part = await web.get(path_of(item), accept, Range="bytes=200-3000")
        assert part.content == answer.content[200:3001]
        head = await web.client.head(path_of(item), headers={"Accept": accept})
        assert head.headers["content-length"] == str(len(answer.content))
    spool = web.root / "transcoded"
    await eventually(lambda: not list(spool.glob("*.transcoded")), "what was made is removed")
