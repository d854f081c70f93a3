"""`pacsnode store`: sends files and folders to a peer, with a progress bar and a summary."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacsnode.cli.options import CallingTitle, PeerText, Timeout, Verbose, configure_log, timeouts_of
from pacsnode.cli.output import print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from pacsnode.cli.sending import StoredObject, Survey, Tally
    from pacsnode.config import Peer
    from pacsnode.dicom.uid import UID
    from pacsnode.net.timeouts import Timeouts

SHOWN_FAILURES = 20  # lines; the summary counts all of them by reason


def store(
    peer: PeerText,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files, or folders of them.")],
    ae_title: CallingTitle = "PACSNODE",
    parallel: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Associations at one time.")] = 1,
    window: Annotated[
        int,
        typer.Option(min=1, max=256, metavar="N", help="Objects outstanding on each, if the peer agrees."),
    ] = 16,
    transfer_syntax: Annotated[
        str,
        typer.Option(
            metavar="UID|KEYWORD",
            help="Transcode to this one, JPEGLSLossless for instance; what cannot be goes as it is.",
        ),
    ] = "",
    timeout: Timeout = 60.0,
    verbose: Verbose = False,
) -> int:
    """Send objects to a peer (C-STORE), as they are stored.

    Folders are walked, links to folders are not, and files that are not DICOM are skipped. The exit status is
    1 when any object failed, or something could not be read.
    """
    import asyncio
    from tempfile import TemporaryDirectory

    from pacsnode.cli.sending import survey
    from pacsnode.config import Peer

    configure_log(verbose)
    destination = Peer.parse(peer)
    target = _transfer_syntax(transfer_syntax) if transfer_syntax else None
    found = survey(paths)
    with _Progress(found) as progress, TemporaryDirectory(prefix="pacsnode-") as spool:
        begun = time.perf_counter()
        tally = asyncio.run(
            _send_all(
                found,
                target,
                Path(spool),
                destination,
                ae_title,
                timeouts_of(timeout),
                parallel=parallel,
                window=window,
                advance=lambda item: progress.advance(item.size),
            )
        )
        seconds = time.perf_counter() - begun
    if not found.objects:
        print("pacsnode: there is no DICOM object to send", file=sys.stderr)
    _print_failures([*found.unreadable, *((item.path, reason) for item, reason in tally.failures)])
    _print_summary(found, tally, seconds)
    return 1 if tally.failures or found.unreadable or not found.objects else 0


async def _send_all(
    found: "Survey",
    target: "UID | None",
    spool: Path,
    peer: "Peer",
    ae_title: str,
    timeouts: "Timeouts",
    *,
    parallel: int,
    window: int,
    advance: "Callable[[StoredObject], None]",
) -> "Tally":
    """Send everything, made of `target` in worker processes, whose results go through `spool`."""
    from pacsnode.cli.sending import Sender, Transcoding, plan
    from pacsnode.pixels.pool import Transcoder, TranscoderOptions

    transcoder = Transcoder(spool, TranscoderOptions(workers=os.cpu_count() or 1))
    sender = Sender(
        peer,
        ae_title,
        timeouts,
        parallel=parallel,
        window=window,
        transcoding=Transcoding(target, transcoder) if target is not None else None,
        advance=advance,
    )
    try:
        for batch in plan(found.objects, target):
            await sender.send(batch)
    finally:
        await transcoder.close()
    return sender.tally


def _transfer_syntax(text: str) -> "UID":
    """A transfer syntax by its UID or keyword. Raises BadParameter for one that is not made here."""
    from pydicom.uid import UID as KnownUID

    from pacsnode.pixels.plan import ENCODABLE, NATIVE

    keywords = {uid: KnownUID(uid).keyword for uid in (*NATIVE, *ENCODABLE)}
    for uid, keyword in keywords.items():
        if text in (uid, keyword):
            return uid
    raise typer.BadParameter(
        f"{text!r} is none of {', '.join(keywords.values())}", param_hint="--transfer-syntax"
    )


class _Progress:
    """A bar on standard error, measured in bytes, while that is a terminal."""

    def __init__(self, found: "Survey") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.fields[objects]} of " + str(len(found.objects))),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._objects = 0
        self._task = self._progress.add_task("", total=found.size, objects=0)

    def __enter__(self) -> "_Progress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, size: int) -> None:
        self._objects += 1
        self._progress.update(self._task, advance=size, objects=self._objects)


def _print_failures(failures: list[tuple[Path, str]]) -> None:
    for path, reason in failures[:SHOWN_FAILURES]:
        print(f"pacsnode: {path}: {reason}", file=sys.stderr)
    if len(failures) > SHOWN_FAILURES:
        print(f"pacsnode: and {len(failures) - SHOWN_FAILURES} more", file=sys.stderr)


def _print_summary(found: "Survey", tally: "Tally", seconds: float) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    rate = f"{tally.sent / seconds:.0f} objects/s, {tally.bytes / seconds / 1e6:.1f} MB/s" if seconds else ""
    table.add_row("sent", str(tally.sent), rate)
    if tally.transcoded:
        table.add_row("  transcoded", str(tally.transcoded), "")
    for reason, count in tally.as_stored_by_reason()[:SHOWN_FAILURES]:
        table.add_row("  as stored", str(count), reason)
    if tally.warnings:
        table.add_row("  with a warning", str(len(tally.warnings)), tally.warnings[0][1])
    table.add_row("failed", str(len(tally.failures)), "")
    for reason, count in tally.failures_by_reason()[:SHOWN_FAILURES]:
        table.add_row("", str(count), reason)
    if found.unreadable:
        table.add_row(
            "unreadable", str(len(found.unreadable)), "files or folders that could not be looked at"
        )
    if found.skipped:
        table.add_row(
            "skipped", str(len(found.skipped)), f"not DICOM objects; {found.skipped[0]} is the first"
        )
    print_table(table)
