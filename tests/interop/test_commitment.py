"""Storage Commitment with pynetdicom as SCU and as SCP, and between two nodes (PS3.4 J)."""

import asyncio
import queue
import resource
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, Association, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from pacsnode.archive.integrity import Reference
from pacsnode.config import Peer
from pacsnode.dicom.uid import UID
from pacsnode.node import Node
from pacsnode.workflow.commitment_records import State
from pacsnode.workflow.commitment_requests import ASK, OVERDUE, TURNS
from tests.conftest import SettingsOf, settings_for
from tests.support.dimse_n import SYNTAXES, Listener, asked, listening, reference, scp_role
from tests.support.objects import made, object_path
from tests.support.raw import CT_IMAGE
from tests.support.sending import send_made
from tests.support.service import Service
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
OBJECTS = [made(number) for number in range(1, 4)]
QUICK: dict[str, object] = {"retry_after": 0.05, "retry_longest": 0.2}


def information(*pairs: tuple[str, str], uid: str | None = None) -> Dataset:
    """Action or event information with references (SOP class, SOP instance)."""
    told = Dataset()
    told.TransactionUID = uid or generate_uid()
    told.ReferencedSOPSequence = [reference(*pair) for pair in pairs]
    return told


STORED = [(CT_IMAGE, one.sop) for one in OBJECTS]


def action(association: Association, told: Dataset | None, kind: int = 1, instance: str | None = None) -> int:
    uid = instance or StorageCommitmentPushModelInstance
    return int(association.send_n_action(told, kind, StorageCommitmentPushModel, uid)[0].Status)


async def request(node: Node, told: Dataset | None, kind: int = 1, instance: str | None = None) -> int:
    return await asked(node.dimse_port, lambda a: action(a, told, kind, instance), StorageCommitmentPushModel)


def failures(told: Dataset) -> dict[str, int]:
    return {i.ReferencedSOPInstanceUID: i.FailureReason for i in told.get("FailedSOPSequence", [])}


def committed(told: Dataset) -> list[str]:
    return sorted(i.ReferencedSOPInstanceUID for i in told.get("ReferencedSOPSequence", []))


@pytest_asyncio.fixture
async def scene(settings_of: SettingsOf) -> AsyncIterator[tuple[Node, Listener]]:
    """A node with three objects, and the modality that asks it, listening for results."""
    with listening("MODALITY", as_scu=[StorageCommitmentPushModel]) as modality:
        settings = settings_of(
            peers={"MODALITY": f"127.0.0.1:{modality.port}"}, jobs=QUICK, commitment={"grace": 0.2}
        )
        async with Node(settings) as node:
            await send_made(node.dimse_port, OBJECTS)
            yield node, modality


async def test_a_result_comes_on_an_association_of_its_own(scene: tuple[Node, Listener]) -> None:
    node, modality = scene
    told = information(*STORED)
    assert await request(node, told) == 0x0000
    await eventually(lambda: modality.told, "the modality has its result")
    (result,) = modality.told
    assert (result.operation, result.type_id) == ("N-EVENT-REPORT", 1)
    assert result.sop_instance == StorageCommitmentPushModelInstance
    assert result.data.TransactionUID == told.TransactionUID
    assert result.data.RetrieveAETitle == "PACSNODE"
    assert committed(result.data) == sorted(one.sop for one in OBJECTS)
    assert "FailedSOPSequence" not in result.data
    assert result.calling_ae == "ANY-SCP"  # as the node was called


async def test_a_result_comes_on_the_association_of_the_request_when_that_stays_open(
    scene: tuple[Node, Listener],
) -> None:
    node, modality = scene
    told = information(*STORED)

    def ask_and_stay(association: Association) -> list[Dataset]:
        import threading

        here: list[Dataset] = []
        came = threading.Event()

        def take(event: evt.Event) -> tuple[int, None]:
            here.append(event.event_information)
            came.set()
            return 0x0000, None

        association.bind(evt.EVT_N_EVENT_REPORT, take)
        assert action(association, told) == 0x0000
        assert came.wait(10)
        return here

    (result,) = await asked(node.dimse_port, ask_and_stay, StorageCommitmentPushModel)
    assert result.TransactionUID == told.TransactionUID
    assert committed(result) == sorted(one.sop for one in OBJECTS)
    assert modality.told == []


async def test_each_instance_has_its_own_reason(scene: tuple[Node, Listener]) -> None:
    node, modality = scene
    first, second, third = OBJECTS
    path = object_path(node.settings.node.storage, second)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(bytes(damaged))
    told = information(
        (CT_IMAGE, first.sop), (CT_IMAGE, second.sop), (MR_IMAGE, third.sop), (CT_IMAGE, "1.2.3")
    )
    assert await request(node, told) == 0x0000
    await eventually(lambda: modality.told, "the modality has its result")
    (result,) = modality.told
    assert result.type_id == 2
    assert committed(result.data) == [first.sop]
    assert failures(result.data) == {second.sop: 0x0110, third.sop: 0x0119, "1.2.3": 0x0112}


