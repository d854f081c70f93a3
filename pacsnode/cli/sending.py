"""Storage SCU (PS3.4 B): which files are objects, which associations they need, and sending them.

One presentation context for each pair of SOP class and transfer syntax found, and one more for the transfer
syntax that objects are to be sent in. What cannot be had in that goes as it is stored. Knows nothing of the
terminal.
"""

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.filereader import read_partial

from pacsnode.config import Peer
from pacsnode.dicom.part10 import MAX_META_LENGTH, read_file_meta
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES, name_of
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.dimse.status import SUCCESS, is_failure, is_warning
from pacsnode.errors import CannotUnderstand, OperationError, RemoteError
from pacsnode.net.requestor import connect
from pacsnode.net.scu import ServiceUser
from pacsnode.net.timeouts import Timeouts
from pacsnode.pixels.pool import Transcoded, Transcoder
from pacsnode.ul.negotiation import AcceptedContext, ProposedContext

MAX_CONTEXTS: Final = 128  # per association; their IDs are the odd numbers to 255 (PS3.8 9.3.2.2)
MEDIA_STORAGE_DIRECTORY: Final = UID("1.2.840.10008.1.3.10")  # a DICOMDIR: about files, itself no object
FRUITLESS_ASSOCIATIONS: Final = 3  # in a row that stored nothing, then the peer is given up

SOP_INSTANCE_UID: Final = 0x00080018

