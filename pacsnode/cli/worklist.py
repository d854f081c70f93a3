"""`pacsnode worklist list|show|add|import|remove`: the worklist of a data root, in use or not."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacsnode.cli.options import ConfigFile
from pacsnode.cli.state import DataRoot, data_root, opened
from pacsnode.errors import PacsnodeError

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacsnode.workflow.worklist import ListedItem, Worklist
    from pacsnode.workflow.worklist_item import WorklistItem

STEP = "ScheduledProcedureStepSequence"

Numbers = Annotated[list[int], typer.Argument(metavar="NUMBER...", help="Items, as `list` numbers them.")]
Json = Annotated[bool, typer.Option("--json", help="Print DICOM JSON.")]


class NotTaken(PacsnodeError):
    """Something was not put in, or is not there."""


def group() -> typer.Typer:
    """The `worklist` group."""
    app = typer.Typer(help="Scheduled procedure steps: what modalities are told.", no_args_is_help=True)
    app.command("list")(list_items)
    app.command()(show)
    app.command()(add)
    app.command("import")(import_files)
    app.command()(remove)
    return app


def list_items(
    config: ConfigFile = None,
    storage: DataRoot = None,
    all_states: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the items that are scheduled or in progress."""
    import asyncio

    found = asyncio.run(_list(config, storage, all_states))
    if as_json:
        print(json.dumps([_data_set(listed.item).to_json_dict() for listed in found], ensure_ascii=False))
    else:
        _print_table(found)


async def _list(config: Path | None, storage: Path | None, all_states: bool) -> "list[ListedItem]":
    from pacsnode.workflow.worklist_state import StepState

    open_states = (StepState.SCHEDULED, StepState.IN_PROGRESS)
    async with _worklist(config, storage) as worklist:
        return await worklist.items(tuple(StepState) if all_states else open_states)


def show(
    numbers: Numbers, config: ConfigFile = None, storage: DataRoot = None, as_json: Json = False
) -> None:
    """Print items whole."""
    import asyncio

    found = asyncio.run(_show(numbers, config, storage))
    if as_json:
        print(json.dumps([_data_set(listed.item).to_json_dict() for listed in found], ensure_ascii=False))
        return
    for listed in found:
        print(f"# item {listed.id}, {listed.state.value}, from {listed.origin}")
        print(_data_set(listed.item))


async def _show(numbers: list[int], config: Path | None, storage: Path | None) -> "list[ListedItem]":
    async with _worklist(config, storage) as worklist:
        return [await _item(worklist, number) for number in numbers]


def add(
    patient_id: Annotated[str, typer.Option("--patient-id", metavar="ID")],
    patient_name: Annotated[
        str, typer.Option("--patient-name", metavar="NAME", help="As DICOM has it: DOE^JANE.")
    ],
    modality: Annotated[str, typer.Option("--modality", metavar="CODE", help="CT, MR, ...")],
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="Of procedure and step.")],
    station: Annotated[str, typer.Option("--station", metavar="AET", help="The scheduled station.")] = "",
    start: Annotated[
        str, typer.Option("--start", metavar="YYYYMMDDHHMM", help="When it is scheduled; now if not given.")
    ] = "",
    accession: Annotated[str, typer.Option("--accession", metavar="NUMBER")] = "",
    study_uid: Annotated[
        str, typer.Option("--study-uid", metavar="UID", help="Study Instance UID; a new one if not given.")
    ] = "",
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            "-k",
            metavar="KEY=VALUE",
            help=f"Anything else: PatientSex=F, {STEP}.ScheduledStationName=CT1.",
        ),
    ] = None,
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> None:
    """Schedule a procedure step."""
    import asyncio

    from pacsnode.cli.querying import identifier
    from pacsnode.dicom.information_model import Level

    values = _new_values(start, accession, study_uid) | {
        "PatientID": patient_id,
        "PatientName": patient_name,
        "RequestedProcedureDescription": description,
        f"{STEP}.ScheduledProcedureStepStatus": "SCHEDULED",
        f"{STEP}.Modality": modality,
        f"{STEP}.ScheduledProcedureStepDescription": description,
        f"{STEP}.ScheduledStationAETitle": station,
    }
    data_set = identifier(
        Level.PATIENT, [*(f"{name}={value}" for name, value in values.items()), *(key or ())], ()
    )
    del data_set.QueryRetrieveLevel
    (number,) = asyncio.run(_put(_items_of_data_set(data_set), config, storage))
    print(f"item {number}")


def _new_values(start: str, accession: str, study_uid: str) -> dict[str, str]:
    """What identifies a new step, and when it begins."""
    import uuid
    from datetime import datetime

    try:
        moment = datetime.strptime(start, "%Y%m%d%H%M") if start else datetime.now()
    except ValueError:
        raise typer.BadParameter(f"{start!r} is no YYYYMMDDHHMM", param_hint="--start") from None
    number = uuid.uuid4()
    name = accession or f"{number.int % 10**12:012}"
    return {
        "AccessionNumber": accession,
        "StudyInstanceUID": study_uid or f"2.25.{number.int}",
        "RequestedProcedureID": name,
        f"{STEP}.ScheduledProcedureStepID": name,
        f"{STEP}.ScheduledProcedureStepStartDate": moment.strftime("%Y%m%d"),
        f"{STEP}.ScheduledProcedureStepStartTime": moment.strftime("%H%M%S"),
    }


