"""Scenes of the archive: an open one, and objects sent to it without an association."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from pacsnode.archive.archive import Archive, ArchiveOptions
from pacsnode.archive.instance import IncomingInstance, IncomingRequest, Stored
from pacsnode.dicom.uid import UID
from tests.support.objects import Made, Part10
from tests.support.raw import CT_IMAGE

EXPLICIT_LITTLE_ENDIAN = UID("1.2.840.10008.1.2.1")


def request_for(item: Made | Part10, **fields: str) -> IncomingRequest:
    """The command and context an object comes with; `fields` to tell lies."""
    values = {
        "sop_class": getattr(item, "sop_class", CT_IMAGE),
        "sop_instance": item.sop,
        "transfer_syntax": getattr(item, "transfer_syntax", EXPLICIT_LITTLE_ENDIAN),
        "source_ae": "MODALITY",
        "receiving_ae": "PACSNODE",
        **fields,
    }
    return IncomingRequest(**values)  # type: ignore[arg-type]


def receive(archive: Archive, item: Made | Part10, chunk: int = 2**16, **fields: str) -> IncomingInstance:
    """Everything of an object but the order to store it."""
    incoming = archive.begin(request_for(item, **fields))
    view = memoryview(item.data)
    for start in range(0, len(view), chunk):
        incoming.write(view[start : start + chunk])
    return incoming


async def store(archive: Archive, item: Made | Part10, chunk: int = 2**16, **fields: str) -> Stored:
    """An object from its first byte to its answer."""
    return await archive.store(receive(archive, item, chunk, **fields))


OpenArchive = Callable[..., AbstractAsyncContextManager[Archive]]


@pytest.fixture
def open_archive(root: Path) -> OpenArchive:
    """Opens the archive at `root`, closes it at the end of the block; options by name."""

    @asynccontextmanager
    async def opened(**options: object) -> AsyncIterator[Archive]:
        values: dict[str, object] = {"sync": "none", "reserve": 0, "workers": 2, "readers": 1, **options}
        archive = await Archive.open(root, ArchiveOptions(**values))  # type: ignore[arg-type]
        try:
            yield archive
        finally:
            await archive.close()

    return opened


@pytest_asyncio.fixture
async def archive(open_archive: OpenArchive) -> AsyncIterator[Archive]:
    """An open archive that does not wait for the disk."""
    async with open_archive() as opened:
        yield opened
