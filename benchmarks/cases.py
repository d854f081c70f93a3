"""The work that is measured: one function a case, named in CASES.

Each case starts the targets on empty data directories; each row with another sender starts them afresh, so
that what a server does later for the objects of one sender is not charged to the next.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from benchmarks.bench import Bench, Store
from benchmarks.errors import BenchmarkError
from benchmarks.load import moves, stalls
from benchmarks.objects import BIG, CT, SMALL, Batch, Shape, batches
from benchmarks.queries import answers, find
from benchmarks.raw import Association
from benchmarks.report import Goal, Metric, percentile
from benchmarks.retrieve import get, move
from benchmarks.senders import Sent, raw_store, store_all, store_for, storescu
from benchmarks.targets import AE_TITLE, Target
from benchmarks.web import rendering, web
from benchmarks.web_queries import qido

MOST = {SMALL: 12000, CT: 3000}  # objects in one slot; 3,000 CTs are 1.6 GB in the sender's memory disk
WINDOW = 16

ECHO_PAUSE = 0.005  # seconds between two C-ECHOs, so that the probe is not a load of its own
FEWEST_ECHOES = 40  # two of them above the 95th percentile
ECHO_SLOTS = 2.0  # slots long: enough echoes for a 95th percentile


def stock(bench: Bench) -> None:
    """Stock storescu: Nagle's algorithm on, so the server's acknowledgements set the pace."""
    metric = Metric("small, stock storescu", "1 association", "objects/s", goal=Goal(ratio=30))
    _ingest(bench, metric, SMALL, 1, _storescu(nodelay=False))


def small(bench: Bench) -> None:
    """9 KB objects by storescu with TCP_NODELAY=1."""
    for associations, ratio in ((1, 1.3), (4, 2.0)):
        name = f"{associations} association{'s' * (associations > 1)}"
        metric = Metric("small, TCP_NODELAY storescu", name, "objects/s", goal=Goal(ratio=ratio))
        _ingest(bench, metric, SMALL, associations, _storescu(nodelay=True))


def ct(bench: Bench) -> None:
    """525 KB CTs by storescu with TCP_NODELAY=1."""
    for associations in (1, 4):
        name = f"{associations} association{'s' * (associations > 1)}"
        metric = Metric("CT, TCP_NODELAY storescu", name, "objects/s", goal=Goal(ratio=1.5))
        _ingest(bench, metric, CT, associations, _storescu(nodelay=True))


def window(bench: Bench) -> None:
    """The raw sender with one outstanding request, then with as many as the target grants of 16."""
    for shape in (SMALL, CT):
        case = f"window, {shape.name}, raw"
        rows = {size: Metric(case, f"window {size}", "objects/s") for size in (1, WINDOW)}
        goal = Goal(at_least=1.2) if shape is SMALL else None
        gain = Metric(case, f"window {WINDOW} / window 1", "x", goal=goal, compared=False)
        totals: dict[str, int] = {}
        with bench.fresh(rows[1]) as targets:
            bench.repeat(gain, targets, partial(_window_slot, bench, shape, rows, gain, totals))


def _window_slot(
    bench: Bench, shape: Shape, rows: dict[int, Metric], gain: Metric, totals: dict[str, int], target: Target
) -> None:
    """Both windows in the same slot, so that their ratio is of the same moment."""
    if target.name not in totals:
        totals[target.name] = bench.pilot(target, shape, 1, MOST[shape], _raw(1))
    rates, granted, wrongs = {}, 1, ""
    for size, metric in rows.items():
        before = target.holding()
        sent = _raw(size)(target, batches(shape, totals[target.name], 1))
        wrong = bench.check(metric, target, sent, before)
        rates[size], granted = sent.rate, sent.window
        bench.add(metric, target, sent.rate, wrong=wrong, objects=sent.objects, window=sent.window)
        wrongs = wrongs or wrong
    if granted == 1:
        bench.report.note(gain, target.name, "refuses the window: both rows are the same work")
    else:
        bench.add(gain, target, rates[WINDOW] / rates[1], wrong=wrongs, window=granted)


def big(bench: Bench) -> None:
    """One multi-frame object of 500 MB, from the first byte sent to the answer read."""
    took = Metric("one 500 MB object", "store", "s", more_is_better=False, goal=Goal(ratio=1))
    peak = Metric("one 500 MB object", "peak memory", "MB", more_is_better=False, goal=Goal(at_most=250))
    with bench.fresh(took) as targets:
        bench.repeat(took, targets, partial(_big_slot, bench, took, peak))


def _big_slot(bench: Bench, took: Metric, peak: Metric, target: Target) -> None:
    (batch,) = batches(BIG, 1, 1)
    target.reset_peak()
    before = target.holding()
    sent, memory = _store_one(target, batch)
    wrong = bench.check(took, target, sent, before)
    bench.add(took, target, sent.seconds, wrong=wrong, size=len(batch.instances[0]))
    bench.add(peak, target, memory, wrong=wrong)


def _store_one(target: Target, batch: Batch) -> tuple[Sent, float]:
    """Store the batch's object; the memory is read while a child that served the association still lives."""
    with target.associate() as link:
        request = link.store_request(batch.instances[0])
        started = time.monotonic()
        store_all(link, [request])
        ended = time.monotonic()
        return Sent(started, ended, [(batch.of.study, batch.of.series, 1)]), target.peak_memory()


