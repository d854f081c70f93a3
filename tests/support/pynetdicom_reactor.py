"""pynetdicom's requests made to wait for its own reactor.

A request stops the reactor's thread and waits until that says it is paused. Where the one before it has only
just ended, that is what it still says, of the last time: the reactor goes on, takes the response for a
message nobody expects, and the request waits until its timeout. A node that answers at once meets it now and
then (pynetdicom 3.0, Association._run_reactor).
"""

import threading
import time
from typing import Any

from pynetdicom.association import Association

LIMIT = 1.0  # seconds; a reactor that has ended says nothing any more


class _Checkpoint(threading.Event):
    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self.set()

    def clear(self) -> None:
        until = time.monotonic() + LIMIT
        while self.is_set() and self._association._is_paused and time.monotonic() < until:
            time.sleep(0.0005)
        super().clear()


def patch() -> None:
    """For all associations from now on."""
    begin = Association.__init__

    def init(self: Association, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._reactor_checkpoint = _Checkpoint(self)

    Association.__init__ = init  # type: ignore[method-assign]
