"""Composite Instance Root Retrieve (PS3.4 Y): C-MOVE and C-GET of instances, or of frames as a new one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import ClassVar, Final, Self

from pydicom.uid import generate_uid

from pacsnode.archive.locate import Located
from pacsnode.dicom.frame_range import FRAME_RANGE_KEYS, frame_range_of
from pacsnode.dicom.information_model import UNIQUE_KEYS, InformationModel, Level
from pacsnode.dicom.query import level_of
from pacsnode.dicom.retrieval import retrieval_of
from pacsnode.dicom.sop_class import COMPOSITE_INSTANCE_ROOT_GET, COMPOSITE_INSTANCE_ROOT_MOVE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotExtractFrames, FramesNotFound, InvalidFrameRange
from pacsnode.net.service import Request
from pacsnode.pixels.job import MOMENT, Extraction
from pacsnode.pixels.pool import Transcoded
from pacsnode.services.instances import Instances
from pacsnode.services.retrieval import RetrieveSCP, Selection, identifier_of, log_ignored
from pacsnode.services.room import Room

FRAME: Final = "FRAME"  # a level of this model alone, below IMAGE (PS3.4 Table Y.6.1-1)


class CompositeInstanceRootService(RetrieveSCP):
    """Sends instances that are named one by one, or some frames of one."""

    move_models: ClassVar[Mapping[UID, InformationModel]] = {
        COMPOSITE_INSTANCE_ROOT_MOVE: InformationModel.COMPOSITE_INSTANCE_ROOT
    }
    get_models: ClassVar[Mapping[UID, InformationModel]] = {
        COMPOSITE_INSTANCE_ROOT_GET: InformationModel.COMPOSITE_INSTANCE_ROOT
    }

    def extended_negotiation(self, sop_class: UID, offered: bytes) -> bytes | None:
        """Multi-frame conversion is not performed; there is nothing else to agree on (Table Y.5.1-2)."""
        return bytes(len(offered))

    async def select(self, request: Request, model: InformationModel) -> Selection:
        """Instances by their UIDs, or frames of one. Raises InvalidIdentifier, InvalidFrameRange (AA04H)."""
        identifier = identifier_of(request)
        requested = identifier.requested()
        of_frames = identifier.level.strip() == FRAME
        level = Level.IMAGE if of_frames else level_of(identifier.level)
        keys = (key for key in requested if not (of_frames and key.tag in FRAME_RANGE_KEYS))
        retrieval = retrieval_of(level, model, keys)
        log_ignored(request, retrieval)
        if not of_frames:
            return Selection(retrieval, level.value, await self.locate(retrieval), Instances(self._room))
        if len(retrieval.keys[0][1]) != 1:
            raise InvalidFrameRange("frames are had of one instance", (UNIQUE_KEYS[Level.IMAGE].tag,))
        frame_range = frame_range_of(requested)
        objects = await self.locate(retrieval)
        if not objects:
            raise FramesNotFound("the instance is not here")
        extraction = Extraction(
            UID(generate_uid(prefix=None)),
            frame_range,
            self._settings.node.ae_title,
            datetime.now(UTC).astimezone().strftime(MOMENT),
        )
        extracted = ExtractedFrames(self._room, objects[0], extraction)
        return Selection(retrieval, FRAME, (extracted.located,), extracted)


class ExtractedFrames(Instances):
    """A new instance made of some frames of `source`, while it is entered (PS3.4 Y.3.3)."""

    def __init__(self, room: Room, source: Located, extraction: Extraction) -> None:
        super().__init__(room)
        self.located = source._replace(sop_instance=extraction.sop_instance)
        self._source = source
        self._extraction = extraction
        self._extracted: Transcoded | None = None

    async def __aenter__(self) -> Self:
        """Make the instance. Raises the errors of Table Y.4-1, see Transcoder.extract_frames."""
        source = self._source
        try:
            path, offset = await self._archive.file_of(source)
        except OSError as error:
            raise CannotExtractFrames(f"its file cannot be read: {error.strerror}") from error
        coercion = await self._archive.coercion_of(source)
        self._extracted = await self._transcoder.extract_frames(
            path, offset, source.transfer_syntax, self._extraction, coercion
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._extracted is not None:
            await self._extracted.discard()

    def is_at_hand(self, located: Located, target: UID) -> bool:
        return False

    async def _make(self, located: Located, target: UID) -> Transcoded:
        extracted = self._extracted
        assert extracted is not None
        if target == extracted.transfer_syntax:
            return extracted  # discarding it twice does no harm
        return await self._transcoder.transcode(extracted.path, 0, extracted.transfer_syntax, target)
