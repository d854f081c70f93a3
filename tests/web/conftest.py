"""A node with real objects, asked over HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from pacsnode.node import Node


@pytest_asyncio.fixture
async def web(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running node."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.web_port}", timeout=20) as client:
        yield client
