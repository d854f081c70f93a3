"""An SCU for other programs: a peer's objects in few words (PS3.4 A, B, C); docs/python-api.md is its page.

async with client("ARCHIVE@192.0.2.7:104", sop_classes=[STUDY_ROOT_FIND]) as archive:
    async for match in archive.find(STUDY_ROOT_FIND, "STUDY", PatientName="DOE*", StudyInstanceUID=""):
        print(match.StudyInstanceUID)

What is underneath, `connect` and `ServiceUser`, can do everything; here everything is a pydicom Dataset.
"""

import io
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword

from pacsnode.config import Peer
from pacsnode.dicom.data_set import encode_data_set
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import DEFLATED, EXPLICIT_VR_LE, IMPLICIT_VR_LE, name_of
from pacsnode.dicom.uid import UID, ae_title
from pacsnode.dimse.command import CommandField
from pacsnode.dimse.status import CANCEL, SUCCESS, is_failure
from pacsnode.errors import NoPresentationContext, RequestFailed
from pacsnode.net.requestor import connect
from pacsnode.net.scu import Reply, ServiceUser
from pacsnode.net.service import Operation, Request, Response, ServiceClass
from pacsnode.net.timeouts import Timeouts
from pacsnode.ul.negotiation import AcceptedContext, ProposedContext

UNCOMPRESSED: Final = (EXPLICIT_VR_LE, IMPLICIT_VR_LE)
MAX_CONTEXTS: Final = 128  # per association; their IDs are the odd numbers to 255 (PS3.8 9.3.2.2)

Storage = Iterable[UID] | Mapping[UID, Iterable[UID]]
"""SOP classes of objects; in a mapping each with transfer syntaxes that are proposed besides UNCOMPRESSED."""


@dataclass(frozen=True, slots=True)
class Received:
    """An object that a C-GET has brought, its data set encoded as it came."""

    sop_class: UID
    sop_instance: UID
    transfer_syntax: UID
    data: bytes

    def data_set(self) -> Dataset:
        """The object, read by pydicom, with its File Meta Information."""
        return dcmread(io.BytesIO(self.file()))

    def file(self) -> bytes:
        """The object as a file (PS3.10 7)."""
        meta = file_meta(self.sop_class, self.sop_instance, self.transfer_syntax, "")
        return meta + self.data


Keep = Callable[[Received], Awaitable[None]]
"""What is done with an object; an OperationError it raises is the status the peer is answered."""


