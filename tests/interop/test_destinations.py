"""C-MOVE to real destinations that fail in every way, asked for by pynetdicom (PS3.4 C.4.2).

Down, silent, rejecting, accepting nothing, aborting half-way, out of resources, slow: the status, the
counters and the list of what failed.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as STUDY_ROOT_MOVE
from pynetdicom.sop_class import Verification

from pacsnode.node import Node
from tests.conftest import SettingsOf, needs
from tests.support.destination import free_address
from tests.support.objects import Made, made
from tests.support.programs import storescp
from tests.support.raw import CT_IMAGE
from tests.support.sending import send_made

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALL_FAILED, WARNING, SUCCESS, CANCEL, PENDING = 0xA702, 0xB000, 0x0000, 0xFE00, 0xFF00
ITEMS = [made(number) for number in range(1, 9)]


@dataclass
class Answers:
    """The responses to a C-MOVE, and when they came."""

    statuses: list[Dataset] = field(default_factory=list)
    identifiers: list[Dataset | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def final(self) -> tuple[int, int, int, int]:
        """Status, completed, failed, warnings. What is remaining is told by a cancelled one only."""
        status = self.statuses[-1]
        assert ("NumberOfRemainingSuboperations" in status) == (status.Status == CANCEL)
        return (
            status.Status,
            status.NumberOfCompletedSuboperations,
            status.NumberOfFailedSuboperations,
            status.NumberOfWarningSuboperations,
        )

    @property
    def failed(self) -> set[str]:
        found = getattr(self.identifiers[-1], "FailedSOPInstanceUIDList", None) or []
        return {found} if isinstance(found, str) else set(map(str, found))

    @property
    def pending(self) -> list[Dataset]:
        assert {status.Status for status in self.statuses[:-1]} <= {PENDING}
        return self.statuses[:-1]


def ask(node: Node, cancel_after: int = 0) -> Answers:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ITEMS[0].study
    association = AE("VIEWER").associate(
        "127.0.0.1", node.dimse_port, contexts=[build_context(STUDY_ROOT_MOVE)]
    )
    answers = Answers()
    for status, found in association.send_c_move(identifier, "DESTINATION", STUDY_ROOT_MOVE, msg_id=7):
        answers.statuses.append(status)
        answers.identifiers.append(found)
        answers.times.append(time.monotonic())
        if len(answers.statuses) == cancel_after:
            association.send_c_cancel(7, query_model=STUDY_ROOT_MOVE)
    association.release()
    return answers


async def move(node: Node, cancel_after: int = 0) -> Answers:
    return await asyncio.to_thread(ask, node, cancel_after)


@asynccontextmanager
async def node_knowing(
    settings_of: SettingsOf, address: str, associations: int = 1, items: list[Made] = ITEMS, **dimse: object
) -> AsyncIterator[Node]:
    host, _, port = address.rpartition(":")
    peer = {"host": host, "port": int(port), "associations": associations}
    async with Node(settings_of(peers={"DESTINATION": peer}, dimse=dimse)) as node:
        await send_made(node.dimse_port, items)
        yield node


EVERYTHING = {item.sop for item in ITEMS}


# DCMTK and plain sockets


async def test_nobody_listens(settings_of: SettingsOf) -> None:
    async with node_knowing(settings_of, free_address()) as node:
        answers = await move(node)
    assert answers.final == (ALL_FAILED, 0, 8, 0)
    assert answers.failed == EVERYTHING
    assert "cannot be reached" in answers.statuses[-1].ErrorComment


@pytest.mark.parametrize(
    "says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["nothing", "what is no PDU"]
)
async def test_a_listener_that_is_no_dicom_node(settings_of: SettingsOf, says: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with node_knowing(settings_of, f"127.0.0.1:{port}", dimse_timeout=0.3) as node:
            answers = await move(node)
    assert answers.final == (ALL_FAILED, 0, 8, 0)
    assert answers.failed == EVERYTHING


@needs("storescp")
@pytest.mark.parametrize("option", ["--refuse", "--reject", "--abort-during", "--abort-after"])
async def test_a_storescp_that_ends_associations(
    settings_of: SettingsOf, option: str, tmp_path: Path
) -> None:
    """--reject is of associations without an implementation class: ours goes through."""
    address = free_address()
    async with (
        storescp(address, tmp_path / "got", "DESTINATION", option),
        node_knowing(settings_of, address) as node,
    ):
        answers = await move(node)
    if option == "--reject":
        assert answers.final == (SUCCESS, 8, 0, 0)
    else:
        assert answers.final == (ALL_FAILED, 0, 8, 0)
        assert answers.failed == EVERYTHING


@needs("storescp")
async def test_a_storescp_that_does_not_answer_in_time(settings_of: SettingsOf, tmp_path: Path) -> None:
    address = free_address()
    async with (
        storescp(address, tmp_path / "got", "DESTINATION", "--sleep-after", "1"),
        node_knowing(settings_of, address, dimse_timeout=0.3, items=ITEMS[:2]) as node,
    ):
        answers = await move(node)
    assert answers.final == (WARNING, 1, 1, 0)  # it sleeps behind the first answer


@needs("storescp")
async def test_a_storescp_without_room_for_files(settings_of: SettingsOf, tmp_path: Path) -> None:
    """It answers A700H for each object, and keeps its association."""
    address = free_address()
    async with (
        storescp(address, tmp_path / "got", "DESTINATION"),
        node_knowing(settings_of, address) as node,
    ):
        (tmp_path / "got").rmdir()
        answers = await move(node)
    assert answers.final == (ALL_FAILED, 0, 8, 0)
    assert answers.failed == EVERYTHING


# pynetdicom


Store = Callable[[evt.Event], int]


@contextmanager
def pynetdicom(
    store: Store, sop_classes: tuple[str, ...] = (CT_IMAGE,), most: int = 10
) -> Iterator[tuple[str, "Seen"]]:
    """A Storage SCP for `most` associations at a time."""
    seen = Seen()
    ae = AE("DESTINATION")
    ae.maximum_associations = most
    for sop_class in sop_classes:
        ae.add_supported_context(sop_class)

    def handle(event: evt.Event) -> int:
        status = store(event)
        if status in (SUCCESS, WARNING):
            with seen.lock:
                seen.stored.append(str(event.request.AffectedSOPInstanceUID))
        return status

    address = free_address()
    host, _, port = address.rpartition(":")
    handlers: list[tuple[object, Callable[..., object]]] = [
        (evt.EVT_C_STORE, handle),
        (evt.EVT_ESTABLISHED, lambda _event: seen.count(+1)),
        (evt.EVT_RELEASED, lambda _event: seen.count(-1)),
    ]
    server = ae.start_server((host, int(port)), block=False, evt_handlers=handlers)
    try:
        yield address, seen
    finally:
        server.shutdown()


class Seen:
    """What a destination has seen."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.lock = threading.Lock()
        self.associations = 0
        self.most = 0

    def count(self, change: int) -> None:
        with self.lock:
            self.associations += change
            self.most = max(self.most, self.associations)


