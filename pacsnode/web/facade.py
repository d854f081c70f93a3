"""What every group of resources is built with."""

from dataclasses import dataclass

from pacsnode.archive.archive import Archive
from pacsnode.config import Settings
from pacsnode.pixels.pool import Transcoder
from pacsnode.web.pictures import Pictures
from pacsnode.workflow.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Facade:
    """The archive, what transcodes and shows its objects, the state beside them, the configuration."""

    archive: Archive
    transcoder: Transcoder
    workflow: Workflow
    settings: Settings
    pictures: Pictures
