"""What the lines look like, and what may never stand in them."""

import contextlib
import io
import json
import logging
import warnings

import pytest
import structlog

from pacsnode import log
from tests.support.waiting import eventually


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_time_level_event_first_and_numbers_as_numbers(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    log.get_logger().info("instance.stored", bytes=9000, ms=1.5)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "bytes", "ms"]
    assert (line["level"], line["event"], line["bytes"], line["ms"]) == ("info", "instance.stored", 9000, 1.5)
    assert str(line["timestamp"]).endswith("Z")


def test_what_is_bound_to_the_association_stands_in_every_line(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    with structlog.contextvars.bound_contextvars(association=7, calling_ae="CT1"):
        log.get_logger().info("association.accepted")
    log.get_logger().info("node.stopped")
    inside, outside = lines(stream)
    assert (inside["association"], inside["calling_ae"]) == (7, "CT1")
    assert "association" not in outside


def test_auto_is_for_people_on_a_terminal_and_json_elsewhere(stream: io.StringIO) -> None:
    terminal = Terminal()
    log.configure("info", "auto", terminal)
    log.get_logger().info("node.started", port=11112)
    assert "\x1b[" in terminal.getvalue()
    log.configure("info", "auto", stream)
    log.get_logger().info("node.started", port=11112)
    assert lines(stream)[0]["port"] == 11112


def test_console_without_a_terminal_has_no_colour(stream: io.StringIO) -> None:
    log.configure("info", "console", stream)
    log.get_logger().info("node.started", port=11112)
    assert "node.started" in stream.getvalue()
    assert "port=11112" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_level_changes_at_run_time_for_loggers_that_exist(stream: io.StringIO) -> None:
    log.configure("warning", "json", stream)
    logger = log.get_logger()
    logger.info("one")
    log.set_level("debug")
    logger.debug("two")
    log.set_level("error")
    logger.warning("three")
    assert [line["event"] for line in lines(stream)] == ["two"]


def test_lines_of_other_libraries_take_the_same_way(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    logging.getLogger("uvicorn.error").warning("socket %s closed", 3)
    logging.getLogger("uvicorn.error").info("chatter")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("socket 3 closed", "warning", "uvicorn.error")


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_a_library_that_quotes_values_is_silent_above_debug(stream: io.StringIO, level: str) -> None:
    log.configure(level, "json", stream)
    logging.getLogger("pydicom").error("Invalid value for VR PN: 'DOE^JANE'")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Invalid value for VR LO: 'DOE^JANE'", stacklevel=1)
    assert stream.getvalue() == ""
    log.set_level("debug")
    logging.getLogger("pydicom").warning("Invalid value for VR PN: 'DOE^JANE'")
    assert "DOE^JANE" in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(stream: io.StringIO, format: str) -> None:
    log.configure("info", format, stream)
    patient_name = "DOE" + "^JANE"
    try:
        raise ValueError(len(patient_name))
    except ValueError:
        log.get_logger().exception("operation.failed")
    assert "ValueError: 8" in stream.getvalue()
    assert "DOE^JANE" not in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_what_a_peer_sends_writes_no_lines_of_its_own(stream: io.StringIO, format: str) -> None:
    log.configure("info", format, stream)
    log.get_logger().warning("operation.failed", reason="SOP Instance 1.2\n2026 node.stopped \x1b[2J in it")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_lines_that_come_together_are_written_together_and_warnings_at_once(stream: io.StringIO) -> None:
    log.configure("info", "json", stream, gather=True)
    logger = log.get_logger()
    logger.info("node.started")
    assert [line["event"] for line in lines(stream)] == ["node.started"], "alone: at once"
    for number in range(3):
        logger.info("instance.stored", number=number)
    assert len(lines(stream)) == 1
    logger.warning("operation.failed")
    events = [line["event"] for line in lines(stream)]
    assert events == ["node.started", *["instance.stored"] * 3, "operation.failed"], "in their order"


async def test_the_last_lines_do_not_wait_for_others(stream: io.StringIO) -> None:
    log.configure("info", "json", stream, gather=True)
    for number in range(3):
        log.get_logger().info("instance.stored", number=number)
    await eventually(lambda: len(lines(stream)) == 3, "all are written")


@pytest.mark.parametrize("gather", [True, False])
def test_a_log_that_cannot_be_written_fails_nobody(gather: bool) -> None:
    stream = open("/dev/full", "w", buffering=1)  # noqa: SIM115 - closing it fails, which is the point
    log.configure("info", "json", stream, gather=gather)
    for level in ("info", "warning"):
        getattr(log.get_logger(), level)("instance.stored")
    logging.getLogger("uvicorn.error").warning("socket closed")
    with contextlib.suppress(OSError):
        stream.close()
