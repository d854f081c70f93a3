"""Prefetching: which prior studies are fetched, when, by C-MOVE and by C-GET, and from whom not."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pacsnode.config import Prefetch
from pacsnode.node import Node
from pacsnode.pixels import plan
from pacsnode.services.prefetch import contexts_to_get
from pacsnode.workflow.jobs import State
from tests.conftest import settings_for
from tests.support.destination import free_address
from tests.support.objects import Made, made
from tests.support.raw import CT_IMAGE, EXPLICIT, RawPeer
from tests.support.sending import send_made
from tests.support.waiting import eventually_true

PATIENT = "P7"
CURRENT = 70


def prior(study: int, **values: object) -> list[Made]:
    return [made(number, study=study, **{"PatientID": PATIENT, **values}) for number in (1, 2)]


PRIORS = {
    71: prior(71, StudyDate="20240101"),
    72: prior(72, StudyDate="20230101"),
    73: prior(73, StudyDate="20220101", Modality="US"),
    74: prior(74, StudyDate="19990101"),
    75: prior(75, StudyDate="20240102", PatientID="P77"),
}
NEW = made(1, study=CURRENT, PatientID=PATIENT, StudyDate="20240301")


@asynccontextmanager
async def beside_an_archive(
    tmp_path: Path, priors: Mapping[int, list[Made]] = PRIORS, **rule: object
) -> AsyncIterator[Node]:
    """A node with one rule, beside another one with `priors`, ARCHIVE, which knows it as PACSNODE."""
    address = free_address()
    _, _, port = address.rpartition(":")
    archive_settings = settings_for(
        tmp_path / "archive", node={"ae_title": "ARCHIVE"}, peers={"PACSNODE": address}
    )
    async with Node(archive_settings) as archive:
        for items in priors.values():
            await send_made(archive.dimse_port, items)
        settings = settings_for(
            tmp_path / "root",
            dimse={"port": int(port)},
            peers={"ARCHIVE": f"127.0.0.1:{archive.dimse_port}"},
            prefetch={"priors": {"source": "ARCHIVE", **rule}},
            workflow={"study_stable_after": 0.3},
        )
        async with Node(settings) as node:
            yield node


async def studies(node: Node) -> set[str]:
    rows = [row async for row in _studies(node)]
    return set(rows)


async def _studies(node: Node) -> AsyncIterator[str]:
    from pacsnode.dicom.information_model import InformationModel, Level
    from pacsnode.dicom.query import QueryOptions, RequestedKey, query_of

    query = query_of(
        Level.STUDY, InformationModel.STUDY_ROOT, [RequestedKey(0x0020000D, "UI")], QueryOptions()
    )
    async for chunk in node.archive.search(query):
        for match in chunk:
            yield str(match[0])


async def all_done(node: Node, kinds: Sequence[str]) -> None:
    async def done() -> bool:
        jobs = await node.workflow.jobs.all()
        return len(jobs) == len(kinds) and all(job.state is State.DONE for job in jobs)

    await eventually_true(done, f"the jobs are {kinds}, and done")
    assert [job.kind for job in reversed(await node.workflow.jobs.all())] == list(kinds)


@pytest.mark.parametrize(
    ("method", "rule", "fetched"),
    [
        ("move", {}, (71, 72, 73, 74)),
        ("get", {}, (71, 72, 73, 74)),
        ("move", {"most": 2, "prior_modality": ["C?"]}, (71, 72)),
        ("get", {"prior_modality": ["US"]}, (73,)),
        ("get", {"newest_days": 365 * 15}, (71, 72, 73)),
        ("move", {"modality": ["MR"]}, ()),
        ("move", {"calling_ae": ["RAW"], "when": "study-stable", "most": 1}, (71,)),
    ],
    ids=["all", "get", "most", "modality", "age", "other", "stable"],
)
async def test_prior_studies_of_the_patient_are_fetched(
    tmp_path: Path, method: str, rule: dict[str, object], fetched: tuple[int, ...]
) -> None:
    async with beside_an_archive(tmp_path, method=method, **rule) as node:
        await send_made(node.dimse_port, [NEW])
        await all_done(node, ["prefetch"] * bool(fetched) + ["retrieve"] * len(fetched))
        expected = {PRIORS[number][0].study for number in fetched} | {NEW.study}

        async def complete() -> bool:
            return await studies(node) == expected

        await eventually_true(complete, "the studies are here")
        arrived, _ = await node.archive.changes.after(0)
        assert len(arrived) == 1 + 2 * len(fetched)
        assert {one.source_ae for one in arrived[1:]} <= {"ARCHIVE"}


async def test_a_study_of_many_sop_classes_comes_by_get(tmp_path: Path) -> None:
    """More than an association can carry in every transfer syntax: images, reports, a dose."""
    classes = [f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "7", "11.1", "88.22", "88.59", "88.67")]
    async with beside_an_archive(tmp_path, {}, method="get") as node:
        archive = await node.workflow.peers.get("ARCHIVE")
        assert archive is not None
        await send_kinds(archive.port, classes)
        await send_made(node.dimse_port, [NEW])
        await all_done(node, ["prefetch", "retrieve"])
        arrived, _ = await node.archive.changes.after(0)
        assert {one.sop_class for one in arrived[1:]} == set(classes)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_what_an_association_cannot_carry_is_what_nobody_stores(count: int) -> None:
    named = [f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in range(count)]
    contexts = contexts_to_get(named)
    assert len(contexts) <= 128
    assert len({context.id for context in contexts}) == len(contexts)
    for sop_class in named:
        offered = {c.transfer_syntaxes for c in contexts if c.abstract_syntax == sop_class}
        assert {(uid,) for uid in (*plan.NATIVE, *plan.DECODABLE_LOSSLESS, *plan.DECODABLE_LOSSY)} <= offered


async def test_what_is_here_is_not_fetched(tmp_path: Path) -> None:
    """The newest is here, of the second there is one of two."""
    async with beside_an_archive(tmp_path, most=2, calling_ae=["MODALITY"]) as node:
        await send_made(node.dimse_port, [*PRIORS[71], PRIORS[72][0]])
        await store(node, NEW, calling="MODALITY")
        await all_done(node, ["prefetch", "retrieve"])
        arrived, _ = await node.archive.changes.after(0)
        assert [one.sop_instance for one in arrived[4:]] == [PRIORS[72][1].sop]


async def send_kinds(port: int, sop_classes: Sequence[str]) -> None:
    """One object of each SOP class, all of one study."""
    contexts = [(sop_class, [EXPLICIT]) for sop_class in sop_classes]
    async with await RawPeer.associated(port, *contexts) as peer:
        for number, sop_class in enumerate(sop_classes):
            item = made(number, study=76, PatientID=PATIENT, SOPClassUID=sop_class)
            reply = await peer.store(item.sop, item.data, context=2 * number + 1, sop_class=sop_class)
            assert reply.status == 0
        assert await peer.release()


async def store(node: Node, item: Made, calling: str) -> None:
    async with await RawPeer.associated(node.dimse_port, (CT_IMAGE, [EXPLICIT]), calling=calling) as peer:
        assert (await peer.store(item.sop, item.data, context=1)).status == 0
        assert await peer.release()


async def test_an_order_fetches_before_the_patient_comes(tmp_path: Path) -> None:
    async with beside_an_archive(tmp_path, when="order", modality=["CT"], most=1) as node:
        database = node.workflow.database
        async with database.transaction() as transaction:
            for number, modality in ((1, "CT"), (2, "MR")):
                await put_order(transaction, number, modality)
        await all_done(node, ["prefetch", "retrieve"])
        assert await studies(node) == {PRIORS[71][0].study}


async def test_orders_that_are_over_fetch_nothing(tmp_path: Path) -> None:
    """A rule that is new meets all the orders that there have been."""
    async with beside_an_archive(tmp_path, when="order", most=1) as node:
        async with node.workflow.database.transaction() as transaction:
            for number, state in enumerate(("COMPLETED", "CANCELLED", "EXPIRED", "DISCONTINUED"), 1):
                await put_order(transaction, number, "CT", state)
            await put_order(transaction, 5, "CT", "IN PROGRESS")
        await all_done(node, ["prefetch", "retrieve"])


async def test_a_reload_takes_over_rules(tmp_path: Path) -> None:
    async with beside_an_archive(tmp_path, calling_ae=["NOBODY"]) as node:
        await send_made(node.dimse_port, [NEW])
        rules = {
            "order": {"source": "ARCHIVE", "when": "order", "prior_modality": ["US"]},
            "study": {"source": "ARCHIVE", "modality": ["CR"], "most": 1},
        }
        prefetch = {name: Prefetch.model_validate(rule) for name, rule in rules.items()}
        node.reload(node.settings.model_copy(update={"prefetch": prefetch}))
        async with node.workflow.database.transaction() as transaction:
            await put_order(transaction, 1, "CT")
        await all_done(node, ["prefetch", "retrieve"])
        await send_made(node.dimse_port, [made(1, study=90, PatientID=PATIENT, Modality="CR")])
        await all_done(node, ["prefetch", "retrieve"] * 2)


async def put_order(transaction: object, number: int, modality: str, state: str = "SCHEDULED") -> None:
    columns = await transaction.fetch("SELECT * FROM pragma_table_info('worklist_item')")  # type: ignore[attr-defined]
    values: dict[str, object] = {
        row["name"]: "" if row["type"] in ("TEXT", "") else 0 for row in columns if row["notnull"]
    }
    values |= {"id": number, "origin": f"o{number}", "patient_id": PATIENT, "modality": modality, "data": b""}
    values["state"] = state
    names = ", ".join(values)
    places = ", ".join("?" * len(values))
    await transaction.execute(  # type: ignore[attr-defined]
        f"INSERT INTO worklist_item ({names}) VALUES ({places})", tuple(values.values())
    )
