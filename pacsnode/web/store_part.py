"""PS3.10 files that arrive in a request, stored while they arrive through the ingest of C-STORE."""

import asyncio
from typing import Final

from pacsnode.archive.archive import Archive
from pacsnode.archive.instance import IncomingInstance, IncomingRequest, Stored
from pacsnode.dicom.header import early_values
from pacsnode.dicom.part10 import MAX_META_LENGTH, FileMeta, read_file_meta
from pacsnode.dicom.sop_class import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from pacsnode.dicom.uid import UID, uid_of
from pacsnode.errors import CannotTranscode, CannotUnderstand, PacsnodeError, SopClassNotSupported

UNWRITTEN_HIGH: Final = 8 * 2**20  # bytes of one part that wait for the disk; then the body is left unread
META_STEP: Final = 4096  # bytes; File Meta Information of more is looked at again when twice as much is there

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
_OWN_UIDS: Final = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID})


class Acceptance:
    """Which objects are taken: those C-STORE takes."""

    def __init__(self, extra_sop_classes: frozenset[UID], any_sop_class: bool) -> None:
        self._sop_classes = STORAGE_SOP_CLASSES | extra_sop_classes
        self._any = any_sop_class
        self._transfer_syntaxes = frozenset(TRANSFER_SYNTAXES)

    def check(self, sop_class: UID, transfer_syntax: UID) -> None:
        """Raises SopClassNotSupported (0122H), CannotTranscode (C122H)."""
        if not self._any and sop_class not in self._sop_classes:
            raise SopClassNotSupported(f"SOP class {sop_class} is not stored here")
        if transfer_syntax not in self._transfer_syntaxes:
            raise CannotTranscode(f"transfer syntax {transfer_syntax} is not known here")


class ArrivingFile:
    """One file on its way in. `write` its bytes, then `store` or `discard` it.

    What is wrong with it is kept and raised by `store`, so that the parts behind it can be read.
    """

    def __init__(
        self, archive: Archive, acceptance: Acceptance, receiving_ae: str, study: UID | None
    ) -> None:
        self._archive = archive
        self._acceptance = acceptance
        self._receiving_ae = receiving_ae
        self._study = study
        self._head = bytearray()
        self._look_at = META_STEP
        self._incoming: IncomingInstance | None = None
        self._failure: Exception | None = None
        self._room = asyncio.Event()
        self.sop_class: UID | None = None
        self.sop_instance: UID | None = None

    async def write(self, data: memoryview) -> None:
        """Take the next bytes; waits while too many wait for the disk."""
        if self._failure is not None:
            return
        if self._incoming is None:
            self._head += data
            if len(self._head) >= self._look_at:
                self._begin(is_last=False)
        else:
            self._incoming.write(bytes(data))
            await self._drained(self._incoming)

    async def store(self) -> Stored:
        """Raises what C-STORE would answer with a failure; nothing is left of the file then."""
        if self._incoming is None and self._failure is None:
            self._begin(is_last=True)
        if self._failure is not None:
            self.discard()
            raise self._failure
        assert self._incoming is not None
        return await self._archive.store(self._incoming)

    def discard(self) -> None:
        if self._incoming is not None:
            self._incoming.discard()

    def _begin(self, is_last: bool) -> None:
        """Read the File Meta Information, and open the object with what came behind it."""
        head = bytes(self._head)
        try:
            meta = read_file_meta(head)
            is_complete = meta.data_offset < len(head) or is_last
        except CannotUnderstand as error:
            if is_last or not head[128:132].startswith(b"DICM") or len(head) > MAX_META_LENGTH:
                self._fail(error)
            else:
                self._look_at = 2 * len(head)
            return
        if not is_complete:
            self._look_at = 2 * len(head)
            return
        self._open(meta, head)
        if self._incoming is not None:
            self._incoming.write(head[meta.data_offset :])
        self._head.clear()

    def _open(self, meta: FileMeta, head: bytes) -> None:
        """The name the data set gives itself rules, as when it is sent by C-STORE."""
        own = early_values(head[meta.data_offset :], meta.transfer_syntax, _OWN_UIDS)
        self.sop_class, self.sop_instance = meta.sop_class, meta.sop_instance
        try:
            if own.get(SOP_CLASS_UID):
                self.sop_class = uid_of(own[SOP_CLASS_UID])
            if own.get(SOP_INSTANCE_UID):
                self.sop_instance = uid_of(own[SOP_INSTANCE_UID])
            if self.sop_class is None or self.sop_instance is None:
                raise CannotUnderstand("the file names no SOP Class or Instance UID")
            self._acceptance.check(self.sop_class, meta.transfer_syntax)
            request = IncomingRequest(
                self.sop_class,
                self.sop_instance,
                meta.transfer_syntax,
                meta.source_ae or "",
                self._receiving_ae,
                self._study,
            )
            self._incoming = self._archive.begin(request)
            self._incoming.on_flushed = self._room.set
        except PacsnodeError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._head.clear()

    async def _drained(self, incoming: IncomingInstance) -> None:
        while incoming.unwritten > UNWRITTEN_HIGH and incoming.failed is None:
            self._room.clear()
            await self._room.wait()
