"""The command line as a shell sees it."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    output: str
    errors: str


Pacsnode = Callable[..., Ran]


@pytest.fixture
def pacsnode() -> Pacsnode:
    """Run `pacsnode` with arguments, and variables as keywords."""

    def run(*arguments: object, **variables: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "pacsnode.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "COLUMNS": "100", **variables},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
