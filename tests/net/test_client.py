"""The Python API: the page's example runs; pynetdicom is the peer where that matters."""

import asyncio
import re
import sys
import warnings
from contextlib import aclosing
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt

from pacsnode.dicom.sop_class import (
    DEFLATED,
    EXPLICIT_VR_LE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
)
from pacsnode.dicom.uid import UID
from pacsnode.errors import NoPresentationContext, OutOfResources, PeerUnreachable, RequestFailed
from pacsnode.net.client import Received, client
from pacsnode.node import Node
from tests.conftest import REPOSITORY, real_objects, run
from tests.support.destination import free_address
from tests.support.objects import made
from tests.support.raw import CT_IMAGE
from tests.support.sending import send_files, send_made
from tests.support.truth import Truth

PAGE = REPOSITORY / "docs" / "python-api.md"
CT = UID(CT_IMAGE)
STUDY = made(1).study
ALL = (VERIFICATION, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE)


def address(node: Node) -> str:
    return f"PACSNODE@127.0.0.1:{node.dimse_port}"


async def test_the_example_of_the_page_runs(node: Node, tmp_path: Path) -> None:
    truth = Truth.of(path for path in real_objects() if path.name == "CT_small.dcm")
    await send_files(node.dimse_port, truth.items)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    program = example.replace("PACSNODE@localhost:11112", address(node))
    (tmp_path / "example.py").write_text(f"import os\nos.chdir({str(tmp_path)!r})\n{program}")
    done = await run(sys.executable, str(tmp_path / "example.py"))
    assert done.status == 0, done.output
    assert done.output.splitlines() == ["CompressedSamples^CT1 20040119", "1 fetched"]
    (item,) = truth.items
    assert dcmread(tmp_path / f"{item.sop}.dcm") == dcmread(item.path)


async def test_what_is_stored_is_found_and_fetched(node: Node) -> None:
    received: list[Received] = []

    async def keep(one: Received) -> None:
        received.append(one)

    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = CT_IMAGE, "2.25.3"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.1", "2.25.2"
    data_set.SpecificCharacterSet, data_set.PatientName = "ISO_IR 192", "Müller^Jörg"
    async with client(address(node), sop_classes=ALL, storage=[CT], keep=keep) as archive:
        assert (await archive.store(data_set)).status == 0x0000
        keys = {"PatientName": "Mül*", "StudyInstanceUID": ""}
        (match,) = [match async for match in archive.find(STUDY_ROOT_FIND, "STUDY", **keys)]
        uid = match.StudyInstanceUID
        *_, last = [r async for r in archive.get(STUDY_ROOT_GET, "STUDY", StudyInstanceUID=uid)]
    assert last.suboperations.completed == 1
    (one,) = received
    assert one.data_set() == data_set


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"])
async def test_pixels_go_as_they_are_or_not_at_all(node: Node, name: str) -> None:
    received: list[Received] = []

    async def keep(one: Received) -> None:
        received.append(one)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = dcmread(str(get_testdata_file(name)))
    sop_class, syntax = UID(data_set.SOPClassUID), UID(data_set.file_meta.TransferSyntaxUID)
    is_deflated = syntax == DEFLATED
    async with client(address(node), sop_classes=ALL, storage=[sop_class]) as plain:
        if is_deflated:
            await plain.store(data_set)
        else:
            with pytest.raises(NoPresentationContext, match="does not accept"):
                await plain.store(data_set)
    async with client(address(node), sop_classes=ALL, storage={sop_class: [syntax]}, keep=keep) as archive:
        await archive.store(data_set)
        keys = {"StudyInstanceUID": data_set.StudyInstanceUID}
        _ = [reply async for reply in archive.get(STUDY_ROOT_GET, "STUDY", **keys)]
    (one,) = received
    assert one.transfer_syntax == (EXPLICIT_VR_LE if is_deflated else syntax)
    assert one.data_set().PixelData == data_set.PixelData
    assert (one.data_set().pixel_array == data_set.pixel_array).all()


async def test_compressed_pixels_without_their_transfer_syntax_are_refused(node: Node) -> None:
    data_set = dcmread(str(get_testdata_file("JPEG2000.dcm")))
    del data_set.file_meta
    async with client(address(node), storage=[UID(data_set.SOPClassUID)]) as archive:
        with pytest.raises(ValueError, match="TransferSyntaxUID"):
            await archive.store(data_set)


async def test_operations_run_at_once_and_after_a_query_that_was_left(node: Node) -> None:
    await send_made(node.dimse_port, [made(number, study=number) for number in range(1, 30)])
    async with client(address(node), sop_classes=ALL) as archive:
        async with aclosing(archive.find(STUDY_ROOT_FIND, "STUDY", StudyInstanceUID="")) as matches:
            async for _ in matches:
                break
        await asyncio.gather(*(archive.echo() for _ in range(20)))


async def test_a_failure_is_raised_with_its_status(node: Node) -> None:
    await send_made(node.dimse_port, [made(1)])

    async def keep(_one: Received) -> None:
        raise OutOfResources("no room")

    async with client(address(node), sop_classes=ALL, storage=[CT], keep=keep) as archive:
        with pytest.raises(RequestFailed, match="A801H") as unknown:
            _ = [r async for r in archive.move(STUDY_ROOT_MOVE, "NOWHERE", "STUDY", StudyInstanceUID=STUDY)]
        assert unknown.value.status == 0xA801
        with pytest.raises(RequestFailed, match="A702H"):
            _ = [r async for r in archive.get(STUDY_ROOT_GET, "STUDY", StudyInstanceUID=STUDY)]
        with pytest.raises(RequestFailed, match="A900H"):
            _ = [match async for match in archive.find(STUDY_ROOT_FIND, "NOSUCH")]


async def test_what_cannot_be_meant_is_refused_before_it_is_sent(node: Node) -> None:
    """A key that is misspelt would be none, and the query find everything."""
    async with client(address(node), sop_classes=ALL) as archive:
        with pytest.raises(ValueError, match="PatientId"):
            _ = [match async for match in archive.find(STUDY_ROOT_FIND, "STUDY", PatientId="1")]
        with pytest.raises(ValueError, match="longer than 16"):
            archive.move(STUDY_ROOT_MOVE, "A" * 17, "STUDY", StudyInstanceUID=STUDY)
        await archive.echo()
    with pytest.raises(ValueError, match="longer than 16"):
        async with client(address(node), "A" * 17, sop_classes=ALL):
            pass
    with pytest.raises(ValueError, match="129 presentation contexts"):
        async with client(address(node), storage=[UID(f"1.2.{number}") for number in range(129)]):
            pass


async def test_what_was_not_agreed_on_and_who_is_not_there() -> None:
    with pytest.raises(PeerUnreachable):
        async with client(f"NOBODY@{free_address()}", sop_classes=ALL):
            pass
    ae = AE("ARCHIVE")
    ae.add_supported_context(VERIFICATION)
    host, _, port = free_address().rpartition(":")
    server = ae.start_server((host, int(port)), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0)])
    try:
        async with client(f"ARCHIVE@{host}:{port}", sop_classes=ALL) as archive:
            await archive.echo()
            with pytest.raises(NoPresentationContext):
                _ = [match async for match in archive.find(STUDY_ROOT_FIND, "STUDY")]
    finally:
        server.shutdown()
