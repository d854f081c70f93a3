"""`pacsnode jobs list|show|retry|cancel`: what is to be sent, beside a running node or without it."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pacsnode.cli.options import ConfigFile, one_of
from pacsnode.cli.state import DataRoot, data_root, moment, opened

if TYPE_CHECKING:
    from pacsnode.workflow.jobs import Job, Jobs

Result = TypeVar("Result")

SHOWN_ITEMS = 20  # lines; the JSON has a thousand

Number = Annotated[int, typer.Argument(metavar="JOB", help="The number of a job.")]
Numbers = Annotated[list[int] | None, typer.Argument(metavar="[JOB]...", help="The numbers of jobs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def group() -> typer.Typer:
    """The `jobs` group."""
    app = typer.Typer(help="What this node sends by itself: the queue.", no_args_is_help=True)
    app.command(name="list")(list_jobs)
    app.command()(show)
    app.command()(retry)
    app.command()(cancel)
    return app


def list_jobs(
    config: ConfigFile = None,
    storage: DataRoot = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATE",
            help="gathering, queued, running, waiting, done, dead, cancelled; may be repeated.",
        ),
    ] = None,
    peer: Annotated[str | None, typer.Option(metavar="AET", help="Only jobs for this peer.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="So many at most, the newest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show jobs, the newest first."""
    from pacsnode.workflow.jobs import State

    states = [one_of(State, text, "--state") for text in state or ()]
    found = _on(config, storage, lambda jobs: jobs.all(states, peer, limit))
    if as_json:
        print(json.dumps([asdict(job) for job in found]))
        return
    from rich.box import SIMPLE
    from rich.table import Table

    from pacsnode.cli.output import print_table

    table = Table(box=SIMPLE)
    for heading in ("job", "kind", "peer", "state", "open", "of", "attempts", "due or ended", "error"):
        table.add_column(heading, justify="right" if heading in ("job", "open", "of", "attempts") else "left")
    for job in found:
        table.add_row(
            *(str(job.id), job.kind, job.peer, job.state.value, str(job.items_open), str(job.items)),
            *(str(job.attempts), moment(job.ended_at or job.due), job.error.replace("[", r"\[")),
        )
    print_table(table)


def show(number: Number, config: ConfigFile = None, storage: DataRoot = None, as_json: AsJson = False) -> int:
    """Show all there is to know of a job."""

    async def look(jobs: "Jobs") -> "tuple[Job, list[str]] | None":
        job = await jobs.get(number)
        return None if job is None else (job, await jobs.open_items(job, 1000))

    found = _on(config, storage, look)
    if found is None:
        raise typer.BadParameter(f"there is no job {number}", param_hint="JOB")
    job, items = found
    if as_json:
        print(json.dumps({**asdict(job), "open": items}))
        return 0
    for name, value in asdict(job).items():
        if name in ("due", "added_at", "started_at", "ended_at"):
            value = moment(value)
        print(f"{name:<11} {value if not isinstance(value, dict) else json.dumps(value)}".rstrip())
    for item in items[:SHOWN_ITEMS]:
        print(f"{'open':<11} {item}")
    if len(items) > SHOWN_ITEMS:
        print(f"{'open':<11} and {job.items_open - SHOWN_ITEMS} more")
    return 0


def retry(
    numbers: Numbers = None,
    config: ConfigFile = None,
    storage: DataRoot = None,
    dead: Annotated[bool, typer.Option("--dead", help="All dead letters.")] = False,
    peer: Annotated[str | None, typer.Option(metavar="AET", help="With --dead: only for this peer.")] = None,
) -> int:
    """Have jobs done now that wait, are dead or were cancelled. A running node begins within a second."""
    from pacsnode.workflow.jobs import State

    if bool(numbers) == dead:
        raise typer.BadParameter("name jobs, or say --dead", param_hint="JOB")

    async def run(jobs: "Jobs") -> list[int]:
        chosen = numbers or [job.id for job in await jobs.all([State.DEAD], peer, 1_000_000)]
        return [number for number in chosen if not await jobs.retry(number)]

    return _told(_on(config, storage, run), "is not waiting, dead or cancelled")


def cancel(
    numbers: Annotated[list[int], typer.Argument(metavar="JOB...")],
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> int:
    """Withdraw jobs that are not done. A running node breaks them off within a second."""

    async def run(jobs: "Jobs") -> list[int]:
        return [number for number in numbers if not await jobs.cancel(number)]

    return _told(_on(config, storage, run), "is done or cancelled, or does not exist")


def _on(config: Path | None, storage: Path | None, work: Callable[["Jobs"], Awaitable[Result]]) -> Result:
    import asyncio

    from pacsnode.workflow.jobs import Jobs

    async def run() -> Result:
        async with opened(data_root(config, storage)) as database:
            return await work(Jobs(database))

    return asyncio.run(run())


def _told(failed: list[int], why: str) -> int:
    for number in failed:
        print(f"job {number} {why}")
    return 1 if failed else 0
