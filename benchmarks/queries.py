"""The queries that are measured: one study of many, names with wildcards, long answers.

The raw requestor asks, and checks the number of matches: findscu prints each of them, which takes longer than
finding it (7,000 to 16,000/s).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice

from benchmarks.bench import Bench
from benchmarks.objects import TINY, Study, identifier, instance, studies
from benchmarks.report import Goal, Metric, percentile
from benchmarks.senders import store_all
from benchmarks.targets import QUERY_LEVEL, STUDY_INSTANCE_UID, Target

PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
ACCESSION_NUMBER = 0x00080050
STUDY_DATE = 0x00080020
STUDY_TIME = 0x00080030
STUDY_DESCRIPTION = 0x00081030
MODALITIES_IN_STUDY = 0x00080061
STUDY_RELATED_SERIES = 0x00201206
STUDY_RELATED_INSTANCES = 0x00201208

KEYS: dict[str, tuple[int, Callable[[Study], str]]] = {
    "PatientID": (PATIENT_ID, lambda study: study.patient_id),
    "AccessionNumber": (ACCESSION_NUMBER, lambda study: study.accession),
    "StudyInstanceUID": (STUDY_INSTANCE_UID, lambda study: study.study),
}
FILLERS = 4  # associations that fill the index
FILL_LIMIT = 600.0  # seconds; a slower target is queried with what it has by then, and the row says so
QUERIES = 300  # a key and a slot
WARM_UP = 20

PATTERNS = ("SMITH*", "*son*")
PATTERN_QUERIES = 60  # a pattern and a slot; each has some hundred matches, all of which are read

ANSWERS = (1000, 5000)  # studies that match
DAY, ANOTHER_DAY = "20240301", "20240302"  # of the first 1,000, and of the rest
USUAL = (PATIENT_NAME, PATIENT_ID, STUDY_DATE, STUDY_TIME, ACCESSION_NUMBER, STUDY_DESCRIPTION)
COUNTED = (MODALITIES_IN_STUDY, STUDY_RELATED_SERIES, STUDY_RELATED_INSTANCES)


def find(bench: Bench) -> None:
    """C-FIND at STUDY level for one study of many, by each of its keys, on an open association."""
    size = Metric("find", "studies in the index", "studies", compared=False)
    filling = Metric("find", f"filling it, {FILLERS} associations", "objects/s")
    known: dict[str, list[Study]] = {}
    with bench.fresh(filling, answering_find=True) as targets:
        for target in bench.turns(targets, 0):
            with bench.noting(filling, target):
                wanted = bench.studies if target.name == "pacsnode" else bench.peer_studies
                known[target.name] = fill(bench, target, wanted, filling, size)
        filled = [target for target in targets if target.name in known]
        same_work = bench.studies == bench.peer_studies
        for key in KEYS:
            p95 = Metric("find", f"by {key}, p95", "ms", False, Goal(at_most=3), compared=same_work)
            p50 = Metric("find", f"by {key}, p50", "ms", False, compared=same_work)
            bench.repeat(p95, filled, partial(_find_slot, bench, key, p95, p50, known))
        for pattern in PATTERNS:
            all_read = Metric("find", f"{pattern}, p95", "ms", False, Goal(at_most=20), compared=same_work)
            matches = Metric("find", f"{pattern}, matches", "studies", compared=False)
            bench.repeat(all_read, filled, partial(_pattern_slot, bench, pattern, all_read, matches, known))


def _find_slot(
    bench: Bench, key: str, p95: Metric, p50: Metric, known: dict[str, list[Study]], target: Target
) -> None:
    tag, value = KEYS[key]
    asked = random.choices(known[target.name], k=WARM_UP + QUERIES)
    times, wrong = _ask(target, tag, [(value(study), study.study) for study in asked])
    bench.add(p95, target, percentile(times[WARM_UP:], 95), wrong=wrong)
    bench.add(p50, target, percentile(times[WARM_UP:], 50), wrong=wrong)


def _pattern_slot(
    bench: Bench,
    pattern: str,
    p95: Metric,
    matches: Metric,
    known: dict[str, list[Study]],
    target: Target,
) -> None:
    """The time until the last match has been read."""
    wanted = sum(fnmatchcase(study.patient_name.upper(), pattern.upper()) for study in known[target.name])
    keys = identifier({QUERY_LEVEL: "STUDY", STUDY_INSTANCE_UID: "", **_empty(USUAL), PATIENT_NAME: pattern})
    times, wrong = [], ""
    with target.associate() as link:
        for _ in range(WARM_UP // 4 + PATTERN_QUERIES):
            started = time.perf_counter()
            found = len(link.find(keys))
            times.append(1000 * (time.perf_counter() - started))
            if found != wanted:
                wrong = f"{found} matches of {wanted}"
    bench.add(p95, target, percentile(times[WARM_UP // 4 :], 95), wrong=wrong)
    bench.add(matches, target, wanted, wrong=wrong)


def _empty(tags: Sequence[int]) -> dict[int, str]:
    return dict.fromkeys(tags, "")


def fill(bench: Bench, target: Target, wanted: int, metric: Metric, size: Metric) -> list[Study]:
    """Store one tiny object for each new study, check that all are listed, and start the server again."""
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
    returned = _empty((PATIENT_NAME, PATIENT_ID, STUDY_DATE, ACCESSION_NUMBER, STUDY_DESCRIPTION))
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


def answers(bench: Bench) -> None:
    """C-FIND that 1,000 and 5,000 studies match, with the usual keys and with counts as well."""
    filling = Metric("long answers", "filling", "objects/s")
    with bench.fresh(filling, answering_find=True) as targets:
        for target in bench.turns(targets, 0):
            with bench.noting(filling, target):
                _fill_days(bench, target, filling)
        for returned, ratio, name in ((USUAL, 2.5, "usual keys"), ((*USUAL, *COUNTED), 3.0, "and counts")):
            for number in ANSWERS:
                rows = Metric("long answers", f"{number} studies, {name}", "rows/s", goal=Goal(ratio=ratio))
                cost = Metric("long answers", f"server CPU, {number}, {name}", "us/row", more_is_better=False)
                bench.repeat(rows, targets, partial(_answers_slot, bench, rows, cost, returned, number))


def _fill_days(bench: Bench, target: Target, metric: Metric) -> None:
    """5,000 studies of one object, the first 1,000 of one day."""
    days = [DAY] * ANSWERS[0] + [ANOTHER_DAY] * (ANSWERS[-1] - ANSWERS[0])
    wanted = [replace(study, study_date=day) for study, day in zip(studies(), days, strict=False)]

    def one(share: Sequence[Study]) -> None:
        with target.associate() as link:
            store_all(link, [link.store_request(instance(study, TINY, 1)) for study in share])

    started = time.monotonic()
    with ThreadPoolExecutor(FILLERS) as pool:
        list(pool.map(one, [wanted[at::FILLERS] for at in range(FILLERS)]))
    bench.add(metric, target, len(wanted) / (time.monotonic() - started))


def _answers_slot(
    bench: Bench, rows: Metric, cost: Metric, returned: Sequence[int], number: int, target: Target
) -> None:
    keys = {QUERY_LEVEL: "STUDY", STUDY_INSTANCE_UID: "", **_empty(returned)}
    if number == ANSWERS[0]:
        keys[STUDY_DATE] = DAY
    asked, read, wrong = identifier(keys), 0, ""
    with target.associate() as link:
        link.find(asked)  # not timed: the server has read its pages
        busy, started = target.processor_seconds(), time.perf_counter()
        while time.perf_counter() - started < bench.slot:
            found = len(link.find(asked))
            read += found
            if found != number:
                wrong = f"{found} matches of {number}"
        seconds = time.perf_counter() - started
    bench.add(rows, target, read / seconds, wrong=wrong, rows=read)
    bench.add(cost, target, 1e6 * (target.processor_seconds() - busy) / max(1, read), wrong=wrong)
