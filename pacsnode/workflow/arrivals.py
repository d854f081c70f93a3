"""What arrives in the archive, acted on exactly once: on_stored, on_series_complete, on_study_stable.

The one reader of Archive.changes. A consumer writes in the transaction that moves the cursor on, so what it
has done and what has been read agree whatever crashes.
"""

from collections.abc import Awaitable, Callable, Sequence

from pacsnode.archive.changes import Arrived
from pacsnode.dicom.uid import UID
from pacsnode.workflow.database import Transaction

StoredConsumer = Callable[[Transaction, Sequence[Arrived]], Awaitable[None]]
SeriesConsumer = Callable[[Transaction, UID, UID], Awaitable[None]]
StudyConsumer = Callable[[Transaction, UID], Awaitable[None]]


class Arrivals:
    """Consumers register before Workflow.start()."""

    def __init__(self) -> None:
        self._stored: list[StoredConsumer] = []
        self._series: list[SeriesConsumer] = []
        self._study: list[StudyConsumer] = []

    def on_stored(self, consumer: StoredConsumer) -> None:
        """Called with instances in the order of their commits; some at a time, never none."""
        self._stored.append(consumer)

    def on_series_complete(self, consumer: SeriesConsumer) -> None:
        """Called when no object has come to the series for a while; again after later ones."""
        self._series.append(consumer)

    def on_study_stable(self, consumer: StudyConsumer) -> None:
        """Called when no object has come to the study for a while; again after later ones."""
        self._study.append(consumer)
