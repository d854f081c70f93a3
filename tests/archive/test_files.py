"""archive.files, incoming_file and root: writing, names, the lock, free space (PS3.10 7)."""

import errno
import os
from pathlib import Path

import pytest
import xxhash

from pacsnode.archive import files
from pacsnode.archive.files import Layout, write_all
from pacsnode.archive.incoming_file import IncomingFile
from pacsnode.archive.root import FreeSpace, Lock
from pacsnode.errors import ArchiveError, OutOfResources


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "root")
    made.create()
    return made


def test_an_incoming_file_holds_the_meta_then_every_chunk(layout: Layout) -> None:
    file = IncomingFile(layout, 7, b"meta")
    file.append([b"ab", memoryview(b"cd")], sync=False)
    file.append([b"ef"], sync=True, last=True)
    file.finish(sync=True)
    assert Path(layout.absolute(file.path)).read_bytes() == b"metaabcdef"
    assert (file.size, file.file_size, file.data_offset) == (6, 10, 4)


def test_the_digest_is_that_of_the_data_set_alone(layout: Layout) -> None:
    file = IncomingFile(layout, 7, b"meta")
    file.digest_of([b"ab", memoryview(b"cd")])
    assert file.digest() == xxhash.xxh3_128(b"abcd").digest()


def test_more_chunks_than_one_system_call_takes_are_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        write_all(file.fileno(), [bytes([n % 256]) for n in range(5000)])
    assert path.read_bytes() == bytes(n % 256 for n in range(5000))


def test_a_write_cut_short_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, buffers: whole(descriptor, [buffers[0][:3]]))
    with path.open("wb") as file:
        write_all(file.fileno(), [b"abcdef", b"ghi"])
    assert path.read_bytes() == b"abcdefghi"


@pytest.mark.parametrize("step", ["open", "writev", "fdatasync"])
def test_a_full_disk_leaves_no_file(layout: Layout, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = IncomingFile(layout, 1, b"meta")
    with monkeypatch.context() as patched:
        patched.setattr(files.os, step, full)
        with pytest.raises(OutOfResources, match="no space left"):  # noqa: PT012
            file.append([b"data"], sync=True, last=True)
            file.finish(sync=True)
    assert list(layout.incoming.iterdir()) == []


def test_a_disk_that_does_nothing_any_more_is_out_of_resources(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    file = IncomingFile(layout, 1, b"meta")
    file.append([b"data"], sync=True)
    with monkeypatch.context() as patched:
        for step in ("rename", "unlink"):
            patched.setattr(files.os, step, broken)
        with pytest.raises(OutOfResources, match="Input/output error"):
            file.append([b"data"], sync=True, last=True)
    assert not file.is_open


def test_an_error_of_the_disk_names_no_path(layout: Layout) -> None:
    error = OSError(errno.EIO, "Input/output error", "/secret/place")
    assert str(files.out_of_resources(error)) == "storage failed: Input/output error"


def test_removing_twice_is_harmless(layout: Layout) -> None:
    file = IncomingFile(layout, 1, b"meta")
    file.append([b"data"], sync=False)
    file.remove()
    file.remove()
    assert list(layout.incoming.iterdir()) == []


def test_a_folder_tidied_away_is_made_again(layout: Layout) -> None:
    layout.prepare("objects/1/2/3.dcm")
    (layout.objects / "1" / "2").rmdir()
    (layout.incoming / "1.part").write_bytes(b"x")
    layout.move("incoming/1.part", "objects/1/2/3.dcm")
    assert (layout.objects / "1" / "2" / "3.dcm").read_bytes() == b"x"


def test_a_data_root_belongs_to_one_process(layout: Layout) -> None:
    first, second = Lock(layout.root), Lock(layout.root)
    first.acquire()
    with pytest.raises(ArchiveError, match="in use by another process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_data_root_that_cannot_be_made_is_an_archive_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match="cannot be used"):
        Layout(tmp_path / "file" / "root").create()


@pytest.mark.parametrize("name", ["objects", "conflicts"])
def test_a_part_on_another_file_system_is_an_archive_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        if Path(target).parent.name == name:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    layout = Layout(tmp_path)
    with pytest.raises(ArchiveError, match=f"{name} has to be on the file system of .*incoming"):
        layout.create()
    assert list(layout.incoming.iterdir()) == []


def test_free_space_is_asked_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [0.0], []
    real = os.statvfs(tmp_path)
    monkeypatch.setattr(files.os, "statvfs", lambda path: asked.append(path) or real)
    space = FreeSpace(tmp_path, 1, clock=lambda: now[0])
    for now[0] in (0.0, 0.5, 0.9, 1.5):
        space.check()
    assert len(asked) == 2


def test_below_the_reserve_is_out_of_resources(tmp_path: Path) -> None:
    with pytest.raises(OutOfResources, match="below the reserve"):
        FreeSpace(tmp_path, 2**80).check()


def test_a_data_root_that_went_away_is_out_of_resources(tmp_path: Path) -> None:
    with pytest.raises(OutOfResources, match="storage failed"):
        FreeSpace(tmp_path / "unmounted", 1).check()


def test_a_full_disk_does_not_keep_a_data_root_from_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    monkeypatch.setattr(files.Path, "touch", full)
    layout = Layout(tmp_path)
    layout.create()
    assert layout.has_links
    assert not layout.writes_direct
    assert os.listdir(layout.incoming) == []
