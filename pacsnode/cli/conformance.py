"""`pacsnode conformance`: what the node would accept and serve, as a DICOM Conformance Statement (PS3.2)."""

from pathlib import Path
from typing import TYPE_CHECKING

from pacsnode.cli.options import ConfigFile

if TYPE_CHECKING:
    from pacsnode.config import Settings
    from pacsnode.net.service import ServiceClass


def conformance(config: ConfigFile = None) -> None:
    """Print the Conformance Statement of a node with these settings, in Markdown."""
    import asyncio
    from tempfile import TemporaryDirectory

    from pacsnode.config import load
    from pacsnode.services import conformance as dimse
    from pacsnode.web import conformance as web

    settings = load(config)
    # Service classes answer for themselves, on an archive of their own that nothing is ever stored in
    with TemporaryDirectory(prefix="pacsnode-") as folder:
        services = asyncio.run(_services(settings, Path(folder)))
        print(dimse.statement(settings, services))
    print(web.statement(), end="")


async def _services(settings: "Settings", folder: Path) -> "tuple[ServiceClass, ...]":
    from pacsnode.archive.archive import Archive
    from pacsnode.node import archive_options, transcoder_options
    from pacsnode.pixels.pool import Transcoder
    from pacsnode.services import build_registry
    from pacsnode.services.room import Room
    from pacsnode.workflow.workflow import Workflow

    archive = await Archive.open(folder, archive_options(settings))
    try:
        workflow = await Workflow.open(folder, archive, settings)
        try:
            transcoder = Transcoder(folder / "transcoded", transcoder_options(settings))
            return build_registry(Room(archive, transcoder, workflow, settings)).services
        finally:
            await workflow.close()
    finally:
        await archive.close()
