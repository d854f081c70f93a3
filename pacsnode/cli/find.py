"""`pacsnode find`: asks a peer and prints a table, or DICOM JSON (PS3.18 F)."""

import sys
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from pacsnode.cli.options import (
    CallingTitle,
    LevelText,
    ModelText,
    PeerText,
    Relational,
    Timeout,
    Verbose,
    configure_log,
    one_of,
    timeouts_of,
)
from pacsnode.cli.output import print_table
from pacsnode.errors import PacsnodeError

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacsnode.cli.querying import Model, Negotiation
    from pacsnode.config import Peer
    from pacsnode.dicom.uid import UID
    from pacsnode.net.timeouts import Timeouts


class FindFailed(PacsnodeError):
    """The final response has a status that is neither Success nor our own Cancel."""


def find(
    peer: PeerText,
    level: LevelText = "STUDY",
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            "-k",
            metavar="KEY[=VALUE]",
            help="A matching key, or without a value one to return: PatientName='DOE*', 0008,0020=20240101-.",
        ),
    ] = None,
    model: ModelText = "study",
    as_json: Annotated[bool, typer.Option("--json", help="Print DICOM JSON instead of a table.")] = False,
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="Cancel after so many matches; 0: never.")
    ] = 0,
    relational: Relational = False,
    date_time: Annotated[
        bool, typer.Option("--date-time", help="Negotiate that a date and its time are matched as one.")
    ] = False,
    fuzzy: Annotated[bool, typer.Option("--fuzzy", help="Negotiate fuzzy matching of person names.")] = False,
    timezone: Annotated[
        str,
        typer.Option(metavar="+HHMM", help="Negotiate that times are matched and answered on this clock."),
    ] = "",
    empty_values: Annotated[
        bool, typer.Option("--empty-values", help="Negotiate that '\"\"' matches what has no value.")
    ] = False,
    multiple_values: Annotated[
        bool, typer.Option("--multiple-values", help="Negotiate that each of several values has to match.")
    ] = False,
    ae_title: CallingTitle = "PACSNODE",
    timeout: Timeout = 60.0,
    verbose: Verbose = False,
) -> None:
    """Ask a peer what it has (C-FIND)."""
    import asyncio

    from pacsnode.cli.querying import Model, Negotiation, columns, identifier
    from pacsnode.config import Peer
    from pacsnode.dicom.information_model import Level

    wanted = one_of(Level, level.upper(), "--level")
    if wanted is Level.PATIENT and model == "study":
        model = "patient"  # the study root has no patient level
    root = one_of(Model, model, "--model")
    request = identifier(wanted, (*(key or ()), *([f"TimezoneOffsetFromUTC={timezone}"] if timezone else ())))
    negotiation = Negotiation(relational, date_time, fuzzy, bool(timezone), empty_values, multiple_values)
    output: _Output = _JsonOutput() if as_json else _TableOutput(columns(wanted, request))
    configure_log(verbose)
    called = Peer.parse(peer)
    asyncio.run(_find(called, ae_title, root, request, negotiation, output, limit, timeouts_of(timeout)))


async def _find(
    peer: "Peer",
    ae_title: str,
    model: "Model",
    request: "Dataset",
    negotiation: "Negotiation",
    output: "_Output",
    limit: int,
    timeouts: "Timeouts",
) -> None:
    from contextlib import aclosing

    from pacsnode.cli.querying import SOP_CLASS_OF
    from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
    from pacsnode.net.requestor import connect
    from pacsnode.ul.negotiation import ProposedContext

    sop_class = SOP_CLASS_OF[model]
    contexts = [ProposedContext(1, sop_class, (EXPLICIT_VR_LE, IMPLICIT_VR_LE))]
    offered = {sop_class: negotiation.offered()} if negotiation.offered() else {}
    count = 0
    with output:
        async with (
            connect(peer, ae_title, contexts, extended=offered, timeouts=timeouts) as association,
            aclosing(association.c_find(sop_class, request)) as replies,
        ):
            for name in negotiation.refused(association.extended(sop_class)):
                print(f"pacsnode: {peer} does not agree to {name}", file=sys.stderr)
            async for reply in replies:
                if reply.identifier is not None:
                    output.add(reply.identifier, association.context(sop_class).transfer_syntax)
                    count += 1
                    if count == limit:
                        break
                elif reply.status:
                    raise FindFailed(f"{peer} answered {reply.status:04X}H {reply.comment}".rstrip())


class _Output(Protocol):
    def __enter__(self) -> "_Output": ...
    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None: ...
    def add(self, match: "Dataset", transfer_syntax: "UID") -> None: ...


class _JsonOutput:
    """An array, written match by match."""

    def __init__(self) -> None:
        from pacsnode.dicom.json_model import JsonEncoder

        self._opening = "["
        self._encoder = JsonEncoder()

    def __enter__(self) -> "_JsonOutput":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            print("[]" if self._opening == "[" else "\n]")

    def add(self, match: "Dataset", transfer_syntax: "UID") -> None:
        from pacsnode.dicom.data_set import encode_data_set
        from pacsnode.dicom.header import encoding_of

        # pydicom's own gives up at a value that its VR does not allow, and writes Infinity.
        data = encode_data_set(match, transfer_syntax)
        print(self._opening, self._encoder.encode(data, encoding_of(transfer_syntax)), sep="\n", end="")
        self._opening = ","


class _TableOutput:
    """A table; its widths are known at the end only."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._rows: list[list[str]] = []

    def __enter__(self) -> "_TableOutput":
        return self

    def add(self, match: "Dataset", transfer_syntax: "UID") -> None:
        from pacsnode.cli.querying import shown

        self._rows.append([shown(match, name) for name in self._names])

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None or self._rows:
            self._print()

    def _print(self) -> None:
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table(*self._names, box=SIMPLE)
        for row in self._rows:
            table.add_row(*(text.replace("[", r"\[") for text in row))
        if self._rows:
            print_table(table)
        print(f"{len(self._rows)} match{'' if len(self._rows) == 1 else 'es'}")
