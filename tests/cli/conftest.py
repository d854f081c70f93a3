"""The command line as its user sees it. In this process: test_scu_commands.py starts real ones."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pacsnode import cli


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    output: str
    errors: str


Pacsnode = Callable[..., Ran]
LOGGED = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[.*\n", re.MULTILINE)  # by a node of the scene


@pytest.fixture
def pacsnode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pacsnode:
    """Run `pacsnode` with arguments, and variables as keywords."""

    def run(*arguments: object, **variables: str) -> Ran:
        capsys.readouterr()  # what the scene printed is not the command's
        with monkeypatch.context() as patch:
            for name, value in {"COLUMNS": "100", **variables}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["pacsnode", *map(str, arguments)])
            status = cli.main()
        output, errors = capsys.readouterr()
        return Ran(status, LOGGED.sub("", output), errors)

    return run
