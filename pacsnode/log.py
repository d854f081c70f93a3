"""structlog set-up: one line per event on standard error, for people or as JSON. Imports nothing of pacsnode.

An event is named `room.noun_past` (`association.accepted`, `instance.stored`); facts about it are fields,
durations in ms and sizes in bytes as numbers. What holds for a whole association or request is bound with
`structlog.contextvars` and appears in every line. Patient names and IDs are given to `debug` only.

Loggers are not cached: a call costs 1 us more (10.6 for 9.6 in all), and `set_level` reaches every module at
once. A logger made with `bind` keeps the level of its birth.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

# These libraries warn with the offending value, which may be a patient's name; they speak at debug only.
VALUE_QUOTING_LOGGERS: Final = ("py.warnings", "pydicom", "pynetdicom")


def get_logger() -> FilteringBoundLogger:
    """The logger of a module: `log = get_logger()` at its head."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def configure(level: str, format: str, stream: TextIO | None = None) -> None:
    """Send all events, those of other libraries included, to `stream` (standard error).

    `format` is console, json, or auto: console when the stream is a terminal.
    """
    stream = stream or sys.stderr
    rendering = _rendering(format, stream)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _head, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
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


def set_level(level: str) -> None:
    """Change the least important level that is written, at run time (SIGHUP)."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    _set_library_levels(level)


def _rendering(format: str, stream: TextIO) -> list[Processor]:
    terminal = stream.isatty()
    if format == "json" or (format == "auto" and not terminal):
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # plain_traceback: the richer ones print local variables, and those hold patient data
    return [
        _escape_controls,
        structlog.dev.ConsoleRenderer(
            colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        ),
    ]


def _escape_controls(_logger: WrappedLogger, _level: str, event: EventDict) -> EventDict:
    """What a peer sends may not write lines of its own, nor steer the terminal. JSON has its own escapes."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event


def _head(_logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
    """Put time (ISO 8601, UTC), level and event name before the fields."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": now, "level": level, "event": event.pop("event"), **event}


def _set_library_levels(level: str) -> None:
    debugging = level == "debug"
    logging.root.setLevel(logging.INFO if debugging else max(logging.WARNING, _number(level)))
    for name in VALUE_QUOTING_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if debugging else logging.CRITICAL)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
