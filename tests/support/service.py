"""`pacsnode serve` as a process of its own."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support import command

LIMIT = 60.0  # seconds for anything the process has to do; a start takes 20 on a machine with other work


class Service:
    """A started node. Its log is read as it is written."""

    def __init__(self, process: command.Process) -> None:
        self.process = process
        self.events: list[dict[str, object]] = []
        self.lines: list[str] = []
        self.port = 0
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, root: Path, *arguments: str, **variables: str) -> Self:
        """Start a node on free ports and wait until it serves."""
        service = await cls.spawn(root, *arguments, **variables)
        started = await service.event("node.started")
        service.port = int(str(started["dimse"]).rpartition(":")[2])
        return service

    @classmethod
    async def spawn(cls, root: Path, *arguments: str, **variables: str) -> Self:
        """Start a node and do not wait."""
        options = (
            "--storage",
            str(root),
            "--dimse-host",
            "127.0.0.1",
            "--dimse-port",
            "0",
            "--web-port",
            "0",
        )
        env = {"PACSNODE_STORAGE__RESERVE": "0", **variables}
        return cls(await command.start("serve", *options, *arguments, env=env, output=False))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def event(self, name: str, **facts: object) -> dict[str, object]:
        """The first event of that name with those facts; waits for it."""
        async with asyncio.timeout(LIMIT), self._news:
            while True:
                for event in self.events:
                    if event["event"] == name and facts.items() <= event.items():
                        return event
                assert not self._reading.done(), f"no {name} before the end: {self.lines[-5:]}"
                await self._news.wait()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; the exit status."""
        try:
            async with asyncio.timeout(LIMIT):
                status = await self.process.wait()
                await self._reading
        except TimeoutError:
            self.process.kill()
            raise
        return status

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line = raw.decode()
            async with self._news:
                self.lines.append(line)
                with suppress(ValueError):
                    self.events.append(json.loads(line))
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()
