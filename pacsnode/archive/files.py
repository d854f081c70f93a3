"""Object files at rest: where they are, and how they get there (PS3.10 7).

    <root>/objects/<StudyInstanceUID>/<SeriesInstanceUID>/<SOPInstanceUID>.dcm     what is acknowledged
    <root>/conflicts/<SOPInstanceUID>.<token>.dcm    other objects that came under a UID already taken
    <root>/conflicts/<SOPInstanceUID>.unlisted-<time>.dcm    what stood in their place and had no row
    <root>/incoming/<token>.part                     what is being received
    <root>/incoming/<token>.<size>.part              what is complete once it has this size
    <root>/journal/<number>.log                      small objects until their files are synced: journal.py
    <root>/.lock                                     held while a node uses the root

The token is the number the instance will have in the index. A file too long for the journal is synced under
its token, its row is committed, then it gets its place in objects/ and the sender its answer. Its name in
incoming/ goes only when the commit is known to be on the disk. So after a crash or a power cut the few files
of incoming/ and the journal tell everything and objects/ needs no scan: one with a row wants its place at
most, one without a row is indexed again if it is complete and forgotten if it was broken off. Blocking; for
worker threads.
"""

import errno
import os
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import structlog
from xxhash import xxh3_128

from pacsnode.archive.direct import Buffer, is_supported
from pacsnode.dicom.part10 import data_offset_of
from pacsnode.dicom.uid import UID
from pacsnode.errors import ArchiveError, CannotUnderstand, OutOfResources

IOV_MAX: Final = 1024  # buffers; what one writev(2) takes on Linux
_PIECE: Final = 2**20  # bytes of two files that are compared at a time
FOLDERS_REMEMBERED: Final = 100_000  # some 20 MB of names
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_PROBES: Final = ("direct-", "link-", "move-")  # by which create() finds out what the file system can do
FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

log = structlog.get_logger()


def out_of_resources(error: OSError) -> OutOfResources:
    """What the peer is told when the storage fails: never a path, it would leave the building."""
    if error.errno in FULL_DISK:
        return OutOfResources("no space left to store the object")
    return OutOfResources(f"storage failed: {error.strerror or type(error).__name__}")


