"""Peers' servers as processes of their own."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.waiting import eventually


@asynccontextmanager
async def storescp(address: str, folder: Path, title: str, *options: str) -> AsyncIterator[None]:
    """DCMTK's receiver at HOST:PORT, writing what it gets bit by bit into a new folder."""
    host, _, port = address.rpartition(":")
    os.mkdir(folder)
    process = await asyncio.create_subprocess_exec(
        "storescp", "+B", "-od", str(folder), "-aet", title, *options, port
    )
    try:
        await eventually(lambda: listens(host, int(port)), "storescp listens")
        yield
    finally:
        process.terminate()
        await process.wait()


def listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
