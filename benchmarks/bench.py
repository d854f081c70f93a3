"""How a measurement is made: fresh targets, rotated turns, one target awake, work sized by a pilot."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.objects import Batch, Shape, batches
from benchmarks.report import Metric, Report
from benchmarks.senders import Sent
from benchmarks.targets import Target

LISTED_WITHIN = 5.0  # seconds a target has to list what it acknowledged; the delay is noted when it needs any
CALM = 0.1  # share of all processors; above it other programs are worth waiting for
PILOT_ROUNDS = 6
FIRST_PILOT = 6  # objects an association: enough even for 22 objects/s
Store = Callable[[Target, Sequence[Batch]], Sent]


@dataclass(slots=True)
class Bench:
    """One run. `slot` is the seconds of work a single sample is planned for."""

    targets: Sequence[Target]
    report: Report
    loader: (
        ProcessPoolExecutor  # a load beside a probe runs there, out of reach of the probe's interpreter lock
    )
    repetitions: int
    slot: float
    studies: int
    peer_studies: int
    patience: float
    others: float = 0.0

    @contextmanager
    def fresh(self, metric: Metric, *, answering_find: bool = False) -> Iterator[list[Target]]:
        """The targets on empty data directories; one that can't start is noted in `metric` and left out."""
        wanted = [each for each in self.targets if each.answers_find or not answering_find]
        up: list[Target] = []
        try:
            for target in wanted:
                with self.noting(metric, target):
                    target.start()
                    target.pause()
                    up.append(target)
            yield up
        finally:
            for target in wanted:
                target.discard()

    def turns(self, targets: Sequence[Target], repetition: int) -> Iterator[Target]:
        """Each target in turn, alone awake, no other's data left to write; the first one rotates."""
        first = repetition % len(targets) if targets else 0
        for target in [*targets[first:], *targets[:first]]:
            os.sync()
            self.others = self._wait_for_calm()
            target.resume()
            try:
                yield target
            finally:
                target.pause()

    def _wait_for_calm(self) -> float:
        """Wait, within `patience` seconds, for other programs to finish; the share they still take."""
        give_up = time.monotonic() + self.patience
        while (busy := busy_processors()) > CALM and time.monotonic() < give_up:
            time.sleep(0.5)
        return busy

    @contextmanager
    def noting(self, metric: Metric, target: Target) -> Iterator[None]:
        """A failure becomes a remark on the row and the run goes on."""
        try:
            yield
        except (BenchmarkError, OSError) as error:
            self.report.note(metric, target.name, f"failed: {error}")
            say(f"  {metric.case}, {metric.name}: {target.name} failed: {error}")

    def add(self, metric: Metric, target: Target, value: float, *, wrong: str = "", **facts: float) -> None:
        self.report.add(metric, target.name, value, others=round(self.others, 3), wrong=wrong, **facts)
        mark = " WRONG" if wrong else ""
        say(f"  {metric.case}, {metric.name}: {target.name} {value:.2f} {metric.unit}{mark}")

    def repeat(self, metric: Metric, targets: Sequence[Target], slot: Callable[[Target], None]) -> None:
        """Give every target its slot, as often as there are repetitions; what fails is noted in `metric`."""
        for repetition in range(self.repetitions):
            for target in self.turns(targets, repetition):
                with self.noting(metric, target):
                    slot(target)

    def check(self, metric: Metric, target: Target, sent: Sent, before: int) -> str:
        """What is wrong with a transfer, or '': the target must now hold what was sent, and `before`."""
        studies = [(study, series) for study, series, _ in sent.batches]
        held = target.count(studies) - before
        if held < sent.objects:
            self.report.note(metric, target.name, "did not list at once all that it had acknowledged")
        deadline = time.monotonic() + LISTED_WITHIN
        while held < sent.objects and time.monotonic() < deadline:
            time.sleep(0.05)
            held = target.count(studies) - before
        return "" if held == sent.objects else f"{held} of {sent.objects} objects listed"

    def pilot(self, target: Target, shape: Shape, associations: int, most: int, store: Store) -> int:
        """How many objects fill a slot: try more and more until the start of a sender no longer matters."""
        total = FIRST_PILOT * associations
        for _ in range(PILOT_ROUNDS):
            seconds = store(target, batches(shape, total, associations)).seconds
            if seconds >= self.slot / 3 or total >= most:
                break
            total = min(most, int(total * min(8.0, max(1.5, self.slot / 2 / seconds))))
        return max(associations, min(most, int(total / seconds * self.slot)))


def busy_processors(seconds: float = 0.1) -> float:
    """The share of all processors in use over a moment in which this program and its targets sleep."""

    def read() -> tuple[int, int]:
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]  # idle and iowait, proc(5)

    all_before, idle_before = read()
    time.sleep(seconds)
    all_after, idle_after = read()
    return 1 - (idle_after - idle_before) / max(1, all_after - all_before)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
