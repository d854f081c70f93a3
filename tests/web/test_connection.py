"""What no client may do to the others: heads without end, requests that never come, answers nobody reads."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count, repeat

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from pacsnode.node import Node
from pacsnode.web.connection import OVERHEAD_LIMIT, UNREAD_LIMIT, Patience
from pacsnode.web.server import WebListener
from tests.support.waiting import eventually, resident

HEAD = b"GET /health HTTP/1.1\r\nHost: here\r\n"
CHUNKED = (
    b"POST /dicomweb/studies HTTP/1.1\r\nHost: here\r\nContent-Type: application/dicom\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
AT_ONCE = 60_000  # bytes


def fields() -> Iterator[bytes]:
    for number in count():
        yield b"".join(b"X-%d-%d: %s\r\n" % (number, i, b"a" * 100) for i in range(500))


ENDLESS = {
    "a header": (HEAD + b"X-A: ", repeat(b"a" * AT_ONCE), 431),
    "headers": (HEAD, fields(), 431),
    "a URL": (b"GET /", repeat(b"a" * AT_ONCE), 414),
    "nothing": (b"", repeat(b"\r\n" * AT_ONCE), 431),
    "a chunk extension": (CHUNKED + b"5;", repeat(b"a" * AT_ONCE), 400),
    "trailers": (CHUNKED + b"0\r\n", fields(), 400),
    "noise": (b"", repeat(b"\x16\x03\x01" * AT_ONCE), 400),
}


@asynccontextmanager
async def listening(patience: Patience) -> AsyncIterator[tuple[WebListener, list[str]]]:
    """A listener whose one resource reads the body and answers with 8 MiB, and what became of requests."""
    fates: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            fates.append("gone")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(8):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        await send({"type": "http.response.body"})
        fates.append("answered")

    listener = WebListener(app, "127.0.0.1", 0, patience)
    await listener.start()
    try:
        yield listener, fates
    finally:
        await listener.stop()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The status and the reason of an answer that ends the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: close\r\n" in head
    problem = json.loads(await reader.read())
    assert int(head.split()[1]) == problem["status"]
    return problem["status"], problem["detail"]


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_has_no_end_is_refused_with_a_reason(what: str) -> None:
    begin, more, status = ENDLESS[what]
    async with listening(Patience()) as (listener, _):
        before = resident()
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        answer = asyncio.create_task(answer_of(reader))
        writer.write(begin)
        sent = 0
        while not answer.done() and sent < 50 * 2**20:
            writer.write(piece := next(more))
            sent += len(piece)
            await asyncio.sleep(0)
            await writer.drain()
        assert (await answer)[0] == status
        assert sent < 20 * 2**20
        assert resident() - before < 30 * 2**20
        writer.close()


async def test_a_long_but_honest_request_is_answered(node: Node) -> None:
    uids = ",".join(f"1.2.{'3' * 50}.{number}" for number in range(500))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.web_port}") as client:
        answer = await client.get("/dicomweb/studies", params={"StudyInstanceUID": uids})
        assert answer.status_code == 204
        refused = await client.get("/dicomweb/studies", params={"PatientName": "a" * 60_000})
        assert (refused.status_code, refused.json()["status"]) == (414, 414)

        async def by_the_byte() -> AsyncIterator[bytes]:
            for _ in range(OVERHEAD_LIMIT // 4):
                yield b"-"

        stored = await client.post(
            "/dicomweb/studies", content=by_the_byte(), headers={"Content-Type": "application/dicom"}
        )
        assert stored.status_code == 409  # read to its end; it is no DICOM file


async def test_trailers_are_no_headers(node: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.web_port)
    writer.write(CHUNKED + b"1\r\n-\r\n0\r\nX-Request-ID: smuggled\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 409 " in head
    assert b"smuggled" not in head
    writer.close()


async def test_a_request_that_does_not_come_is_waited_for_no_longer() -> None:
    async with listening(Patience(head=0.1, body=0.1)) as (listener, fates):
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", listener.port)
        begun, begun_writer = await asyncio.open_connection("127.0.0.1", listener.port)
        begun_writer.write(HEAD)
        half, half_writer = await asyncio.open_connection("127.0.0.1", listener.port)
        half_writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n12345")
        assert await idle.read() == b""
        assert (await answer_of(begun))[0] == 408
        assert (await answer_of(half))[0] == 408
        await eventually(lambda: fates == ["gone"], "who waited for the body is told")
        for writer in (idle_writer, begun_writer, half_writer):
            writer.close()


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async with listening(Patience(answer=0.1)) as (listener, fates):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(HEAD + b"\r\n")
        await eventually(lambda: fates == ["answered"], "the sender waits no longer")
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        taken = 0
        with suppress(OSError):
            while data := await reader.read(2**20):
                taken += len(data)
        assert taken < 8 * 2**20
        writer.close()


async def test_what_is_sent_behind_a_refusal_is_passed_over_but_not_for_ever() -> None:
    async with listening(Patience()) as (listener, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"no HTTP at all\r\n\r\n" + bytes(UNREAD_LIMIT // 2))
        assert (await answer_of(reader))[0] == 400
        more = 0
        with suppress(OSError):
            while more < 256:
                writer.write(bytes(2**20))
                await writer.drain()
                more += 1
        assert more < 256
        writer.close()
