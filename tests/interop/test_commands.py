"""Our SCU commands with servers nobody here wrote: storescp takes what is transcoded, pynetdicom and our node
answer what is negotiated."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as STUDY_ROOT_FIND
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as STUDY_ROOT_GET

from pacsnode.node import Node
from tests.conftest import needs, real_object
from tests.support.command import pacsnode
from tests.support.destination import free_address
from tests.support.objects import data_set_bytes, part10
from tests.support.pixels import pixels_of
from tests.support.programs import storescp
from tests.support.sending import send_files

pytestmark = pytest.mark.filterwarnings("ignore")

JPEG_LS = "1.2.840.10008.1.2.4.80"


@needs("storescp")
async def test_store_transcodes_what_it_can(tmp_path: Path) -> None:
    """An uncompressed image and a JPEG 2000 one are made, a report and a lossy image are not."""
    names = ("CT_small.dcm", "emri_small_jpeg_2k_lossless.dcm", "reportsi.dcm", "examples_ybr_color.dcm")
    paths = {
        str(dcmread(real_object(name), stop_before_pixels=True).SOPInstanceUID): real_object(name)
        for name in names
    }
    address = free_address()
    async with storescp(address, tmp_path / "got", "ARCHIVE", "+xa"):
        done = await pacsnode(
            "store", f"ARCHIVE@{address}", *paths.values(), "--transfer-syntax", "JPEGLSLossless"
        )
    assert done.status == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["transcoded", "2"] in lines
    assert sum(int(line[2]) for line in lines if line[:2] == ["as", "stored"]) == 2
    arrived = {str(dcmread(path).SOPInstanceUID): path for path in (tmp_path / "got").iterdir()}
    assert arrived.keys() == paths.keys()
    for sop, path in paths.items():
        syntax = str(dcmread(arrived[sop]).file_meta.TransferSyntaxUID)
        if path.name in names[:2]:
            assert syntax == JPEG_LS
            _, expected = pixels_of(path, tmp_path)
            _, pixels = pixels_of(arrived[sop], tmp_path)
            assert np.array_equal(pixels, expected)
        else:
            assert data_set_bytes(arrived[sop]) == data_set_bytes(path)


@needs("storescp")
async def test_store_sends_as_stored_what_the_peer_takes_only_so(tmp_path: Path) -> None:
    address = free_address()
    async with storescp(address, tmp_path / "got", "ARCHIVE", "+x="):  # uncompressed only
        done = await pacsnode(
            "store", f"ARCHIVE@{address}", real_object("CT_small.dcm"), "--transfer-syntax", JPEG_LS
        )
    assert done.status == 0, done.output
    assert "not accepted by the peer" in done.output
    (path,) = (tmp_path / "got").iterdir()
    assert data_set_bytes(path) == data_set_bytes(real_object("CT_small.dcm"))


async def test_store_refuses_a_transfer_syntax_it_does_not_make() -> None:
    done = await pacsnode("store", "A@127.0.0.1:1", ".", "--transfer-syntax", "JPEGBaseline8Bit")
    assert done.status == 2
    assert "JPEGLSLossless" in done.output


# Frames and headers


async def test_get_of_frames_and_of_what_is_not_bulk(node: Node, tmp_path: Path) -> None:
    item = part10(real_object("emri_small.dcm"))
    await send_files(node.dimse_port, [item])
    peer = f"PACSNODE@127.0.0.1:{node.dimse_port}"
    key = ("-k", f"SOPInstanceUID={item.sop}", "--json", "--sop-class", item.sop_class)
    frames = ("--model", "composite", "--level", "frame", "-k", r"CalculatedFrameList=2\4\2")
    done = await pacsnode("get", peer, *key, *frames, "-o", tmp_path / "frames")
    assert done.status == 0, done.output
    assert json.loads(done.output)["received"] == 1
    (path,) = (tmp_path / "frames").iterdir()
    assert np.array_equal(dcmread(path).pixel_array, dcmread(item.path).pixel_array[[1, 3]])
    header = ("--model", "without-bulk-data", "--level", "image")
    done = await pacsnode("get", peer, *key, *header, "-o", tmp_path / "header")
    assert done.status == 0, done.output
    (path,) = (tmp_path / "header").iterdir()
    assert "PixelData" not in dcmread(path)
    late = ("--model", "composite", "--level", "frame", "-k", "SimpleFrameList=99")
    done = await pacsnode("get", peer, *key, *late, "-o", tmp_path / "none")
    assert (done.status, json.loads(done.output)["status"]) == (1, "AA00")


# Extended negotiation


@contextmanager
def listening(
    sop_class: str, answers: bytes, kind: evt.InterventionEvent
) -> Iterator[tuple[str, list[bytes]]]:
    """pynetdicom as SCP of an empty archive; what it was offered for `sop_class`."""
    offered: list[bytes] = []

    def negotiate(event: evt.Event) -> dict[str, bytes]:
        offered.append(event.app_info[sop_class])
        return {sop_class: answers}

    def handle(_event: evt.Event) -> Iterator[object]:
        if kind is evt.EVT_C_GET:
            yield 0

    ae = AE("ARCHIVE")
    ae.add_supported_context(sop_class)
    address = free_address()
    handlers = [(evt.EVT_SOP_EXTENDED, negotiate), (kind, handle)]
    host, _, port = address.rpartition(":")
    server = ae.start_server((host, int(port)), block=False, evt_handlers=handlers)
    try:
        yield address, offered
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("flags", "offered"),
    [
        (["--relational"], b"\1"),
        (["--date-time", "--relational"], b"\1\1\0"),
        (["--timezone", "+0100", "--fuzzy"], b"\0\0\1\1"),
    ],
)
async def test_find_negotiates_what_its_flags_say(flags: list[str], offered: bytes) -> None:
    with listening(STUDY_ROOT_FIND, b"\0" * len(offered), evt.EVT_C_FIND) as (address, seen):
        done = await pacsnode("find", f"ARCHIVE@{address}", *flags)
    assert done.status == 0, done.output
    assert seen == [offered]
    assert done.output.count("does not agree to") == sum(offered)


async def test_get_negotiates_relational_retrieval(tmp_path: Path) -> None:
    with listening(STUDY_ROOT_GET, b"\1", evt.EVT_C_GET) as (address, seen):
        keys = ("--relational", "--level", "SERIES", "-k", "SeriesInstanceUID=1.2.3")
        await pacsnode("get", f"ARCHIVE@{address}", *keys, "-o", tmp_path)
    assert seen == [b"\1"]


async def test_fuzzy_names_are_found_only_when_negotiated(node: Node) -> None:
    item = part10(real_object("CT_small.dcm"))  # CompressedSamples^CT1
    await send_files(node.dimse_port, [item])
    peer = f"PACSNODE@127.0.0.1:{node.dimse_port}"
    key = ("-k", "PatientName=ct1 compresedsamples", "--json")
    plain, fuzzy = await asyncio.gather(pacsnode("find", peer, *key), pacsnode("find", peer, *key, "--fuzzy"))
    assert [len(json.loads(done.output)) for done in (plain, fuzzy)] == [0, 1]


@pytest.mark.parametrize(
    ("model", "level"),
    [
        ("patient", "PATIENT"),
        ("patient", "IMAGE"),
        ("study", "SERIES"),
        ("patient-study", "STUDY"),
        ("patient-study", "IMAGE"),
    ],
)
async def test_find_at_the_levels_of_the_models(node: Node, model: str, level: str) -> None:
    item = part10(real_object("CT_small.dcm"))
    await send_files(node.dimse_port, [item])
    header: Dataset = dcmread(item.path, stop_before_pixels=True)
    above = {
        "PATIENT": ["PatientID"],
        "STUDY": ["PatientID", "StudyInstanceUID"],
        "SERIES": ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"],
        "IMAGE": ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"],
    }[level]
    keys = [part for keyword in above for part in ("-k", f"{keyword}={header[keyword].value}")]
    peer = f"PACSNODE@127.0.0.1:{node.dimse_port}"
    done = await pacsnode("find", peer, "--level", level, "--model", model, "--json", *keys)
    if model == "patient-study" and level in ("SERIES", "IMAGE"):
        assert done.status == 1
        assert "A900" in done.output
        return
    assert done.status == 0, done.output
    (match,) = json.loads(done.output)
    assert match["00080052"]["Value"] == [level]
