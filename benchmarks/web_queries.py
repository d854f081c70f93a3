"""Searches over DICOMweb: one study of many by a key, the first page, a long answer (PS3.18 10.6)."""

import json
import random
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.bench import Bench
from benchmarks.http_load import JSON, Ask, hammer, once
from benchmarks.objects import Study
from benchmarks.queries import FILLERS, fill
from benchmarks.report import Goal, Metric
from benchmarks.targets import Target

SHARE = 5  # of the studies that C-FIND is measured with, one in so many
FULL = 20_000  # studies in the index that the goals are for
LONG = 1200  # studies that a range of dates is chosen for
PAGE = 100
DRAWN = 500  # keys a slot, over and over
KEYS: dict[str, Callable[[Study], str]] = {
    "PatientID": lambda study: study.patient_id,
    "AccessionNumber": lambda study: study.accession,
    "StudyInstanceUID": lambda study: study.study,
}

_Asked = tuple[list[Ask], int]
"""What is asked in turn, and how many results the first one has."""


def qido(bench: Bench) -> None:
    """QIDO-RS for studies by a key, a page, a range of dates; both servers hold as many studies."""
    size = Metric("qido", "studies in the index", "studies", compared=False)
    filling = Metric("qido", f"filling it, {FILLERS} associations", "objects/s")
    known: dict[str, list[Study]] = {}
    with bench.fresh(filling, answering_find=True) as targets:
        for target in bench.turns(targets, 0):
            with bench.noting(filling, target):
                known[target.name] = fill(bench, target, bench.studies // SHARE, filling, size)
        filled = [target for target in targets if target.name in known]
        by_key = Goal(ratio=15) if bench.studies >= SHARE * FULL else None  # with fewer a peer is fast
        for key in KEYS:
            asked = partial(_by_key, known, key)
            _row(bench, filled, f"by {key}", by_key, asked)
        _row(bench, filled, "by PatientID, 8 connections", None, partial(_by_key, known, "PatientID"), 8)
        _row(bench, filled, f"first page of {PAGE}", Goal(ratio=15), _page)
        _row(bench, filled, f"range of dates, {LONG} rows or so", Goal(ratio=8), partial(_range, known))
        peak = Metric("qido", "peak memory", "MB", False, Goal(at_most=400))
        for target in filled:
            bench.add(peak, target, target.peak_memory())


def _row(
    bench: Bench,
    targets: Sequence[Target],
    name: str,
    goal: Goal | None,
    asked: Callable[[Target], _Asked],
    connections: int = 1,
) -> None:
    """A figure of searches; the results of the first one are counted."""
    rate = Metric("qido", name, "requests/s", goal=goal)
    cost = Metric("qido", f"server CPU, {name}", "ms/request", more_is_better=False)

    def slot(target: Target) -> None:
        asks, rows = asked(target)
        _, body = bench.loader.submit(once, target.web_port, asks[0]).result()
        found = len(json.loads(body))
        wrong = "" if found == rows else f"{found} results of {rows}"
        busy = target.processor_seconds()
        load = bench.loader.submit(hammer, target.web_port, asks, bench.slot, connections).result()
        spent = target.processor_seconds() - busy
        bench.add(rate, target, load.rate, wrong=wrong, requests=len(load.times))
        bench.add(cost, target, 1000 * spent / len(load.times), wrong=wrong)

    bench.repeat(rate, targets, slot)


def _by_key(known: dict[str, list[Study]], key: str, target: Target) -> _Asked:
    chosen = random.choices(known[target.name], k=DRAWN)
    return [_search(target, f"{key}={KEYS[key](study)}") for study in chosen], 1


def _page(target: Target) -> _Asked:
    return [_search(target, f"limit={PAGE}")], PAGE


def _range(known: dict[str, list[Study]], target: Target) -> _Asked:
    """The days that the wanted number of studies were made on; no more, unless they are of one day."""
    days = sorted(study.study_date for study in known[target.name])
    last = days[min(LONG, len(days)) - 1]
    rows = sum(day <= last for day in days)
    return [_search(target, f"StudyDate={days[0]}-{last}&limit={2 * LONG}")], rows


def _search(target: Target, parameters: str) -> Ask:
    return Ask(f"{target.web_root}/studies?{parameters}", JSON, 2)
