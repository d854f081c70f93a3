"""The MLLP listener of a node, with python-hl7's client and with bytes as netcat sends them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import hl7
import pytest
import pytest_asyncio
from hl7.client import MLLPClient
from hl7.mllp import open_hl7_connection

from pacsnode.node import Node
from tests.conftest import needs, run, settings_for
from tests.support.hl7 import adt, omi, orm
from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    hl7_settings = {"enabled": True, "host": "127.0.0.1", "port": 0, "max_message": 20_000}
    async with Node(settings_for(tmp_path_factory.mktemp("root"), hl7=hl7_settings)) as running:
        yield running


class Raw:
    """A connection that says what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> "Raw":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> str:
        block = await asyncio.wait_for(self.reader.readuntil(b"\x1c\r"), 10)
        assert block.startswith(b"\x0b")
        return block[1:-2].decode()


@pytest_asyncio.fixture(loop_scope="module")
async def raw(node: Node) -> AsyncIterator[Raw]:
    connection = await Raw.connect(node.hl7_port)
    yield connection
    connection.writer.close()


def framed(text: str) -> bytes:
    return b"\x0b" + text.encode() + b"\x1c\r"


def timer_of(port: int, peer_port: int) -> tuple[str, int]:
    """The kind of timer that runs for a connection, and its rest in clock ticks (proc(5))."""
    ends = f":{port:04X}", f":{peer_port:04X}"
    lines = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    (timer,) = [line[5] for line in lines if line[1].endswith(ends[0]) and line[2].endswith(ends[1])]
    kind, _, rest = timer.partition(":")
    return kind, int(rest, 16)


async def accessions(node: Node) -> list[str]:
    return [listed.item.text(0x00080050) for listed in await node.workflow.worklist.items()]


async def test_python_hl7_sends_orders_on_one_connection(node: Node) -> None:
    reader, writer = await open_hl7_connection("127.0.0.1", node.hl7_port, encoding="utf-8")
    for number in range(10, 15):
        writer.writemessage(hl7.parse(omi(number)))
        answer = await reader.readmessage()
        assert [str(field) for field in answer.segment("MSA")][1:] == ["AA", f"omi-{number}-NW"]
        assert str(answer.segment("MSH")[9]) == "ACK^O23^ACK"
    writer.close()
    assert set(await accessions(node)) >= {f"A{number}" for number in range(10, 15)}


async def test_python_hl7s_blocking_client(node: Node) -> None:
    def send() -> bytes:
        with MLLPClient("127.0.0.1", node.hl7_port, encoding="utf-8") as client:
            return bytes(client.send_message(hl7.parse(orm(20))))

    assert b"MSA|AA|orm-20-NW" in await asyncio.to_thread(send)


@needs("findscu")
async def test_an_order_is_on_the_worklist_when_it_is_acknowledged(node: Node, raw: Raw) -> None:
    raw.send(framed(omi(30)))
    assert "MSA|AA|" in await raw.answer()
    keys = ("-k", "AccessionNumber=A30", "-k", "PatientName", "-k", "SpecificCharacterSet=ISO_IR 192")
    found = await run("findscu", "-W", *keys, "127.0.0.1", str(node.dimse_port))
    assert "Müller^Jörg^^Dr.=山田^太郎" in found.output
    raw.send(framed(adt("A08", "u30", "PID|||P30^^^HOSP||Neu^Name")))
    assert "MSA|AA|u30" in await raw.answer()
    found = await run("findscu", "-W", *keys, "127.0.0.1", str(node.dimse_port))
    assert "Neu^Name" in found.output
    raw.send(framed(omi(30, "CA")))
    assert "MSA|AA|omi-30-CA" in await raw.answer()
    found = await run("findscu", "-W", *keys, "127.0.0.1", str(node.dimse_port))
    assert "PatientName" not in found.output


async def test_messages_in_one_segment_and_in_single_bytes(raw: Raw) -> None:
    raw.send(framed(orm(40)) + b"\r\n" + framed(orm(41)) + b"\n\n")
    assert ["MSA|AA|orm-40-NW" in await raw.answer(), "MSA|AA|orm-41-NW" in await raw.answer()] == [
        True,
        True,
    ]
    for byte in framed(orm(42)):
        raw.send(bytes([byte]))
        await asyncio.sleep(0)
    assert "MSA|AA|orm-42-NW" in await raw.answer()