async def test_a_destination_that_accepts_nothing(settings_of: SettingsOf) -> None:
    with pynetdicom(lambda _event: SUCCESS, (Verification,)) as (address, _):
        async with node_knowing(settings_of, address) as node:
            answers = await move(node)
    assert answers.final == (ALL_FAILED, 0, 8, 0)
    assert answers.failed == EVERYTHING


@pytest.mark.parametrize(
    ("answers_of", "expected"),
    [
        ({1: 0xA700, 2: 0xC000}, (WARNING, 6, 2, 0)),
        ({3: 0xB000}, (WARNING, 7, 0, 1)),
        ({4: 0x0111}, (WARNING, 7, 0, 1)),  # it has the object
        ({number: 0xA700 for number in range(1, 9)}, (ALL_FAILED, 0, 8, 0)),
    ],
)
async def test_what_a_destination_answers_is_counted(
    settings_of: SettingsOf, answers_of: Mapping[int, int], expected: tuple[int, int, int, int]
) -> None:
    status_of = {ITEMS[number - 1].sop: status for number, status in answers_of.items()}

    def store(event: evt.Event) -> int:
        return status_of.get(str(event.request.AffectedSOPInstanceUID), SUCCESS)

    with pynetdicom(store) as (address, _):
        async with node_knowing(settings_of, address) as node:
            answers = await move(node)
    assert answers.final == expected
    assert answers.failed == {sop for sop, status in status_of.items() if status in (0xA700, 0xC000)}


