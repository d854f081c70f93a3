"""Composite Instance Retrieve Without Bulk Data (PS3.4 Z): C-GET of what an instance is but its pixels."""

from collections.abc import Mapping
from typing import ClassVar

from pacsnode.archive.locate import Located
from pacsnode.dicom.information_model import InformationModel
from pacsnode.dicom.query import level_of
from pacsnode.dicom.retrieval import retrieval_of
from pacsnode.dicom.sop_class import WITHOUT_BULK_DATA_GET
from pacsnode.dicom.uid import UID
from pacsnode.net.service import Request
from pacsnode.pixels.plan import NATIVE
from pacsnode.pixels.pool import Transcoded
from pacsnode.services.instances import Instances
from pacsnode.services.retrieval import RetrieveSCP, Selection, identifier_of, log_ignored


class WithoutBulkDataService(RetrieveSCP):
    """Sends instances that are named one by one, without the attributes of PS3.4 Table Z.1-1."""

    get_models: ClassVar[Mapping[UID, InformationModel]] = {
        WITHOUT_BULK_DATA_GET: InformationModel.WITHOUT_BULK_DATA
    }

    def extended_negotiation(self, sop_class: UID, offered: bytes) -> bytes | None:
        """Multi-frame conversion is not performed; there is nothing else to agree on (Table Y.5.1-2)."""
        return bytes(len(offered))

    async def select(self, request: Request, model: InformationModel) -> Selection:
        """Instances by their UIDs. Raises InvalidIdentifier, CannotUnderstand, MatchesNotCounted."""
        identifier = identifier_of(request)
        retrieval = retrieval_of(level_of(identifier.level), model, identifier.requested())
        log_ignored(request, retrieval)
        objects = await self.locate(retrieval)
        return Selection(retrieval, retrieval.level.value, objects, InstancesWithoutBulkData(self._room))


class InstancesWithoutBulkData(Instances):
    """Stored instances without their bulk data, made one by one."""

    def targets_of(self, stored: UID) -> tuple[UID, ...]:
        """Uncompressed first, whatever the pixels are compressed with: they do not go."""
        return tuple(dict.fromkeys((*NATIVE, stored)))

    def is_at_hand(self, located: Located, target: UID) -> bool:
        return False

    async def _make(self, located: Located, target: UID) -> Transcoded:
        path, offset = await self._archive.file_of(located)
        coercion = await self._archive.coercion_of(located)
        return await self._transcoder.leave_out_bulk_data(
            path, offset, located.transfer_syntax, target, coercion
        )
