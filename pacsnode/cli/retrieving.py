"""Retrieve SCU (PS3.4 C.4.2, C.4.3): what is asked for, what to offer a peer that sends, how it went."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import typer
from pydicom import Dataset
from pynetdicom.presentation import StoragePresentationContexts

from pacsnode.cli.options import one_of
from pacsnode.cli.output import print_table
from pacsnode.cli.querying import Model, identifier
from pacsnode.cli.receiving import FolderStorage
from pacsnode.dicom.information_model import Level
from pacsnode.dicom.sop_class import (
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    PATIENT_STUDY_ONLY_GET,
    PATIENT_STUDY_ONLY_MOVE,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.dimse.status import SUBOPERATIONS_WARNING, SUCCESS
from pacsnode.net.scu import Reply, SubOperations
from pacsnode.ul.negotiation import ProposedContext

MOVE_SOP_CLASS_OF: Final[Mapping[Model, UID]] = {
    Model.PATIENT: PATIENT_ROOT_MOVE,
    Model.STUDY: STUDY_ROOT_MOVE,
    Model.PATIENT_STUDY: PATIENT_STUDY_ONLY_MOVE,
}
GET_SOP_CLASS_OF: Final[Mapping[Model, UID]] = {
    Model.PATIENT: PATIENT_ROOT_GET,
    Model.STUDY: STUDY_ROOT_GET,
    Model.PATIENT_STUDY: PATIENT_STUDY_ONLY_GET,
}
MAX_STORAGE_CONTEXTS: Final = 127  # of 128 (PS3.8 9.3.2.2); one is for the C-GET itself
SHOWN_FAILURES: Final = 20  # lines; the JSON has all of them


def request_of(level: str, model: str, keys: Iterable[str]) -> tuple[Model, Dataset]:
    """The information model and the identifier of a retrieval. Raises BadParameter, InvalidIdentifier."""
    wanted = one_of(Level, level.upper(), "--level")
    if wanted is Level.PATIENT and model == "study":
        model = "patient"  # the study root has no patient level
    return one_of(Model, model, "--model"), identifier(wanted, keys, returned=())


def contexts_to_get(
    sop_class: UID, storage: Sequence[str], transfer_syntaxes: Sequence[str]
) -> list[ProposedContext]:
    """The C-GET's own context, then one for each SOP class to be stored and each transfer syntax wanted.

    Raises BadParameter when they are too many for an association.
    """
    for text in (*storage, *transfer_syntaxes):
        if not is_uid(text):
            raise typer.BadParameter(f"{text!r} is no UID", param_hint="--sop-class, --transfer-syntax")
    usual = (str(context.abstract_syntax) for context in StoragePresentationContexts[:MAX_STORAGE_CONTEXTS])
    classes = [UID(uid) for uid in storage or usual]
    syntaxes = [*((UID(uid),) for uid in transfer_syntaxes), (EXPLICIT_VR_LE, IMPLICIT_VR_LE)]
    if len(classes) * len(syntaxes) > MAX_STORAGE_CONTEXTS:
        raise typer.BadParameter(
            f"{len(classes)} SOP classes in {len(syntaxes)} ways are more than an association can carry",
            param_hint="--sop-class, --transfer-syntax",
        )
    wanted: list[tuple[UID, tuple[UID, ...]]] = [(sop_class, (EXPLICIT_VR_LE, IMPLICIT_VR_LE))]
    wanted += [(one, offered) for one in classes for offered in syntaxes]
    return [ProposedContext(2 * number + 1, *pair) for number, pair in enumerate(wanted)]


class Outcome:
    """What the responses said. `storage`: where a C-GET's instances went."""

    def __init__(self, storage: FolderStorage | None = None) -> None:
        self.status = SUCCESS
        self.comment = ""
        self.counts = SubOperations()
        self.failed: list[str] = []
        self.storage = storage
        self._begun = time.perf_counter()

    def heard(self, reply: Reply) -> None:
        self.status, self.comment = reply.status, reply.comment
        self.counts = reply.suboperations
        if reply.identifier is not None:
            listed = reply.identifier.get("FailedSOPInstanceUIDList") or []
            self.failed = [listed] if isinstance(listed, str) else [str(uid) for uid in listed]

    @property
    def is_good(self) -> bool:
        return self.status in (SUCCESS, SUBOPERATIONS_WARNING) and not self.counts.failed and not self.failed

    def summary(self) -> dict[str, object]:
        """What is printed with --json; null where the peer did not tell."""
        told: dict[str, object] = {
            "status": f"{self.status:04X}",
            "comment": self.comment,
            "completed": self.counts.completed,
            "failed": self.counts.failed,
            "warning": self.counts.warning,
            "failed_instances": self.failed,
        }
        if self.storage is not None:
            told |= {"received": self.storage.instances, "bytes": self.storage.bytes}
        return told | {"seconds": round(time.perf_counter() - self._begun, 3)}


class Progress:
    """A bar on standard error, measured in instances, while that is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._bar = Bar(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, outcome: Outcome) -> None:
        counts = outcome.counts
        done = (counts.completed or 0) + (counts.failed or 0) + (counts.warning or 0)
        self._bar.update(self._task, completed=done, total=done + (counts.remaining or 0))


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """The summary on standard output."""
    summary = outcome.summary()
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in summary.items():
        if name != "failed_instances" and value not in (None, ""):
            table.add_row(name, str(value).replace("[", r"\["))
    for uid in outcome.failed[:SHOWN_FAILURES]:
        table.add_row("", uid)
    if len(outcome.failed) > SHOWN_FAILURES:
        table.add_row("", f"and {len(outcome.failed) - SHOWN_FAILURES} more")
    print_table(table)
