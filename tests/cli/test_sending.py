"""Which files are objects, and which presentation contexts they need."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from pacsnode.cli import sending
from pacsnode.cli.sending import MAX_CONTEXTS, Sender, StoredObject, Tally, describe, plan, survey
from pacsnode.config import Peer
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import AssociationAborted
from pacsnode.net.scu import Reply
from pacsnode.net.timeouts import Timeouts
from pacsnode.ul.negotiation import AcceptedContext, Result

CT = UID("1.2.840.10008.5.1.4.1.1.2")
MR = UID("1.2.840.10008.5.1.4.1.1.4")
DICOMDIR = UID("1.2.840.10008.1.3.10")


def write(
    path: Path, sop_class: UID = CT, transfer_syntax: UID = EXPLICIT_VR_LE, data: bytes = b"data"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_meta(sop_class, UID("1.2.3"), transfer_syntax, "TEST") + data)
    return path


def an_object(sop_class: str, transfer_syntax: UID = EXPLICIT_VR_LE) -> StoredObject:
    return StoredObject(Path("x"), UID(sop_class), UID("1.2.3"), transfer_syntax, 0, 0)


def test_folders_are_walked_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/9", "c"):
        write(tmp_path / name)
    names = [str(item.path.relative_to(tmp_path)) for item in survey([tmp_path]).objects]
    assert sorted(names) == ["a/9", "b/1", "b/2", "c"]
    assert names.index("a/9") < names.index("b/1") < names.index("b/2")


def test_what_is_no_object_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(bytes(128) + b"DICM\x02\x00")
    write(tmp_path / "DICOMDIR", DICOMDIR)
    kept = write(tmp_path / "object")
    found = survey([tmp_path])
    assert [item.path for item in found.objects] == [kept]
    assert len(found.skipped) == 4


def test_a_link_that_leads_nowhere_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert survey([tmp_path]).skipped == (tmp_path / "link",)


def test_a_link_to_a_folder_is_told_of_and_not_followed(tmp_path: Path) -> None:
    kept = write(tmp_path / "study" / "object")
    (tmp_path / "study" / "circle").symlink_to(tmp_path / "study")
    found = survey([tmp_path])
    assert [item.path for item in found.objects] == [kept]
    assert found.skipped == (tmp_path / "study" / "circle",)


def test_what_cannot_be_read_is_told_and_does_not_keep_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions say nothing to root, so the refusals are made."""
    kept, locked = write(tmp_path / "b" / "object"), write(tmp_path / "a" / "locked")
    write(tmp_path / "closed" / "object")
    scandir, opened = os.scandir, Path.open

    def refuse_folder(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    def refuse_file(path: Path, *args: str) -> object:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args)

    monkeypatch.setattr(os, "scandir", refuse_folder)
    monkeypatch.setattr(Path, "open", refuse_file)
    found = survey([tmp_path])
    assert [item.path for item in found.objects] == [kept]
    reason = "cannot be read: Permission denied"
    assert sorted(found.unreadable) == [(locked, reason), (tmp_path / "closed", reason)]


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        survey([tmp_path / "nowhere"])


def test_size_is_that_of_the_data_set(tmp_path: Path) -> None:
    found = survey([write(tmp_path / "object", data=bytes(1000))])
    assert found.size == 1000


def test_each_pair_of_sop_class_and_transfer_syntax_gets_a_context() -> None:
    objects = [an_object(CT), an_object(CT, IMPLICIT_VR_LE), an_object(MR), an_object(CT)]
    (batch,) = plan(objects)
    proposed = {(c.abstract_syntax, c.transfer_syntaxes) for c in batch.contexts}
    assert proposed == {(CT, (EXPLICIT_VR_LE,)), (CT, (IMPLICIT_VR_LE,)), (MR, (EXPLICIT_VR_LE,))}
    assert [c.id for c in batch.contexts] == [1, 3, 5]
    assert list(batch.objects) == objects


def test_more_kinds_than_an_association_carries_take_another() -> None:
    objects = [an_object(f"1.2.{number}") for number in range(MAX_CONTEXTS + 1)]
    first, second = plan(objects)
    assert (len(first.contexts), len(second.contexts)) == (128, 1)
    assert [c.id for c in first.contexts] == list(range(1, 256, 2))
    assert len(first.objects) + len(second.objects) == len(objects)


def test_nothing_to_send_needs_no_association() -> None:
    assert plan([]) == []


@pytest.mark.parametrize(
    ("status", "comment", "text"),
    [
        (0xA700, "disk full", "A700H Failure Refused: Out of resources (disk full)"),
        (0xB000, "", "B000H Warning Coercion of data elements"),
        (0x0999, "", "0999H unknown status"),
    ],
)
def test_a_status_is_described_for_people(status: int, comment: str, text: str) -> None:
    assert describe(status, comment).lower() == text.lower()


def test_failures_are_counted_by_reason() -> None:
    tally = Tally(failures=[(an_object(CT), "full"), (an_object(CT), "refused"), (an_object(CT), "full")])
    assert tally.failures_by_reason() == [("full", 2), ("refused", 1)]


def test_the_uids_of_the_data_set_win_over_those_of_the_file_meta(tmp_path: Path) -> None:
    path = tmp_path / "edited"
    data_set = dcmread(get_testdata_file("CT_small.dcm"))
    data_set.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    data_set.save_as(path)
    (item,) = survey([path]).objects
    assert item.sop_instance == data_set.SOPInstanceUID


class BreaksOffAt:
    """A peer that ends the association whenever one object arrives, and takes every other."""

    def __init__(self, poison: UID, window: int) -> None:
        self.poison = poison
        self.window = window
        self.received: list[UID] = []

    @asynccontextmanager
    async def connect(self, _peer, _calling_ae, contexts, *, window, timeouts) -> AsyncIterator[object]:
        granted = min(window, self.window)
        lost = asyncio.Event()

        async def c_store(_context, sop_instance: UID, _data) -> Reply:
            if sop_instance == self.poison:
                lost.set()
            await asyncio.sleep(0)
            if lost.is_set():
                raise AssociationAborted("aborted by the peer")
            self.received.append(sop_instance)
            return Reply(0, "")

        yield SimpleNamespace(
            contexts=[
                AcceptedContext(c.id, Result.ACCEPTANCE, c.abstract_syntax, c.transfer_syntaxes[0])
                for c in contexts
            ],
            association=SimpleNamespace(accept=SimpleNamespace(window=(granted, 1))),
            c_store=c_store,
        )


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("parallel", [1, 2])
async def test_only_the_object_fails_at_which_the_peer_breaks_off(
    monkeypatch: pytest.MonkeyPatch, window: int, parallel: int
) -> None:
    objects = [replace(an_object(CT), sop_instance=UID(f"1.2.{number}")) for number in range(12)]
    peer = BreaksOffAt(objects[5].sop_instance, window)
    monkeypatch.setattr(sending, "connect", peer.connect)
    sender = Sender(Peer.parse("A@h:1"), "TEST", Timeouts(), parallel=parallel, window=window)
    (batch,) = plan(objects)
    await sender.send(batch)
    assert [item for item, _ in sender.tally.failures] == [objects[5]]
    assert sorted(peer.received) == sorted(item.sop_instance for item in objects if item != objects[5])
    assert sender.tally.sent == 11
