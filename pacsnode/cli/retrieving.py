"""Retrieve SCU (PS3.4 C.4.2, C.4.3): what is asked for, what to offer a peer that sends, how it went."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import typer
from pydicom import Dataset
from pynetdicom.presentation import StoragePresentationContexts

from pacsnode.cli.options import one_of
from pacsnode.cli.output import print_table
from pacsnode.cli.querying import identifier
from pacsnode.cli.receiving import FolderStorage
from pacsnode.dicom.information_model import Level
from pacsnode.dicom.sop_class import (
    COMPOSITE_INSTANCE_ROOT_GET,
    COMPOSITE_INSTANCE_ROOT_MOVE,
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    PATIENT_STUDY_ONLY_GET,
    PATIENT_STUDY_ONLY_MOVE,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    WITHOUT_BULK_DATA_GET,
)
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.dimse.status import SUBOPERATIONS_WARNING, SUCCESS
from pacsnode.net.scu import Reply, SubOperations
from pacsnode.ul.negotiation import ProposedContext


class Model(StrEnum):
    """Information models of retrievals."""

    PATIENT = "patient"
    STUDY = "study"
    PATIENT_STUDY = "patient-study"
    COMPOSITE = "composite"
    WITHOUT_BULK_DATA = "without-bulk-data"

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of the models without a hierarchy; empty for the others, whose levels the peer knows."""
        return {Model.COMPOSITE: ("IMAGE", FRAME), Model.WITHOUT_BULK_DATA: ("IMAGE",)}.get(self, ())


FRAME: Final = "FRAME"

MOVE_SOP_CLASS_OF: Final[Mapping[Model, UID]] = {
    Model.PATIENT: PATIENT_ROOT_MOVE,
    Model.STUDY: STUDY_ROOT_MOVE,
    Model.PATIENT_STUDY: PATIENT_STUDY_ONLY_MOVE,
    Model.COMPOSITE: COMPOSITE_INSTANCE_ROOT_MOVE,
}
GET_SOP_CLASS_OF: Final[Mapping[Model, UID]] = {
    Model.PATIENT: PATIENT_ROOT_GET,
    Model.STUDY: STUDY_ROOT_GET,
    Model.PATIENT_STUDY: PATIENT_STUDY_ONLY_GET,
    Model.COMPOSITE: COMPOSITE_INSTANCE_ROOT_GET,
    Model.WITHOUT_BULK_DATA: WITHOUT_BULK_DATA_GET,
}
MAX_STORAGE_CONTEXTS: Final = 127  # of 128 (PS3.8 9.3.2.2); one is for the C-GET itself
SHOWN_FAILURES: Final = 20  # lines; the JSON has all of them


def request_of(
    level: str, model: str, keys: Iterable[str], models: Mapping[Model, UID]
) -> tuple[UID, Dataset]:
    """The SOP class and the identifier of a retrieval. Raises BadParameter, InvalidIdentifier."""
    level = level.upper()
    if level == Level.PATIENT.value and model == Model.STUDY:
        model = Model.PATIENT  # the study root has no patient level
    root = one_of(Model, model, "--model")
    if root not in models:
        raise typer.BadParameter(f"there is no C-MOVE of {root}", param_hint="--model")
    if root.levels and level not in root.levels:
        allowed = " and ".join(root.levels)
        raise typer.BadParameter(f"{root} has no {level}, only {allowed}", param_hint="--level")
    wanted = Level.IMAGE if level == FRAME and root.levels else one_of(Level, level, "--level")
    data_set = identifier(wanted, keys, returned=())
    data_set.QueryRetrieveLevel = level
    return models[root], data_set


def negotiation_of(sop_class: UID, relational: bool) -> dict[UID, bytes]:
    """The extended negotiation to offer (PS3.4 C.5.2.1)."""
    return {sop_class: b"\1"} if relational else {}


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
    for number, uid in enumerate(outcome.failed[:SHOWN_FAILURES]):
        table.add_row("" if number else "failed ones", uid)
    if len(outcome.failed) > SHOWN_FAILURES:
        table.add_row("", f"and {len(outcome.failed) - SHOWN_FAILURES} more")
    print_table(table)
