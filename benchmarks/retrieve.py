"""Retrieve: a study fetched with C-MOVE by a receiver of dcmtk's, and with C-GET by getscu.

Both throw away what they get, so that the figure is the sender's. A first retrieval that is not timed is
checked for its counters and brings the files into the page cache.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.objects import CT, SMALL, Shape, batches
from benchmarks.report import Goal, Metric
from benchmarks.senders import raw_store
from benchmarks.targets import AE_TITLE, RECEIVER, Target, listens

STUDY = {CT: 400, SMALL: 2000}  # objects in the study that is retrieved
GOALS = {CT: 0.8, SMALL: 1.5}
RETRIEVAL_TIMEOUT = 120.0  # seconds
RECEIVER_START = 10.0  # seconds
LONGEST_PDU = "131072"  # dcmtk's own is 16 KB, which measures its system calls

Retrieve = Callable[[Target, str, bool], str]
"""Retrieve a study of a target, verbosely or not; what was printed."""


def move(bench: Bench) -> None:
    """C-MOVE of a study to storescp --ignore."""
    for shape in (CT, SMALL):
        _retrieve(bench, "C-MOVE to storescp", shape, movescu)


def get(bench: Bench) -> None:
    """C-GET of a study by getscu --ignore."""
    for shape in (CT, SMALL):
        _retrieve(bench, "C-GET by getscu", shape, _getscu)


def _retrieve(bench: Bench, case: str, shape: Shape, retrieve: Retrieve) -> None:
    metric = Metric(case, shape.name, "objects/s", goal=Goal(ratio=GOALS[shape]))
    cost = Metric(case, f"server CPU, {shape.name}", "ms/object", more_is_better=False)
    studies: dict[str, str] = {}
    with bench.fresh(metric, answering_find=True) as targets:
        bench.repeat(metric, targets, partial(_slot, bench, metric, cost, shape, retrieve, studies))


def _slot(
    bench: Bench,
    metric: Metric,
    cost: Metric,
    shape: Shape,
    retrieve: Retrieve,
    studies: dict[str, str],
    target: Target,
) -> None:
    objects = STUDY[shape]
    with receiver(target):
        if target.name not in studies:
            studies[target.name] = stored_study(target, shape, objects)
            _check(retrieve(target, studies[target.name], True), objects)
        busy = target.processor_seconds()
        started = time.monotonic()
        retrieve(target, studies[target.name], False)
        seconds = time.monotonic() - started
        spent = target.processor_seconds() - busy
    bench.add(metric, target, objects / seconds, objects=objects, seconds=seconds)
    bench.add(cost, target, 1000 * spent / objects)


def stored_study(target: Target, shape: Shape, objects: int) -> str:
    dealt = batches(shape, objects, 1)
    raw_store(target.port, AE_TITLE, dealt, window=16)
    return dealt[0].of.study


def movescu(target: Target, study: str, verbose: bool = False) -> str:
    return _run(["movescu", "-aem", RECEIVER], target, study, verbose)


def _getscu(target: Target, study: str, verbose: bool) -> str:
    return _run(["getscu", "--ignore", "-pdu", LONGEST_PDU], target, study, verbose)


def _run(command: Sequence[str], target: Target, study: str, verbose: bool) -> str:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    said = ["-d"] if verbose else []
    address = ["-aec", AE_TITLE, "127.0.0.1", str(target.port)]
    try:
        done = subprocess.run(
            [*command, "-S", *said, *keys, *address],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RETRIEVAL_TIMEOUT,
            check=False,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{command[0]} not done after {RETRIEVAL_TIMEOUT:.0f} s") from None
    if done.returncode:
        raise BenchmarkError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-150:]}")
    return done.stdout + done.stderr


def _check(said: str, objects: int) -> None:
    """The last counters that were heard: everything completed."""
    completed = re.findall(r"Completed Suboperations +: (\w+)", said)
    if not completed or completed[-1] != str(objects):
        raise BenchmarkError(f"{completed[-1] if completed else 'nothing'} of {objects} objects retrieved")


@contextmanager
def receiver(target: Target, *options: str) -> Iterator[None]:
    """dcmtk's storescp where the target expects RECEIVER; it forgets what it gets."""
    process = subprocess.Popen(
        ["storescp", "--ignore", *options, "-aet", RECEIVER, "-pdu", LONGEST_PDU, str(target.receiver_port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    try:
        until = time.monotonic() + RECEIVER_START
        while not listens(target.receiver_port):
            if time.monotonic() > until or process.poll() is not None:
                raise BenchmarkError("storescp does not listen")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()
