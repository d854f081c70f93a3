"""Service classes as the dispatcher sees them: SOP classes, handlers by command, requests and responses.

A service class is one subclass of `ServiceClass` in `services/` and one line in `SERVICE_CLASSES` there;
negotiation and dispatch read everything they need from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.dimse.assembler import MemorySink, RefusingSink, Sink
from pacsnode.dimse.command import CommandField, CommandSet
from pacsnode.errors import SopClassNotSupported, UnrecognizedOperation
from pacsnode.net.invoker import CommandOf, OnResponse, OutgoingData, Prepared
from pacsnode.ul.negotiation import AcceptedContext, AssociateAccept
from pacsnode.ul.pdu import Buffer


class Channel(Protocol):
    """What services, and their users, see of an association; `Association` has it."""

    accept: AssociateAccept | None
    contexts: dict[int, AcceptedContext]
    window: int
    log: structlog.stdlib.BoundLogger
    ended: asyncio.Event

    @property
    def calling_ae(self) -> str: ...

    @property
    def called_ae(self) -> str: ...

    @property
    def remote_address(self) -> str: ...

    @property
    def is_idle(self) -> bool: ...

    def context_for(self, abstract_syntax: str) -> AcceptedContext | None: ...

    def invoke(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData | None = None
    ) -> AsyncGenerator[tuple[CommandSet, bytes], None]: ...

    def invoke_once(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData | None = None
    ) -> Coroutine[None, None, CommandSet]: ...

    def begin(
        self, context: AcceptedContext, command_of: CommandOf, data: OutgoingData, on_response: OnResponse
    ) -> Coroutine[None, None, None]: ...

    def prepare(
        self, context: AcceptedContext, command_of: CommandOf, data: Buffer, foreseen_of: CommandOf
    ) -> Prepared: ...

    def begin_now(self, prepared: Prepared, on_response: OnResponse) -> bool: ...


@dataclass(slots=True)
class Request:
    """One DIMSE request with everything its handler may need.

    `on_cancel`: set by a handler that ends by itself at C-CANCEL; one that does not set it is stopped.
    """

    association: Channel
    context: AcceptedContext
    command: CommandSet
    data: Sink | None
    on_cancel: Callable[[], None] | None = None

    @property
    def identifier_bytes(self) -> bytes:
        """The data set, as encoded in the context's transfer syntax; empty when there is none."""
        if isinstance(self.data, RefusingSink):
            raise self.data.error
        return self.data.value() if isinstance(self.data, MemorySink) else b""


@dataclass(slots=True)
class Response:
    """One response. `data` is encoded in the context's transfer syntax.

    The last four are of DIMSE-N: see `messages.response`.
    """

    status: int
    data: bytes | None = None
    comment: str = ""
    offending: tuple[int, ...] = ()
    suboperations: tuple[int | None, ...] = ()
    error_id: int | None = None
    sop_instance: UID | None = None
    attributes: tuple[int, ...] = ()
    typed: bool = False


@dataclass(slots=True)
class Matches:
    """Pending responses that differ in their data sets only, which are encoded as in `Response`."""

    status: int
    data: Sequence[bytes]


Operation = Callable[[Request], Awaitable[Response]]
Stream = Callable[[Request], AsyncGenerator[Response | Matches, None]]
"""Many responses: the handler yields them; the dispatcher adds the final Success, or Cancel on C-CANCEL."""


class ServiceClass:
    """Base of all service classes (PS3.4)."""

    def sop_classes(self) -> Iterable[UID]:
        """Abstract syntaxes accepted with this service as SCP."""
        return ()

    def transfer_syntaxes(self) -> tuple[UID, ...]:
        """Transfer syntaxes accepted for them."""
        return (EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE)

    def is_user(self) -> bool:
        """Whether this side may be SCU of them, if the requestor wants to be SCP (PS3.7 D.3.3.4)."""
        return False

    def operations(self) -> Mapping[CommandField, Operation]:
        """Handlers of the commands that have one response."""
        return {}

    def streams(self) -> Mapping[CommandField, Stream]:
        """Handlers of the commands that have pending responses."""
        return {}

    def extended_negotiation(self, sop_class: UID, offered: bytes) -> bytes | None:
        """The answer to SOP Class Extended Negotiation (PS3.7 D.3.3.5); None leaves the item out."""
        return None

    def open_data_set(self, association: Channel, context: AcceptedContext, command: CommandSet) -> Sink:
        """Where the data set that follows `command` goes."""
        return MemorySink()


class ServiceRegistry:
    """Abstract syntax -> service class, and its handlers."""

    def __init__(self, services: Iterable[ServiceClass], *, fallback: ServiceClass | None = None) -> None:
        """`fallback` serves abstract syntaxes that no service names (accept_unknown_sop_classes)."""
        self._fallback = fallback
        self._services: dict[UID, ServiceClass] = {}
        self._operations: dict[ServiceClass, Mapping[CommandField, Operation]] = {}
        self._streams: dict[ServiceClass, Mapping[CommandField, Stream]] = {}
        for service in services:
            self._operations[service] = service.operations()
            self._streams[service] = service.streams()
            self._services.update(dict.fromkeys(service.sop_classes(), service))

    @property
    def services(self) -> tuple[ServiceClass, ...]:
        """All of them, in the order they were given."""
        return tuple(self._operations)

    def service_of(self, abstract_syntax: UID) -> ServiceClass | None:
        return self._services.get(abstract_syntax, self._fallback)

    def serving(self, context: AcceptedContext) -> ServiceClass | None:
        """The service class of an accepted context, as negotiation found it."""
        return self.service_of(context.served_as or context.abstract_syntax)

    def operation(self, request: Request) -> Operation | None:
        """The handler with one response; None when the command is one with many."""
        service, field = self._resolve(request)
        return self._operations[service].get(field)

    def stream(self, request: Request) -> Stream:
        """The handler with many responses. Raises UnrecognizedOperation."""
        service, field = self._resolve(request)
        handler = self._streams[service].get(field)
        if handler is None:
            raise UnrecognizedOperation(f"{request.command.name} is no operation of this SOP class")
        return handler

    def _resolve(self, request: Request) -> tuple[ServiceClass, CommandField]:
        service = self.serving(request.context)
        if service is None:
            raise SopClassNotSupported(f"SOP class {request.context.abstract_syntax} is not served")
        try:
            return service, CommandField(request.command.field)
        except ValueError:
            raise UnrecognizedOperation(f"command field {request.command.name} is unknown") from None