def echo(bench: Bench) -> None:
    """C-ECHO on an open association while four others store CTs as fast as they can."""
    p95 = Metric("echo during 4 x CT", "C-ECHO p95", "ms", more_is_better=False, goal=Goal(at_most=10))
    p50 = Metric("echo during 4 x CT", "C-ECHO p50", "ms", more_is_better=False)
    stored = Metric("echo during 4 x CT", "CTs stored meanwhile", "objects/s")
    with bench.fresh(p95) as targets:
        bench.repeat(p95, targets, partial(_echo_slot, bench, p95, p50, stored))


def _echo_slot(bench: Bench, p95: Metric, p50: Metric, stored: Metric, target: Target) -> None:
    before = target.holding()
    with target.associate() as link:
        running = bench.loader.submit(store_for, target.port, AE_TITLE, CT, 4, ECHO_SLOTS * bench.slot)
        times = _echoes(link, running)
    sent = running.result()
    wrong = bench.check(stored, target, sent, before)
    if len(times) < FEWEST_ECHOES:
        raise BenchmarkError(f"only {len(times)} echoes during the load")
    bench.add(p95, target, percentile(times, 95), wrong=wrong, echoes=len(times))
    bench.add(p50, target, percentile(times, 50), wrong=wrong)
    bench.add(stored, target, sent.rate, wrong=wrong)


def _echoes(link: Association, running: "Future[Sent]") -> list[float]:
    """The milliseconds of each C-ECHO asked while the load ran."""
    taken: list[tuple[float, float]] = []
    while not running.done():
        asked = time.monotonic()
        link.echo()
        taken.append((asked, time.monotonic()))
        time.sleep(ECHO_PAUSE)
    sent = running.result()
    return [1000 * (ended - asked) for asked, ended in taken if sent.started <= asked and ended <= sent.ended]


def _storescu(*, nodelay: bool) -> Store:
    return lambda target, dealt: storescu(target.port, AE_TITLE, dealt, nodelay=nodelay)


def _raw(size: int) -> Store:
    return lambda target, dealt: raw_store(target.port, AE_TITLE, dealt, window=size)


def _ingest(bench: Bench, metric: Metric, shape: Shape, associations: int, store: Store) -> None:
    """Objects a second, and the server's processor time for each."""
    cost = Metric(metric.case, f"server CPU, {metric.name}", "ms/object", more_is_better=False)
    totals: dict[str, int] = {}

    def slot(target: Target) -> None:
        if target.name not in totals:
            totals[target.name] = bench.pilot(target, shape, associations, MOST[shape], store)
        dealt = batches(shape, totals[target.name], associations)
        before, busy = target.holding(), target.processor_seconds()
        sent = store(target, dealt)
        spent = target.processor_seconds() - busy
        wrong = bench.check(metric, target, sent, before)
        bench.add(metric, target, sent.rate, wrong=wrong, objects=sent.objects, seconds=sent.seconds)
        if not target.forks:
            bench.add(cost, target, 1000 * spent / sent.objects, wrong=wrong)

    with bench.fresh(metric) as targets:
        bench.repeat(metric, targets, slot)


CASES: dict[str, Callable[[Bench], None]] = {
    each.__name__: each
    for each in (
        stock,
        small,
        ct,
        window,
        big,
        find,
        answers,
        echo,
        move,
        get,
        moves,
        stalls,
        web,
        rendering,
        qido,
    )
}
