"""The command line as its user sees it. In this process: test_scu_commands.py starts real ones."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import structlog

from pacsnode import cli


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    output: str
    errors: str


Pacsnode = Callable[..., Ran]


@pytest.fixture
def pacsnode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Pacsnode]:
    """Run `pacsnode` with arguments, and variables as keywords."""

    def run(*arguments: object, **variables: str) -> Ran:
        capsys.readouterr()  # what the scene printed is not the command's
        with monkeypatch.context() as patch:
            for name, value in {"COLUMNS": "100", **variables}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["pacsnode", *map(str, arguments)])
            status = cli.main()
        return Ran(status, *capsys.readouterr())

    handlers, level = logging.root.handlers[:], logging.root.level
    yield run
    # a command logs to the standard error of its test, which is closed by now
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
