"""Whether an object is safe on the disk: one thread makes it so, the writer waits for it with its commit."""

import threading


class Durability:
    """Told once, waited for as often as one likes."""

    __slots__ = ("_failure", "_told")

    def __init__(self) -> None:
        self._failure: Exception | None = None
        self._told = threading.Lock()  # held until then
        self._told.acquire()

    def tell(self, failure: Exception | None = None) -> None:
        """It is safe, or will not be."""
        self._failure = failure
        self._told.release()

    def wait(self) -> None:
        """Wait until it is safe. Raises the failure it was told."""
        if not self.has_come():
            assert self._failure is not None
            raise self._failure

    def has_come(self) -> bool:
        """Wait until it is told; whether it is safe."""
        with self._told:
            return self._failure is None
