"""Query service class (PS3.4 C.4.1): C-FIND in the Patient Root, Study Root and Patient/Study Only models."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import ResponseEncoder
from pacsnode.dicom.information_model import InformationModel
from pacsnode.dicom.query import Query, QueryOptions, level_of, query_of
from pacsnode.dicom.request_identifier import RequestIdentifier
from pacsnode.dicom.sop_class import PATIENT_ROOT_FIND, PATIENT_STUDY_ONLY_FIND, STUDY_ROOT_FIND
from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import CommandField
from pacsnode.dimse.status import PENDING, PENDING_UNSUPPORTED_KEYS
from pacsnode.net.service import Matches, Request, ServiceClass, Stream
from pacsnode.services.room import Room

MODEL_OF: Final = {
    PATIENT_ROOT_FIND: InformationModel.PATIENT_ROOT,
    STUDY_ROOT_FIND: InformationModel.STUDY_ROOT,
    PATIENT_STUDY_ONLY_FIND: InformationModel.PATIENT_STUDY_ONLY,
}

# PS3.4 Table C.5-2, by position: all is performed when asked for but the fifth, conversion of multi-frame
# images. Bytes of later editions are answered with 0.
_RELATIONAL: Final = 0
_COMBINED_DATE_TIME: Final = 1
_FUZZY_NAMES: Final = 2
_TIMEZONE: Final = 3
_EMPTY_VALUES: Final = 5
_MULTIPLE_VALUES: Final = 6
_PERFORMED: Final = frozenset(
    {_RELATIONAL, _COMBINED_DATE_TIME, _FUZZY_NAMES, _TIMEZONE, _EMPTY_VALUES, _MULTIPLE_VALUES}
)


class FindService(ServiceClass):
    """Answers C-FIND from the index."""

    def __init__(self, room: Room) -> None:
        self._archive = room.archive
        self._settings = room.settings.query
        self._ae_title = room.settings.node.ae_title

    def sop_classes(self) -> tuple[UID, ...]:
        return tuple(MODEL_OF)

    def streams(self) -> Mapping[CommandField, Stream]:
        return {CommandField.C_FIND_RQ: self.c_find}

    def extended_negotiation(self, sop_class: UID, offered: bytes) -> bytes | None:
        """Each byte that was offered and is performed stays 1; the answer is as long as the offer."""
        return bytes(int(asked == 1 and option in _PERFORMED) for option, asked in enumerate(offered))

    async def c_find(self, request: Request) -> AsyncGenerator[Matches, None]:
        """Yield the matches; FF01 when a key is no attribute of the level (Table C.4-1)."""
        started = time.monotonic()
        transfer_syntax = request.context.transfer_syntax
        query = self._query_of(request, RequestIdentifier(request.identifier_bytes, transfer_syntax))
        encoder = ResponseEncoder(query, encoding_of(transfer_syntax), self._ae_title)
        status = PENDING_UNSUPPORTED_KEYS if query.unsupported else PENDING
        matches = 0
        try:
            async with aclosing(self._archive.search_encoded(query, encoder)) as chunks:
                async for chunk in chunks:
                    yield Matches(status, chunk)
                    matches += len(chunk)
        finally:
            request.association.log.info(
                "query.answered",
                model=query.model.value,
                query_level=query.level.value,
                matches=matches,
                ms=round((time.monotonic() - started) * 1000, 1),
            )

    def _query_of(self, request: Request, identifier: RequestIdentifier) -> Query:
        """The query of an identifier. Raises InvalidIdentifier (A900H) and CannotUnderstand (C000H)."""
        sop_class = request.context.abstract_syntax
        accept = request.association.accept
        answered = accept.extended.get(sop_class, b"") if accept is not None else b""
        negotiated = {option for option, value in enumerate(answered) if value == 1}
        options = QueryOptions(
            relational=_RELATIONAL in negotiated,
            combined_date_time=_COMBINED_DATE_TIME in negotiated,
            fuzzy_names=_FUZZY_NAMES in negotiated,
            adjust_timezone=_TIMEZONE in negotiated,
            empty_values=_EMPTY_VALUES in negotiated,
            multiple_values=_MULTIPLE_VALUES in negotiated,
            match_unknown=self._settings.match_unknown,
            lenient_hierarchy=self._settings.lenient_hierarchy,
        )
        return query_of(
            level_of(identifier.level),
            MODEL_OF[sop_class],
            identifier.requested(),
            options,
            identifier.character_set,
        )
