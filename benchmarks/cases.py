"""The work that is measured: one function a case, named in CASES.

Each case starts the targets on empty data directories; each row with another sender starts them afresh, so
that what a server does later for the objects of one sender is not charged to the next.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice

from benchmarks.bench import Bench, Store
from benchmarks.errors import BenchmarkError
from benchmarks.objects import (
    BIG,
    CT,
    SMALL,
    TINY,
    Batch,
    Shape,
    Study,
    batches,
    identifier,
    instance,
    studies,
)
from benchmarks.raw import Association
from benchmarks.report import Goal, Metric
from benchmarks.retrieve import get, move
from benchmarks.senders import Sent, raw_store, store_all, store_for, storescu
from benchmarks.targets import AE_TITLE, QUERY_LEVEL, STUDY_INSTANCE_UID, Target

MOST = {SMALL: 12000, CT: 3000}  # objects in one slot; 3,000 CTs are 1.6 GB in the sender's memory disk
WINDOW = 16

PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
ACCESSION_NUMBER = 0x00080050
STUDY_DATE = 0x00080020
STUDY_DESCRIPTION = 0x00081030

KEYS: dict[str, tuple[int, Callable[[Study], str]]] = {
    "PatientID": (PATIENT_ID, lambda study: study.patient_id),
    "AccessionNumber": (ACCESSION_NUMBER, lambda study: study.accession),
    "StudyInstanceUID": (STUDY_INSTANCE_UID, lambda study: study.study),
}
FILLERS = 4  # associations that fill the index
FILL_LIMIT = 600.0  # seconds; a slower target is queried with what it has by then, and the row says so
QUERIES = 300  # a key and a slot
WARM_UP = 20

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


def find(bench: Bench) -> None:
    """C-FIND at STUDY level for one study of many, by each of its keys, on an open association."""
    size = Metric("find", "studies in the index", "studies", compared=False)
    fill = Metric("find", f"filling it, {FILLERS} associations", "objects/s")
    known: dict[str, list[Study]] = {}
    with bench.fresh(fill, answering_find=True) as targets:
        for target in bench.turns(targets, 0):
            with bench.noting(fill, target):
                known[target.name] = _fill(bench, target, fill, size)
        filled = [target for target in targets if target.name in known]
        same_work = bench.studies == bench.peer_studies
        for key in KEYS:
            p95 = Metric("find", f"by {key}, p95", "ms", False, Goal(at_most=3), compared=same_work)
            p50 = Metric("find", f"by {key}, p50", "ms", False, compared=same_work)
            bench.repeat(p95, filled, partial(_find_slot, bench, key, p95, p50, known))


def _find_slot(
    bench: Bench, key: str, p95: Metric, p50: Metric, known: dict[str, list[Study]], target: Target
) -> None:
    tag, value = KEYS[key]
    asked = random.choices(known[target.name], k=WARM_UP + QUERIES)
    times, wrong = _ask(target, tag, [(value(study), study.study) for study in asked])
    bench.add(p95, target, percentile(times[WARM_UP:], 95), wrong=wrong)
    bench.add(p50, target, percentile(times[WARM_UP:], 50), wrong=wrong)


def _fill(bench: Bench, target: Target, metric: Metric, size: Metric) -> list[Study]:
    """Store one tiny object for each new study, check that all are listed, and start the server again."""
    wanted = bench.studies if target.name == "pacsnode" else bench.peer_studies
    until = time.monotonic() + FILL_LIMIT
    shares = [islice(studies(seed), wanted // FILLERS) for seed in range(FILLERS)]

    def one(share: Iterator[Study]) -> list[Study]:
        stored = []
        with target.associate() as link:
            for study in share:
                if time.monotonic() > until:
                    break
                store_all(link, [link.store_request(instance(study, TINY, 1))])
                stored.append(study)
        return stored

    started = time.monotonic()
    with ThreadPoolExecutor(FILLERS) as pool:
        stored = [study for share in pool.map(one, shares) for study in share]
    seconds = time.monotonic() - started
    with target.associate() as link:
        listed = len(link.find(identifier({QUERY_LEVEL: "STUDY", STUDY_INSTANCE_UID: ""})))
    wrong = "" if listed == len(stored) else f"{listed} of {len(stored)} studies listed"
    bench.add(metric, target, len(stored) / seconds, wrong=wrong)
    bench.add(size, target, listed, wrong=wrong)
    if len(stored) < wanted // FILLERS * FILLERS:
        bench.report.note(size, target.name, f"filling stopped after {FILL_LIMIT:.0f} s")
    target.stop()
    target.start(fresh=False)
    return stored


def _ask(target: Target, tag: int, asked: Sequence[tuple[str, str]]) -> tuple[list[float], str]:
    """The milliseconds of each query; every answer must be the one study, and hold its UID."""
    returned = dict.fromkeys((PATIENT_NAME, PATIENT_ID, STUDY_DATE, ACCESSION_NUMBER, STUDY_DESCRIPTION), "")
    times, wrong = [], ""
    with target.associate() as link:
        for value, study in asked:
            keys = identifier({QUERY_LEVEL: "STUDY", STUDY_INSTANCE_UID: "", **returned, tag: value})
            started = time.perf_counter()
            matches = link.find(keys)
            times.append(1000 * (time.perf_counter() - started))
            if len(matches) != 1 or study.encode() not in matches[0]:
                wrong = f"{len(matches)} matches, or another study, for a key of one study"
    return times, wrong


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


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` % of the values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


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
    each.__name__: each for each in (stock, small, ct, window, big, find, echo, move, get)
}
