"""Bulk data: what a BulkDataURI of the metadata names, or all of an instance or more (10.4.1.1.5)."""

import mmap
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pacsnode.archive.frame_index import Extent, swapped
from pacsnode.archive.lookup import Held
from pacsnode.archive.object_file import InflatedFile, ObjectFile, readable
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.json_model import JsonEncoder, TagPath
from pacsnode.dicom.places import UNDEFINED, Places
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES, EXPLICIT_VR_LE
from pacsnode.dicom.vr import WORD_LENGTHS
from pacsnode.errors import RequestRefused
from pacsnode.web.answer import Answer, Endpoint
from pacsnode.web.facade import Facade
from pacsnode.web.media import OCTETS, Acceptable, Offer, acceptable
from pacsnode.web.pixels import Representation, form_of, pixel_data_of
from pacsnode.web.representations import Provided, answer_representations
from pacsnode.web.sources import Converted, FilePart, Joined, Memory, Source
from pacsnode.web.syntaxes import named
from pacsnode.web.target import INSTANCE, METHODS, SERIES, STUDY

_PATH: Final = re.compile(r"[0-9A-Fa-f]{8}(?:/[1-9][0-9]{0,8}/[0-9A-Fa-f]{8}){0,32}")
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_DOCUMENT, _DOCUMENT_TYPE = 0x00420011, 0x00420012
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9]+/[a-z0-9.+_-]+")


def routes(facade: Facade) -> list[BaseRoute]:
    async def retrieve_element(request: Request) -> Response | Answer:
        path = _path_of(request.path_params["element"])
        accepted = acceptable(request)

        def provide(held: Held) -> Provided:
            if path[0] in _PIXELS:
                form = form_of(accepted, held.located.transfer_syntax, alone=True)
                return form.offer, pixel_data_of(facade, held, form)
            offer = _offer(accepted, alone=True, is_document=path == (_DOCUMENT,))
            return offer, _element_of(facade, held, path, accepted)

        return await answer_representations(facade, request, provide)

    async def retrieve_all(request: Request) -> Answer:
        return await answer_bulkdata(facade, request)

    every = [
        Route(f"{path}/bulkdata", Endpoint(retrieve_all), methods=METHODS)
        for path in (STUDY, SERIES, INSTANCE)
    ]
    return [Route(INSTANCE + "/bulkdata/{element:path}", Endpoint(retrieve_element), methods=METHODS), *every]


async def answer_bulkdata(facade: Facade, request: Request) -> Answer:
    """All bulk data of the instances that the path names, as parts."""
    accepted = acceptable(request)

    def provide(held: Held) -> Provided:
        return _offer(accepted, alone=False), _all_of(facade, held, accepted)

    return await answer_representations(facade, request, provide)


def _path_of(text: str) -> TagPath:
    """The path in a BulkDataURI: a tag; within sequences tag, number of the item from 1 on, tag and so on."""
    if _PATH.fullmatch(text) is None:
        raise RequestRefused(400, "what follows /bulkdata is no path of tags and item numbers")
    steps = text.split("/")
    return tuple(int(step, 10 if index % 2 else 16) for index, step in enumerate(steps))


def _offer(accepted: Acceptable, *, alone: bool, is_document: bool = False) -> Offer:
    """Octets; of an encapsulated document also what it says it is, which `_element_of` then checks."""
    offers = [Offer(OCTETS, multipart=True), *([Offer(OCTETS)] if alone else [])]
    if is_document:
        named_types = [one for one in accepted.ranges if _document_type(one.root or one.type)]
        offers += [Offer(one.root or one.type, multipart=one.is_multipart) for one in named_types]
    return accepted.select(offers)


def _document_type(media_type: str) -> bool:
    return _MEDIA_TYPE.fullmatch(media_type) is not None and not media_type.startswith("multipart/")


