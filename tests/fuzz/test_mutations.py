"""Mutated PDU streams and messages against a live node: it refuses, aborts or closes, and goes on serving.

The streams follow from the seed alone; PACSNODE_TEST_SEED tries others, PACSNODE_TEST_MUTATIONS more.
"""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from pacsnode.node import Node
from tests.support.objects import data_set_bytes, identifier, incoming, made, stored_files
from tests.support.raw import (
    COMMAND,
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    LAST,
    PATIENT_ROOT_FIND,
    RELEASE_RQ,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Closed,
    RawPeer,
    associate_rq,
    c_cancel,
    c_echo,
    c_find,
    c_store,
    data_pdus,
    find_message,
    p_data,
    pdu,
    pdv,
    store_message,
)
from tests.support.waiting import Holdings, eventually

SEED = int(os.environ.get("PACSNODE_TEST_SEED", "20240229"))
ROUNDS = int(os.environ.get("PACSNODE_TEST_MUTATIONS", "1600"))
AT_ONCE = 8
CONTEXTS = (
    (VERIFICATION, [IMPLICIT]),
    (CT_IMAGE, [EXPLICIT]),
    (STUDY_ROOT_FIND, [EXPLICIT]),
    (PATIENT_ROOT_FIND, [IMPLICIT]),
)
OBJECT = made(1, StudyDescription="mutated", PatientComments="x" * 300)
KEYS = identifier("STUDY", PatientName="M*", StudyDate="20200101-", StudyInstanceUID="", PatientComments="")
ROOT_KEYS = identifier("PATIENT", implicit=True, PatientName="M*", PatientID="")
STREAM = b"".join(
    (
        associate_rq(CONTEXTS, window=(4, 1), roles={CT_IMAGE: (1, 1)}),
        p_data(pdv(1, COMMAND | LAST, c_echo(1))),
        store_message(3, 2, CT_IMAGE, OBJECT.sop, OBJECT.data, 300),
        find_message(5, 3, STUDY_ROOT_FIND, KEYS),
        p_data(pdv(5, COMMAND | LAST, c_cancel(3))),
        find_message(7, 4, PATIENT_ROOT_FIND, ROOT_KEYS),
        pdu(RELEASE_RQ, bytes(4)),
    )
)
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
    b"\\",
    b"*",
    b"..",
)

Mutation = Callable[[random.Random, bytearray], None]


def flip_bits(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def overwrite(chance: random.Random, data: bytearray) -> None:
    value = chance.choice(_INTERESTING)
    start = chance.randrange(len(data))
    data[start : start + len(value)] = value


def insert(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    data[start:start] = chance.randbytes(chance.randint(1, 50))


def remove(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 50)]


def repeat(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    part = data[start : start + chance.randint(1, 400)]
    data[start:start] = part * chance.randint(1, 3)


def cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(1, len(data)) :]


MUTATIONS: tuple[Mutation, ...] = (flip_bits, overwrite, insert, remove, repeat, cut)


def mutated(chance: random.Random, data: bytes) -> bytes:
    copy = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        chance.choice(MUTATIONS)(chance, copy)
        if len(copy) < 2:
            break
    return bytes(copy) or b"\0"


@pytest.fixture
def complaints() -> Iterator[list[dict[str, object]]]:
    """What the event loop was told by nobody's handler: exceptions in protocols, tasks and callbacks."""
    found: list[dict[str, object]] = []
    yield found
    assert found == []


async def send_stream(port: int, stream: bytes, chance: random.Random) -> None:
    """Send a stream in a few pieces, then take what comes until the node closes."""
    peer = await RawPeer.connect(port)
    try:
        border = chance.randrange(len(stream))
        for piece in (stream[:border], stream[border:]):
            peer.send(piece)
            await peer.flushed()
            await asyncio.sleep(0)
        peer.writer.write_eof()
        while (await peer.pdu()).type:
            pass
    except ConnectionError:
        pass
    finally:
        await peer.close()


def wrong_message(chance: random.Random) -> bytes:
    """A message that is right as PDUs and PDVs and wrong inside."""
    part = chance.randrange(4)
    data = OBJECT.data if part < 2 else KEYS
    context = 3 if part < 2 else 5
    command = c_store(9, CT_IMAGE, OBJECT.sop) if part < 2 else c_find(9, STUDY_ROOT_FIND)
    if part % 2:
        command = mutated(chance, command)
    else:
        data = mutated(chance, data)
    return p_data(pdv(context, COMMAND | LAST, command)) + data_pdus(context, data, 16384)


async def send_messages(port: int, count: int, chance: random.Random) -> int:
    """Wrong messages, each followed by a C-ECHO that has to be answered unless the node ends it all.

    Returns how many were survived by their association.
    """
    survived, peer = 0, None
    for number in range(count):
        peer = peer or await RawPeer.associated(port, *CONTEXTS)
        try:
            peer.send(wrong_message(chance), p_data(pdv(1, COMMAND | LAST, c_echo(1000 + number))))
            while (await peer.reply()).message_id != 1000 + number:
                pass
            survived += 1
        except (Closed, ConnectionError):
            await peer.close()
            peer = None
    if peer is not None:
        await peer.close()
    return survived


async def serves_as_before(node: Node, root: Path, before: Holdings, events: list[EventDict]) -> None:
    await before.restored()
    await eventually(lambda: not incoming(root), "incoming/ is empty")
    assert [e for e in events if e["event"].endswith(("crashed", "job_failed")) or e.get("exc_info")] == []
    fresh = made(9)
    async with await RawPeer.associated(node.dimse_port, *CONTEXTS) as peer:
        assert await peer.echo() == 0x0000
        assert (await peer.store(fresh.sop, fresh.data)).status == 0x0000
        keys = identifier("STUDY", StudyInstanceUID=fresh.study)
        replies = await peer.find(keys, context=5)
        assert [reply.status for reply in replies] == [0xFF00, 0x0000]
        assert await peer.release()
    assert all(data_set_bytes(path) for path in stored_files(root))


async def test_mutated_streams(node: Node, root: Path, complaints: list[dict[str, object]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    chances = [random.Random(f"{SEED} stream {number}") for number in range(ROUNDS)]
    before = Holdings.now()
    with structlog.testing.capture_logs() as events:
        for start in range(0, ROUNDS, AT_ONCE):
            group = chances[start : start + AT_ONCE]
            await asyncio.gather(*(send_stream(node.dimse_port, mutated(c, STREAM), c) for c in group))
        await serves_as_before(node, root, before, list(events))
    assert len([e for e in events if e["event"].endswith("aborted")]) > ROUNDS // 4


async def test_mutated_messages(node: Node, root: Path, complaints: list[dict[str, object]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    chances = [random.Random(f"{SEED} messages {number}") for number in range(AT_ONCE)]
    before = Holdings.now()
    with structlog.testing.capture_logs() as events:
        counts = [send_messages(node.dimse_port, ROUNDS // AT_ONCE, chance) for chance in chances]
        survived = sum(await asyncio.gather(*counts))
        await serves_as_before(node, root, before, list(events))
    assert survived > ROUNDS // 4
    assert [e for e in events if e["event"] == "operation.failed"]
