"""Whether an object is safe on the disk: one thread makes it so, the writer waits for it or is told."""

import threading


class Durability:
    """Told once, waited for as often as one likes."""

    __slots__ = ("_told", "failure", "is_told")

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.is_told = False
        self._told = threading.Lock()  # held until then
        self._told.acquire()

    def tell(self, failure: Exception | None = None) -> None:
        """It is safe, or will not be."""
        self.failure = failure
        self.is_told = True
        self._told.release()

    def wait(self) -> None:
        """Wait until it is safe. Raises the failure it was told."""
        if not self.has_come():
            assert self.failure is not None
            raise self.failure

    def has_come(self) -> bool:
        """Wait until it is told; whether it is safe."""
        with self._told:
            return self.failure is None
