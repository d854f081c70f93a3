"""An instance without what identifies the patient: `anonymize=yes` (PS3.18 9.4.1.2.1, 9.4.2.3)."""

from typing import Final

from starlette.requests import Request

from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.uid import pseudonymous_uid
from pacsnode.pixels.job import Deidentification
from pacsnode.web.answer import OBJECT_AGE, Answer, not_modified, single
from pacsnode.web.facade import Facade
from pacsnode.web.media import DICOM
from pacsnode.web.sources import MadeFile
from pacsnode.web.target import etag_of
from pacsnode.web.wado import Planned

EDITION: Final = 1  # of what deidentification does; counts up when that changes


async def answer_deidentified(facade: Facade, request: Request, planned: Planned, location: str) -> Answer:
    """The file of an instance, de-identified. Raises CannotDeidentify (403), and as Transcoder.transcode."""
    located = planned.held.located
    key = await facade.workflow.deidentification_key.get()
    sop_instance = pseudonymous_uid(located.sop_instance, key)
    etag = etag_of([planned.held], sop_instance, planned.syntax, EDITION)
    if (unchanged := not_modified(request, etag, OBJECT_AGE)) is not None:
        return unchanged
    path, offset = await facade.archive.file_of(located)
    task = Deidentification(planned.syntax, key)
    coercion = await facade.archive.coercion_of(located)  # a patient that was merged has one pseudonym
    made = await facade.transcoder.deidentify(path, offset, located.transfer_syntax, task, coercion)
    meta = file_meta(located.sop_class, sop_instance, planned.syntax, facade.settings.node.ae_title)
    fields = [("content-type", DICOM), ("content-location", location)]
    return single(request, MadeFile(facade.archive, made, meta), fields, etag).then(made.discard)