async def test_what_stands_around_messages_is_passed_over(raw: Raw) -> None:
    raw.send(b"GET / HTTP/1.1\r\n\r\n\x1c\r\x0bhalf a message" + framed(orm(43)))
    assert "MSA|AA|orm-43-NW" in await raw.answer()


@pytest.mark.parametrize(("text", "code"), [("garbage", "AR"), (orm(44, modality=""), "AE"), ("", "AR")])
async def test_a_bad_message_is_answered_and_the_connection_goes_on(raw: Raw, text: str, code: str) -> None:
    raw.send(framed(text))
    assert f"MSA|{code}|" in await raw.answer()
    raw.send(framed(orm(45)))
    assert "MSA|AA|" in await raw.answer()


async def test_half_a_message_is_no_message(node: Node, raw: Raw) -> None:
    raw.send(framed(orm(50))[:-1])
    raw.writer.write_eof()
    assert await asyncio.wait_for(raw.reader.read(), 10) == b""
    assert "A50" not in await accessions(node)


async def test_a_message_that_is_too_long_ends_the_connection(raw: Raw) -> None:
    raw.send(b"\x0b" + b"x" * 50_000)
    with suppress(ConnectionError):  # the reset of a connection closed with bytes unread
        assert await asyncio.wait_for(raw.reader.read(), 10) == b""
    assert raw.reader.at_eof() or raw.reader.exception()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells the timers of connections")
async def test_a_sender_that_vanishes_keeps_no_place(node: Node, raw: Raw) -> None:
    raw.send(framed("hello"))
    await raw.answer()
    ours, theirs = node.hl7_port, raw.writer.get_extra_info("sockname")[1]
    kind = "01"
    while kind == "01":  # the answer is not acknowledged yet
        await asyncio.sleep(0.02)
        kind, jiffies = timer_of(ours, theirs)
    assert kind == "02"  # keepalive
    assert 0 < jiffies / os.sysconf("SC_CLK_TCK") <= 60


async def test_many_senders_at_once(node: Node) -> None:
    async def send(number: int) -> str:
        connection = await Raw.connect(node.hl7_port)
        connection.send(framed(orm(number)))
        answer = await connection.answer()
        connection.writer.close()
        return answer

    answers = await asyncio.gather(*(send(number) for number in range(100, 150)))
    assert [
        f"MSA|AA|orm-{number}-NW" in answer for number, answer in zip(range(100, 150), answers, strict=True)
    ]
    found = await accessions(node)
    assert sorted(set(found)) == sorted(found)
    assert {f"A{number}" for number in range(100, 150)} <= set(found)


async def test_the_node_stops_while_connections_are_open(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "root", hl7={"enabled": True, "host": "127.0.0.1", "port": 0})
    async with Node(settings) as node:
        connection = await Raw.connect(node.hl7_port)
        connection.send(framed(orm(1)))
        await connection.answer()
    assert await asyncio.wait_for(connection.reader.read(), 10) == b""
    connection.writer.close()


async def test_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    async with Node(settings_for(tmp_path / "root")) as node:
        with pytest.raises(AssertionError):
            _ = node.hl7_port


@needs("findscu")
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """SIGKILL after the acknowledgement; the order comes again, is answered as it was, is there once."""
    variables = {
        "PACSNODE_HL7__ENABLED": "true",
        "PACSNODE_HL7__HOST": "127.0.0.1",
        "PACSNODE_HL7__PORT": "0",
    }

    async def answered(service: Service) -> str:
        listening = await service.event("hl7.listening")
        connection = await Raw.connect(int(str(listening["address"]).rpartition(":")[2]))
        connection.send(framed(omi(7)))
        answer = await connection.answer()
        connection.writer.close()
        return answer

    async with await Service.start(tmp_path / "root", **variables) as service:
        first = await answered(service)
        service.process.kill()
        await service.ended()
    async with await Service.start(tmp_path / "root", **variables) as service:
        assert await answered(service) == first
        found = await run(
            "findscu", "-W", "-k", "AccessionNumber", "-k", "PatientID", "127.0.0.1", str(service.port)
        )
        assert found.output.count("[A7") == 1
