"""Instances as files of a ZIP archive, written while it is sent; with a DICOMDIR a File-set (PS3.10 8).

The DICOMDIR comes last: by then it is known what the files are. It is made of the metadata that is kept, by a
worker, so that nothing is parsed here.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.requests import Request

from pacsnode.archive.lookup import Held
from pacsnode.errors import RequestRefused
from pacsnode.pixels.job import Directory
from pacsnode.web.answer import Answer
from pacsnode.web.facade import Facade
from pacsnode.web.sources import Buffer, MadeFile, Ready
from pacsnode.web.target import uids_of
from pacsnode.web.zip_file import ZipWriter

ZIP: Final = "application/zip"

_Sent = dict[str, tuple[str, str]]
"""By SOP Instance UID: the name of the file, and its transfer syntax."""


def wants_directory(request: Request) -> bool:
    """Whether `dicomdir`, which dcm4chee has too, asks for one. Raises RequestRefused (400)."""
    value = request.query_params.get("dicomdir", "false")
    if value not in ("true", "false"):
        raise RequestRefused(400, "dicomdir is true or false")
    return value == "true"


def answer_zip(
    facade: Facade, request: Request, status: int, fields: list[tuple[str, str]], files: AsyncIterator[Ready]
) -> Answer:
    """The files in folders for their series; of a File-set their names are File IDs (PS3.10 8.2)."""
    with_directory = wants_directory(request)
    name_of = _file_ids() if with_directory else _uids

    async def pieces() -> AsyncIterator[Buffer]:
        writer = ZipWriter()
        sent: _Sent = {}
        async for one in files:
            name = name_of(one.held)
            sent[one.held.located.sop_instance] = (name, one.syntax)
            async for piece in _file(writer, name, one.pieces()):
                yield piece
        if with_directory:
            made = await _directory(facade, request, sent)
            try:
                async for piece in _file(writer, "DICOMDIR", made.read(0, made.length)):
                    yield piece
            finally:
                await made.made.discard()
        yield writer.end()

    study = request.path_params["study"]
    disposition = f'attachment; filename="{study}.zip"'
    return Answer(status, [("content-type", ZIP), ("content-disposition", disposition), *fields], pieces())


def _uids(held: Held) -> str:
    return f"{held.study}/{held.series}/{held.located.sop_instance}.dcm"


def _file_ids() -> Callable[[Held], str]:
    """Names of components of at most eight characters, a folder for each series, counted as they come."""
    series: dict[tuple[str, str], int] = {}
    count = 0

    def name_of(held: Held) -> str:
        nonlocal count
        count += 1
        number = series.setdefault((held.study, held.series), len(series) + 1)
        return f"DICOM/S{number:07}/I{count:07}"

    return name_of


async def _file(writer: ZipWriter, name: str, content: AsyncIterator[Buffer]) -> AsyncIterator[Buffer]:
    yield writer.begin(name)
    async for piece in content:
        yield await asyncio.to_thread(writer.counted, piece)
    yield writer.end_of_file()


async def _directory(facade: Facade, request: Request, sent: _Sent) -> MadeFile:
    """The DICOMDIR of what was sent. Raises OperationError, OSError."""
    folder = await facade.transcoder.new_folder("directory-")
    try:
        metadata, files = folder / "metadata", folder / "files"
        await asyncio.to_thread(files.write_text, json.dumps(sent))
        with metadata.open("wb") as file:
            async for part in _metadata(facade, request):
                await asyncio.to_thread(file.write, b"[" + part + b"]\n")
        directory = Directory(str(files), facade.settings.node.ae_title)
        return MadeFile(facade.archive, await facade.transcoder.directory(metadata, directory))
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)


async def _metadata(facade: Facade, request: Request) -> AsyncIterator[bytes]:
    """The JSON objects of the instances of the study or series, in pieces; of one instance its series."""
    study, *series = uids_of(request)[:2]
    for version in await facade.archive.metadata.versions(study, *series):
        async for part in facade.archive.metadata.parts(version):
            yield part
