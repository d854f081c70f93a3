"""Arguments and options that several commands share."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from pacsnode.net.timeouts import Timeouts

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="PACSNODE_CONFIG", metavar="FILE", help="The TOML file with the settings."
    ),
]
PeerText = Annotated[str, typer.Argument(metavar="PEER", help="The peer to call: AET@HOST:PORT.")]


def title_of(text: str | None) -> str | None:
    """An AE title of a command line. Raises BadParameter: a longer one would be cut off on its way."""
    from pacsnode.dicom.uid import ae_title

    try:
        return text and ae_title(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


CallingTitle = Annotated[
    str,
    typer.Option(
        "--ae-title",
        envvar="PACSNODE_AE_TITLE",
        metavar="AET",
        help="The AE title to call with.",
        callback=title_of,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(min=0.1, metavar="SECONDS", help="How long to wait for the connection and for each answer."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what the association does.")]


LevelText = Annotated[str, typer.Option("--level", metavar="LEVEL", help="PATIENT, STUDY, SERIES or IMAGE.")]
ModelText = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="patient, study or patient-study root.")
]
RetrieveLevelText = Annotated[
    str,
    typer.Option("--level", metavar="LEVEL", help="PATIENT, STUDY, SERIES or IMAGE; FRAME for composite."),
]
RetrieveModelText = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="patient, study or patient-study root; composite: instances and frames without their hierarchy.",
    ),
]
Relational = Annotated[
    bool, typer.Option("--relational", help="Negotiate that keys of the levels above may be missing.")
]
UniqueKeys = Annotated[
    list[str],
    typer.Option(
        "--key",
        "-k",
        metavar="KEY=VALUE",
        help="A unique key of the level or one above: StudyInstanceUID=1.2.3; several UIDs with backslashes. "
        "At FRAME also SimpleFrameList, CalculatedFrameList or TimeRange.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]

Choice = TypeVar("Choice", bound=Enum)


def one_of(choices: type[Choice], text: str, option: str) -> Choice:
    """The choice a text names. Raises BadParameter."""
    for choice in choices:
        if choice.value == text:
            return choice
    allowed = ", ".join(str(choice.value) for choice in choices)
    raise typer.BadParameter(f"{text!r} is none of {allowed}", param_hint=option)


def configure_log(verbose: bool) -> None:
    """A command that uses other nodes logs nothing unless it is asked to."""
    from pacsnode import log

    log.configure("debug" if verbose else "error", "console")


def timeouts_of(seconds: float) -> "Timeouts":
    """The same patience for the connection and for every answer; no limit for silence between operations."""
    from pacsnode.net.timeouts import Timeouts

    return Timeouts(artim=seconds, idle=0, dimse=seconds)
