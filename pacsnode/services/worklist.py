"""Modality Worklist service class (PS3.4 K): C-FIND against the scheduled procedure steps."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import encode_item
from pacsnode.dicom.request_identifier import RequestIdentifier
from pacsnode.dicom.sop_class import MODALITY_WORKLIST_FIND
from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import CommandField
from pacsnode.dimse.status import PENDING, PENDING_UNSUPPORTED_KEYS
from pacsnode.errors import InvalidIdentifier
from pacsnode.net.service import Request, Response, ServiceClass, Stream
from pacsnode.services.room import Room
from pacsnode.workflow.worklist_query import WorklistQuery, worklist_query_of
from pacsnode.workflow.worklist_search import view_of

# PS3.4 K.5.1.1, by position: the first two are reserved and always 1.
_RESERVED: Final = (0, 1)
_FUZZY_NAMES: Final = 2
_TIMEZONE: Final = 3
_UNSAID: Final = "ISO_IR 100"  # where it suffices: modalities that name no character set seldom know UTF-8


class WorklistService(ServiceClass):
    """Answers C-FIND from the worklist."""

    def __init__(self, room: Room) -> None:
        self._worklist = room.workflow.worklist
        self._visibility = room.settings.worklist.visibility

    def sop_classes(self) -> tuple[UID, ...]:
        return (MODALITY_WORKLIST_FIND,)

    def streams(self) -> Mapping[CommandField, Stream]:
        return {CommandField.C_FIND_RQ: self.c_find}

    def extended_negotiation(self, sop_class: UID, offered: bytes) -> bytes | None:
        """Fuzzy names and time zones are performed when asked for; the answer is as long as the offer."""
        performed = (_FUZZY_NAMES, _TIMEZONE)
        return bytes(
            int(option in _RESERVED or (asked == 1 and option in performed))
            for option, asked in enumerate(offered)
        )

    async def c_find(self, request: Request) -> AsyncGenerator[Response, None]:
        """Yield a pending response per item; FF01 when a key is not supported for it (PS3.4 Table K.4-1)."""
        started = time.monotonic()
        association = request.association
        encoding = encoding_of(request.context.transfer_syntax)
        query = self._query_of(request)
        view = view_of(self._visibility, association.calling_ae, association.called_ae)
        character_set = query.character_set or _UNSAID
        matches = 0
        try:
            async with aclosing(self._worklist.find(query, view)) as chunks:
                async for chunk in chunks:
                    for answer in chunk:
                        status = PENDING if answer.complete else PENDING_UNSUPPORTED_KEYS
                        yield Response(status, encode_item(answer.elements, encoding, character_set))
                    matches += len(chunk)
        finally:
            association.log.info(
                "worklist.answered", matches=matches, ms=round((time.monotonic() - started) * 1000, 1)
            )

    def _query_of(self, request: Request) -> WorklistQuery:
        """The query of an identifier. Raises InvalidIdentifier (A900H) and CannotUnderstand (C000H)."""
        context = request.context
        if not request.identifier_bytes:
            raise InvalidIdentifier("the request has no identifier")
        identifier = RequestIdentifier(request.identifier_bytes, context.transfer_syntax)
        accept = request.association.accept
        answered = accept.extended.get(context.abstract_syntax, b"") if accept is not None else b""
        negotiated = {option for option, value in enumerate(answered) if value == 1}
        return worklist_query_of(
            identifier.requested(),
            identifier.character_set,
            fuzzy_names=_FUZZY_NAMES in negotiated,
            adjust_timezone=_TIMEZONE in negotiated,
        )
