"""`pacsnode commitments list|show|ask`: storage commitment of a data root, in use or not."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pacsnode.cli.options import ConfigFile, configure_log, one_of
from pacsnode.cli.state import DataRoot, data_root, moment, opened
from pacsnode.errors import PacsnodeError

if TYPE_CHECKING:
    from pacsnode.workflow.commitment_records import Commitment, Records

Result = TypeVar("Result")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class NoSuchRequest(PacsnodeError):
    """A number that no request has."""


def group() -> typer.Typer:
    """The `commitments` group."""
    app = typer.Typer(help="Storage commitment: asked of this node, and by it.", no_args_is_help=True)
    app.command(name="list")(list_requests)
    app.command()(show)
    app.command()(ask)
    return app


def list_requests(
    config: ConfigFile = None,
    storage: DataRoot = None,
    role: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="provider: asked of this node; user: asked by it."),
    ] = None,
    peer: Annotated[str | None, typer.Option(metavar="AET", help="Only those with this peer.")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those without an end.")] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="So many at most, the newest.")] = 100,
    as_json: Json = False,
) -> None:
    """Show requests, the newest first."""
    from pacsnode.workflow.commitment_records import Role

    wanted = one_of(Role, role, "--role") if role else None
    found = _on(config, storage, lambda records: records.all(wanted, peer, open_only, limit))
    if as_json:
        print(json.dumps([_as_json(one) for one in found]))
        return
    from rich.box import SIMPLE
    from rich.table import Table

    from pacsnode.cli.output import print_table

    table = Table(box=SIMPLE)
    numbers = ("request", "committed", "failed", "of")
    for heading in ("request", "role", "peer", "state", "committed", "failed", "of", "requested", "comment"):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for one in found:
        counts = (str(len(one.committed)), str(len(one.failed)), str(len(one.results)))
        comment = one.comment.replace("[", r"\[")
        told = (str(one.id), one.role.value, one.peer, one.state.value)
        table.add_row(*told, *counts, moment(one.requested_at), comment)
    print_table(table)


def show(
    number: Annotated[int, typer.Argument(metavar="REQUEST", help="The number of a request.")],
    config: ConfigFile = None,
    storage: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Show a request and what became of each instance."""
    found = _on(config, storage, lambda records: records.find(number))
    if found is None:
        raise NoSuchRequest(f"there is no request {number}")
    if as_json:
        print(json.dumps(_as_json(found)))
        return
    print(f"transaction {found.transaction_uid}")
    print(f"role        {found.role.value} as {found.local_ae}, with {found.peer}")
    print(f"state       {found.state.value} {found.comment}".rstrip())
    print(f"requested   {moment(found.requested_at)}")
    print(f"changed     {moment(found.changed_at)}")
    for one in found.results:
        print(f"{_meaning(one.reason):<11} {one.reference.sop_instance}")


def ask(
    number: Annotated[int, typer.Argument(metavar="REQUEST", help="A request of this node's own.")],
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> None:
    """Ask the peer once more for what it has not committed to. A running node does so within a second."""
    import asyncio

    from pacsnode.workflow.commitment_records import Records, Role
    from pacsnode.workflow.commitment_requests import CommitmentRequests
    from pacsnode.workflow.jobs import Jobs

    async def run() -> list[int]:
        async with opened(data_root(config, storage)) as database:
            found = await Records(database).find(number)
            if found is None or found.role is not Role.USER:
                raise NoSuchRequest(f"there is no request {number} of this node's own")
            requests = CommitmentRequests(database, Jobs(database), found.local_ae)
            return await requests.ask_again(number)

    configure_log(verbose=False)
    numbers = asyncio.run(run())
    for asked in numbers:
        print(f"request {asked}")
    if not numbers:
        print(f"all of request {number} is committed to")


def _meaning(reason: int | None) -> str:
    if reason is None:
        return "unknown"
    return f"{reason:04X}H" if reason else "committed"


def _as_json(one: "Commitment") -> dict[str, object]:
    return {
        "request": one.id,
        "role": one.role,
        "peer": one.peer,
        "local_ae": one.local_ae,
        "transaction_uid": one.transaction_uid,
        "state": one.state,
        "comment": one.comment,
        "requested_at": one.requested_at,
        "changed_at": one.changed_at,
        "instances": [
            {
                "sop_class": result.reference.sop_class,
                "sop_instance": result.reference.sop_instance,
                "failure_reason": result.reason,
            }
            for result in one.results
        ],
    }


def _on(config: Path | None, storage: Path | None, work: Callable[["Records"], Awaitable[Result]]) -> Result:
    import asyncio

    from pacsnode.workflow.commitment_records import Records

    async def run() -> Result:
        async with opened(data_root(config, storage)) as database:
            return await work(Records(database))

    return asyncio.run(run())