async def test_a_file_that_is_gone_is_not_committed_to(scene: tuple[Node, Listener]) -> None:
    node, modality = scene
    object_path(node.settings.node.storage, OBJECTS[0]).unlink()
    assert await request(node, information(*STORED)) == 0x0000
    await eventually(lambda: modality.told, "the modality has its result")
    assert failures(modality.told[0].data) == {OBJECTS[0].sop: 0x0110}


async def test_what_cannot_be_read_for_want_of_descriptors_has_a_reason_of_its_own(tmp_path: Path) -> None:
    """0213H is no verdict on the object: asked again when there are descriptors, the node commits."""
    told = information(*STORED)
    async with await Service.start(tmp_path / "root", PACSNODE_COMMITMENT__GRACE="0") as service:
        await send_made(service.port, OBJECTS)
        pid = service.process.pid

        def ask_twice(association: Association) -> list[Dataset]:
            results: queue.Queue[Dataset] = queue.Queue()
            association.bind(
                evt.EVT_N_EVENT_REPORT, lambda e: (results.put(e.event_information), (0, None))[1]
            )
            usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free(pid), usual[1]))
            assert action(association, told) == 0x0000
            first = results.get(timeout=10)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
            assert action(association, told) == 0x0000
            return [first, results.get(timeout=10)]

        first, second = await asked(service.port, ask_twice, StorageCommitmentPushModel)
    assert failures(first) == {one.sop: 0x0213 for one in OBJECTS}
    assert committed(second) == sorted(one.sop for one in OBJECTS)