_HEAD: Final = 16 * 1024  # bytes; holds any ordinary File Meta Information
_PIECE: Final = 256 * 1024  # bytes read from a file at once


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file that can be sent. `size`: bytes of its data set."""

    path: Path
    sop_class: UID
    sop_instance: UID
    transfer_syntax: UID
    data_offset: int
    size: int

    @property
    def kind(self) -> tuple[UID, UID]:
        """What needs a presentation context of its own."""
        return self.sop_class, self.transfer_syntax


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies under the given paths. `unreadable`: with the reasons; nobody knows what is in them."""

    objects: tuple[StoredObject, ...]
    skipped: tuple[Path, ...]
    unreadable: tuple[tuple[Path, str], ...] = ()

    @property
    def size(self) -> int:
        return sum(item.size for item in self.objects)


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects that one association can carry."""

    contexts: tuple[ProposedContext, ...]
    objects: tuple[StoredObject, ...]


@dataclass(slots=True)
class Tally:
    """How it went. Reasons are for people."""

    sent: int = 0
    bytes: int = 0
    transcoded: int = 0
    as_stored: dict[StoredObject, str] = field(default_factory=dict)
    warnings: list[tuple[StoredObject, str]] = field(default_factory=list)
    failures: list[tuple[StoredObject, str]] = field(default_factory=list)

    def failures_by_reason(self) -> list[tuple[str, int]]:
        return Counter(reason for _, reason in self.failures).most_common()

    def as_stored_by_reason(self) -> list[tuple[str, int]]:
        """Why objects did not go in the transfer syntax that was wanted."""
        return Counter(self.as_stored.values()).most_common()


@dataclass(frozen=True, slots=True)
class Transcoding:
    """The transfer syntax that objects are to be sent in, and what makes it."""

    target: UID
    transcoder: Transcoder

    def is_for(self, item: StoredObject) -> bool:
        return item.transfer_syntax != self.target and self.target in self.transcoder.targets_of(
            item.transfer_syntax
        )


def survey(paths: Iterable[Path]) -> Survey:
    """Walk folders, in the order of names. Raises OSError for a path that is not there."""
    objects: list[StoredObject] = []
    skipped: list[Path] = []
    unreadable: list[tuple[Path, str]] = []

    def cannot_read(error: OSError) -> None:
        unreadable.append((Path(error.filename), f"cannot be read: {error.strerror}"))

    for path in _files(paths, cannot_read):
        try:
            found = _stored_object(path) if path.is_file() else None  # a pipe would block, a link be broken
        except OSError as error:
            cannot_read(OSError(error.errno, error.strerror, str(path)))
            continue
        if found is None:
            skipped.append(path)
        else:
            objects.append(found)
    return Survey(tuple(objects), tuple(skipped), tuple(unreadable))


def plan(objects: Sequence[StoredObject], target: UID | None = None) -> list[Batch]:
    """Propose a context for every kind of object; more than 128 contexts take further associations.

    `target`: a transfer syntax that a context is proposed in besides, for every SOP class.
    """
    groups: list[dict[tuple[UID, UID], None]] = []
    kinds: list[set[tuple[UID, UID]]] = []
    for kind in sorted({item.kind for item in objects}):
        wanted = dict.fromkeys((kind, (kind[0], target)) if target is not None else (kind,))
        if not groups or len(groups[-1] | wanted) > MAX_CONTEXTS:
            groups.append({})
            kinds.append(set())
        groups[-1] |= wanted
        kinds[-1].add(kind)
    return [
        Batch(_contexts(group), tuple(item for item in objects if item.kind in carried))
        for group, carried in zip(groups, kinds, strict=True)
    ]


def _contexts(pairs: Iterable[tuple[UID, UID]]) -> tuple[ProposedContext, ...]:
    return tuple(
        ProposedContext(2 * number + 1, sop_class, (transfer_syntax,))
        for number, (sop_class, transfer_syntax) in enumerate(pairs)
    )


class Sender:
    """Sends batches to one peer over `parallel` associations, `window` operations outstanding on each."""

    def __init__(
        self,
        peer: Peer,
        calling_ae: str,
        timeouts: Timeouts,
        *,
        parallel: int = 1,
        window: int = 1,
        transcoding: Transcoding | None = None,
        advance: Callable[[StoredObject], None] = lambda _: None,
    ) -> None:
        """`advance` is called for every object that is done, well or not."""
        self.tally = Tally()
        self._peer = peer
        self._calling_ae = calling_ae
        self._timeouts = timeouts
        self._parallel = parallel
        self._window = window
        self._transcoding = transcoding
        self._advance = advance

    async def send(self, batch: Batch) -> None:
        """Send all objects of a batch; what fails is in the tally."""
        waiting = deque(batch.objects)
        reasons: list[str] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._parallel, len(waiting))):
                group.create_task(self._work(batch.contexts, waiting, reasons))
        for item in waiting:  # everybody gave up
            self._failed(item, f"not sent: {reasons[-1]}")

    async def _work(
        self, contexts: Sequence[ProposedContext], waiting: deque[StoredObject], reasons: list[str]
    ) -> None:
        """Keep one association open while there is something to send.

        A lost one is opened again, without a window: what was outstanding together is sent again one by one,
        so that only the object fails at which the peer breaks off.
        """
        window, fruitless = self._window, 0
        while waiting and fruitless < FRUITLESS_ASSOCIATIONS:
            before = self.tally.sent
            try:
                await self._associate(contexts, waiting, window)
            except (RemoteError, OSError) as error:
                reasons.append(str(error))
                window, fruitless = 1, 0 if self.tally.sent > before else fruitless + 1

    async def _associate(
        self, contexts: Sequence[ProposedContext], waiting: deque[StoredObject], window: int
    ) -> None:
        async with connect(
            self._peer, self._calling_ae, contexts, window=window, timeouts=self._timeouts
        ) as association:
            accepted = {(c.abstract_syntax, c.transfer_syntax): c for c in association.contexts}
            granted = _granted(association, window)
            lanes = (self._lane(association, accepted, waiting, granted == 1) for _ in range(granted))
            for failure in await asyncio.gather(*lanes, return_exceptions=True):
                if isinstance(failure, BaseException):
                    raise failure

    async def _lane(
        self,
        association: ServiceUser,
        accepted: dict[tuple[UID, UID], AcceptedContext],
        waiting: deque[StoredObject],
        alone: bool,
    ) -> None:
        """Store one object after the other until none waits or the association is lost."""
        while waiting:
            item = waiting.popleft()
            transcoded = await self._transcoded(item, accepted)
            kind = item.kind if transcoded is None else (item.sop_class, transcoded.transfer_syntax)
            context = accepted.get(kind)
            if context is None:
                self._failed(item, _refusal(item))
                continue
            data = _pieces(item) if transcoded is None else _pieces_of(transcoded.path, 0, kind[1])
            try:
                reply = await association.c_store(context, item.sop_instance, data)
            except (RemoteError, OSError) as error:
                if alone or isinstance(error, OSError):
                    self._failed(item, f"association lost: {error}")
                else:
                    waiting.appendleft(item)
                raise
            finally:
                if transcoded is not None:
                    await transcoded.discard()
            self.tally.transcoded += transcoded is not None and not is_failure(reply.status)
            self._answered(item, reply.status, reply.comment)

    async def _transcoded(
        self, item: StoredObject, accepted: Mapping[tuple[UID, UID], AcceptedContext]
    ) -> Transcoded | None:
        """The object in the transfer syntax that is wanted; None when it goes as it is stored."""
        wanted = self._transcoding
        if wanted is None or item.transfer_syntax == wanted.target:
            return None
        reason = ""
        if not wanted.is_for(item):
            reason = f"cannot be made of {name_of(item.transfer_syntax)}"
        elif (item.sop_class, wanted.target) not in accepted:
            reason = "not accepted by the peer"
        else:
            try:
                return await wanted.transcoder.transcode(
                    item.path, item.data_offset, item.transfer_syntax, wanted.target
                )
            except OperationError as error:
                reason = str(error)
        self.tally.as_stored[item] = reason
        return None

    def _answered(self, item: StoredObject, status: int, comment: str) -> None:
        if status != SUCCESS and not is_warning(status):
            self._failed(item, describe(status, comment))
            return
        if status != SUCCESS:
            self.tally.warnings.append((item, describe(status, comment)))
        self.tally.sent += 1
        self.tally.bytes += item.size
        self._advance(item)

    def _failed(self, item: StoredObject, reason: str) -> None:
        self.tally.failures.append((item, reason))
        self._advance(item)


def describe(status: int, comment: str = "") -> str:
    """A status for people: code, meaning (PS3.4 B.2.3, PS3.7 C), the peer's comment."""
    from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

    kind, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("unknown status", ""))
    return " ".join(part for part in (f"{status:04X}H", kind, meaning, comment and f"({comment})") if part)


