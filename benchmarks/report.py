"""Samples, medians, ratios to the yardstick, goals; the printed table and the JSON lines."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TextIO

YARDSTICKS = ("orthanc", "orthanc-newer")  # the targets every other is compared with
CANDIDATE = "pacsnode"  # the target that has goals
HEADINGS = ("case", "measured", "unit")

Fact = str | int | float | None


@dataclass(frozen=True, slots=True)
class Goal:
    """What the node must reach: a ratio to each yardstick (above 1: better) or a bound on the figure."""

    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, figure: float | None, ratios: Sequence[float]) -> str:
        """The goal in words and whether it was met; a comparison that could not be made is not judged."""
        wanted, met = [], []
        if self.ratio is not None:
            wanted.append(f">= {self.ratio:g} x")
            met.append(min(ratios) >= self.ratio if ratios else None)
        if self.at_least is not None:
            wanted.append(f">= {self.at_least:g}")
            met.append(None if figure is None else figure >= self.at_least)
        if self.at_most is not None:
            wanted.append(f"<= {self.at_most:g}")
            met.append(None if figure is None else figure <= self.at_most)
        verdict = ": MISSED" if False in met else "" if None in met else ": met"
        return " and ".join(wanted) + verdict


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    case: str
    name: str
    unit: str
    more_is_better: bool = True
    goal: Goal | None = None
    compared: bool = True  # False: no ratio to a yardstick, the figure is one itself or is context


@dataclass(slots=True)
class Series:
    """What one target gave for one metric."""

    values: list[float] = field(default_factory=list)
    wrong: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def spread(self) -> float:
        """(Largest - smallest) / median: how far the repetitions lie apart."""
        middle = self.median
        return (max(self.values) - min(self.values)) / middle if middle and len(self.values) > 1 else 0.0


class Report:
    """Collects a run; every sample goes to `lines` as it is made."""

    def __init__(self, targets: Sequence[str], facts: dict[str, Fact | list[str]], lines: TextIO) -> None:
        self._targets = targets
        self._lines = lines
        self._rows: dict[Metric, dict[str, Series]] = defaultdict(lambda: defaultdict(Series))
        self._others: dict[Metric, list[float]] = defaultdict(list)
        self._write("run", **facts)

    def add(
        self,
        metric: Metric,
        target: str,
        value: float,
        *,
        others: float = 0.0,
        wrong: str = "",
        **facts: Fact,
    ) -> None:
        """One sample. `others`: other programs' share of the processors; `wrong`: why it doesn't count."""
        series = self._rows[metric][target]
        series.values.append(value)
        self._others[metric].append(others)
        if wrong:
            series.wrong = True
            self.note(metric, target, wrong)
        self._write(
            "sample", metric=asdict(metric), target=target, value=value, others=others, wrong=wrong, **facts
        )

    def note(self, metric: Metric, target: str, text: str) -> None:
        """A remark printed under the table; a metric without samples shows a dash."""
        notes = self._rows[metric][target].notes
        if text not in notes:
            notes.append(text)
            self._write("note", metric=asdict(metric), target=target, text=text)

    @property
    def _comparisons(self) -> list[tuple[str, str]]:
        """Which target is compared with which yardstick."""
        compared = [each for each in self._targets if each not in YARDSTICKS]
        return [(one, other) for other in YARDSTICKS if other in self._targets for one in compared]

    def ratio(self, metric: Metric, target: str, yardstick: str) -> float | None:
        """How many times better than a yardstick, whichever way the unit runs; None if either is wrong."""
        ours, theirs = self._rows[metric][target], self._rows[metric][yardstick]
        if not metric.compared or ours.wrong or theirs.wrong or not ours.median or not theirs.median:
            return None
        return ours.median / theirs.median if metric.more_is_better else theirs.median / ours.median

    def finish(self) -> None:
        for metric, row in self._rows.items():
            medians = {target: row[target].median for target in self._targets}
            ratios = {f"{one}/{other}": self.ratio(metric, one, other) for one, other in self._comparisons}
            self._write("row", metric=asdict(metric), medians=medians, ratios=ratios)

    def table(self) -> str:
        """A Markdown table and the remarks on it."""
        heading = [*HEADINGS, *self._targets, *(f"{one}/{other}" for one, other in self._comparisons)]
        rows = [[*heading, "goal", "spread", "others"]]
        rows += [self._table_row(metric) for metric in self._rows]
        return "\n".join([*_aligned(rows), *self._remarks()])

    def _table_row(self, metric: Metric) -> list[str]:
        row = self._rows[metric]
        ratios = {pair: self.ratio(metric, *pair) for pair in self._comparisons}
        candidate = row[CANDIDATE]
        judged = None if candidate.wrong else candidate.median
        goal = ""
        if metric.goal and CANDIDATE in self._targets:
            known = [ratio for (one, _), ratio in ratios.items() if one == CANDIDATE and ratio is not None]
            goal = metric.goal.judge(judged, known)
        spread = max((each.spread for each in row.values()), default=0.0)
        others = self._others[metric]
        return [
            metric.case,
            metric.name,
            metric.unit,
            *(_figure(row[each].median) + "!" * row[each].wrong for each in self._targets),
            *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios.values()),
            goal,
            f"{spread:.0%}" if spread else "",
            f"{statistics.median(others):.0%}" if others else "",
        ]

    def _remarks(self) -> list[str]:
        return [
            f"- {metric.case}, {metric.name}: {target}: {note}"
            for metric, row in self._rows.items()
            for target, series in row.items()
            for note in series.notes
        ]

    def _write(self, kind: str, **values: object) -> None:
        self._lines.write(json.dumps({"kind": kind, **values}) + "\n")
        self._lines.flush()


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` % of the values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown rows; the first is the heading, words stand left and figures right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at < len(HEADINGS) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rules = [
        "-" * width if at < len(HEADINGS) else "-" * (width - 1) + ":" for at, width in enumerate(widths)
    ]
    return [lines[0], f"| {' | '.join(rules)} |", *lines[1:]]
