"""Store transaction (STOW-RS, PS3.18 10.5): objects as PS3.10 files, or as metadata with bulk data.

The body is never held: each part goes where it belongs while it arrives. Objects that arrived whole are
stored though the client dies behind them, as C-STORE would have it; of the one it died in nothing is left.
"""

import asyncio
import re
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pacsnode.archive.instance import Stored
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.errors import CannotUnderstand, InvalidMultipart, PacsnodeError, RequestRefused
from pacsnode.web.decoding import body_of
from pacsnode.web.facade import Facade
from pacsnode.web.media import DICOM, JSON, OCTETS, XML, Offer, acceptable
from pacsnode.web.multipart import (
    BodyEnds,
    ContentType,
    PartBegins,
    PartData,
    PartEnds,
    Reader,
    content_type_of,
)
from pacsnode.web.origin import ROOT, dicomweb_root
from pacsnode.web.store_metadata import METADATA_TYPES, ArrivingPart, ArrivingParts, NotMade
from pacsnode.web.store_part import Acceptance, ArrivingFile
from pacsnode.web.store_report import StoreReport

log = structlog.get_logger()

AT_ONCE: Final = 16  # objects that wait for the disk together: they share a commit
_ROOT_TYPES: Final = (DICOM, *METADATA_TYPES)
_OFFERS: Final = (Offer(JSON), Offer(XML))


def routes(facade: Facade) -> list[BaseRoute]:
    dimse = facade.settings.dimse
    acceptance = Acceptance(frozenset(map(UID, dimse.extra_sop_classes)), dimse.accept_unknown_sop_classes)

    async def store(request: Request) -> Response:
        study = _study(request)
        offer = acceptable(request).select(_OFFERS)
        run = _Run(facade, acceptance, study)
        try:
            await run.receive(request)
        except ClientDisconnect:
            log.warning("store.broken_off", stored=len(run.report.stored))
            raise
        except (InvalidMultipart, RequestRefused) as error:
            if not run.report.stored:
                raise
            run.report.add_failure(None, None, error)  # what came before it is stored all the same
        if not run.report.stored and not run.report.reasons:
            raise RequestRefused(400, "the body has no objects")
        return _answer(request, facade, run.report, offer.type, study)

    return [Route(path, store, methods=["POST"]) for path in (f"{ROOT}/studies", f"{ROOT}/studies/{{study}}")]


def _study(request: Request) -> UID | None:
    text = request.path_params.get("study")
    if text is not None and not is_uid(text):
        raise RequestRefused(400, "the study in the path is no UID")
    return None if text is None else UID(text)


