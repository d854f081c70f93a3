"""Arguments and options that several commands share."""

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from pacsnode.net.association import Timeouts

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="PACSNODE_CONFIG", metavar="FILE", help="The TOML file with the settings."
    ),
]
PeerText = Annotated[str, typer.Argument(metavar="PEER", help="The peer to call: AET@HOST:PORT.")]
CallingTitle = Annotated[
    str,
    typer.Option("--ae-title", envvar="PACSNODE_AE_TITLE", metavar="AET", help="The AE title to call with."),
]
Timeout = Annotated[
    float,
    typer.Option(min=0.1, metavar="SECONDS", help="How long to wait for the connection and for each answer."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what the association does.")]

Result = TypeVar("Result")


def run_as_scu(work: Coroutine[object, object, Result], verbose: bool) -> Result:
    """Run a user of another node's services; the log stays silent unless it is asked for."""
    import asyncio

    from pacsnode import log

    log.configure("debug" if verbose else "error", "console")
    return asyncio.run(work)


def timeouts_of(seconds: float) -> "Timeouts":
    """The same patience for the connection and for every answer; no limit for silence between operations."""
    from pacsnode.net.association import Timeouts

    return Timeouts(artim=seconds, idle=0, dimse=seconds)