@pytest.mark.parametrize("associations", [1, 3])
async def test_an_object_at_which_the_association_breaks_off_fails_alone(
    settings_of: SettingsOf, associations: int
) -> None:
    def store(event: evt.Event) -> int:
        if str(event.request.AffectedSOPInstanceUID) == ITEMS[3].sop:
            event.assoc.abort()
        return SUCCESS

    with pynetdicom(store) as (address, seen):
        async with node_knowing(settings_of, address, associations) as node:
            answers = await move(node)
    assert answers.final == (WARNING, 7, 1, 0)
    assert answers.failed == {ITEMS[3].sop}
    assert set(seen.stored) >= EVERYTHING - {ITEMS[3].sop}


async def test_pending_responses_come_each_second_and_no_more_than_objects(settings_of: SettingsOf) -> None:
    def store(_event: evt.Event) -> int:
        time.sleep(0.16)
        return SUCCESS

    with pynetdicom(store) as (address, _):
        async with node_knowing(settings_of, address) as node:
            answers = await move(node)
    assert answers.final == (SUCCESS, 8, 0, 0)
    assert len(answers.pending) <= 8
    gaps = [later - earlier for earlier, later in zip(answers.times, answers.times[1:], strict=False)]
    assert max(gaps) < 1.2  # of a busy machine
    for status in answers.pending:
        assert status.NumberOfRemainingSuboperations + status.NumberOfCompletedSuboperations == 8
    assert set(answers.identifiers[:-1]) <= {None}


async def test_cancel_stops_at_the_next_object(settings_of: SettingsOf) -> None:
    def store(_event: evt.Event) -> int:
        time.sleep(0.1)
        return SUCCESS

    with pynetdicom(store) as (address, seen):
        async with node_knowing(settings_of, address) as node:
            answers = await move(node, cancel_after=2)
    status, completed, failed, _ = answers.final
    assert (status, failed) == (CANCEL, 0)
    assert completed == len(seen.stored) < 8
    assert answers.statuses[-1].NumberOfRemainingSuboperations == 8 - completed


# Several associations


@pytest.mark.parametrize(("associations", "allowed"), [(4, 10), (4, 2), (4, 1)])
async def test_associations_share_the_objects(
    settings_of: SettingsOf, associations: int, allowed: int
) -> None:
    def store(_event: evt.Event) -> int:
        time.sleep(0.03)
        return SUCCESS

    items = [made(number) for number in range(1, 33)]
    with pynetdicom(store, most=allowed) as (address, seen):
        async with node_knowing(settings_of, address, associations, items) as node:
            answers = await move(node)
    assert answers.final == (SUCCESS, 32, 0, 0)
    assert sorted(seen.stored) == sorted(item.sop for item in items)  # each once
    assert seen.most == min(associations, allowed)


async def test_several_associations_to_where_nobody_listens(settings_of: SettingsOf) -> None:
    async with node_knowing(settings_of, free_address(), 4) as node:
        answers = await move(node)
    assert answers.final == (ALL_FAILED, 0, 8, 0)
    assert answers.failed == EVERYTHING
