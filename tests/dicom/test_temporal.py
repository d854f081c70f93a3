"""Dates and times compared by meaning (PS3.4 C.2.2.2.1.3, C.2.2.2.5)."""

import pytest

from pacsnode.dicom.temporal import (
    Range,
    date_key,
    date_range,
    date_time_key,
    date_time_range,
    days_around,
    known_offset,
    moved,
    moved_date_time,
    time_key,
    time_range,
)


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("20240105", ["20240105", "2024.01.05"], ["20240104", "20240106"]),
        ("20240105-20240107", ["20240105", "20240107"], ["20240104", "20240108"]),
        ("20240105 - 20240107", ["20240106"], ["20240108"]),
        ("-20240105", ["19000101", "20240105"], ["20240106"]),
        ("20240105-", ["20240105", "20991231"], ["20240104"]),
        ("202401", ["20240101", "20240131"], ["20231231", "20240201"]),
        ("2024", ["20240101", "20241231"], ["20250101"]),
        ("2023-202402", ["20230101", "20240229"], ["20221231", "20240301"]),
        ("2024.01.05", ["20240105"], ["20240106"]),
    ],
)
def test_date_range_holds(key: str, inside: list[str], outside: list[str]) -> None:
    wanted = date_range(key)
    assert all(date_key(value) in wanted for value in inside)
    assert not any(date_key(value) in wanted for value in outside)


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("2230", ["2230", "223000", "22:30:00", "223000.0000", "223059.9"], ["222959", "223100"]),
        ("223000", ["2230", "223000.5"], ["223001"]),
        ("223000.5", ["223000.500000", "223000.50"], ["223000", "223000.51"]),
        ("10-18", ["100000", "1859", "18"], ["095959", "190000"]),
        ("1000-", ["10", "235959.999999"], ["0959"]),
        ("-1000", ["00", "100059"], ["1001"]),
        ("22-02", [], ["23", "01"]),  # crossing midnight is not supported (C.2.2.2.5.2)
    ],
)
def test_time_range_holds(key: str, inside: list[str], outside: list[str]) -> None:
    wanted = time_range(key)
    assert all(time_key(value) in wanted for value in inside)
    assert not any(time_key(value) in wanted for value in outside)


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("19980128103000", ["19980128103000.0000", "19980128103000"], ["19980128103001"]),
        ("19980128", ["19980128", "19980128235959"], ["19980129"]),
        ("19980128103000+0000", ["19980128073000-0300"], ["19980128103000-0300"]),
        ("19980128073000-0300", ["19980128103000+0000"], ["19980128073000+0000"]),
        ("1998-1999", ["19980101", "19991231235959.9"], ["2000"]),
        ("19980128103000-0500-19980128163000+0000", ["19980128160000+0000"], ["19980128150000+0000"]),
        ("-1998", ["1997"], ["1999"]),
        ("199806-", ["2024"], ["199805"]),
    ],
)
def test_date_time_range_holds(key: str, inside: list[str], outside: list[str]) -> None:
    wanted = date_time_range(key)
    assert all(date_time_key(value) in wanted for value in inside)
    assert not any(date_time_key(value) in wanted for value in outside)


@pytest.mark.parametrize("text", ["yesterday", "2024010", "-", "2024-soon", "\uff11\uff12\uff13\uff14"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no date|without ends"):
        date_range(text)


@pytest.mark.parametrize("text", ["1", "12345", "120000.1234567", "-", "ab"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no time|without ends"):
        time_range(text)


@pytest.mark.parametrize("text", ["199", "1998012810300", "-", "1998+2500"])
def test_what_is_no_date_and_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no date and time"):
        date_time_range(text)


def test_a_malformed_stored_value_is_no_date_and_time() -> None:
    assert date_time_key("unknown") == ""


# Clocks


@pytest.mark.parametrize(
    ("date", "time", "minutes", "there"),
    [
        ("20240105", "2330", 60, ("20240106", "0030")),
        ("20240101", "003015.25", -60, ("20231231", "233015.25")),
        ("2024.02.28", "23:00:00", 120, ("20240229", "010000")),
        ("20240105", "22", 30, ("20240105", "2230")),
        ("20240105", "22", 120, ("20240106", "00")),
        ("", "2330", 60, ("", "0030")),
        ("20240105", "", 60, ("20240105", "")),
        ("20240105", "noon", 60, ("20240105", "noon")),
        ("20241399", "1200", 60, ("20241399", "1200")),
        ("99991231", "2330", 60, ("99991231", "2330")),
    ],
)
def test_date_and_time_move_together(date: str, time: str, minutes: int, there: tuple[str, str]) -> None:
    assert moved(date, time, minutes) == there


@pytest.mark.parametrize(
    ("value", "there"),
    [
        ("202401052330", "202401060030"),
        ("20240105233000.5", "20240106003000.5"),
        ("20240105233000+0200", "20240105233000+0200"),
        ("20240105", "20240105"),
        ("", ""),
    ],
)
def test_date_time_without_an_offset_of_its_own_moves(value: str, there: str) -> None:
    assert moved_date_time(value, 60) == there


def test_date_times_on_different_clocks_are_one_moment() -> None:
    wanted = date_time_range("20240105233000", 60)
    assert date_time_key("20240105223000", 0) in wanted
    assert date_time_key("20240105223000+0000", 300) in wanted
    assert date_time_key("20240105223000", 60) not in wanted


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("+0130", 90), ("-0800 ", -480), ("+0000", 0), ("", None), ("CET", None), ("+1500", None)],
)
def test_offset_is_read(text: str, minutes: int | None) -> None:
    assert known_offset(text) == minutes


def test_days_around_a_range_are_at_least_so_many() -> None:
    assert days_around(date_range("20240301-20241231"), 2) == Range("20240228", "20250102")
    assert days_around(date_range("202402"), 2) == Range("20240130", "20240304")
    assert days_around(date_range("2024"), 2) == Range("20231230", "20250102")
    assert days_around(date_range("-99991231"), 2) == Range(None, None)
