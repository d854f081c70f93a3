"""What every service class is built with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pacsnode.archive.archive import Archive
from pacsnode.config import Settings
from pacsnode.pixels.pool import Transcoder
from pacsnode.workflow.workflow import Workflow

Reload = Callable[[Settings], Callable[[], None]]
"""New settings -> what takes them over. Raises ConfigurationError when they cannot be."""


@dataclass(frozen=True, slots=True)
class Room:
    """The archive, what transcodes its objects, the state beside them, the configuration at the start.

    `reloads`: of those that follow the configuration while they run.
    """

    archive: Archive
    transcoder: Transcoder
    workflow: Workflow
    settings: Settings
    reloads: list[Reload] = field(default_factory=list)
