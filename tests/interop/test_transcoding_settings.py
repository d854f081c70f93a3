"""[transcoding] and what it means to a pynetdicom that takes one transfer syntax only (PS3.5 10)."""

from pathlib import Path

import numpy as np
import pytest
import structlog
from pydicom import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as STUDY_ROOT_GET

from pacsnode.node import Node
from tests.conftest import SettingsOf, real_object
from tests.support.getting import Got, get, in_file
from tests.support.objects import part10
from tests.support.pixels import pixels_of
from tests.support.sending import send_files

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
JPEG_LS = "1.2.840.10008.1.2.4.80"
LOSSLESS, LOSSY = "emri_small_jpeg_2k_lossless.dcm", "examples_ybr_color.dcm"


async def fetched(node: Node, path: Path, syntax: str) -> Got:
    """One object, in one transfer syntax."""
    item = part10(path)
    assert await send_files(node.dimse_port, [item]) == [0x0000]
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", item.study
    return await get(node.dimse_port, STUDY_ROOT_GET, identifier, [(item.sop_class, (syntax,))])


async def test_a_lossless_source_is_had_in_any_form(node: Node, tmp_path: Path) -> None:
    _, expected = pixels_of(real_object(LOSSLESS), tmp_path)
    for syntax in (IMPLICIT, JPEG_LS):
        got = await fetched(node, real_object(LOSSLESS), syntax)
        ((sop, arrived, data),) = got.stored
        assert (got.final.Status, arrived) == (0x0000, syntax)
        _, pixels = pixels_of(in_file(sop, arrived, data), tmp_path)
        assert np.array_equal(pixels, expected)


async def test_where_it_is_off_objects_go_as_stored_or_fail(settings_of: SettingsOf) -> None:
    async with Node(settings_of(transcoding={"enabled": False})) as node:
        item = part10(real_object("CT_small.dcm"))
        as_stored = await fetched(node, item.path, EXPLICIT)
        refused = await fetched(node, item.path, IMPLICIT)
    assert as_stored.stored == [(item.sop, EXPLICIT, item.data)]
    assert (refused.final.Status, refused.final.NumberOfFailedSuboperations) == (0xA702, 1)
    assert "not accepted" in refused.final.ErrorComment
    assert refused.identifiers[-1].FailedSOPInstanceUIDList == item.sop


async def test_a_lossy_source_is_decompressed_or_stays(node: Node) -> None:
    plain = await fetched(node, real_object(LOSSY), EXPLICIT)
    assert plain.only.LossyImageCompression == "01"
    assert plain.only.LossyImageCompressionMethod == "ISO_10918_1"
    blown_up = await fetched(node, real_object(LOSSY), JPEG_LS)
    assert (blown_up.final.Status, blown_up.stored) == (0xA702, [])


async def test_a_lossy_source_is_compressed_again_where_that_is_set(settings_of: SettingsOf) -> None:
    async with Node(settings_of(transcoding={"recompress_lossy": True})) as node:
        got = await fetched(node, real_object(LOSSY), JPEG_LS)
    assert (got.final.Status, got.stored[0][1]) == (0x0000, JPEG_LS)
    assert got.only.LossyImageCompression == "01"


async def test_an_object_that_cannot_be_made_fails_with_its_reason(settings_of: SettingsOf) -> None:
    async with Node(settings_of(transcoding={"time_limit": 0.001})) as node:
        with structlog.testing.capture_logs() as events:
            got = await fetched(node, real_object(LOSSLESS), IMPLICIT)
    assert (got.final.Status, got.final.NumberOfFailedSuboperations) == (0xA702, 1)
    assert "takes longer" in got.final.ErrorComment
    (failed,) = (event for event in events if event["event"] == "suboperation.failed")
    assert "takes longer" in failed["reason"]