def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="DICOM JSON (one data set or an array), or .dcm and .wl."),
    ],
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> int:
    """Put in the items of files; those that are known by study and step are changed."""
    import asyncio

    from pacsnode.cli.output import reason_of

    failed = False
    for path in files:
        try:
            numbers = asyncio.run(_put(_items_of(path), config, storage))
        except (NotTaken, PacsnodeError, OSError) as error:
            failed = True
            print(f"pacsnode: {path}: {reason_of(error)}", file=sys.stderr)
            continue
        print(f"{path}: {', '.join(f'item {number}' for number in numbers)}")
    return 1 if failed else 0


def remove(numbers: Numbers, config: ConfigFile = None, storage: DataRoot = None) -> None:
    """Forget items; those of the folder `worklists` go with their file."""
    import asyncio

    asyncio.run(_remove(numbers, config, storage))


async def _remove(numbers: list[int], config: Path | None, storage: Path | None) -> None:
    async with _worklist(config, storage) as worklist:
        for number in numbers:
            origin = (await _item(worklist, number)).origin
            if origin.startswith("folder:"):
                path = origin.removeprefix("folder:").rpartition("#")[0]
                raise NotTaken(f"item {number} is the file worklists/{path}: remove that")
        await worklist.remove(numbers)


async def _item(worklist: "Worklist", number: int) -> "ListedItem":
    found = await worklist.item(number)
    if found is None:
        raise NotTaken(f"there is no item {number}")
    return found


async def _put(items: "list[WorklistItem]", config: Path | None, storage: Path | None) -> list[int]:
    """Put in complete items, all or none. Raises IncompleteItem."""
    from pacsnode.workflow.worklist_item import STEP_ID, STUDY_UID

    for item in items:
        item.check()
    async with _worklist(config, storage) as worklist:
        return await worklist.add(
            (f"import:{item.text(STUDY_UID)}/{item.step_text(STEP_ID)}", item) for item in items
        )


def _items_of(path: Path) -> "list[WorklistItem]":
    """The items in a file. Raises NotTaken, CannotUnderstand, OSError."""
    from pacsnode.workflow.worklist_file import items_of_data

    data = path.read_bytes()
    if data.lstrip()[:1] not in (b"{", b"["):
        return items_of_data(data)
    from pydicom import Dataset

    try:
        document = json.loads(data)
        data_sets = [
            Dataset.from_json(one) for one in (document if isinstance(document, list) else [document])
        ]
        return [item for data_set in data_sets for item in _items_of_data_set(data_set)]
    except PacsnodeError:
        raise
    except Exception as error:  # pydicom has no base class for what wrong JSON makes it raise
        raise NotTaken(f"this is no DICOM JSON: {error}") from error


def _items_of_data_set(data_set: "Dataset") -> "list[WorklistItem]":
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
    from pacsnode.workflow.worklist_item import WorklistItem

    data_set.SpecificCharacterSet = "ISO_IR 192"
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, data_set)
    return WorklistItem.read(bytes(buffer.getvalue()), EXPLICIT_VR_LE)


def _data_set(item: "WorklistItem") -> "Dataset":
    from io import BytesIO

    from pydicom.filereader import read_dataset

    return read_dataset(BytesIO(item.encoded()), False, True)


@asynccontextmanager
async def _worklist(config: Path | None, storage: Path | None) -> "AsyncIterator[Worklist]":
    from pacsnode.config import load
    from pacsnode.workflow.worklist import Worklist

    settings = load(config)
    async with opened(data_root(config, storage)) as database:
        yield Worklist(database, settings.worklist)


def _print_table(found: "list[ListedItem]") -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from pacsnode.cli.output import print_table
    from pacsnode.workflow import worklist_item as tags

    table = Table(
        "item",
        "state",
        "start",
        "modality",
        "station",
        "patient ID",
        "patient",
        "accession",
        "step",
        box=SIMPLE,
    )
    for listed in found:
        item = listed.item
        start = f"{item.step_text(tags.START_DATE)} {item.step_text(tags.START_TIME)[:4]}"
        row = (
            *(listed.state.value, start, item.step_text(tags.MODALITY), item.step_text(tags.STATION_AE)),
            *(item.text(tag) for tag in (tags.PATIENT_ID, tags.PATIENT_NAME, tags.ACCESSION_NUMBER)),
            item.step_text(tags.STEP_DESCRIPTION),
        )
        table.add_row(str(listed.id), *(text.replace("[", r"\[") for text in row))
    if found:
        print_table(table)
    print(f"{len(found)} item{'' if len(found) == 1 else 's'}")
