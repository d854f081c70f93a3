"""Verification service class (PS3.4 Annex A): C-ECHO."""

from collections.abc import Mapping

from pacsnode.dicom.sop_class import VERIFICATION
from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import CommandField
from pacsnode.dimse.status import SUCCESS
from pacsnode.net.service import Operation, Request, Response, ServiceClass
from pacsnode.services.room import Room


class VerificationService(ServiceClass):
    """Answers C-ECHO."""

    def __init__(self, room: Room) -> None:
        pass

    def sop_classes(self) -> tuple[UID, ...]:
        return (VERIFICATION,)

    def operations(self) -> Mapping[CommandField, Operation]:
        return {CommandField.C_ECHO_RQ: self.c_echo}

    async def c_echo(self, request: Request) -> Response:
        """Success, always (PS3.4 A.4)."""
        request.association.log.debug("association.verified")
        return Response(SUCCESS)