@dataclass(frozen=True, slots=True)
class _Found:
    """An element of an object: where its value is, or the value itself; the type of a document."""

    extents: list[Extent]
    value: bytes | None
    word: int
    document_type: str


async def _element_of(
    facade: Facade, held: Held, path: TagPath, accepted: Acceptable | None
) -> AsyncIterator[Representation]:
    """The value of one element, byte by byte, little endian. Raises RequestRefused (404, 406)."""
    located = held.located
    found = await facade.archive.in_file(located, lambda file: _find(file, path))
    source: Source
    if found.value is not None:
        source = Memory(found.value)
    else:
        parts = tuple(FilePart(facade.archive, located, *extent) for extent in found.extents)
        source = parts[0] if len(parts) == 1 else Joined(parts)
    if found.word > 1:
        source = Converted(source, lambda value: swapped(value, found.word))
    content_type = named(OCTETS, EXPLICIT_VR_LE)
    if accepted is not None and path == (_DOCUMENT,):
        content_type = _document_content_type(accepted, found.document_type)
    place = "/bulkdata/" + "/".join(str(step) if n % 2 else f"{step:08X}" for n, step in enumerate(path))
    yield Representation(content_type, place, source)


def _document_content_type(accepted: Acceptable, document_type: str) -> str:
    """What an encapsulated document is called: its own type if that is wanted more than octets."""
    types = (document_type, OCTETS) if document_type else (OCTETS,)
    offers = [Offer(one, multipart=multipart) for one in types for multipart in (True, False)]
    selected = accepted.select(offers).type
    return named(OCTETS, EXPLICIT_VR_LE) if selected == OCTETS else selected


def _find(file: ObjectFile, path: TagPath) -> _Found:
    """In a worker thread."""
    opened = readable(file)
    encoding = encoding_of(file.located.transfer_syntax)
    places = Places(opened.read, opened.data_offset(), opened.size, encoding)
    place = places.find(path)
    if place is None or places.is_sequence(place):
        raise RequestRefused(404, "the instance has no such bulk data")
    if place.length == UNDEFINED:  # an icon that is compressed
        extents = [Extent(item.value, item.length) for item in places.fragments(place)][1:]
    else:
        extents = [Extent(place.value, place.length)]
    word = 1 if encoding.little_endian else WORD_LENGTHS.get(place.vr or b"UN", 1)
    value = None
    if isinstance(opened, InflatedFile):
        value = b"".join(opened.read(*extent) for extent in extents)
    document_type = ""
    if path == (_DOCUMENT,):
        kind = places.find((_DOCUMENT_TYPE,))
        if kind is not None and kind.length <= 128:
            text = opened.read(kind.value, kind.length).decode("latin-1").strip(" \0").lower()
            document_type = text if _MEDIA_TYPE.fullmatch(text) else ""
    return _Found(extents, value, word, document_type)


async def _all_of(facade: Facade, held: Held, accepted: Acceptable) -> AsyncIterator[Representation]:
    """Everything that the metadata names by a BulkDataURI, in its order."""
    form = form_of(accepted, held.located.transfer_syntax, alone=False)
    for path in await facade.archive.in_file(held.located, _paths_of):
        if path[0] in _PIXELS:
            async for one in pixel_data_of(facade, held, form):
                yield one
        else:
            async for one in _element_of(facade, held, path, None):
                yield one


def _paths_of(file: ObjectFile) -> list[TagPath]:
    """The elements that go by reference, in a worker thread."""
    paths: list[TagPath] = []

    def note(path: TagPath) -> str:
        paths.append(path)
        return ""

    encoding = encoding_of(file.located.transfer_syntax)
    if file.located.transfer_syntax in DEFLATED_TRANSFER_SYNTAXES:
        opened = readable(file)
        JsonEncoder().encode(opened.read(0, opened.size), encoding, note)
    else:
        with mmap.mmap(file.descriptor, 0, prot=mmap.PROT_READ) as data:
            JsonEncoder().encode(data, encoding, note, file.data_offset())
    return paths
