"""The web face: what viewers and scripts ask of DICOMweb, beside a peer's (PS3.18 10.4, 10.5).

One client in a process of its own asks both in the same way. Every answer must be a 200 of at least the
length it has to have; the first of a kind is looked at.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.http_load import DICOM_PARTS, JPEG, JSON, OCTET_PARTS, Ask, Load, hammer, once
from benchmarks.load import health
from benchmarks.objects import BIG, CT, Batch, Shape, batches
from benchmarks.report import CANDIDATE, Goal, Metric
from benchmarks.senders import raw_store
from benchmarks.targets import AE_TITLE, Target

SERIES = 400  # CTs
MULTI_FRAME = Shape("64 frames", 512, frames=64)
FRAME = 512 * 512 * 2  # bytes
AHEAD = 4.0  # seconds without an arrival, in which a server may make ahead what it likes
REPEATS = 15
STORED_TOGETHER = 50  # objects of one STOW
STOWED = 8  # batches a slot
PART_HEAD = b"--bench\r\nContent-Type: application/dicom\r\n\r\n"
STALL_SLOTS = 2.0  # slots long


@dataclass(frozen=True, slots=True)
class _Rates:
    """The row of a load, and that of what it cost the server."""

    rate: Metric
    cost: Metric

    @classmethod
    def of(cls, name: str, unit: str = "requests/s", goal: Goal | None = None) -> "_Rates":
        cost = Metric("web", f"server CPU, {name}", "ms/request", more_is_better=False)
        return cls(Metric("web", name, unit, goal=goal), cost)


def web(bench: Bench) -> None:
    """Metadata, series, instances, frames, pictures and stores over DICOMweb, and the memory of it all."""
    peak = Metric("web", "peak memory of all above", "MB", False, Goal(at_most=400))
    with bench.fresh(peak, answering_find=True) as targets:
        _metadata(bench, targets)
        _instances(bench, targets)
        _frames(bench, targets)
        _big(bench, targets)
        _stow(bench, targets)
        for target in targets:
            bench.add(peak, target, target.peak_memory())


def _metadata(bench: Bench, targets: Sequence[Target]) -> None:
    """Each series is new to the server: first answers can't be had twice."""
    cold = Metric("web", f"/metadata of {SERIES} CTs, first, as they came", "ms", False, Goal(ratio=3))
    ahead = Metric(
        "web", f"/metadata of {SERIES} CTs, first, {AHEAD:.0f} s later", "ms", False, Goal(ratio=3)
    )
    again = Metric("web", f"/metadata of {SERIES} CTs, repeated", "ms", False, Goal(ratio=1))

    def first(metric: Metric, target: Target, pause: float) -> Ask:
        asked = Ask(f"{_stored(target, CT, SERIES)[0]}/metadata", JSON)
        time.sleep(pause)
        seconds, body = bench.loader.submit(once, target.web_port, asked).result()
        found = len(json.loads(body))
        bench.add(metric, target, 1000 * seconds, wrong="" if found == SERIES else f"{found} objects")
        return asked

    def slot(target: Target) -> None:
        first(cold, target, 0)
        asked = first(ahead, target, AHEAD)
        load = bench.loader.submit(hammer, target.web_port, [asked], 30.0, 1, REPEATS).result()
        bench.add(again, target, 1000 * sorted(load.times)[len(load.times) // 2])

    bench.repeat(cold, targets, slot)


def _instances(bench: Bench, targets: Sequence[Target]) -> None:
    """A series at once, its instances one by one, pictures of them."""
    first = Metric("web", f"series of {SERIES} CTs, first time", "MB/s")
    whole = _Rates.of(f"series of {SERIES} CTs, again", "MB/s", Goal(ratio=0.8))
    one = _Rates.of("instances, 1 connection", goal=Goal(ratio=1.2))
    eight = _Rates.of("instances, 8 connections")
    picture = _Rates.of("rendered JPEG, 1 connection", goal=Goal(ratio=1))
    pictures = _Rates.of("rendered JPEG, 8 connections", goal=Goal(ratio=1))
    held: dict[str, tuple[Ask, list[Ask], list[Ask]]] = {}

    def slot(target: Target) -> None:
        if target.name not in held:
            series, instances = _stored(target, CT, SERIES)
            held[target.name] = (
                Ask(series, DICOM_PARTS, SERIES * FRAME),
                [Ask(path, DICOM_PARTS, FRAME) for path in instances],
                [Ask(f"{path}/rendered", JPEG, 1000) for path in instances],
            )
            load = bench.loader.submit(hammer, target.web_port, [held[target.name][0]], 0.0).result()
            bench.add(first, target, load.size / 1e6 / load.seconds)
        everything, instances, rendered = held[target.name]
        _measure(bench, whole, target, [everything])
        _measure(bench, one, target, instances)
        _measure(bench, eight, target, instances, 8)
        _measure(bench, picture, target, rendered)
        _measure(bench, pictures, target, rendered, 8)

    bench.repeat(whole.rate, targets, slot)


def _frames(bench: Bench, targets: Sequence[Target]) -> None:
    """Frames of an object of 34 MB, each in turn."""
    held: dict[str, list[Ask]] = {}
    rows = {
        connections: _Rates.of(
            f"frames, {connections} connection{'s' * (connections > 1)}", goal=Goal(ratio=1.2)
        )
        for connections in (1, 8)
    }

    def slot(target: Target) -> None:
        if target.name not in held:
            _, (instance,) = _stored(target, MULTI_FRAME, 1)
            numbers = range(1, MULTI_FRAME.frames + 1)
            held[target.name] = [Ask(f"{instance}/frames/{each}", OCTET_PARTS, FRAME) for each in numbers]
        for connections, metrics in rows.items():
            _measure(bench, metrics, target, held[target.name], connections)

    bench.repeat(rows[1].rate, targets, slot)


def _big(bench: Bench, targets: Sequence[Target]) -> None:
    """Two frames of an object that was not asked for before."""
    rows = {
        number: Metric("web", f"{name} frame of {BIG.name}", "ms", False, Goal(at_most=10))
        for name, number in (("first", 1), ("middle", BIG.frames // 2))
    }

    def slot(target: Target) -> None:
        _, (instance,) = _stored(target, BIG, 1)
        for number, metric in rows.items():
            asked = Ask(f"{instance}/frames/{number}", OCTET_PARTS, FRAME)
            seconds, _ = bench.loader.submit(once, target.web_port, asked).result()
            bench.add(metric, target, 1000 * seconds)

    bench.repeat(rows[1], targets, slot)


def _stow(bench: Bench, targets: Sequence[Target]) -> None:
    """Batches of CTs, each a request of 26 MB that is ready before the clock starts."""
    for connections, goal in ((1, Goal(ratio=1.3)), (4, None)):
        name = f"STOW of {STORED_TOGETHER} CTs, {connections} connection{'s' * (connections > 1)}"
        metric = Metric("web", name, "CT/s", goal=goal)
        cost = Metric("web", f"server CPU, {name}", "ms/CT", more_is_better=False)
        bench.repeat(metric, targets, partial(_stow_slot, bench, metric, cost, connections))


def _stow_slot(bench: Bench, metric: Metric, cost: Metric, connections: int, target: Target) -> None:
    busy = target.processor_seconds()
    stowing = bench.loader.submit(stow, target.web_port, target.web_root, STOWED, connections)
    load, stored = stowing.result()
    spent = target.processor_seconds() - busy
    objects = STOWED * STORED_TOGETHER
    listed = target.count(stored)
    bench.add(
        metric,
        target,
        objects / load.seconds,
        wrong="" if listed == objects else f"{listed} of {objects} objects listed",
    )
    bench.add(cost, target, 1000 * spent / objects)


def stow(port: int, root: str, number: int, connections: int) -> tuple[Load, list[tuple[str, str]]]:
    """Store batches of new CTs; what it came to, and the studies and series. Runs in the client's process."""
    dealt = batches(CT, number * STORED_TOGETHER, number)
    asks = [_store_request(root, batch) for batch in dealt]
    load = hammer(port, asks, 600.0, connections, number)
    return load, [(batch.of.study, batch.of.series) for batch in dealt]


def _store_request(root: str, batch: Batch) -> Ask:
    pieces: list[bytes] = []
    for each in batch.instances:
        pieces += [
            b"--bench\r\nContent-Type: application/dicom\r\n\r\n",
            each.part10_head,
            each.pixels,
            b"\r\n",
        ]
    content_type = f"{DICOM_PARTS}; boundary=bench"
    return Ask(f"{root}/studies", JSON, 1, "POST", content_type, b"".join([*pieces, b"--bench--\r\n"]))


def rendering(bench: Bench) -> None:
    """The event loop's longest lag while 8 connections have pictures made and 4 fetch instances."""
    lag = Metric("web, rendering for 8", "longest lag of the event loop", "ms", False, Goal(at_most=50))
    rate = Metric("web, rendering for 8", "pictures", "requests/s")
    for target in bench.targets:
        if target.name == CANDIDATE:  # the only one that says
            with bench.noting(lag, target):
                _rendering(bench, lag, rate, target)


def _rendering(bench: Bench, lag: Metric, rate: Metric, target: Target) -> None:
    """The node is not stopped in between, as `bench.turns` would: that is a lag."""
    for _ in range(bench.repetitions):
        target.start()
        try:
            _, instances = _stored(target, CT, 100)
            asks = [Ask(f"{path}/rendered", JPEG, 1000) for path in instances]
            asks += [Ask(path, DICOM_PARTS, FRAME) for path in instances[::2]]
            asks.sort(key=lambda ask: ask.path)
            seconds = STALL_SLOTS * bench.slot
            load = bench.loader.submit(hammer, target.web_port, asks, seconds, 12).result()
            bench.add(lag, target, health(target)["loop_lag_ms"])
            bench.add(rate, target, load.rate * 2 / 3)
        finally:
            target.discard()


def _measure(
    bench: Bench, metrics: _Rates, target: Target, asks: Sequence[Ask], connections: int = 1
) -> None:
    """Ask for a slot; a first request a connection, not timed, starts and warms what there is."""
    bench.loader.submit(hammer, target.web_port, asks[:connections], 0.0, connections).result()
    busy = target.processor_seconds()
    load = bench.loader.submit(hammer, target.web_port, asks, bench.slot, connections).result()
    spent = target.processor_seconds() - busy
    value = load.size / 1e6 / load.seconds if metrics.rate.unit == "MB/s" else load.rate
    bench.add(metrics.rate, target, value, requests=len(load.times), connections=connections)
    bench.add(metrics.cost, target, 1000 * spent / len(load.times))


def _stored(target: Target, shape: Shape, number: int) -> tuple[str, list[str]]:
    """The paths of a new series and of its instances, stored by C-STORE."""
    if not target.web_root:
        raise BenchmarkError("it has no DICOMweb")
    (batch,) = dealt = batches(shape, number, 1)
    raw_store(target.port, AE_TITLE, dealt, window=16)
    series = f"{target.web_root}/studies/{batch.of.study}/series/{batch.of.series}"
    return series, [f"{series}/instances/{each.sop_instance}" for each in batch.instances]
