"""Retrieve service classes (PS3.4 C.4.2, C.4.3): C-MOVE and C-GET of instances by their hierarchy.

Patient Root, Study Root and Patient/Study Only.
"""

from collections.abc import Mapping
from typing import ClassVar

from pacsnode.dicom.information_model import InformationModel
from pacsnode.dicom.query import level_of
from pacsnode.dicom.retrieval import retrieval_of
from pacsnode.dicom.sop_class import (
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    PATIENT_STUDY_ONLY_GET,
    PATIENT_STUDY_ONLY_MOVE,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from pacsnode.dicom.uid import UID
from pacsnode.net.service import Request
from pacsnode.services.instances import Instances
from pacsnode.services.retrieval import RetrieveSCP, Selection, identifier_of, log_ignored


class RetrieveService(RetrieveSCP):
    """Sends stored instances of patients, studies, series, or named one by one."""

    move_models: ClassVar[Mapping[UID, InformationModel]] = {
        PATIENT_ROOT_MOVE: InformationModel.PATIENT_ROOT,
        STUDY_ROOT_MOVE: InformationModel.STUDY_ROOT,
        PATIENT_STUDY_ONLY_MOVE: InformationModel.PATIENT_STUDY_ONLY,
    }
    get_models: ClassVar[Mapping[UID, InformationModel]] = {
        PATIENT_ROOT_GET: InformationModel.PATIENT_ROOT,
        STUDY_ROOT_GET: InformationModel.STUDY_ROOT,
        PATIENT_STUDY_ONLY_GET: InformationModel.PATIENT_STUDY_ONLY,
    }

    def extended_negotiation(self, sop_class: UID, offered: bytes) -> bytes | None:
        """Relational retrieval is performed when asked for, multi-frame conversion is not (Table C.5-4)."""
        return bytes(int(position == 0 and asked == 1) for position, asked in enumerate(offered))

    async def select(self, request: Request, model: InformationModel) -> Selection:
        """Instances by the unique keys. Raises InvalidIdentifier, CannotUnderstand, MatchesNotCounted."""
        identifier = identifier_of(request)
        accept = request.association.accept
        extended = accept.extended if accept is not None else {}
        relational = extended.get(request.context.abstract_syntax, b"")[:1] == b"\1"
        retrieval = retrieval_of(
            level_of(identifier.level),
            model,
            identifier.requested(),
            relational=relational or self._settings.query.lenient_hierarchy,
        )
        log_ignored(request, retrieval)
        objects = await self.locate(retrieval)
        return Selection(retrieval, retrieval.level.value, objects, Instances(self._room))
