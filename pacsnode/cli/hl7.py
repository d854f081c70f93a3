"""`pacsnode hl7 list|show`: the HL7 messages that a node has received."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacsnode.cli.options import ConfigFile
from pacsnode.cli.state import DataRoot, data_root, opened
from pacsnode.errors import PacsnodeError

if TYPE_CHECKING:
    from pacsnode.workflow.hl7_inbox import Hl7Inbox, ReceivedMessage


class NoMessage(PacsnodeError):
    """There is no such message."""


def group() -> typer.Typer:
    """The `hl7` group."""
    app = typer.Typer(help="HL7 messages that were received.", no_args_is_help=True)
    app.command("list")(list_messages)
    app.command()(show)
    return app


def list_messages(
    config: ConfigFile = None,
    storage: DataRoot = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only those answered with AE or AR.")] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest so many.")] = 100,
) -> None:
    """List the messages, newest first."""
    import asyncio

    _print_table(asyncio.run(_list(config, storage, refused, limit)))


async def _list(
    config: Path | None, storage: Path | None, refused: bool, limit: int
) -> "list[ReceivedMessage]":
    async with _inbox(config, storage) as inbox:
        return await inbox.messages(refused_only=refused, limit=limit)


def show(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The message, as `list` numbers it.")],
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> None:
    """Print a message as it came, and its acknowledgement."""
    import asyncio

    print(*asyncio.run(_show(number, config, storage)), sep="\n\n")


async def _show(number: int, config: Path | None, storage: Path | None) -> tuple[str, str]:
    async with _inbox(config, storage) as inbox:
        found = await inbox.message(number)
        if found is None:
            raise NoMessage(f"there is no message {number}")
        return inbox.readable(found)


@asynccontextmanager
async def _inbox(config: Path | None, storage: Path | None) -> "AsyncIterator[Hl7Inbox]":
    from pacsnode.config import load
    from pacsnode.workflow.hl7_inbox import Hl7Inbox
    from pacsnode.workflow.patients import Patients
    from pacsnode.workflow.worklist import Worklist

    settings = load(config)
    root = data_root(config, storage)
    async with opened(root) as database:
        patients = Patients(database, root / "index.sqlite", settings.node.ae_title)
        yield Hl7Inbox(database, Worklist(database, settings.worklist), patients, settings)


def _print_table(found: "list[ReceivedMessage]") -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from pacsnode.cli.output import print_table

    table = Table("message", "received", "from", "type", "control ID", "answer", "reason", box=SIMPLE)
    for message in found:
        at = datetime.fromtimestamp(message.received_at).strftime("%Y-%m-%d %H:%M:%S")
        row = (at, message.remote, message.kind, message.control_id, message.answer, message.reason)
        table.add_row(str(message.id), *(text.replace("[", r"\[") for text in row))
    if found:
        print_table(table)
    print(f"{len(found)} message{'' if len(found) == 1 else 's'}")
