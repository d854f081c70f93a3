"""Long answers: constant memory, backpressure, clients that go away, made-up objects of odd shapes."""

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import pytest_asyncio
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended

from pacsnode.node import Node
from tests.conftest import settings_for
from tests.support.objects import encoded
from tests.support.raw import CT_IMAGE, RawPeer
from tests.support.waiting import Holdings, resident

EXPLICIT = "1.2.840.10008.1.2.1"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
OCTETS = "multipart/related; type=application/octet-stream"
PATH = "/dicomweb/studies/1.2/series/1.2.3/instances/1.2.3.4"


def image(rows: int, columns: int, bits: int, frames: int, data: bytes) -> Dataset:
    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = CT_IMAGE, "1.2.3.4"
    found.StudyInstanceUID, found.SeriesInstanceUID = "1.2", "1.2.3"
    found.PatientID, found.Modality = "P", "CT"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.Rows, found.Columns, found.NumberOfFrames = rows, columns, frames
    found.BitsAllocated = found.BitsStored = bits
    found.HighBit, found.PixelRepresentation = bits - 1, 0
    found.add_new(0x7FE00010, "OW" if bits > 8 else "OB", data + bytes(len(data) & 1))
    return found


async def store(node: Node, data: bytes, transfer_syntax: str = EXPLICIT) -> None:
    async with await RawPeer.associated(node.dimse_port, (CT_IMAGE, [transfer_syntax])) as peer:
        assert (await peer.store("1.2.3.4", data, sop_class=CT_IMAGE, context=1)).status == 0x0000
        await peer.release()


def client_of(node: Node) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.web_port}", timeout=30)


