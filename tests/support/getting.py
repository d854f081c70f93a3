"""C-GET by pynetdicom, in a thread."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO

from pydicom import Dataset, dcmread
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context

from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.uid import UID


@dataclass(frozen=True)
class Got:
    """What a requestor received, and the responses it had."""

    statuses: list[Dataset] = field(default_factory=list)
    stored: list[tuple[str, str, bytes]] = field(default_factory=list)  # UID, transfer syntax, data set
    identifiers: list[Dataset | None] = field(default_factory=list)

    @property
    def final(self) -> Dataset:
        return self.statuses[-1]

    @property
    def only(self) -> Dataset:
        ((sop, syntax, data),) = self.stored
        return dcmread(BytesIO(in_file(sop, syntax, data)))


def in_file(sop: str, syntax: str, data: bytes) -> bytes:
    """A received data set as a file."""
    return file_meta(UID("1.2.3"), UID(sop), UID(syntax), "TEST") + data


async def get(
    port: int, sop_class: str, identifier: Dataset, kinds: Sequence[tuple[str, tuple[str, ...]]]
) -> Got:
    """Ask for `identifier`; `kinds` are the SOP classes that are taken and their transfer syntaxes."""
    return await asyncio.to_thread(_get, port, sop_class, identifier, kinds)


def _get(port: int, sop_class: str, identifier: Dataset, kinds: Sequence[tuple[str, tuple[str, ...]]]) -> Got:
    got = Got()

    def store(event: evt.Event) -> int:
        data = event.request.DataSet.getvalue()
        syntax = str(event.context.transfer_syntax)
        got.stored.append((str(event.request.AffectedSOPInstanceUID), syntax, data))
        return 0x0000

    contexts = [build_context(sop_class), *(build_context(uid, list(offered)) for uid, offered in kinds)]
    association = AE("PYNETDICOM").associate(
        "127.0.0.1",
        port,
        contexts=contexts,
        ext_neg=[build_role(uid, scp_role=True) for uid in {uid for uid, _ in kinds}],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    assert association.is_established
    for status, found in association.send_c_get(identifier, sop_class):
        got.statuses.append(status)
        got.identifiers.append(found)
    association.release()
    return got
