"""Storage service class (PS3.4 Annex B): C-STORE to the archive."""

from collections.abc import Mapping

from pacsnode.archive.instance import IncomingInstance, IncomingRequest
from pacsnode.dicom.sop_class import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID
from pacsnode.dimse.assembler import Sink
from pacsnode.dimse.command import CommandField, CommandSet
from pacsnode.dimse.status import SUCCESS
from pacsnode.errors import CannotUnderstand, DataSetMismatch
from pacsnode.net.service import Channel, Operation, Request, Response, ServiceClass
from pacsnode.services.room import Room
from pacsnode.ul.negotiation import AcceptedContext

# PS3.4 B.3.1: support level 2 (all elements kept), no digital signature level, no coercion.
_EXTENDED_NEGOTIATION_ANSWER = bytes((2, 0, 0, 0, 0, 0))


class StorageService(ServiceClass):
    """Stores what arrives, byte for byte, and answers when it is durable and indexed."""

    def __init__(self, room: Room) -> None:
        self._archive = room.archive
        self._extra = tuple(UID(uid) for uid in room.settings.dimse.extra_sop_classes)

    def sop_classes(self) -> tuple[UID, ...]:
        return (*STORAGE_SOP_CLASSES, *self._extra)

    def transfer_syntaxes(self) -> tuple[UID, ...]:
        return TRANSFER_SYNTAXES

    def is_user(self) -> bool:
        """C-GET stores on the requestor's own association (PS3.4 C.4.3)."""
        return True

    def operations(self) -> Mapping[CommandField, Operation]:
        return {CommandField.C_STORE_RQ: self.c_store}

    def extended_negotiation(self, sop_class: UID, offered: bytes) -> bytes | None:
        return _EXTENDED_NEGOTIATION_ANSWER[: len(offered)]

    def open_data_set(self, association: Channel, context: AcceptedContext, command: CommandSet) -> Sink:
        """An incoming instance, so that the data set reaches the disk while it arrives."""
        if command.sop_class != context.abstract_syntax:
            raise DataSetMismatch(f"SOP class {command.sop_class} on a context for another")
        return self._archive.begin(
            IncomingRequest(
                sop_class=command.sop_class,
                sop_instance=command.sop_instance,
                transfer_syntax=context.transfer_syntax,
                source_ae=self.source_of(association),
                receiving_ae=association.called_ae,
            )
        )

    def source_of(self, association: Channel) -> str:
        """The AE title that an object comes from."""
        return association.calling_ae

    async def c_store(self, request: Request) -> Response:
        """Success when the object is on disk and in the index (PS3.4 B.2.3)."""
        if not isinstance(request.data, IncomingInstance):
            raise CannotUnderstand("C-STORE-RQ without a data set")
        stored = await self._archive.store(request.data)
        # Not above DEBUG: lines by the thousand would have journald drop those that matter, and cost a tenth.
        request.association.log.debug(
            "instance.stored",
            outcome=stored.outcome.name.lower(),
            sop_class=stored.sop_class,
            sop_instance=stored.sop_instance,
            bytes=stored.size,
        )
        return Response(SUCCESS)
