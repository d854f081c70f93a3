"""`pacsnode patient update|merge|list|history|undo`: patients of a data root, in use or not (IHE RAD PIR)."""

import getpass
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pacsnode.cli.options import ConfigFile
from pacsnode.cli.state import DataRoot, data_root, moment, opened
from pacsnode.errors import PatientRefused

if TYPE_CHECKING:
    from pacsnode.workflow.patients import Patients
    from pacsnode.workflow.reconciled import Reconciled, Reconciliation

PATIENCE: Final = 10.0  # seconds for the running node to follow

PatientId = Annotated[str, typer.Argument(metavar="ID", help="The Patient ID.")]
AnyPatientId = Annotated[str, typer.Argument(metavar="[ID]", help="One patient, by the old or the new ID.")]
Issuer = Annotated[
    str, typer.Option("--issuer", metavar="NAME", help="Issuer of the Patient ID, where objects tell one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def group() -> typer.Typer:
    """The `patient` group."""
    app = typer.Typer(
        help="Patients updated and merged: answered at once, coerced in objects that leave.",
        no_args_is_help=True,
    )
    app.command()(update)
    app.command()(merge)
    app.command("list")(list_patients)
    app.command()(history)
    app.command()(undo)
    return app


def update(
    patient_id: PatientId,
    issuer: Issuer = "",
    name: Annotated[str | None, typer.Option(metavar="NAME", help="As DICOM has it: DOE^JANE.")] = None,
    birth_date: Annotated[str | None, typer.Option(metavar="YYYYMMDD")] = None,
    sex: Annotated[str | None, typer.Option(metavar="M|F|O", help="Empty: not known.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", "-k", metavar="KEY=VALUE", help="Anything else: OtherPatientNames, PatientComments, ..."
        ),
    ] = None,
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> int:
    """Give a patient another name, birth date, sex; the files stay as they came."""
    import asyncio

    named = {"PatientName": name, "PatientBirthDate": birth_date, "PatientSex": sex}
    told = {keyword: value for keyword, value in named.items() if value is not None} | _keys(key or [])
    if not told:
        raise typer.BadParameter("nothing is to be changed: --name, --birth-date, --sex or --key")
    _check({**told, "PatientID": patient_id, "IssuerOfPatientID": issuer})
    return asyncio.run(_update(patient_id, issuer, told, data_root(config, storage), _title(config)))


async def _update(patient_id: str, issuer: str, told: dict[str, str], root: Path, title: str) -> int:
    from pacsnode.workflow.reconciled import Identity

    patient = Identity(patient_id, issuer)
    async with _patients(root, title) as patients:
        if not await patients.is_known(patient):
            raise PatientRefused(f"there is no patient {patient}", "there is no such patient")
        async with patients.transaction() as transaction:
            number = await patients.update(transaction, patient, told, _source())
    return await _told(root, number)


def merge(
    prior_id: Annotated[str, typer.Argument(metavar="PRIOR_ID", help="The Patient ID that ends.")],
    patient_id: Annotated[str, typer.Argument(metavar="ID", help="The one it becomes.")],
    prior_issuer: Annotated[str, typer.Option("--prior-issuer", metavar="NAME")] = "",
    issuer: Issuer = "",
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> int:
    """Have all that one patient has belong to another, also what comes later."""
    import asyncio

    for patient, of in ((prior_id, prior_issuer), (patient_id, issuer)):
        _check({"PatientID": patient, "IssuerOfPatientID": of})
    return asyncio.run(
        _merge((prior_id, prior_issuer), (patient_id, issuer), data_root(config, storage), _title(config))
    )


async def _merge(prior: tuple[str, str], patient: tuple[str, str], root: Path, title: str) -> int:
    from pacsnode.workflow.reconciled import Identity

    ended = Identity(*prior)
    async with _patients(root, title) as patients:
        if not await patients.is_known(ended):
            raise PatientRefused(f"there is no patient {ended}", "there is no such patient")
        async with patients.transaction() as transaction:
            number = await patients.merge(transaction, ended, Identity(*patient), {}, _source())
    return await _told(root, number)


def undo(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The entry, as `history` numbers it.")],
    config: ConfigFile = None,
    storage: DataRoot = None,
) -> int:
    """Take an update or merge back; whatever was changed again later has to be undone first."""
    import asyncio

    return asyncio.run(_undo(number, data_root(config, storage), _title(config)))


async def _undo(number: int, root: Path, title: str) -> int:
    async with _patients(root, title) as patients, patients.transaction() as transaction:
        made = await patients.undo(transaction, number, _source())
    return await _told(root, made)


def list_patients(
    patient_id: AnyPatientId = "",
    config: ConfigFile = None,
    storage: DataRoot = None,
    as_json: Json = False,
) -> None:
    """List what is said of patients otherwise than objects said when they came."""
    import asyncio

    found = asyncio.run(_list(patient_id, data_root(config, storage)))
    if as_json:
        print(json.dumps([_plain(one) for one in found], ensure_ascii=False))
    else:
        _print_patients(found)


async def _list(patient_id: str, root: Path) -> "list[Reconciled]":
    async with _patients(root) as patients:
        return await patients.current(patient_id)


def history(
    patient_id: AnyPatientId = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest so many.")] = 100,
    config: ConfigFile = None,
    storage: DataRoot = None,
    as_json: Json = False,
) -> None:
    """List what was decided, newest first."""
    import asyncio

    found = asyncio.run(_history(patient_id, limit, data_root(config, storage)))
    if as_json:
        from dataclasses import asdict

        print(json.dumps([asdict(entry) for entry in found], ensure_ascii=False))
    else:
        _print_history(found)


async def _history(patient_id: str, limit: int, root: Path) -> "list[Reconciliation]":
    async with _patients(root) as patients:
        return await patients.history(patient_id, limit)


@asynccontextmanager
async def _patients(root: Path, title: str = "") -> "AsyncIterator[Patients]":
    from pacsnode.workflow.patients import Patients

    async with opened(root) as database:
        yield Patients(database, root / "index.sqlite", title)


def _title(config: Path | None) -> str:
    """The AE title that objects will tell as the Modifying System."""
    from pacsnode.config import load

    return load(config).node.ae_title


def _source() -> str:
    return f"pacsnode patient, {getpass.getuser()}"


async def _told(root: Path, number: int | None) -> int:
    """Tell the number, once the running node follows it."""
    import asyncio

    from pacsnode.archive.known_patients import reconciled_up_to
    from pacsnode.cli.state import is_in_use

    if number is None:
        print("it is so already")
        return 0
    until = time.monotonic() + PATIENCE
    while is_in_use(root):
        if await asyncio.to_thread(reconciled_up_to, root / "index.sqlite") >= number:
            print(f"reconciliation {number}")
            return 0
        if time.monotonic() > until:
            print(f"reconciliation {number}: kept, but the node has not followed yet; see its log")
            return 1
        await asyncio.sleep(0.05)
    print(f"reconciliation {number}, from the next start of the node on")
    return 0


def _keys(texts: list[str]) -> dict[str, str]:
    from pacsnode.dicom.patient import PATIENT_ATTRIBUTES

    told = {}
    for text in texts:
        keyword, equals, value = text.partition("=")
        if not equals or keyword not in PATIENT_ATTRIBUTES or keyword in ("PatientID", "IssuerOfPatientID"):
            allowed = ", ".join(one for one in PATIENT_ATTRIBUTES if "PatientID" not in one)
            raise typer.BadParameter(f"{text!r} is no KEY=VALUE with one of {allowed}", param_hint="--key")
        told[keyword] = value
    return told


def _check(told: dict[str, str]) -> None:
    """Raise BadParameter for what is no value of its attribute (PS3.5 6.2)."""
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    from pacsnode.dicom.patient import PATIENT_ATTRIBUTES

    for keyword, value in told.items():
        attribute = PATIENT_ATTRIBUTES[keyword]
        try:
            if not attribute.multiple and "\\" in value:
                raise ValueError("a backslash parts several values")
            for one in value.split("\\"):
                validate_value(attribute.vr, one, RAISE)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is no {keyword}: {error}") from None
    if told.get("PatientSex", "") not in ("", "M", "F", "O"):
        raise typer.BadParameter("the sex is M, F, O or empty", param_hint="--sex")
    if not told["PatientID"].strip():
        raise typer.BadParameter("the Patient ID is empty", param_hint="ID")


def _plain(one: "Reconciled") -> dict[str, object]:
    return {
        "patient_id": one.received.patient_id,
        "issuer": one.received.issuer,
        "attributes": one.attributes,
        "reconciliation": one.decided_by,
        "changed_at": one.changed_at,
    }


def _print_patients(found: "list[Reconciled]") -> None:
    rows = [
        (str(one.received), str(one.current), _attributes(one.attributes), str(one.decided_by))
        for one in found
    ]
    _print(("as it came", "now", "attributes", "reconciliation"), rows, "identity", "identities")


def _print_history(found: "list[Reconciliation]") -> None:
    rows = []
    for entry in found:
        patient = f"{entry.prior} into {entry.patient}" if entry.prior.patient_id else str(entry.patient)
        what = f"undo of {entry.undoes}" if entry.undoes else entry.kind
        undone = f"by {entry.undone_by}" if entry.undone_by else ""
        told = _attributes(entry.attributes)
        rows.append((str(entry.id), moment(entry.at), what, patient, told, entry.source, undone))
    _print(("number", "at", "what", "patient", "attributes", "source", "undone"), rows, "entry", "entries")


def _attributes(attributes: dict[str, str]) -> str:
    return ", ".join(f"{keyword}={value}" for keyword, value in attributes.items())


def _print(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]], one: str, many: str) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from pacsnode.cli.output import print_table

    table = Table(*titles, box=SIMPLE)
    for row in rows:
        table.add_row(*(text.replace("[", r"\[") for text in row))
    if rows:
        print_table(table)
    print(f"{len(rows)} {one if len(rows) == 1 else many}")