class Layout:
    """Names every file under the data root and moves files to where they belong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = root / "objects"
        self.conflicts = root / "conflicts"
        self.incoming = root / "incoming"
        self.journal = root / "journal"
        self.index = root / "index.sqlite"
        self._prefix = str(root) + os.sep
        self._folders: set[str] = set()
        self.has_links = True  # create() finds out
        self.writes_direct = False  # past the page cache; create() finds out

    def create(self) -> None:
        """Make the folders that are missing; raises ArchiveError when that is impossible."""
        try:
            for folder in (self.root, self.objects, self.conflicts, self.incoming, self.journal):
                folder.mkdir(parents=True, exist_ok=True)
            self.writes_direct = is_supported(self.incoming)
            self.has_links = self._probe_links()
            self._probe_moves()
        except OSError as error:
            raise ArchiveError(f"data root {self.root} cannot be used: {error.strerror}") from error

    def _probe_links(self) -> bool:
        """Whether a file may have two names; FAT, exFAT and some network disks say no."""
        first, second = self.incoming / f"link-{os.getpid()}", self.incoming / f"link-{os.getpid()}.2"
        try:
            first.touch()
            os.link(first, second)
        except OSError as error:
            return error.errno in FULL_DISK
        finally:
            first.unlink(missing_ok=True)
            second.unlink(missing_ok=True)
        return True

    def _probe_moves(self) -> None:
        """Raises ArchiveError when what arrives can have no place in objects/ or conflicts/ later."""
        for folder in (self.objects, self.conflicts):
            source, target = self.incoming / f"move-{os.getpid()}", folder / f"move-{os.getpid()}"
            try:
                source.touch()
                source.rename(target)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise ArchiveError(f"{folder} has to be on the file system of {self.incoming}") from error
                if error.errno not in FULL_DISK:
                    raise
            finally:
                source.unlink(missing_ok=True)
                target.unlink(missing_ok=True)

    def has_index(self) -> bool:
        return self.index.exists() and self.index.stat().st_size > 0

    def has_objects(self) -> bool:
        """Whether there is a file of an object; stops at the first."""
        return next(self.objects.glob("*/*/*.dcm"), None) is not None

    @staticmethod
    def object_path(study: UID, series: UID, sop_instance: UID) -> str:
        """Relative path of an object. The caller has checked that all three are UIDs."""
        return f"objects/{study}/{series}/{sop_instance}.dcm"

    @staticmethod
    def conflict_path(sop_instance: UID, token: int) -> str:
        return f"conflicts/{sop_instance}.{token}.dcm"

    @staticmethod
    def incoming_path(token: int, size: int | None = None) -> str:
        """The place of an object on its way; `size`, bytes of the whole file, is known at its end."""
        return f"incoming/{token}.part" if size is None else f"incoming/{token}.{size}.part"

    @staticmethod
    def incoming_parts(name: str) -> tuple[int | None, int | None]:
        """Token and size of a file name in incoming/; None for what is not told."""
        token, _, size = name.removesuffix(".part").partition(".")
        return (int(token) if token.isdecimal() else None, int(size) if size.isdecimal() else None)

    def absolute(self, path: str) -> str:
        return self._prefix + path

    def prepare(self, path: str) -> None:
        """Make the folder of `path`, and remember it so that the next one costs nothing.

        Done before the row is committed: a disk too full for a folder must still be able to refuse.
        """
        folder = path.rpartition("/")[0]
        if folder in self._folders:
            return
        try:
            os.makedirs(self.absolute(folder), exist_ok=True)
        except OSError as error:
            raise out_of_resources(error) from error
        if len(self._folders) > FOLDERS_REMEMBERED:
            self._folders.clear()
        self._folders.add(folder)

    def move(self, source: str, target: str) -> None:
        """Rename between relative paths; raises OSError."""
        try:
            os.rename(self.absolute(source), self.absolute(target))
        except FileNotFoundError:  # the folder is new, or someone tidied it away while it was empty
            os.makedirs(os.path.dirname(self.absolute(target)), exist_ok=True)
            os.rename(self.absolute(source), self.absolute(target))

    def place(self, incoming: str, target: str) -> None:
        """Give a file of incoming/ its place as well, by a second name; raises OSError.

        Where a file can have one name only, it loses that in incoming/.
        """
        if not self.has_links:
            if self.exists(incoming):  # else it was placed before
                self._make_room(target, incoming)
                self.move(incoming, target)
            return
        source, place = self.absolute(incoming), self.absolute(target)
        try:
            os.link(source, place)
        except FileExistsError:
            if os.path.samefile(source, place):
                return
            self._make_room(target, incoming)
            os.link(source, place)
        except FileNotFoundError:  # the folder is new, or someone tidied it away while it was empty
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.link(source, place)

    def write(self, path: str, content: Buffer) -> None:
        """Write a file at its place, without a sync; raises OSError, and then nothing stays there."""
        place = self.absolute(path)
        try:
            descriptor = os.open(place, _NEW_FILE, 0o644)
        except FileExistsError:
            self._clear(path, BytesIO(content))
            descriptor = os.open(place, _NEW_FILE, 0o644)
        except FileNotFoundError:  # the folder is new, or someone tidied it away while it was empty
            os.makedirs(os.path.dirname(place), exist_ok=True)
            descriptor = os.open(place, _NEW_FILE, 0o644)
        try:
            write_all(descriptor, [content])
        except OSError:
            os.unlink(place)
            raise
        finally:
            os.close(descriptor)

    def _make_room(self, path: str, incoming: str) -> None:
        """Have nothing stand where a file of incoming/ belongs; raises OSError."""
        if self.exists(path):
            with open(self.absolute(incoming), "rb") as file:
                self._clear(path, file)

    def _clear(self, path: str, coming: BinaryIO) -> None:
        """Take away what stands in the place of a file that is coming, and keep it; raises OSError.

        The same file, or what is left of one that was cut short, tells nothing that the other does not.
        """
        if self._begins(path, coming):
            self.remove(path)
        else:
            self.put_aside(path)

    def _begins(self, path: str, coming: BinaryIO) -> bool:
        with open(self.absolute(path), "rb") as file:
            return all(coming.read(len(piece)) == piece for piece in iter(lambda: file.read(_PIECE), b""))

    def put_aside(self, path: str) -> None:
        """Keep what has no row and stands where another object belongs; raises OSError.

        It may be an object that an index which was lost, or is older than it, does not know: a rebuild would
        find it.
        """
        sop_instance = os.path.basename(path).removesuffix(".dcm")
        aside = f"conflicts/{sop_instance}.unlisted-{time.time_ns()}.dcm"
        self.move(path, aside)
        log.warning("instance.unlisted", path=aside)

    def holds(self, path: str, content: bytes) -> bool:
        """Whether a file is there and has this content on the disk; raises OSError."""
        return self._on_disk(path, len(content) + 1) == content

    def is_whole(self, path: str, size: int, of_data_set: bytes) -> bool:
        """Whether a file is there, as long and with a data set of this digest; raises OSError."""
        content = self._on_disk(path, size + 1)
        try:
            data = memoryview(content)[data_offset_of(content) :]
        except CannotUnderstand:
            return False
        return len(content) == size and digest(data).digest() == of_data_set

    def _on_disk(self, path: str, most: int) -> bytes:
        """What a file begins with; nothing where it is not there or cannot be read. Raises OSError."""
        try:
            with open(self.absolute(path), "rb", buffering=0) as file:
                # What the kernel still has of it may be what it could not write.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return file.read(most)
        except FileNotFoundError:
            return b""
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise

    def is_incoming(self, path: str) -> bool:
        """Whether a file of incoming/ is one of ours; what others have put there is not to be removed."""
        name = os.path.basename(path)
        is_ours = name.endswith(".part") or name.startswith(_PROBES)
        return is_ours and os.path.isfile(self.absolute(path))

    def is_complete(self, path: str) -> bool:
        """Whether a file of incoming/ holds all of its object, whatever the crash was.

        Journaling file systems write a length only after the data it covers, so the length proves the data.
        """
        _, size = self.incoming_parts(os.path.basename(path))
        return size is not None and os.stat(self.absolute(path)).st_size == size

    def has_size(self, path: str, size: int) -> bool:
        """Whether a file is there and has as many bytes; raises OSError."""
        try:
            return os.stat(self.absolute(path)).st_size == size
        except FileNotFoundError:
            return False

    def remove(self, path: str) -> None:
        try:
            os.unlink(self.absolute(path))
        except FileNotFoundError:
            return

    def exists(self, path: str) -> bool:
        return os.path.exists(self.absolute(path))

    def sync(self, path: str) -> None:
        """Make a file's content durable; raises OSError."""
        descriptor = os.open(self.absolute(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable; a file's own fdatasync promises only its content (POSIX)."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest(data: Buffer = b"") -> xxh3_128:
    """XXH3 of 128 bits, as kept in the index: tells a duplicate from a conflict, and rot from health.

    No defence against forgery, and none is asked of it: who may store may store anything. SHA-256 took 30
    times as long, a fifth of all the work a CT slice makes.
    """
    return xxh3_128(data)


def write_all(descriptor: int, buffers: Sequence[Buffer]) -> None:
    """Write every buffer in order with as few system calls as possible."""
    for start in range(0, len(buffers), IOV_MAX):
        group = list(buffers[start : start + IOV_MAX])
        expected = sum(map(len, group))
        written = os.writev(descriptor, group)
        while written < expected:  # a signal, or a disk that fills up: the next call then says ENOSPC
            rest = memoryview(b"".join(group))[written:]
            written += os.write(descriptor, rest)