@pytest.mark.parametrize(
    ("rows", "columns", "bits"), [(3, 3, 8), (3, 5, 1), (4, 4, 1), (2, 3, 16), (3, 3, 32)]
)
async def test_frames_of_odd_sizes(node: Node, rows: int, columns: int, bits: int) -> None:
    size = rows * columns
    rng = np.random.default_rng(1)
    if bits == 1:
        cells = rng.integers(0, 2, (5, size), np.uint8)
        data = np.packbits(cells.ravel(), bitorder="little").tobytes()
        wanted = [np.packbits(frame, bitorder="little").tobytes() for frame in cells]
    else:
        cells = rng.integers(0, 255, (5, size * bits // 8), np.uint8)
        data = cells.tobytes()
        wanted = [frame.tobytes() for frame in cells]
    await store(node, encoded(image(rows, columns, bits, 5, data)))
    async with client_of(node) as client:
        for number, frame in enumerate(wanted, 1):
            answer = await client.get(
                f"{PATH}/frames/{number}", headers={"Accept": "application/octet-stream"}
            )
            assert answer.content == frame
        missing = await client.get(f"{PATH}/frames/6", headers={"Accept": OCTETS})
        assert missing.status_code == 404


@pytest.mark.parametrize("table", ["basic", "extended", "none", "wrong"])
async def test_compressed_frames_are_found_by_every_table_and_by_none(node: Node, table: str) -> None:
    streams = [b"\xff\x4f\xff\x51" + bytes([number]) * (20 + 2 * number) for number in range(6)]
    found = image(4, 4, 8, len(streams), b"")
    if table == "extended":
        data, found.ExtendedOffsetTable, found.ExtendedOffsetTableLengths = encapsulate_extended(streams)
    else:
        data = encapsulate(streams, fragments_per_frame=2, has_bot=table != "none")
    if table == "wrong":  # ascending, but in the middle of fragments
        data = data[:8] + struct.pack("<6I", 0, 10, 12, 14, 16, 18) + data[32:]
    found.add_new(0x7FE00010, "OB", data)
    found["PixelData"].is_undefined_length = True
    await store(node, encoded(found), JPEG_2000)
    async with client_of(node) as client:
        for number in (6, 1, 3, 2):
            accept = "image/jp2; transfer-syntax=*"
            answer = await client.get(f"{PATH}/frames/{number}", headers={"Accept": accept})
            assert answer.status_code == 200, answer.text
            assert answer.content == streams[number - 1]


LENGTH = 128  # MiB


async def test_a_document_is_called_what_it_is_where_that_is_acceptable(node: Node) -> None:
    found = image(1, 1, 8, 1, b"")
    del found.PixelData
    found.EncapsulatedDocument, found.MIMETypeOfEncapsulatedDocument = (
        b"%PDF-1.7 and so on",
        "application/pdf",
    )
    await store(node, encoded(found))
    url = PATH + "/bulkdata/00420011"
    ohif = f'multipart/related; type="application/pdf", {OCTETS}'
    async with client_of(node) as client:
        part = await client.get(url, headers={"Accept": ohif})
        assert 'type="application/pdf"' in part.headers["content-type"]
        assert b"Content-Type: application/pdf\r\n" in part.content
        assert found.EncapsulatedDocument in part.content
        alone = await client.get(url, headers={"Accept": "application/pdf"})
        assert (alone.headers["content-type"], alone.content) == (
            "application/pdf",
            found.EncapsulatedDocument,
        )
        octets = await client.get(url, headers={"Accept": OCTETS})
        assert 'type="application/octet-stream"' in octets.headers["content-type"]
        other = await client.get(url, headers={"Accept": "text/plain"})
        assert other.status_code == 406


@dataclass
class Reading:
    """A raw client that reads as slowly as it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def of(cls, node: Node, path: str, accept: str) -> "Reading":
        reader, writer = await asyncio.open_connection("127.0.0.1", node.web_port, limit=2**16)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        return cls(reader, writer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def long_node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node with an image of as many frames as MiB; each frame holds its number only."""
    frames = np.repeat(np.arange(LENGTH, dtype=np.uint8), 2**20).tobytes()
    async with Node(settings_for(tmp_path_factory.mktemp("long") / "root")) as node:
        await store(node, encoded(image(1024, 1024, 8, LENGTH, frames)))
        del frames
        yield node


@pytest.mark.asyncio(loop_scope="module")
async def test_a_long_object_is_sent_with_little_memory_and_frames_of_it_at_once(long_node: Node) -> None:
    async with client_of(long_node) as client:
        before = resident()
        most = total = 0
        accept = {"Accept": 'multipart/related; type="application/dicom"'}
        async with client.stream("GET", PATH, headers=accept) as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_raw():
                total += len(piece)
                most = max(most, resident() - before)
        assert total == int(answer.headers["content-length"]) > LENGTH * 2**20
        assert most < 64 * 2**20
        for number in (1, 65, LENGTH):
            frame = await client.get(
                f"{PATH}/frames/{number}", headers={"Accept": "application/octet-stream"}
            )
            assert frame.content == bytes([(number - 1) % 256]) * 2**20
        some = await client.get(f"{PATH}/frames/3,1,9,8,7,6", headers={"Accept": OCTETS})
        assert some.status_code == 200
        assert len(some.content) > 6 * 2**20
        rest = await client.get(
            PATH, headers={"Accept": "application/dicom", "Range": f"bytes=-{5 * 2**20 + 1}"}
        )
        assert rest.status_code == 206
        assert len(rest.content) == 5 * 2**20 + 1


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_goes_away_stops_the_work(long_node: Node) -> None:
    holdings = Holdings.now()
    for accept in ("application/dicom", 'multipart/related; type="application/dicom"', "application/zip"):
        reading = await Reading.of(long_node, PATH, accept)
        await reading.reader.read(2**16)
        reading.writer.transport.abort()
    await holdings.restored()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_slow_reader_holds_the_file_back(long_node: Node) -> None:
    before = resident()
    readings = [await Reading.of(long_node, PATH, "application/dicom") for _ in range(4)]
    async with client_of(long_node) as client:  # others are served meanwhile
        for number in range(1, 20):
            answer = await client.get(f"{PATH}/frames/{number}", headers={"Accept": OCTETS})
            assert answer.status_code == 200
    assert resident() - before < 64 * 2**20
    for reading in readings:
        reading.writer.transport.abort()
