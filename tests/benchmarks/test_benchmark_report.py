"""The table compares only right answers, in the direction in which a unit runs."""

import json
from io import StringIO

import pytest

from benchmarks.report import Goal, Metric, Report, percentile

RATE = Metric("store", "1 association", "objects/s", goal=Goal(ratio=2))
LATENCY = Metric("find", "p95", "ms", more_is_better=False, goal=Goal(at_most=3))


@pytest.fixture
def report() -> Report:
    return Report(["pacsnode", "orthanc"], {}, StringIO())


def test_a_ratio_above_one_is_better_whichever_way_the_unit_runs(report: Report) -> None:
    for metric, ours, theirs in ((RATE, 300, 100), (LATENCY, 2, 8)):
        report.add(metric, "pacsnode", ours)
        report.add(metric, "orthanc", theirs)
    assert report.ratio(RATE, "pacsnode", "orthanc") == 3
    assert report.ratio(LATENCY, "pacsnode", "orthanc") == 4
    assert report.table().count(": met") == 2


def test_the_median_of_the_repetitions_counts(report: Report) -> None:
    for value in (10, 500, 90):
        report.add(RATE, "pacsnode", value)
    report.add(RATE, "orthanc", 100)
    assert report.ratio(RATE, "pacsnode", "orthanc") == 0.9
    assert "MISSED" in report.table()


def test_a_wrong_answer_gets_no_ratio_and_meets_no_goal(report: Report) -> None:
    report.add(RATE, "pacsnode", 900, wrong="7 of 9 objects listed")
    report.add(RATE, "orthanc", 100)
    report.add(LATENCY, "pacsnode", 1, wrong="0 matches")
    assert report.ratio(RATE, "pacsnode", "orthanc") is None
    assert "900!" in report.table()
    assert "7 of 9 objects listed" in report.table()
    assert ": met" not in report.table()


def test_a_row_without_a_figure_shows_a_dash_and_why(report: Report) -> None:
    report.note(RATE, "pacsnode", "failed: not installed")
    report.add(RATE, "orthanc", 100)
    assert "- store, 1 association: pacsnode: failed: not installed" in report.table()
    assert report.ratio(RATE, "pacsnode", "orthanc") is None


def test_a_goal_is_a_ratio_to_every_yardstick_there_is() -> None:
    report = Report(["pacsnode", "orthanc", "orthanc-newer"], {}, StringIO())
    for target, value in (("pacsnode", 300), ("orthanc", 100), ("orthanc-newer", 200)):
        report.add(RATE, target, value)
    assert report.ratio(RATE, "pacsnode", "orthanc-newer") == 1.5
    assert "MISSED" in report.table()


def test_every_line_of_the_record_is_json() -> None:
    lines = StringIO()
    report = Report(["pacsnode", "orthanc"], {"processors": 2}, lines)
    report.add(RATE, "orthanc", 100, objects=50)
    report.finish()
    assert [json.loads(line)["kind"] for line in lines.getvalue().splitlines()] == ["run", "sample", "row"]


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (95, 95), (100, 100), (1, 1)])
def test_a_percentile_is_the_smallest_value_that_many_do_not_exceed(percent: int, expected: int) -> None:
    assert percentile(range(100, 0, -1), percent) == expected
