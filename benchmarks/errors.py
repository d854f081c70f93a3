"""What can go wrong with a measurement."""


class BenchmarkError(Exception):
    """A measurement that could not be made; its row says why instead of giving a figure."""


class PeerError(BenchmarkError):
    """The peer closed, aborted, rejected, or answered what its operation does not allow."""


class TargetFailed(BenchmarkError):
    """A server under test did not start, or ended by itself."""
