"""The node under load: its memory while many retrieve, the lag of its event loop while it transcodes."""

import json
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.objects import CT, batches
from benchmarks.report import CANDIDATE, Goal, Metric
from benchmarks.retrieve import movescu, receiver, stored_study
from benchmarks.senders import part10_folders
from benchmarks.targets import AE_TITLE, Target

MOVERS = 10
MOVED = 1000  # objects a C-MOVE; 525 MB
TRANSCODED = 24  # objects; each costs a decoder some 20 ms
LOAD_SLOTS = 2.0  # slots long


def moves(bench: Bench) -> None:
    """10 C-MOVEs of 1,000 CTs each at once, to storescp --fork --ignore."""
    growth = Metric("10 x C-MOVE of 1,000 CTs", "memory above idle", "MB", False, Goal(at_most=100))
    rate = Metric("10 x C-MOVE of 1,000 CTs", "objects", "objects/s")
    with bench.fresh(growth, answering_find=True) as targets:
        stored: dict[str, str] = {}
        bench.repeat(growth, targets, partial(_moves_slot, bench, growth, rate, stored))


def _moves_slot(bench: Bench, growth: Metric, rate: Metric, stored: dict[str, str], target: Target) -> None:
    with receiver(target, "--fork"), ThreadPoolExecutor(MOVERS) as pool:
        if target.name not in stored:
            stored[target.name] = stored_study(target, CT, MOVED)
        target.reset_peak()
        idle, started = target.peak_memory(), time.monotonic()
        list(pool.map(partial(movescu, target), [stored[target.name]] * MOVERS))
        seconds = time.monotonic() - started
    bench.add(growth, target, target.peak_memory() - idle, idle=idle)
    bench.add(rate, target, MOVERS * MOVED / seconds)


def stalls(bench: Bench) -> None:
    """The event loop's longest lag while 4 C-MOVEs have everything decompressed for their receiver."""
    lag = Metric("transcoding for 4 C-MOVEs", "longest lag of the event loop", "ms", False, Goal(at_most=50))
    rate = Metric("transcoding for 4 C-MOVEs", "objects", "objects/s")
    for target in bench.targets:
        if target.name == CANDIDATE:  # the only one that says
            with bench.noting(lag, target):
                _stalls(bench, lag, rate, target)


def _stalls(bench: Bench, lag: Metric, rate: Metric, target: Target) -> None:
    """The node is not stopped in between, as `bench.turns` would: that is a lag."""
    for _ in range(bench.repetitions):
        target.start()
        try:
            study = _stored_compressed(target)
            with receiver(target, "--fork", "+xi"), ThreadPoolExecutor(4) as pool:
                started, moved = time.monotonic(), 0
                while time.monotonic() - started < LOAD_SLOTS * bench.slot:
                    list(pool.map(partial(movescu, target), [study] * 4))
                    moved += 4 * TRANSCODED
                seconds = time.monotonic() - started
            bench.add(lag, target, health(target)["loop_lag_ms"])
            bench.add(rate, target, moved / seconds)
        finally:
            target.discard()


def health(target: Target) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{target.web_port}/health", timeout=10) as answer:
        facts: dict[str, float] = json.load(answer)
        return facts


def _stored_compressed(target: Target) -> str:
    """A study of CTs that dcmcjpeg made JPEG Lossless, sent by storescu."""
    (batch,) = dealt = batches(CT, TRANSCODED, 1)
    with part10_folders(dealt) as (folder,):
        for file in sorted(folder.iterdir()):
            _run(["dcmcjpeg", str(file), str(file)])
        _run(["storescu", "-xs", "-aec", AE_TITLE, "+sd", "127.0.0.1", str(target.port), str(folder)])
    return batch.of.study


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-150:]}")
