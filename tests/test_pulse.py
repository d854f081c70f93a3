"""The lag of an event loop that is really blocked, and what /health tells of it."""

import asyncio
import json
import time
import urllib.request

import structlog

from pacsnode import pulse
from pacsnode.node import Node
from pacsnode.pulse import Pulse
from tests.support.waiting import eventually


async def test_a_blocked_loop_shows() -> None:
    beating = Pulse()
    beating.start()
    try:
        await eventually(lambda: bool(beating._slices), "a first beat")
        asyncio.get_running_loop().call_soon(time.sleep, 0.12)  # what must never happen
        await eventually(lambda: beating.longest > 0.1, "the stall is seen")
        assert beating.longest < 5.0
    finally:
        beating.stop()


async def test_a_long_stall_is_logged() -> None:
    with structlog.testing.capture_logs() as events:
        beating = Pulse()
        beating.start()
        try:
            asyncio.get_running_loop().call_soon(time.sleep, pulse.STALL + 0.1)
            await eventually(lambda: any(e["event"] == "node.stalled" for e in events), "logged")
        finally:
            beating.stop()
    assert next(e for e in events if e["event"] == "node.stalled")["ms"] >= pulse.STALL * 1000


async def test_health_tells_the_lag(node: Node) -> None:
    def ask() -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.web_port}/health", timeout=10) as answer:
            facts: dict[str, object] = json.load(answer)
        return facts

    asyncio.get_running_loop().call_soon(time.sleep, 0.08)
    await eventually(lambda: node.loop_lag >= 0.06, "the stall is seen")
    facts = await asyncio.to_thread(ask)
    assert facts["status"] == "ok"
    assert facts["loop_lag_ms"] >= 60  # type: ignore[operator]
