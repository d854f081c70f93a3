"""The HTTP listener: uvicorn in the node's own event loop, without its hold on signals."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from pacsnode.web.connection import PATIENCE, Connection, Patience

KEEP_ALIVE: Final = 75  # seconds an idle connection stays; viewers pause for longer than uvicorn's 5
_TICK: Final = 1.0  # seconds; how often uvicorn renews the Date header, and connections are looked at


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, patience: Patience) -> None:
        super().__init__(config)
        self._patience = patience
        self.ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, but an address that cannot be had is an error, neither a log line nor the end."""
        log = logging.getLogger("uvicorn.error")
        log.disabled = True
        try:
            await super().startup(sockets)
        except SystemExit as ended:
            raise OSError(*getattr(ended.__context__, "args", ())) from ended
        finally:
            log.disabled = False

    async def main_loop(self) -> None:
        """As uvicorn's own, but woken at the end instead of looking for it ten times a second."""
        while not await self.on_tick(0):
            self._look_at_connections()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self.ending.wait()

    def _look_at_connections(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.look(now, self._patience)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGTERM and SIGINT to the node, which drains both listeners in order."""
        yield


class WebListener:
    """Serves one application on one address."""

    def __init__(self, app: ASGIApp, host: str, port: int, patience: Patience = PATIENCE) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # origin.py reads them
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=5,
        )
        self._server = _Server(config, patience)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port listened on; of use when 0 was asked for."""
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError("the HTTP listener ended at its start")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Take no more requests and let those under way finish."""
        self._server.should_exit = True
        self._server.ending.set()
        if self._task is not None and self._server.started:  # else start() has told what was wrong
            await self._task
