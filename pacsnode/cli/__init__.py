"""The command line: one file per group of commands; argv becomes Settings or calls, results are printed.

Everything heavy is imported inside the commands, so that `pacsnode --help` and a typing error answer at once.
Exit status: 0 done, 1 it failed, 2 the command line is wrong, 130 interrupted.
"""

import os
import sys
from typing import Annotated

import typer
from typer import TyperException

from pacsnode.cli import (
    commitments,
    config,
    conformance,
    echo,
    find,
    get,
    hl7,
    index,
    jobs,
    move,
    mpps,
    patient,
    peers,
    serve,
    store,
    version,
    worklist,
)
from pacsnode.cli.output import reason_of
from pacsnode.errors import PacsnodeError


def main() -> int:
    """Run the command in argv. An error is one clear line on standard error."""
    try:
        result = application()(prog_name="pacsnode", standalone_mode=False)
    except TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    except PacsnodeError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{reason_of(error)}", 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if os.environ.get("PACSNODE_TRACEBACK"):
            raise
        name = type(error).__name__
        return _fail(f"internal error, {name}: {error} (PACSNODE_TRACEBACK=1 shows where)", 1)
    return result if isinstance(result, int) else 0


def application() -> typer.Typer:
    """All commands, in the order of the help."""
    app = typer.Typer(
        name="pacsnode",
        help="An asynchronous DICOM node that stores, indexes and answers, and tools to talk to others.",
        epilog="PEER is AET@HOST:PORT, for example PACSNODE@localhost:11112.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(no_args_is_help=True)(_options)
    here, others = "This node", "Other nodes"
    app.command(rich_help_panel=here)(serve.serve)
    app.add_typer(config.group(), name="config", rich_help_panel=here)
    app.add_typer(index.group(), name="index", rich_help_panel=here)
    app.add_typer(worklist.group(), name="worklist", rich_help_panel=here)
    app.add_typer(hl7.group(), name="hl7", rich_help_panel=here)
    app.add_typer(mpps.group(), name="mpps", rich_help_panel=here)
    app.add_typer(patient.group(), name="patient", rich_help_panel=here)
    app.add_typer(commitments.group(), name="commitments", rich_help_panel=here)
    app.add_typer(jobs.group(), name="jobs", rich_help_panel=here)
    app.add_typer(peers.group(), name="peers", rich_help_panel=here)
    app.command(rich_help_panel=here)(conformance.conformance)
    app.command(rich_help_panel=here)(version.version)
    for command in (echo.echo, store.store, find.find, move.move, get.get):
        app.command(rich_help_panel=others)(command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        version.version()
        raise typer.Exit


def _options(
    _: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the versions and exit."),
    ] = False,
) -> None:
    """An asynchronous DICOM node that stores, indexes and answers, and tools to talk to others."""


def _fail(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"pacsnode: {line}", file=sys.stderr)
    return status
