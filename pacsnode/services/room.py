"""What every service class is built with."""

from dataclasses import dataclass

from pacsnode.archive.archive import Archive
from pacsnode.config import Settings


@dataclass(frozen=True, slots=True)
class Room:
    """The archive and the configuration."""

    archive: Archive
    settings: Settings