@asynccontextmanager
async def client(
    peer: Peer | str,
    calling_ae: str = "PACSNODE",
    *,
    sop_classes: Iterable[UID] = (),
    storage: Storage = (),
    keep: Keep | None = None,
    window: int = 16,
    extended: Mapping[UID, bytes] | None = None,
    timeouts: Timeouts | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator["Client"]:
    """Open an association to `peer`, `AET@HOST:PORT` where it is text, for the length of the block.

    `sop_classes`: of queries, retrievals, verification. `storage`: of the objects that store() sends, and
    that get() brings, which go to `keep`. The rest is as for connect(). Raises ValueError for what is no AE
    title, and for more contexts than an association can carry.
    """
    stored = tuple(storage)
    wanted: list[tuple[UID, tuple[UID, ...]]] = [(uid, UNCOMPRESSED) for uid in (*sop_classes, *stored)]
    if isinstance(storage, Mapping):
        wanted += [(uid, (syntax,)) for uid, syntaxes in storage.items() for syntax in syntaxes]
    if len(wanted) > MAX_CONTEXTS:
        raise ValueError(f"{len(wanted)} presentation contexts are more than an association can carry")
    contexts = [ProposedContext(2 * number + 1, *pair) for number, pair in enumerate(wanted)]
    async with connect(
        Peer.parse(peer) if isinstance(peer, str) else peer,
        ae_title(calling_ae),
        contexts,
        window=window,
        roles=dict.fromkeys(stored, (True, True)) if keep is not None else None,
        extended=extended,
        services=(_Keeper(stored, keep),) if keep is not None else (),
        timeouts=timeouts,
        tls=tls,
    ) as user:
        yield Client(user.association)


class Client(ServiceUser):
    """An association with a peer. Operations raise RequestFailed, and NoPresentationContext."""

    async def echo(self) -> None:
        """Have the peer answer (PS3.4 A.4)."""
        _checked(await self.c_echo())

    async def find(self, sop_class: UID, level: str, **keys: object) -> AsyncGenerator[Dataset, None]:
        """The matches of a query (PS3.4 C.4.1). Keys by keyword; "" for what is to be returned.

        Closing the iterator early cancels the query.
        """
        async with aclosing(self.c_find(sop_class, identifier(level, keys))) as replies:
            async for reply in replies:
                if reply.identifier is not None:
                    yield reply.identifier
                else:
                    _checked(reply)

    def move(
        self, sop_class: UID, destination: str, level: str, **keys: object
    ) -> AsyncGenerator[Reply, None]:
        """Have the peer send objects to an AE it knows (PS3.4 C.4.2); how far it is, the outcome last."""
        return self._progress(self.c_move(sop_class, identifier(level, keys), ae_title(destination)))

    def get(self, sop_class: UID, level: str, **keys: object) -> AsyncGenerator[Reply, None]:
        """Fetch objects, which go to `keep` (PS3.4 C.4.3); how far it is, the outcome last."""
        return self._progress(self.c_get(sop_class, identifier(level, keys)))

    async def store(self, data_set: Dataset) -> Reply:
        """Send an object (PS3.4 B.2); a status that is a warning is in the reply.

        Pixels go as they are: compressed ones need a context of their transfer syntax, and a `file_meta`
        that names it, as dcmread() makes it. Raises ValueError without.
        """
        context = self._context_to_store(data_set)
        data = encode_data_set(data_set, context.transfer_syntax)
        return _checked(await self.c_store(context, UID(data_set.SOPInstanceUID), data))

    def _context_to_store(self, data_set: Dataset) -> AcceptedContext:
        sop_class = UID(data_set.SOPClassUID)
        accepted = {
            context.transfer_syntax: context
            for context in self.contexts
            if context.abstract_syntax == sop_class and context.as_scu
        }
        for transfer_syntax in (wanted := _writable_in(data_set)):
            if transfer_syntax in accepted:
                return accepted[transfer_syntax]
        raise NoPresentationContext(f"the peer does not accept {name_of(sop_class)} in {name_of(wanted[0])}")

    async def _progress(self, replies: AsyncGenerator[Reply, None]) -> AsyncGenerator[Reply, None]:
        async with aclosing(replies):
            async for reply in replies:
                yield _checked(reply)


def identifier(level: str, keys: Mapping[str, object]) -> Dataset:
    """An identifier; text beyond ASCII is sent as UTF-8. Raises ValueError for what is no keyword."""
    data_set = Dataset()
    data_set.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        if tag_for_keyword(keyword) is None:  # to pydicom an attribute of its own: the key would be missing
            raise ValueError(f"{keyword} is no keyword of a DICOM attribute")
        setattr(data_set, keyword, value)
    if not all(str(value).isascii() for value in keys.values()):
        data_set.SpecificCharacterSet = "ISO_IR 192"
    return data_set


def _writable_in(data_set: Dataset) -> tuple[UID, ...]:
    """The transfer syntaxes that a data set can be written in with its pixels as they are."""
    meta = getattr(data_set, "file_meta", None) or Dataset()
    named = UID(meta.get("TransferSyntaxUID") or "")
    if not named and "PixelData" in data_set and data_set["PixelData"].is_undefined_length:
        raise ValueError("a data set with compressed pixels needs file_meta.TransferSyntaxUID")
    return UNCOMPRESSED if named in ("", *UNCOMPRESSED, DEFLATED) else (named,)


def _checked(reply: Reply) -> Reply:
    if is_failure(reply.status) or reply.status == CANCEL:
        raise RequestFailed(reply.status, reply.comment)
    return reply


class _Keeper(ServiceClass):
    """Storage SCP that hands over what comes (PS3.4 B)."""

    def __init__(self, sop_classes: tuple[UID, ...], keep: Keep) -> None:
        self._sop_classes = sop_classes
        self._keep = keep

    def sop_classes(self) -> tuple[UID, ...]:
        return self._sop_classes

    def operations(self) -> Mapping[CommandField, Operation]:
        return {CommandField.C_STORE_RQ: self.c_store}

    async def c_store(self, request: Request) -> Response:
        context = request.context
        received = Received(
            context.abstract_syntax,
            UID(request.command.sop_instance),
            context.transfer_syntax,
            bytes(request.identifier_bytes),
        )
        await self._keep(received)
        return Response(SUCCESS)
