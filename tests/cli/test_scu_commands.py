"""echo, store and find against the node and against programs of others."""

import asyncio
import contextlib
import json
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from tests.support import command

FILES = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm", "ExplVR_BigEnd.dcm")
needs_storescp = pytest.mark.skipif(shutil.which("storescp") is None, reason="storescp is not installed")


async def pacsnode(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    ended = await command.pacsnode(*arguments, joined=False)
    return ended.status, ended.output, ended.errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Objects of several SOP classes and transfer syntaxes, and one file that is none."""
    folder = tmp_path / "objects to send"
    folder.mkdir()
    for name in FILES:
        shutil.copy(str(get_testdata_file(name)), folder)
    (folder / "README").write_text("no DICOM")
    return folder


@pytest.fixture
def peer(node) -> str:
    return f"PACSNODE@127.0.0.1:{node.dimse_port}"


@contextlib.asynccontextmanager
async def storescp(*options: str) -> AsyncIterator[str]:
    """dcmtk's receiver, as a peer; it is up inside the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec("storescp", *options, str(port))
    try:
        async with asyncio.timeout(20):
            while not await _is_open(port):  # noqa: ASYNC110 - a program of others has no event for us
                await asyncio.sleep(0.02)
        yield f"STORESCP@127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


async def test_echo_tells_status_and_time(peer: str) -> None:
    status, output, errors = await pacsnode("echo", peer, "--count", 2)
    assert (status, errors) == (0, "")
    assert output.count("C-ECHO 0000H") == 2


async def test_store_sends_a_folder_and_find_lists_it(peer: str, folder: Path) -> None:
    status, output, errors = await pacsnode("store", peer, folder)
    assert (status, errors) == (0, "")
    assert "README is the first" in output
    status, output, _ = await pacsnode(
        "find", peer, "--level", "STUDY", "-k", "PatientName=compressedsamples^n*", "--json"
    )
    assert status == 0
    (match,) = json.loads(output)
    assert match["0020000D"]["Value"] == [dcmread(folder / "JPEG2000.dcm").StudyInstanceUID]


async def test_find_prints_values_that_their_vr_does_not_allow_as_they_are(peer: str, folder: Path) -> None:
    path = folder / "JPEG2000.dcm"
    heavy = dcmread(path)
    heavy.PatientWeight = "99.5"
    heavy.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"99.5", b"99kg"))
    await pacsnode("store", peer, path)
    status, output, errors = await pacsnode("find", peer, "-k", "PatientWeight", "--json")
    assert (status, errors) == (0, "")
    (match,) = json.loads(output)
    assert match["00101030"] == {"vr": "DS", "Value": ["99kg"]}


async def test_find_prints_a_table_and_counts(peer: str, folder: Path) -> None:
    await pacsnode("store", peer, folder)
    status, output, _ = await pacsnode("find", peer, "--level", "PATIENT")
    lines = output.splitlines()
    assert status == 0
    assert lines[1].split()[:2] == ["PatientName", "PatientID"]
    assert lines[-1].endswith("matches")
    assert any("CompressedSamples^CT1" in line for line in lines)


async def test_find_stops_at_the_limit(peer: str, folder: Path) -> None:
    await pacsnode("store", peer, folder)
    status, output, errors = await pacsnode("find", peer, "--level", "STUDY", "--limit", 1)
    assert (status, errors) == (0, "")
    assert output.splitlines()[-1] == "1 match"


async def test_nothing_found_is_an_empty_array(peer: str) -> None:
    status, output, _ = await pacsnode("find", peer, "-k", "PatientID=NOBODY", "--json")
    assert (status, json.loads(output)) == (0, [])


async def test_store_over_several_associations(peer: str, folder: Path) -> None:
    status, output, errors = await pacsnode("store", peer, folder, "--parallel", 3, "--window", 1)
    assert (status, errors) == (0, "")
    assert output.split()[:2] == ["sent", str(len(FILES))]


@needs_storescp
async def test_what_another_receiver_gets_is_what_lies_in_the_files(folder: Path, tmp_path: Path) -> None:
    received = tmp_path / "received"
    received.mkdir()
    async with storescp("+xa", "+B", "-od", str(received)) as peer:
        status, _, errors = await pacsnode("store", peer, folder)
    assert (status, errors) == (0, "")
    stored = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, received.iterdir())}
    for name in FILES:
        sent = dcmread(folder / name)
        assert stored[sent.SOPInstanceUID] == sent


@needs_storescp
async def test_a_refused_transfer_syntax_is_named_and_fails(folder: Path) -> None:
    async with storescp("+xe", "--ignore") as peer:
        status, output, errors = await pacsnode("store", peer, folder)
    assert status == 1
    assert "JPEG2000.dcm: the peer does not accept" in errors
    assert "in JPEG 2000" in output


async def test_nothing_to_send_fails(peer: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, _, errors = await pacsnode("store", peer, tmp_path / "empty")
    assert (status, errors) == (1, "pacsnode: there is no DICOM object to send\n")


async def test_a_peer_that_is_not_there_fails_every_object(folder: Path) -> None:
    status, output, errors = await pacsnode("store", "NOBODY@127.0.0.1:1", folder)
    assert status == 1
    assert errors.count("not sent: NOBODY@127.0.0.1:1 cannot be reached") == len(FILES)
    assert "Traceback" not in errors + output


async def test_find_negotiates_empty_and_multiple_values(peer: str, folder: Path) -> None:
    assert (await pacsnode("store", peer, folder))[0] == 0
    study = dcmread(str(get_testdata_file("MR_small.dcm"))).StudyInstanceUID

    async def found(*arguments: str) -> int:
        status, output, errors = await pacsnode(
            "find", peer, "-k", f"StudyInstanceUID={study}", *arguments, "--json"
        )
        assert (status, errors) == (0, "")
        return len(json.loads(output))

    several = ("-k", r"ModalitiesInStudy=CT\MR")
    assert [await found(*several), await found(*several, "--multiple-values")] == [1, 0]
    assert await found("-k", 'AccessionNumber=""', "-k", 'PatientName=""', "--empty-values") == 0
    assert await found("-k", 'AccessionNumber=""', "--empty-values") == 1
