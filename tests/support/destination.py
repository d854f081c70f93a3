"""A Storage SCP that does what a test tells it: where C-MOVE sends to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from pacsnode.dicom.sop_class import TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import CommandField
from pacsnode.net.acceptor import Acceptor, AcceptorOptions
from pacsnode.net.service import Operation, Request, Response, ServiceClass, ServiceRegistry
from pacsnode.ul.negotiation import AcceptorPolicy, Support
from tests.support.raw import CT_IMAGE

Answer = Callable[["Received"], Awaitable[int]]
"""A received object -> the status to answer."""


@dataclass(frozen=True)
class Received:
    """One C-STORE-RQ."""

    sop: str
    transfer_syntax: str
    data: bytes
    request: Request

    @property
    def originator(self) -> tuple[str, int | None]:
        """AE title and Message ID of the C-MOVE it serves."""
        command = self.request.command
        return command.text(0x1030), command.us_or_none(0x1031)


async def success(_received: Received) -> int:
    return 0x0000


@dataclass
class Destination(ServiceClass):
    """Listens while it is entered; `received` are the requests in the order they were complete."""

    answer: Answer = success
    takes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {CT_IMAGE: TRANSFER_SYNTAXES})
    window: int = 1
    callers: frozenset[str] | None = None
    max_pdu_length: int = 16384
    port: int = 0
    received: list[Received] = field(default_factory=list)
    acceptor: Acceptor = field(init=False)

    __hash__ = object.__hash__

    def operations(self) -> Mapping[CommandField, Operation]:
        return {CommandField.C_STORE_RQ: self.c_store}

    def sop_classes(self) -> tuple[UID, ...]:
        return tuple(UID(uid) for uid in self.takes)

    async def c_store(self, request: Request) -> Response:
        received = Received(
            request.command.sop_instance,
            request.context.transfer_syntax,
            request.identifier_bytes,
            request,
        )
        self.received.append(received)
        return Response(await self.answer(received), comment="as the test told it")

    @property
    def sops(self) -> list[str]:
        return [one.sop for one in self.received]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.acceptor.port}"

    async def __aenter__(self) -> Self:
        policy = AcceptorPolicy(
            ae_title="DESTINATION",
            support=self._support,
            allowed_calling_aes=self.callers,
            window=(self.window, self.window),
        )
        options = AcceptorOptions(port=self.port, max_pdu_length=self.max_pdu_length)
        self.acceptor = Acceptor(options, ServiceRegistry((self,)), lambda: policy)
        await self.acceptor.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.acceptor.drain(0)

    def _support(self, sop_class: UID) -> Support | None:
        taken = self.takes.get(sop_class)
        return None if taken is None else Support(frozenset(map(UID, taken)))


def free_address() -> str:
    """Where nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as held:
        return f"127.0.0.1:{held.getsockname()[1]}"


class Gate:
    """Holds answers back until it is opened; `arrived` is set by the first one that waits."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, _received: Received) -> int:
        self.arrived.set()
        await self.opened.wait()
        return 0x0000