class _Run:
    """One request."""

    def __init__(self, facade: Facade, acceptance: Acceptance, study: UID | None) -> None:
        self.report = StoreReport()
        self._facade = facade
        self._acceptance = acceptance
        self._study = study
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._storing: set[asyncio.Task[None]] = set()
        self._part: ArrivingFile | ArrivingPart | None = None
        self._apart = ArrivingParts(facade)

    async def receive(self, request: Request) -> None:
        """Read the body to its end and wait for what was begun.

        Raises RequestRefused, InvalidMultipart, ClientDisconnect; what arrived whole before is stored.
        """
        header = request.headers.get("content-type", "")
        try:
            if header.partition(";")[0].strip().lower() == DICOM:
                await self._one_file(request)
            else:
                await self._parts(request, header)
                await self._compose()
        except BaseException:
            if self._part is not None:
                self._part.discard()
            raise
        finally:
            if self._storing:
                await asyncio.wait(self._storing)
            await self._apart.remove()

    async def _one_file(self, request: Request) -> None:
        """A body that is one file; not in the standard, and what curl --data-binary sends."""
        self._part = self._file()
        async for chunk in body_of(request):
            await self._part.write(memoryview(chunk))
        await self._end_part()

    async def _parts(self, request: Request, header: str) -> None:
        content_type = _content_type(header)
        reader = Reader(content_type.boundary)
        root_type = content_type.root_type if content_type.root_type in _ROOT_TYPES else ""
        is_empty = True
        async for chunk in body_of(request):
            for event in reader.receive_data(chunk):
                match event:
                    case PartBegins(headers):
                        is_empty = False
                        root_type = root_type or _root_type(headers)
                        await self._begin_part(headers, root_type)
                    case PartData(data) if self._part is not None:
                        await self._part.write(data)
                    case PartEnds():
                        await self._end_part()
                    case PartData() | BodyEnds():
                        pass
        reader.receive_eof()
        if is_empty:
            raise RequestRefused(400, "the body has no parts")

    async def _begin_part(self, headers: dict[str, str], root_type: str) -> None:
        if root_type in METADATA_TYPES:
            self._part = await self._apart.begin(headers)
            return
        media_type = _type_of(headers)
        if media_type == DICOM:
            self._part = self._file()
        else:
            self._refused(None, None, CannotUnderstand(f"a part is {media_type[:80]}, not {DICOM}"))

    async def _end_part(self) -> None:
        part, self._part = self._part, None
        if isinstance(part, ArrivingPart):
            await part.end()
        elif part is not None:
            await self._begin_storing(part)

    async def _compose(self) -> None:
        """Store what is put together of metadata and bulk data, an object after the other."""
        async for made in self._apart.objects(self._facade.settings.node.ae_title):
            if isinstance(made, NotMade):
                self._refused(made.sop_class, made.sop_instance, made.error)
                continue
            file = self._file()
            try:
                async for piece in self._apart.read(made):
                    await file.write(piece)
            finally:
                await made.discard()
            await self._begin_storing(file)

    def _file(self) -> ArrivingFile:
        ae_title = self._facade.settings.node.ae_title
        return ArrivingFile(self._facade.archive, self._acceptance, ae_title, self._study)

    async def _begin_storing(self, file: ArrivingFile) -> None:
        await self._turns.acquire()
        task = asyncio.create_task(self._store(file))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _store(self, file: ArrivingFile) -> None:
        try:
            self._stored(await file.store())
        except (PacsnodeError, OSError) as error:
            self._refused(file.sop_class, file.sop_instance, error)
        finally:
            self._turns.release()

    def _stored(self, stored: Stored) -> None:
        self.report.add_stored(stored)
        log.debug(
            "instance.stored",
            outcome=stored.outcome.name.lower(),
            sop_class=stored.sop_class,
            sop_instance=stored.sop_instance,
            bytes=stored.size,
        )

    def _refused(self, sop_class: UID | None, sop_instance: UID | None, error: Exception) -> None:
        self.report.add_failure(sop_class, sop_instance, error)
        log.warning("instance.refused", sop_instance=sop_instance, reason=str(error))


def _content_type(header: str) -> ContentType:
    """What the body is made of. Raises RequestRefused (400, 415)."""
    try:
        content_type = content_type_of(header)
    except InvalidMultipart as error:
        is_multipart = header.lower().startswith("multipart/related")
        raise RequestRefused(400 if is_multipart else 415, str(error)) from error
    if content_type.root_type not in ("", OCTETS):  # what Table 10.5.4-1 has of octets can only be bulk data
        _check_root(content_type.root_type)
    return content_type


def _type_of(headers: dict[str, str]) -> str:
    return headers.get("content-type", DICOM).partition(";")[0].strip().lower()


def _root_type(headers: dict[str, str]) -> str:
    """What is sent, by the first part where the request does not say (8.6.1.2)."""
    found = _type_of(headers)
    _check_root(found)
    return found


def _check_root(media_type: str) -> None:
    if media_type not in _ROOT_TYPES:
        raise RequestRefused(415, f"{media_type[:80]} is not stored; there are {', '.join(_ROOT_TYPES)}")


def _answer(
    request: Request, facade: Facade, report: StoreReport, media_type: str, study: UID | None
) -> Response:
    root = dicomweb_root(request, facade.settings.web.public_url)
    headers = {}
    if report.reasons:
        headers["Warning"] = f"299 pacsnode {_quoted(report.reasons[0])}"
    studies = {one.study for one in report.stored}
    if len(studies) == 1:
        headers["Location"] = headers["Content-Location"] = f"{root}/studies/{studies.pop()}"
    return Response(report.encoded(media_type, root), report.status, headers, media_type)


def _quoted(text: str) -> str:
    """A reason, which may tell what was sent, as a header has it (RFC 9110 5.6.4)."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    escaped = re.sub(r'(["\\])', r"\\\1", printable)
    return '"' + escaped.encode("latin-1", "replace").decode("latin-1") + '"'
