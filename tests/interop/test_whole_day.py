"""A whole day of a department (IHE SWF): orders, worklists, steps, images, commitment, notifications.

Everybody but the node is other people's software, and the node is killed at the moments of `PLUGS`. In the
end the books of all sides must agree: nothing is lost, and nothing happened twice.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.support.command import pacsnode
from tests.support.department import GONE_HOME, TODAY, TOMORROW, House, Modality, Order, OrderSystem, Ris
from tests.support.destination import free_address
from tests.support.objects import stored_files
from tests.support.service import Service
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PLUGS = {
    "order sent": 20,  # not acknowledged
    "step begun": 18,  # the second half of a request has just left
    "object sent": 150,  # in the middle of one, or behind it
    "result told": 25,  # the modality has it, and does not come to say so
    "availability told": 15,
}
MODALITIES = ("CT", "MR", "US", "NM", "OT")
ORDERS = [Order(number, MODALITIES[number % 5]) for number in range(1, 47)]
CANCELLED = [Order(number, MODALITIES[number % 5], TOMORROW) for number in range(47, 51)]
RENAMED = CANCELLED[0]
BOOKS = {
    "worklist": ("worklist", "list", "--all"),
    "mpps": ("mpps", "list", "--limit", "200"),
    "commitments": ("commitments", "list", "--limit", "200"),
    "jobs": ("jobs", "list", "--limit", "10000"),
}
SETTINGS = """
[node]
ae_title = "PACSNODE"
[peers]
{peers}
[hl7]
enabled = true
host = "127.0.0.1"
port = {hl7_port}
[worklist]
visibility = ["CT1 = station", "US1 = modality US", "NM1 = location NM ROOM", "* = station"]
stations = ["CT = CT1", "OT = OT1"]
[mpps]
forward = ["RIS"]
[availability]
notify = ["RIS"]
[commitment]
grace = 0.05
[workflow]
series_complete_after = 0.5
study_stable_after = 1.5
[jobs]
retry_after = 0.1
retry_longest = 0.5
per_peer = 4
"""


@dataclass
class Lives:
    """A node that is started again whenever it has been killed."""

    root: Path
    arguments: tuple[str, ...]
    house: House
    services: list[Service] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, object]]:
        return [event for service in self.services for event in service.events]

    @property
    def lines(self) -> list[str]:
        return [line for service in self.services for line in service.lines]

    def kill(self) -> None:
        os.kill(self.services[-1].process.pid, signal.SIGKILL)

    async def start(self) -> None:
        self.services.append(await Service.start(self.root, *self.arguments))
        self.house.node_is_there()

    async def stay_up(self) -> None:
        """Ends when the node ends by itself."""
        while await self.services[-1].ended() == -signal.SIGKILL:
            await self.start()


@asynccontextmanager
async def running(lives: Lives) -> AsyncIterator[asyncio.Task[None]]:
    """A node that is there again within a second or two of being killed."""
    await lives.start()
    staying = asyncio.create_task(lives.stay_up())
    try:
        yield staying
    finally:
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)
        for service in lives.services:
            await service.__aexit__()
        if name := os.environ.get("PACSNODE_TEST_KEEP_LOG"):
            await asyncio.to_thread(Path(name).write_text, "".join(lives.lines))


@dataclass
class Day:
    """What everybody knows when it is over."""

    house: House
    lives: Lives
    orders: OrderSystem
    modalities: list[Modality]
    ris: Ris
    left: list[str]
    books: dict[str, list[dict[str, object]]]
    root: Path


async def test_a_whole_day(tmp_path: Path) -> None:
    day = await spent(tmp_path)
    assert day.house.life == len(PLUGS) + 1, "each plug was pulled"
    orders_were_taken_once(day)
    modalities_saw_their_own_orders(day)
    images_are_there_as_they_were_sent(day)
    commitments_were_answered(day)
    the_ris_was_told_everything(day)
    the_books_of_the_node_agree(day)
    the_log_is_calm_and_discreet(day)


async def spent(tmp_path: Path) -> Day:
    dimse_port, hl7_port = (int(free_address().rpartition(":")[2]) for _ in range(2))
    root, config = tmp_path / "root", tmp_path / "pacsnode.toml"
    house = House(dimse_port, hl7_port, lambda: lives.kill(), PLUGS)
    lives = Lives(root, ("--config", str(config), "--dimse-port", str(dimse_port)), house)
    orders, ris = OrderSystem(house), Ris(house)
    modalities = [
        Modality(house, orders, "CT", ("CT_small.dcm", "CT_small.dcm", "CT_small.dcm")),
        Modality(house, orders, "MR", ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm"), stays=True),
        Modality(house, orders, "US", ("examples_jpeg2k.dcm",)),
        Modality(house, orders, "NM", ("JPEG2000.dcm", "JPEG2000.dcm")),
        Modality(house, orders, "OT", ("SC_rgb_small_odd.dcm", "SC_rgb_rle_2frame.dcm"), tells=False),
    ]
    with ExitStack() as stack:
        for peer in (ris, *modalities):
            stack.enter_context(peer.listening())
        peers = "\n".join(f'{p.title} = "127.0.0.1:{p.port}"' for p in (ris, *modalities))
        config.write_text(SETTINGS.format(peers=peers, hl7_port=hl7_port))
        async with running(lives) as staying:
            async with asyncio.TaskGroup() as everybody:
                everybody.create_task(order(orders))
                for modality in modalities:
                    everybody.create_task(asyncio.to_thread(modality.work))
            await ended(root, modalities, ris)
            left = [item.AccessionNumber for m in modalities for item in await asyncio.to_thread(m.worklist)]
            books = {name: await listed(root, *command) for name, command in BOOKS.items()}
            lives.services[-1].send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.shield(staying), 20)
    return Day(house, lives, orders, modalities, ris, left, books, root)


async def listed(root: Path, *command: str) -> list[dict[str, object]]:
    """What the command line tells beside the running node."""
    finished = await pacsnode(*command, "--storage", root, "--json")
    assert finished.status == 0, finished.output
    found = json.loads(finished.output)
    assert isinstance(found, list)
    return found


async def order(orders: OrderSystem) -> None:
    """In the morning. Three are for another day and come to be for this one, four are taken back."""
    moved = ORDERS[10:13]
    for one in (*ORDERS, *CANCELLED):
        await orders.send(one.message(day=TOMORROW if one in moved else ""))
    await orders.send(RENAMED.renamed("Anders^Ada"))
    for one in moved:
        await orders.send(one.message("XO", TODAY))
    for one in CANCELLED:
        await orders.send(one.message("CA"))
    orders.everything_sent.set()
    orders.close()


async def ended(root: Path, modalities: list[Modality], ris: Ris) -> None:
    """Wait until everybody has been told what is due to him, and the node has nothing more to do."""
    made = {one.study: one.instances for m in modalities for one in m.examinations}
    asked = {one.transaction for m in modalities for one in m.examinations}

    def all_told() -> bool:
        results = {one.transaction for m in modalities for one in m.results}
        told = {n.study for n in list(ris.notifications.values()) if n.instances == made[n.study]}
        going_on = [one for one in ris.steps.values() if one.state == "IN PROGRESS"]
        return results == asked and told == made.keys() and not going_on

    await eventually(all_told, "everybody has been told", 30)
    database = f"file:{root / 'workflow.sqlite'}?mode=ro"
    await eventually(lambda: not _open_jobs(database), "there is nothing more to do")


def _open_jobs(database: str) -> int:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database, uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM job WHERE ended_at IS NULL").fetchone()
    return int(count)


def orders_were_taken_once(day: Day) -> None:
    sent = [one for one in (*ORDERS, *CANCELLED)]
    assert len(day.orders.acknowledged) == len(sent) + 1 + 3 + len(CANCELLED)
    assert set(day.orders.acknowledged.values()) == {"AA"}


def modalities_saw_their_own_orders(day: Day) -> None:
    for modality in day.modalities:
        own = {one.accession for one in ORDERS if one.modality == modality.modality}
        others = {one.accession for one in CANCELLED if one.modality == modality.modality}
        assert own <= modality.seen <= own | others, modality.title
        assert set(modality.patients) == {int(accession[3:]) for accession in own}
        for number, name in modality.patients.items():
            assert name == f"Vertraulich{number}^Jörg"
    assert day.left == [], "what is done or cancelled is on no list"


def images_are_there_as_they_were_sent(day: Day) -> None:
    sent = {
        one.SOPInstanceUID: one for m in day.modalities for made in m.examinations for one in made.objects
    }
    held = {path.stem: path for path in stored_files(day.root)}
    assert held.keys() == sent.keys()
    for uid, path in held.items():
        stored = dcmread(path)
        assert Dataset(stored) == Dataset(sent[uid])
        assert stored.file_meta.TransferSyntaxUID == sent[uid].file_meta.TransferSyntaxUID
    assert not list((day.root / "conflicts").rglob("*.dcm"))
    assert not list((day.root / "incoming").iterdir())


def commitments_were_answered(day: Day) -> None:
    for modality in day.modalities:
        asked = {one.transaction: one.instances for one in modality.examinations}
        assert {one.transaction for one in modality.results} == asked.keys()
        for result in modality.results:
            assert result.committed == asked[result.transaction]
            assert not result.failed
        again = Counter((r.transaction, r.life) for r in modality.results if r.life.is_integer())
        twice = {transaction for (transaction, _), count in again.items() if count > 1}
        assert twice <= modality.repeated, "told twice in one life without being asked twice"


def the_ris_was_told_everything(day: Day) -> None:
    ris, told = day.ris, [m for m in day.modalities if m.tells]
    assert ris.wrong == []
    expected = {one.step: ("COMPLETED", one.instances) for m in told for one in m.examinations}
    expected |= {uid: ("DISCONTINUED", set()) for m in told for uid in m.discontinued}
    assert {uid: (one.state, one.instances) for uid, one in ris.steps.items()} == expected
    made = {one.study: one for m in day.modalities for one in m.examinations}
    notified: dict[str, list[frozenset[str]]] = {}
    for one in ris.notifications.values():
        notified.setdefault(one.study, []).append(one.instances)
        assert one.steps <= {made[one.study].step}
    assert notified.keys() == made.keys()
    for study, contents in notified.items():
        assert contents[-1] == made[study].instances
        assert len(set(contents)) == len(contents), "told again, though nothing more had come"
    lives = Counter(ris.repeated)
    assert sum(lives.values()) <= 4 * len(PLUGS), "only what a kill left unanswered is told again"


def the_books_of_the_node_agree(day: Day) -> None:
    items = [Dataset.from_json(one) for one in day.books["worklist"]]
    states = {
        i.AccessionNumber: i.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus for i in items
    }
    assert len(items) == len(states) == 50
    assert states == {
        **{one.accession: "COMPLETED" for one in ORDERS},
        f"ACC{GONE_HOME}": "DISCONTINUED",
        **{one.accession: "CANCELED" for one in CANCELLED},
    }
    (renamed,) = [i for i in items if i.AccessionNumber == RENAMED.accession]
    assert renamed.PatientName == "Anders^Ada"
    steps = {one.SOPInstanceUID: one for one in map(Dataset.from_json, day.books["mpps"])}
    assert {uid: s.PerformedProcedureStepStatus for uid, s in steps.items()} == {
        uid: one.state for uid, one in day.ris.steps.items()
    }
    commitments = day.books["commitments"]
    asked = {one.transaction: one.instances for m in day.modalities for one in m.examinations}
    assert sorted(str(one["transaction_uid"]) for one in commitments) == sorted(asked)
    assert {one["state"] for one in commitments} == {"reported"}
    for one in commitments:
        instances = one["instances"]
        assert isinstance(instances, list)
        assert {i["sop_instance"] for i in instances} == asked[str(one["transaction_uid"])]
        assert {i["failure_reason"] for i in instances} == {0}
    jobs = day.books["jobs"]
    assert {one["state"] for one in jobs} == {"done"}


def the_log_is_calm_and_discreet(day: Day) -> None:
    text = "".join(day.lives.lines)
    for secret in ("Vertraulich", "GEHEIM", "Anders^Ada", "19700102"):
        assert secret not in text
    serious = {(e["event"], e.get("status")) for e in day.lives.events if e["level"] not in ("info", "debug")}
    assert serious <= {
        ("index.recovered", None),  # after a kill
        ("operation.failed", "0111H"),  # a step that was begun, but not answered, is begun again
        ("operation.failed", "0110H"),  # and one that was ended
        ("node.stalled", None),  # the machine gave no time
    }
