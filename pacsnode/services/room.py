"""What every service class is built with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pacsnode.archive.archive import Archive
from pacsnode.config import Peer, Settings
from pacsnode.dicom.uid import AETitle
from pacsnode.pixels.pool import Transcoder
from pacsnode.workflow.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Room:
    """The archive, what transcodes its objects, the state beside them, the configuration.

    `peers()` are those of the moment: a reload changes them.
    """

    archive: Archive
    transcoder: Transcoder
    workflow: Workflow
    settings: Settings
    peers: Callable[[], Mapping[AETitle, Peer]]