def lowest_free(pid: int) -> int:
    """The number that the next descriptor of a process will have."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(used) + 1) if number not in used)


async def test_requests_that_say_too_little_are_refused(scene: tuple[Node, Listener]) -> None:
    node, modality = scene
    no_uid = information(*STORED)
    del no_uid.TransactionUID
    no_sequence = information(*STORED)
    del no_sequence.ReferencedSOPSequence
    no_class = information(*STORED)
    del no_class.ReferencedSOPSequence[1].ReferencedSOPClassUID
    bad_uid = information(*STORED)
    bad_uid.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.x"
    twice = information(STORED[0], STORED[0])
    for told in (no_uid, no_sequence, information(), no_class, bad_uid, twice, None):
        assert await request(node, told) == 0x0115, told
    assert await request(node, information(*STORED), kind=2) == 0x0123
    assert await request(node, information(*STORED), instance="1.2.3") == 0x0112
    assert modality.told == []
    assert await node.workflow.jobs.all() == []


async def test_a_transaction_uid_in_use_for_something_else_fails(scene: tuple[Node, Listener]) -> None:
    node, modality = scene
    told = information(*STORED)
    other = information(STORED[0], uid=told.TransactionUID)
    assert await request(node, told) == 0x0000
    await eventually(lambda: modality.told, "the first result has come")
    assert await request(node, other) == 0x0000
    await eventually(lambda: len(modality.told) == 2, "the second result has come")
    assert failures(modality.told[1].data) == {OBJECTS[0].sop: 0x0131}


async def test_a_request_that_is_repeated_is_answered_again(scene: tuple[Node, Listener]) -> None:
    node, modality = scene
    late = made(4)
    told = information((CT_IMAGE, OBJECTS[0].sop), (CT_IMAGE, late.sop))
    assert await request(node, told) == 0x0000
    await eventually(lambda: modality.told, "the first result has come")
    assert failures(modality.told[0].data) == {late.sop: 0x0112}
    await send_made(node.dimse_port, [late])
    await eventually_reported(node, 1)
    assert await request(node, told) == 0x0000
    await eventually(lambda: len(modality.told) == 2, "the second result has come")
    assert modality.told[1].type_id == 1


async def eventually_reported(node: Node, number: int) -> None:
    async with asyncio.timeout(10):
        while (await node.workflow.commitments.records.get(number)).state is not State.REPORTED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_result_waits_for_a_modality_that_is_away(settings_of: SettingsOf) -> None:
    with listening("MODALITY", as_scu=[StorageCommitmentPushModel]) as away:
        port = away.port
    settings = settings_of(peers={"MODALITY": f"127.0.0.1:{port}"}, jobs=QUICK, commitment={"grace": 0})
    async with Node(settings) as node:
        await send_made(node.dimse_port, OBJECTS)
        told = information(*STORED)
        assert await request(node, told) == 0x0000
    async with Node(settings):
        with listening("MODALITY", as_scu=[StorageCommitmentPushModel], port=port) as back:
            back.statuses += [0x0110]  # it does not take it at once
            await eventually(lambda: len(back.told) == 2, "the modality has its result")
    assert {one.data.TransactionUID for one in back.told} == {told.TransactionUID}


async def test_a_modality_that_is_no_peer_gets_its_result_once_it_is_one(settings_of: SettingsOf) -> None:
    async with Node(settings_of(jobs=QUICK, commitment={"grace": 0})) as node:
        await send_made(node.dimse_port, OBJECTS)
        assert await request(node, information(*STORED)) == 0x0000
        with listening("MODALITY", as_scu=[StorageCommitmentPushModel]) as modality:
            address = Peer.parse(f"MODALITY@127.0.0.1:{modality.port}")
            await node.workflow.peers.add(address)
            await eventually(lambda: modality.told, "the modality has its result")


# As SCU


async def ask(node: Node, peer: str, pairs: Sequence[tuple[str, str]]) -> int:
    references = [Reference(UID(sop_class), UID(sop_instance)) for sop_class, sop_instance in pairs]
    async with node.workflow.database.transaction() as transaction:
        (number,) = await node.workflow.commitment_requests.ask(transaction, peer, references)
    return number


async def reached(node: Node, number: int, state: State) -> None:
    async with asyncio.timeout(10):
        while (await node.workflow.commitments.records.get(number)).state is not state:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Archive:
    """pynetdicom as SCP of Storage Commitment; `result` is how it answers which request."""

    def __init__(self) -> None:
        self.requests: list[Dataset] = []
        self.statuses: list[int] = []
        self.ae = AE("ARCHIVE")
        self.ae.add_supported_context(StorageCommitmentPushModel, SYNTAXES)
        self.server = self.ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, self.n_action)]
        )
        self.port = self.server.server_address[1]

    def n_action(self, event: evt.Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        return (self.statuses.pop(0) if self.statuses else 0x0000), None

    def report(self, port: int, told: Dataset, event: int) -> int:
        """Report on an association of its own, as SCP."""
        ae = AE("ARCHIVE")
        ae.add_requested_context(StorageCommitmentPushModel, SYNTAXES)
        association = ae.associate("127.0.0.1", port, ext_neg=[scp_role(StorageCommitmentPushModel)])
        assert association.is_established
        status, _ = association.send_n_event_report(
            told, event, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        association.release()
        return int(status.Status)


@pytest_asyncio.fixture
async def archive(settings_of: SettingsOf) -> AsyncIterator[tuple[Node, Archive]]:
    """A node and the archive it asks."""
    scp = Archive()
    settings = settings_of(peers={"ARCHIVE": f"127.0.0.1:{scp.port}"}, jobs=QUICK, commitment={"wait": 0})
    try:
        async with Node(settings) as node:
            yield node, scp
    finally:
        scp.server.shutdown()


async def test_an_archive_is_asked_and_its_answer_kept(archive: tuple[Node, Archive]) -> None:
    node, scp = archive
    number = await ask(node, "ARCHIVE", STORED)
    await reached(node, number, State.ACCEPTED)
    (told,) = scp.requests
    assert committed(told) == sorted(uid for _, uid in STORED)
    stranger = (CT_IMAGE, "1.2.3")  # which nobody asked for
    result = information(*STORED[:2], stranger, uid=told.TransactionUID)
    failed = reference(*STORED[2])
    failed.FailureReason = 0x0112
    result.FailedSOPSequence = [failed]
    assert await asyncio.to_thread(scp.report, node.dimse_port, result, 2) == 0x0000
    await reached(node, number, State.ANSWERED)
    places = [
        await node.workflow.commitments.records.committed_at(Reference(UID(c), UID(i))) for c, i in STORED
    ]
    assert places == [["ARCHIVE"], ["ARCHIVE"], []]
    kept = (await node.workflow.commitments.records.get(number)).results
    assert {one.reference.sop_instance for one in kept} == {uid for _, uid in STORED}


async def test_results_that_fit_nothing_are_refused(archive: tuple[Node, Archive]) -> None:
    node, scp = archive
    number = await ask(node, "ARCHIVE", STORED)
    await reached(node, number, State.ACCEPTED)
    uid = scp.requests[0].TransactionUID
    no_uid = information(*STORED)
    del no_uid.TransactionUID
    for told, event, status in (
        (information(*STORED), 1, 0x0115),  # of no request
        (no_uid, 1, 0x0115),
        (information(uid=uid), 1, 0x0115),
        (information(*STORED, uid=uid), 3, 0x0113),
    ):
        assert await asyncio.to_thread(scp.report, node.dimse_port, told, event) == status
    assert (await node.workflow.commitments.records.get(number)).state is State.ACCEPTED


async def test_a_request_that_failed_is_asked_again_under_another_uid(archive: tuple[Node, Archive]) -> None:
    node, scp = archive
    scp.statuses += [0x0213]
    await reached(node, await ask(node, "ARCHIVE", STORED), State.ACCEPTED)
    assert len({one.TransactionUID for one in scp.requests}) == len(scp.requests) == 2


async def test_a_request_that_is_refused_is_not_asked_again(archive: tuple[Node, Archive]) -> None:
    node, scp = archive
    scp.statuses += [0x0122]
    await reached(node, await ask(node, "ARCHIVE", STORED), State.REFUSED)
    (job,) = await node.workflow.jobs.all()
    await eventually_state(node, job.id, "dead")
    assert len(scp.requests) == 1


async def test_a_peer_that_never_answers_is_asked_again_and_given_up_in_the_end(
    settings_of: SettingsOf,
) -> None:
    scp = Archive()
    commitment: dict[str, object] = {"wait": 0, "answer_within": 0.02}
    settings = settings_of(peers={"ARCHIVE": f"127.0.0.1:{scp.port}"}, jobs=QUICK, commitment=commitment)
    try:
        async with Node(settings) as node:
            first = await ask(node, "ARCHIVE", STORED)
        await asyncio.sleep(0)
        async with Node(settings) as node:  # that it is waited for outlives the node
            await eventually(lambda: len(scp.requests) == TURNS + 1, "it has been asked so often")
            assert len({one.TransactionUID for one in scp.requests}) == TURNS + 1
            assert {tuple(committed(one)) for one in scp.requests} == {tuple(committed(scp.requests[0]))}
            last = first + TURNS
            async with asyncio.timeout(10):
                while not [job for job in await node.workflow.jobs.all() if job.state == "dead"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            late = information(*STORED, uid=scp.requests[0].TransactionUID)
            assert await asyncio.to_thread(scp.report, node.dimse_port, late, 1) == 0x0000
            await reached(node, first, State.ANSWERED)  # better late than never
            assert (await node.workflow.commitments.records.get(last)).state is State.ACCEPTED
    finally:
        scp.server.shutdown()


async def test_an_answer_in_time_ends_the_waiting(archive: tuple[Node, Archive]) -> None:
    node, scp = archive
    number = await ask(node, "ARCHIVE", STORED)
    await reached(node, number, State.ACCEPTED)
    assert {job.kind for job in await node.workflow.jobs.all()} == {ASK, OVERDUE}
    result = information(*STORED, uid=scp.requests[0].TransactionUID)
    assert await asyncio.to_thread(scp.report, node.dimse_port, result, 1) == 0x0000
    assert {job.kind for job in await node.workflow.jobs.all()} == {ASK}


async def eventually_state(node: Node, number: int, state: str) -> None:
    async with asyncio.timeout(10):
        while (job := await node.workflow.jobs.get(number)) is None or job.state != state:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wait", [0, 5])
async def test_what_one_node_forwards_another_commits_to(tmp_path: Path, wait: float) -> None:
    """With `wait` the result comes on the association of the request, without on one of its own."""
    there_settings = settings_for(
        tmp_path / "there", node={"ae_title": "THERE"}, jobs=QUICK, commitment={"grace": 0}
    )
    async with Node(there_settings) as there:
        settings = settings_for(
            tmp_path / "here",
            node={"ae_title": "HERE"},
            peers={"THERE": f"127.0.0.1:{there.dimse_port}"},
            forward={"all": {"to": ["THERE"], "commit": True}},
            jobs=QUICK,
            commitment={"wait": wait},
        )
        async with Node(settings) as here:
            await there.workflow.peers.add(Peer.parse(f"HERE@127.0.0.1:{here.dimse_port}"))
            await send_made(here.dimse_port, OBJECTS)
            for one in OBJECTS:
                async with asyncio.timeout(10):
                    while not await here.workflow.commitments.records.committed_at(  # noqa: ASYNC110
                        Reference(UID(CT_IMAGE), UID(one.sop))
                    ):
                        await asyncio.sleep(0.02)


async def test_reported_results_are_forgotten_in_time(scene: tuple[Node, Listener]) -> None:
    node, _ = scene
    database = node.workflow.database
    for number in (1, 2):
        assert await request(node, information(*STORED)) == 0x0000
        await reached(node, number, State.REPORTED)
        async with database.transaction() as transaction:  # long ago
            await transaction.execute("UPDATE commitment SET changed_at = 0 WHERE id = 1")
    assert [one.id for one in await node.workflow.commitments.records.all()] == [2]
    rows = await database.fetch("SELECT DISTINCT commitment FROM commitment_instance")
    assert [row[0] for row in rows] == [2]
