"""`pacsnode index verify|rebuild`: files and index of a data root that no node uses, made to agree."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pacsnode.cli.options import ConfigFile

DataRoot = Annotated[
    Path | None,
    typer.Option("--storage", metavar="DIR", help="The data root, instead of the configured one."),
]
Deep = Annotated[bool, typer.Option("--deep", help="Read every file and compare its digest.")]


def group() -> typer.Typer:
    """The `index` group."""
    app = typer.Typer(help="Compare files and index, or make the index again.", no_args_is_help=True)
    app.command()(verify)
    app.command()(rebuild)
    return app


def verify(config: ConfigFile = None, storage: DataRoot = None, deep: Deep = False) -> int:
    """Tell where files and index differ. The exit status is 1 when they do."""
    import asyncio

    from pacsnode.archive.archive import Archive

    root = _root(config, storage)
    with _Progress() as progress:
        result = asyncio.run(Archive.verify(root, deep, progress.update))
    for problem in result.problems:
        print(f"{problem.path}: {problem.finding.value}")
    print(f"{result.rows} instances in the index, {result.files} files, {len(result.problems)} problems")
    if result.pending:
        print(f"{result.pending} files are moved to their place by the next start of the node")
    return 0 if result.agrees else 1


def rebuild(config: ConfigFile = None, storage: DataRoot = None) -> int:
    """Make the index again from the files. The exit status is 1 when a file could not be read."""
    import asyncio

    from pacsnode.archive.archive import Archive

    root = _root(config, storage)
    with _Progress() as progress:
        result = asyncio.run(Archive.rebuild(root, progress.update))
    for file in result.unreadable:
        print(f"pacsnode: {file.path}: {file.reason}", file=sys.stderr)
    print(f"{result.instances} instances indexed, {result.conflicts} in conflict with another")
    return 1 if result.unreadable else 0


def _root(config: Path | None, storage: Path | None) -> Path:
    from pacsnode.config import load

    return storage or load(config).node.storage


class _Progress:
    """A bar on standard error while that is a terminal. `update` is called from another thread."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            "files",
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> "_Progress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total)
