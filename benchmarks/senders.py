"""Ways to store the same objects: dcmtk's storescu, one process an association, and the raw requestor.

Objects, files and requests are ready before the clock starts; it stops when the last answer is in.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.objects import Batch, Shape, instance, studies
from benchmarks.raw import Association, Message

SENDER_TIMEOUT = 180.0  # seconds for one storescu; a slot is planned to take a few
MEMORY_DISK = Path("/dev/shm")  # the sender's files: reading them must not compete for the server's disk


@dataclass(frozen=True, slots=True)
class Sent:
    """A finished transfer: when it ran (time.monotonic), what was sent, and the window granted."""

    started: float
    ended: float
    batches: list[tuple[str, str, int]]  # Study and Series Instance UID, objects sent
    window: int = 1

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def objects(self) -> int:
        return sum(sent for _, _, sent in self.batches)

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.objects / self.seconds


def storescu(port: int, called_ae: str, batches: Sequence[Batch], *, nodelay: bool) -> Sent:
    """One storescu process for each batch, at once; the time includes the start of the processes."""
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    if nodelay:
        environment["TCP_NODELAY"] = "1"
    with part10_folders(batches) as folders:
        started = time.monotonic()
        processes = [
            subprocess.Popen(
                ["storescu", "-aec", called_ae, "+sd", "127.0.0.1", str(port), str(folder)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for folder in folders
        ]
        try:
            said = [process.communicate(timeout=SENDER_TIMEOUT)[1] for process in processes]
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"storescu not done after {SENDER_TIMEOUT:.0f} s") from None
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        ended = time.monotonic()
    for process, text in zip(processes, said, strict=True):
        if process.returncode:
            raise BenchmarkError(f"storescu ended with {process.returncode}: {text.strip()[-150:]}")
    return Sent(started, ended, [(b.of.study, b.of.series, len(b.instances)) for b in batches])


def raw_store(port: int, called_ae: str, batches: Sequence[Batch], *, window: int = 1) -> Sent:
    """One raw association for each batch, at once, each with up to `window` requests outstanding."""
    links: list[Association] = []
    try:
        links.extend(Association(port, called_ae, window=window) for _ in batches)
        queued = [
            [link.store_request(each) for each in batch.instances]
            for link, batch in zip(links, batches, strict=True)
        ]
        with ThreadPoolExecutor(len(links)) as pool:
            started = time.monotonic()
            list(pool.map(store_all, links, queued))
            ended = time.monotonic()
    finally:
        for link in links:
            link.release()
    granted = min(link.window for link in links)
    return Sent(started, ended, [(b.of.study, b.of.series, len(b.instances)) for b in batches], granted)


def store_all(link: Association, requests: Sequence[Message]) -> None:
    """Send all, never more outstanding than the window; every answer must be Success."""
    outstanding = 0
    for request in requests:
        if outstanding == link.window:
            link.receive_success()
            outstanding -= 1
        link.send(request)
        outstanding += 1
    for _ in range(outstanding):
        link.receive_success()


def store_for(port: int, called_ae: str, shape: Shape, associations: int, seconds: float) -> Sent:
    """Store over `associations` at once for some time, as the load beside a probe of another process."""
    until = time.monotonic() + seconds

    def one(batch: Batch) -> tuple[float, tuple[str, str, int]]:
        with Association(port, called_ae) as link:
            started, sent = time.monotonic(), 0
            while time.monotonic() < until:
                store_all(link, [link.store_request(instance(batch.of, shape, sent + 1))])
                sent += 1
        return started, (batch.of.study, batch.of.series, sent)

    with ThreadPoolExecutor(associations) as pool:
        runs = list(pool.map(one, map(Batch, islice(studies(), associations))))
    return Sent(max(started for started, _ in runs), time.monotonic(), [batch for _, batch in runs])


@contextmanager
def part10_folders(batches: Sequence[Batch]) -> Iterator[list[Path]]:
    """A folder of Part 10 files for each batch, in memory where the machine has such a disk."""
    parent = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="bench-sender-", dir=parent))
    try:
        folders = []
        for at, batch in enumerate(batches):
            folder = root / str(at)
            folder.mkdir()
            for number, each in enumerate(batch.instances):
                with open(folder / f"{number:05d}.dcm", "wb", buffering=0) as file:
                    os.writev(file.fileno(), [each.part10_head, each.pixels])
            folders.append(folder)
        yield folders
    finally:
        shutil.rmtree(root, ignore_errors=True)
