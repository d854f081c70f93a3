"""Storage SCP of `pacsnode get`: what a peer sends becomes files in a folder (PS3.4 B, PS3.10 7).

Written as it comes, by this one process's only association: nothing else waits for the disk meanwhile.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import BinaryIO

from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.dimse.assembler import Sink
from pacsnode.dimse.command import CommandField, CommandSet
from pacsnode.dimse.status import SUCCESS
from pacsnode.errors import CannotUnderstand, OutOfResources
from pacsnode.net.service import Channel, Operation, Request, Response, ServiceClass
from pacsnode.ul.negotiation import AcceptedContext


class FolderStorage(ServiceClass):
    """Keeps each instance as FOLDER/<SOP Instance UID>.dcm, its data set byte for byte."""

    def __init__(self, folder: Path, sop_classes: Collection[UID]) -> None:
        self.instances = 0
        self.bytes = 0
        self._folder = folder
        self._sop_classes = tuple(sop_classes)

    def sop_classes(self) -> tuple[UID, ...]:
        return self._sop_classes

    def transfer_syntaxes(self) -> tuple[UID, ...]:
        return TRANSFER_SYNTAXES

    def operations(self) -> Mapping[CommandField, Operation]:
        return {CommandField.C_STORE_RQ: self.c_store}

    def open_data_set(self, association: Channel, context: AcceptedContext, command: CommandSet) -> Sink:
        sop_instance = command.sop_instance
        if not is_uid(sop_instance):  # it becomes the name of a file
            raise CannotUnderstand("the command names no valid SOP Instance UID")
        meta = file_meta(
            context.abstract_syntax,
            sop_instance,
            context.transfer_syntax,
            association.called_ae,
            association.calling_ae,
        )
        return _FileSink(self._folder / f"{sop_instance}.dcm", meta)

    async def c_store(self, request: Request) -> Response:
        if not isinstance(request.data, _FileSink):
            raise CannotUnderstand("C-STORE-RQ without a data set")
        self.bytes += request.data.finish()
        self.instances += 1
        return Response(SUCCESS)


class _FileSink:
    """One file on its way; it has its name when it is complete."""

    unwritten = 0

    def __init__(self, path: Path, meta: bytes) -> None:
        self.on_flushed: Callable[[], None] | None = None
        self._path = path
        self._part = path.with_suffix(".part")
        self._size = 0
        self._error: OSError | None = None
        self._file: BinaryIO | None = None
        self._begin(meta)

    def _begin(self, meta: bytes) -> None:
        try:
            self._file = self._part.open("wb")
            self._file.write(meta)
        except OSError as error:
            self._error = error

    def write(self, data: memoryview) -> None:
        if self._file is None or self._error is not None:
            return
        try:
            self._size += self._file.write(data)
        except OSError as error:
            self._error = error

    def finish(self) -> int:
        """Give the file its name; the bytes of its data set. Raises OutOfResources."""
        try:
            if self._error is not None:
                raise self._error
            assert self._file is not None
            self._file.close()
            os.replace(self._part, self._path)
        except OSError as error:
            self.discard()
            raise OutOfResources(f"cannot be stored: {error.strerror}") from error
        self._file = None
        return self._size

    def discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            finally:
                self._part.unlink(missing_ok=True)
