"""The SCP of a retrieval, whichever the information model: C-MOVE and C-GET (PS3.4 C.4.2, C.4.3).

A service class says what a request selects; from there on all go the same way. The instances are located in
the index, then sent as C-STORE sub-operations; pending responses tell how far that is.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

from pacsnode.archive.locate import Located
from pacsnode.config import Peer
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import ElementWriter
from pacsnode.dicom.information_model import InformationModel
from pacsnode.dicom.request_identifier import RequestIdentifier
from pacsnode.dicom.retrieval import Retrieval
from pacsnode.dicom.uid import UID, AETitle
from pacsnode.dimse.command import PRIORITY_MEDIUM, CommandField, Element
from pacsnode.dimse.status import CANCEL, PENDING, SUBOPERATIONS_FAILED, SUBOPERATIONS_WARNING, SUCCESS
from pacsnode.errors import UnknownDestination, UnrecognizedOperation
from pacsnode.net.scu import ServiceUser
from pacsnode.net.service import Request, Response, ServiceClass, Stream
from pacsnode.net.timeouts import timeouts_of
from pacsnode.services.instances import Instances
from pacsnode.services.room import Room
from pacsnode.services.suboperations import Origin, Route, SubOperations

PENDING_INTERVAL: Final = 0.9  # seconds: a requestor hears at least each second, and is not flooded
# DCMTK's movescu, when it is the destination too, looks for our association after each response only, else
# once a second: the second response comes when that association is surely on its way.
SECOND_PENDING: Final = 0.05  # seconds

FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request asks for. `level` is the one it names."""

    retrieval: Retrieval
    level: str
    objects: Sequence[Located]
    instances: Instances


class RetrieveSCP(ServiceClass):
    """Sends instances to where the requestor wants them."""

    move_models: ClassVar[Mapping[UID, InformationModel]] = MappingProxyType({})
    get_models: ClassVar[Mapping[UID, InformationModel]] = MappingProxyType({})

    def __init__(self, room: Room) -> None:
        self._room = room
        self._settings = room.settings

    @abstractmethod
    async def select(self, request: Request, model: InformationModel) -> Selection:
        """What the request asks for. Raises OperationError."""

    def sop_classes(self) -> tuple[UID, ...]:
        return (*self.move_models, *self.get_models)

    def streams(self) -> Mapping[CommandField, Stream]:
        return {CommandField.C_MOVE_RQ: self.c_move, CommandField.C_GET_RQ: self.c_get}

    async def c_move(self, request: Request) -> AsyncGenerator[Response, None]:
        """Send the instances to the Move Destination, over associations of our own."""
        selection = await self.select(request, _model_of(request, self.move_models))
        route = await self._route(request)
        origin = Origin(_priority(request), (request.association.calling_ae, request.command.message_id))
        run = SubOperations(selection.instances, selection.objects, origin, request.association.log)
        async for response in self._perform(request, selection, run, lambda: run.move(route)):
            yield response

    async def c_get(self, request: Request) -> AsyncGenerator[Response, None]:
        """Send the instances on the association the request came on."""
        selection = await self.select(request, _model_of(request, self.get_models))
        origin = Origin(_priority(request))
        run = SubOperations(selection.instances, selection.objects, origin, request.association.log)
        user = ServiceUser(request.association)
        async for response in self._perform(request, selection, run, lambda: run.store(user)):
            yield response

    async def locate(self, retrieval: Retrieval) -> list[Located]:
        """All instances: how many they are has to be known before the first one goes."""
        return [located async for chunk in self._room.archive.locate(retrieval) for located in chunk]

    async def _route(self, request: Request) -> Route:
        """How the Move Destination is reached. Raises UnknownDestination (A801H)."""
        dimse = self._settings.dimse
        title = AETitle(request.command.text(Element.MOVE_DESTINATION))
        peer = await self._room.workflow.peers.get(title)
        if peer is None and dimse.move_to_caller and title == request.association.calling_ae:
            address = request.association.remote_address
            peer = Peer(ae_title=title, host=address, port=dimse.move_to_caller_port)
        if peer is None:
            raise UnknownDestination(f"move destination {title} is unknown")
        return Route(peer, self._settings.node.ae_title, dimse.async_window, timeouts_of(dimse))

    async def _perform(
        self,
        request: Request,
        selection: Selection,
        run: SubOperations,
        send: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[Response, None]:
        """Do the work; a pending response at once and then each interval, the final one at the end."""

        async def work() -> None:
            async with selection.instances:
                await send()

        started = time.monotonic()
        request.on_cancel = run.stop
        task = asyncio.ensure_future(work())
        try:
            if run.total > 1:  # no more responses than objects, while they go quickly
                yield _pending(run)
            interval = SECOND_PENDING
            while not (await asyncio.wait({task}, timeout=interval))[0]:
                yield _pending(run)
                interval = PENDING_INTERVAL
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            request.association.log.info(
                "retrieval.answered",
                operation=request.command.name,
                model=selection.retrieval.model.value,
                query_level=selection.level,
                destination=request.command.text(Element.MOVE_DESTINATION),
                completed=run.completed,
                failed=len(run.failed),
                warnings=run.warnings,
                bytes=run.bytes,
                ms=round((time.monotonic() - started) * 1000, 1),
            )
        yield _final(request, run)


def identifier_of(request: Request) -> RequestIdentifier:
    """The identifier of a request. Raises CannotUnderstand (C000H)."""
    return RequestIdentifier(request.identifier_bytes, request.context.transfer_syntax)


def log_ignored(request: Request, retrieval: Retrieval) -> None:
    """Tell which keys of an identifier narrowed nothing down."""
    if retrieval.ignored:
        tags = [f"{tag:08X}" for tag in retrieval.ignored]
        request.association.log.debug("retrieval.keys_ignored", tags=tags)


def _model_of(request: Request, models: Mapping[UID, InformationModel]) -> InformationModel:
    model = models.get(request.context.abstract_syntax)
    if model is None:
        raise UnrecognizedOperation(f"{request.command.name} is no operation of this SOP class")
    return model


def _priority(request: Request) -> int:
    return request.command.us_or_none(Element.PRIORITY) or PRIORITY_MEDIUM


def _pending(run: SubOperations) -> Response:
    return Response(PENDING, suboperations=(run.remaining, run.completed, len(run.failed), run.warnings))


def _final(request: Request, run: SubOperations) -> Response:
    """The last response (PS3.4 C.4.2.1.5 to C.4.2.1.9, C.4.2.3.1)."""
    cancelled = run.remaining > 0
    if cancelled:
        status = CANCEL
    elif not run.failed and not run.warnings:
        status = SUCCESS
    elif len(run.failed) == run.total:
        status = SUBOPERATIONS_FAILED
    else:
        status = SUBOPERATIONS_WARNING
    return Response(
        status,
        data=_failed_list(request, run.failed) if run.failed else None,
        comment=run.reason if status == SUBOPERATIONS_FAILED else "",
        suboperations=(
            run.remaining if cancelled else None,
            run.completed,
            len(run.failed),
            run.warnings,
        ),
    )


def _failed_list(request: Request, failed: list[UID]) -> bytes:
    """The identifier of a response after failures (PS3.4 C.4.2.1.4.2)."""
    writer = ElementWriter(encoding_of(request.context.transfer_syntax))
    return writer.element(FAILED_SOP_INSTANCE_UID_LIST, "UI", "\\".join(failed), "")
