"""What every service class is built with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pacsnode.archive.archive import Archive
from pacsnode.config import Peer, Settings
from pacsnode.dicom.uid import AETitle


@dataclass(frozen=True, slots=True)
class Room:
    """The archive, the configuration, and the peers as they are at the moment: a reload changes them."""

    archive: Archive
    settings: Settings
    peers: Callable[[], Mapping[AETitle, Peer]]
