"""structlog set-up: one line per event on standard error, for people or as JSON. Imports nothing of pacsnode.

An event is named `room.noun_past` (`association.accepted`, `instance.stored`); facts about it are fields,
durations in ms and sizes in bytes as numbers. What holds for a whole association or request is bound with
`structlog.contextvars` and appears in every line. Patient names and IDs are given to `debug` only.

Loggers are not cached: a call costs 1 us more (10.6 for 9.6 in all), and `set_level` reaches every module at
once. A logger made with `bind` keeps the level of its birth.
"""

import atexit
import contextlib
import json
import logging
import sys
import threading
import time
from functools import lru_cache
from queue import SimpleQueue
from typing import Final, Protocol, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

# These libraries warn with the offending value, which may be a patient's name; they speak at debug only.
VALUE_QUOTING_LOGGERS: Final = ("py.warnings", "pydicom", "pynetdicom")


GATHER: Final = 0.1  # seconds; a line a stored object, written one by one, is a tenth of the work it makes


class _Output(Protocol):
    """Where lines go: a stream, or lines gathered for one."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


def get_logger() -> FilteringBoundLogger:
    """The logger of a module: `log = get_logger()` at its head."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def configure(level: str, format: str, stream: TextIO | None = None, *, gather: bool = False) -> None:
    """Send all events, those of other libraries included, to `stream` (standard error).

    `format` is console, json, or auto: console when the stream is a terminal. `gather`: where many lines come
    at once, those below warning may wait for GATHER seconds.
    """
    stream = stream or sys.stderr
    rendering = _rendering(format, stream)
    output: _Output = GatheredLines(stream) if gather else _Unfailing(stream)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _head, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _LineLogger(output, flushed=not gather),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_logger_name,
                _head,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.captureWarnings(True)
    logging.root.handlers[:] = [handler]
    _set_library_levels(level)


class _LineLogger:
    """What structlog hands the finished lines to, by level."""

    def __init__(self, output: _Output, flushed: bool) -> None:
        self._output = output
        self._flushed = flushed  # line by line, whatever its level

    def info(self, line: str) -> None:
        self._output.write(f"{line}\n")
        if self._flushed:
            self._output.flush()

    def warning(self, line: str) -> None:
        self._output.write(f"{line}\n")
        self._output.flush()

    debug = msg = info
    warn = error = critical = exception = fatal = failure = err = log = warning


class _Unfailing:
    """A stream whose lines are lost when nobody reads them any more or its disk is full.

    A logger that raised would take an association, or the whole start of the node, with it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class GatheredLines:
    """Writes a line that comes alone at once, and those that follow it closely together."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = _Unfailing(stream)
        self._lines: list[str] = []
        self._lock = threading.Lock()  # of _lines
        self._writing = threading.Lock()
        self._written_at = float("-inf")
        self._waiting: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.flush)

    def write(self, text: str) -> None:
        """Take a line, with its end."""
        with self._lock:
            self._lines.append(text)
            if len(self._lines) > 1:
                return
            alone = time.monotonic() - self._written_at > GATHER
        if alone:
            self.flush()
        else:
            self._waiting.put(None)

    def flush(self) -> None:
        """Write what was taken."""
        with self._writing:
            with self._lock:
                lines, self._lines = self._lines, []
                self._written_at = time.monotonic()
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()

    def _run(self) -> None:
        while True:
            self._waiting.get()
            time.sleep(GATHER)
            self.flush()


def set_level(level: str) -> None:
    """Change the least important level that is written, at run time (SIGHUP)."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    _set_library_levels(level)


def _rendering(format: str, stream: TextIO) -> list[Processor]:
    terminal = stream.isatty()
    if format == "json" or (format == "auto" and not terminal):
        return [structlog.processors.format_exc_info, _render_json]
    # plain_traceback: the richer ones print local variables, and those hold patient data
    return [
        _escape_controls,
        structlog.dev.ConsoleRenderer(
            colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        ),
    ]


_JSON: Final = json.JSONEncoder(default=repr)


def _escape_controls(_logger: WrappedLogger, _level: str, event: EventDict) -> EventDict:
    """What a peer sends may not write lines of its own, nor steer the terminal. JSON has its own escapes."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _head(_logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
    """Put time (ISO 8601, UTC), level and event name before the fields."""
    seconds, milliseconds = divmod(int(time.time() * 1000), 1000)
    timestamp = f"{_second(seconds)}.{milliseconds:03d}Z"
    return {"timestamp": timestamp, "level": level, "event": event.pop("event"), **event}


def _render_json(_logger: WrappedLogger, _level: str, event: EventDict) -> str:
    return _JSON.encode(event)


def _set_library_levels(level: str) -> None:
    debugging = level == "debug"
    logging.root.setLevel(logging.INFO if debugging else max(logging.WARNING, _number(level)))
    for name in VALUE_QUOTING_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if debugging else logging.CRITICAL)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
