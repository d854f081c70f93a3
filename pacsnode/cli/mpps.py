"""`pacsnode mpps list|show`: performed procedure steps of a data root, in use or not."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pacsnode.cli.options import ConfigFile, one_of
from pacsnode.cli.state import DataRoot, data_root, moment, opened

if TYPE_CHECKING:
    from pacsnode.workflow.mpps import PerformedStep, PerformedSteps

Result = TypeVar("Result")


def group() -> typer.Typer:
    """The `mpps` group."""
    app = typer.Typer(help="Performed procedure steps: what modalities have told.", no_args_is_help=True)
    app.command(name="list")(list_steps)
    app.command()(show)
    return app


def list_steps(
    config: ConfigFile = None,
    storage: DataRoot = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="IN PROGRESS, COMPLETED or DISCONTINUED.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="So many at most.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print DICOM JSON.")] = False,
) -> None:
    """Show steps, the one that changed last first, and how many of their instances have arrived."""
    from pacsnode.workflow.mpps import StepState

    wanted = one_of(StepState, state, "--state") if state else None
    found = _on(config, storage, lambda steps: steps.all(wanted, limit))
    if as_json:
        print(json.dumps([_as_json(step) for step in found], ensure_ascii=False))
        return
    from rich.box import SIMPLE
    from rich.table import Table

    from pacsnode.cli.output import print_table

    table = Table(box=SIMPLE)
    for heading in ("step", "state", "from", "changed", "patient ID", "accession", "instances", "arrived"):
        table.add_column(heading, justify="right" if heading in ("instances", "arrived") else "left")
    root = data_root(config, storage)
    for step in found:
        patient, accessions = str(step.attributes.get("PatientID") or ""), _accessions(step)
        texts = (step.sop_instance, step.state.value, step.source_ae, moment(step.changed_at))
        told, arrived = str(len(step.performed)), str(_arrived(root, step))
        table.add_row(*(text.replace("[", r"\[") for text in (*texts, patient, accessions)), told, arrived)
    print_table(table)


def show(
    sop_instance: Annotated[str, typer.Argument(metavar="STEP", help="The SOP Instance UID of a step.")],
    config: ConfigFile = None,
    storage: DataRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print DICOM JSON.")] = False,
) -> None:
    """Show all that was told of a step."""
    from pacsnode.dicom.uid import UID

    step = _on(config, storage, lambda steps: steps.get(UID(sop_instance)))
    if as_json:
        print(json.dumps(_as_json(step), ensure_ascii=False))
        return
    print(f"# from {step.source_ae}, created {moment(step.created_at)}, changed {moment(step.changed_at)}")
    if step.performed:
        arrived = _arrived(data_root(config, storage), step)
        print(f"# {arrived} of {len(step.performed)} instances have arrived")
    print(step.attributes)


def _accessions(step: "PerformedStep") -> str:
    return " ".join(one.accession_number for one in step.scheduled if one.accession_number)


def _as_json(step: "PerformedStep") -> dict[str, object]:
    """The attributes with the SOP UIDs, as PS3.18 has them."""
    from pacsnode.dicom.sop_class import MPPS

    attributes = step.attributes
    attributes.SOPClassUID, attributes.SOPInstanceUID = MPPS, step.sop_instance
    as_json: dict[str, object] = attributes.to_json_dict()
    return as_json


def _arrived(root: Path, step: "PerformedStep") -> int:
    """How many of the instances of a step the index has."""
    import sqlite3
    from contextlib import closing

    index = root / "index.sqlite"
    if not (step.performed and index.is_file()):
        return 0
    told = json.dumps([one.sop_instance for one in step.performed])
    with closing(sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT count(*) FROM instance WHERE sop_instance_uid IN (SELECT value FROM json_each(?))",
            (told,),
        )
        return int(found.fetchone()[0])


def _on(
    config: Path | None, storage: Path | None, work: Callable[["PerformedSteps"], Awaitable[Result]]
) -> Result:
    import asyncio

    from pacsnode.config import Mpps
    from pacsnode.workflow.jobs import Jobs
    from pacsnode.workflow.mpps import PerformedSteps
    from pacsnode.workflow.mpps_outbox import Outbox

    async def run() -> Result:
        async with opened(data_root(config, storage)) as database:
            return await work(PerformedSteps(database, Outbox(database, Jobs(database)), Mpps()))

    return asyncio.run(run())