def _granted(association: ServiceUser, proposed: int) -> int:
    """Operations the peer lets us have outstanding (PS3.7 D.3.3.3): 1 unless it says more, 0 is no limit."""
    accept = association.association.accept
    invoked = accept.window[0] if accept and accept.window else 1
    return min(invoked or proposed, proposed)


def _refusal(item: StoredObject) -> str:
    return f"the peer does not accept {name_of(item.sop_class)} in {name_of(item.transfer_syntax)}"


def _pieces(item: StoredObject) -> AsyncGenerator[bytes, None]:
    return _pieces_of(item.path, item.data_offset, item.transfer_syntax)


async def _pieces_of(path: Path, data_offset: int, transfer_syntax: UID) -> AsyncGenerator[bytes, None]:
    """The data set of a file, piece by piece: a large object is never in memory as a whole."""
    deflated = transfer_syntax in DEFLATED_TRANSFER_SYNTAXES
    with path.open("rb") as file:
        file.seek(data_offset)
        while piece := file.read(_PIECE):
            # PS3.5 A.5 wants an even length and dcmtk aborts without; files often lack the last byte
            yield piece + b"\0" if deflated and len(piece) % 2 else piece


def _files(paths: Iterable[Path], cannot_read: Callable[[OSError], None]) -> Iterator[Path]:
    """Everything that is no folder, links to folders too: they may lead in a circle."""
    for path in paths:
        if not path.is_dir():
            path.stat()  # raises for one that is not there
            yield path
            continue
        for folder, folders, names in os.walk(path, onerror=cannot_read):
            folders.sort()
            links = (name for name in folders if os.path.islink(os.path.join(folder, name)))
            yield from (Path(folder, name) for name in sorted((*names, *links)))


def _stored_object(path: Path) -> StoredObject | None:
    """Read what C-STORE has to say of a file; None for what is no object that can be sent."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD)
        try:
            meta = read_file_meta(head)
        except CannotUnderstand:
            try:
                meta = read_file_meta(head + file.read(MAX_META_LENGTH))
            except CannotUnderstand:
                return None
        sop_class, sop_instance = _identity(file)
    sop_class, sop_instance = sop_class or meta.sop_class, sop_instance or meta.sop_instance
    if sop_class is None or sop_instance is None or sop_class == MEDIA_STORAGE_DIRECTORY:
        return None
    return StoredObject(
        path, sop_class, sop_instance, meta.transfer_syntax, meta.data_offset, size - meta.data_offset
    )


def _identity(file: BinaryIO) -> tuple[UID | None, UID | None]:
    """SOP Class and SOP Instance UID of the data set: the command has to say the same (PS3.4 B.2.3).

    The File Meta Information of edited or anonymised files often still has the old ones.
    """
    file.seek(0)
    try:
        data_set = read_partial(file, stop_when=lambda tag, _vr, _length: tag > SOP_INSTANCE_UID)
        return _uid(data_set.get("SOPClassUID")), _uid(data_set.get("SOPInstanceUID"))
    except Exception:  # pydicom fails on damaged data in many ways; the peer shall judge it
        return None, None


def _uid(value: object) -> UID | None:
    return UID(str(value)) if value and is_uid(str(value)) else None
