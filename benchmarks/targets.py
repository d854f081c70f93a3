"""The servers under test: how each is started on loopback, paused, measured and stopped.

Every server is the leader of a process group of its own; only that group is ever signalled.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from benchmarks.errors import BenchmarkError, PeerError, TargetFailed
from benchmarks.objects import identifier
from benchmarks.raw import IMPLICIT_VR_LE, VERIFICATION, Association

AE_TITLE = "TARGET"
RECEIVER = "RECEIVER"  # the AE title of whoever listens on `receiver_port`: a destination of C-MOVE
START_TIMEOUT = 60.0  # seconds until the first C-ECHO is answered
STOP_TIMEOUT = 15.0  # seconds from SIGTERM to SIGKILL
CHECKOUT = Path(__file__).resolve().parent.parent

QUERY_LEVEL = 0x00080052
SOP_INSTANCE_UID = 0x00080018
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E


def spread(work: Path) -> None:
    """Let each folder below `work` start in a part of the disk of its own, where ext4 offers that.

    Else what was deleted in this part within the last five minutes, by the run before, slows down whoever
    creates files there: storescu got 300 objects/s stored in place of 700.
    """
    if shutil.which("chattr"):
        subprocess.run(["chattr", "+T", str(work)], check=False, stderr=subprocess.DEVNULL)


class Target(ABC):
    """One server: `name` is its column in the table."""

    name: ClassVar[str]
    answers_find: ClassVar[bool] = True  # and retrieves
    forks: ClassVar[bool] = False  # a process an association: its time is lost to us if nobody waits for it
    web_root: ClassVar[str] = ""  # path of its DICOMweb services, where it has any
    durability: ClassVar[str]  # what it has done when it answers a C-STORE; printed under the table

    def __init__(self, work: Path) -> None:
        self._work = work
        self._generation = 0
        self.data = self._new_folder()
        self.log = work / f"{self.name}.log"
        self.port, self.web_port, self.receiver_port = free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that serves `self.data` on `self.port`; may write a configuration there."""

    @abstractmethod
    def version(self) -> str: ...

    def start(self, *, fresh: bool = True) -> None:
        """Start on an empty data directory (or the one it had) and wait for its first C-ECHO."""
        if fresh:
            self._forget()
        self.data.mkdir(parents=True, exist_ok=True)
        command = self.command()
        if shutil.which(command[0]) is None:
            raise TargetFailed(f"{Path(command[0]).name} is not installed")
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data.parent,
                env={
                    **os.environ,
                    "TCP_NODELAY": "1",
                },  # dcmtk's switch; Orthanc and storescp are built on it
                start_new_session=True,
            )
        self._await_echo()

    def stop(self) -> None:
        """End the server as its administrator would."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None

    def discard(self) -> None:
        """End the server at once and forget its data."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        self._forget()

    def _forget(self) -> None:
        """Go on in a new folder; the old one goes with the whole run.

        ext4 passes over inodes deleted in the last minutes, one by one: whoever creates files after a mass
        deletion pays several times the price.
        """
        self._generation += 1
        self.data = self._new_folder()

    def _new_folder(self) -> Path:
        """A path nobody has had: ext4 looks for the part of the disk by the name of a folder."""
        return self._work / f"{self.name}-data-{self._generation}-{secrets.token_hex(4)}"

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def associate(self) -> Association:
        return Association(self.port, AE_TITLE)

    def count(self, batches: Iterable[tuple[str, str]]) -> int:
        """How many instances of these (study, series) a C-FIND at IMAGE level lists."""
        with self.associate() as link:
            return sum(
                len(
                    link.find(
                        identifier(
                            {
                                QUERY_LEVEL: "IMAGE",
                                SOP_INSTANCE_UID: "",
                                STUDY_INSTANCE_UID: study,
                                SERIES_INSTANCE_UID: series,
                            }
                        )
                    )
                )
                for study, series in batches
            )

    def holding(self) -> int:
        """What `count` gives for a study that was not sent yet."""
        return 0

    def processor_seconds(self) -> float:
        """User and system time of the process tree, children that were waited for included."""
        ticks = 0
        for pid in self._tree():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5) fields 14 to 17
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak_memory(self) -> float:
        """MB: the peak resident set (VmHWM) of every live process of the tree, summed."""
        total = 0
        for pid in self._tree():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        return total * 1024 / 1e6

    def reset_peak(self) -> None:
        """Set VmHWM back to what is resident now (proc(5), clear_refs)."""
        for pid in self._tree():
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                continue

    def _signal(self, number: signal.Signals) -> None:
        """To the server's own process group, while its leader is there to hold the number."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _tree(self) -> Iterator[int]:
        waiting = [self._process.pid] if self._process is not None else []
        while waiting:
            pid = waiting.pop()
            yield pid
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    waiting += map(int, task.read_text().split())
                except OSError:
                    continue

    def _await_echo(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise TargetFailed(f"{self.name} ended at start: {self._last_words()}")
            try:
                with Association(self.port, AE_TITLE, contexts={VERIFICATION: IMPLICIT_VR_LE}) as link:
                    link.echo()
                return
            except (OSError, PeerError):
                time.sleep(0.02)
        raise TargetFailed(f"{self.name} did not answer C-ECHO within {START_TIMEOUT:.0f} s")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing logged")[:160]


class Pacsnode(Target):
    """This checkout, with the settings it ships."""

    name = "pacsnode"
    web_root = "/dicomweb"
    durability = (
        "object synced (small: in the journal), index row committed; its log synced within two seconds"
    )

    def command(self) -> list[str]:
        executable = Path(sys.executable).with_name("pacsnode")
        ports = ["--dimse-port", str(self.port), "--web-port", str(self.web_port)]
        host = ["--dimse-host", "127.0.0.1", "--web-host", "127.0.0.1"]
        peer = ["--peer", f"{RECEIVER}@127.0.0.1:{self.receiver_port}"]
        storage = ["--storage", str(self.data)]
        return [str(executable), "serve", "--ae-title", AE_TITLE, *host, *ports, *peer, *storage]

    def version(self) -> str:
        commit = _first_line(["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"])
        return f"checkout {commit}"


class Orthanc(Target):
    """Debian's Orthanc as its book says to tune it; its durable default (SyncStorageArea) stays on."""

    name = "orthanc"
    web_root = "/dicom-web"
    durability = "file fdatasync'd; SQLite row committed without sync (WAL, synchronous NORMAL)"
    program: ClassVar[str] = "Orthanc"
    root: ClassVar[Path] = Path("/")  # of the system it is installed in

    def command(self) -> list[str]:
        plugins = Path("usr/share/orthanc/plugins")
        wanted = (plugins / f"lib{name}.so" for name in ("OrthancDicomWeb", "OrthancGdcm"))
        settings = {
            "Name": "BENCH",
            "StorageDirectory": str(self.data),
            "IndexDirectory": str(self.data),
            "DicomAet": AE_TITLE,
            "DicomPort": self.port,
            "HttpPort": self.web_port,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowMove": True,
            "DicomAlwaysAllowGet": True,
            "DicomModalities": {RECEIVER: [RECEIVER, "127.0.0.1", self.receiver_port]},
            "SynchronousCMove": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": True,
            "DicomThreadsCount": 32,
            "HttpThreadsCount": 50,
            "MaximumPduLength": 131072,
            "StorageAccessOnFind": "Never",
            "StorageCompression": False,
            "HttpCompressionEnabled": False,
            "SaveJobs": False,
            "KeepAlive": True,
            "TcpNoDelay": True,
            "Plugins": [f"/{path}" for path in wanted if (self.root / path).exists()],
        }
        file = self.data / "orthanc.json"
        file.write_text(json.dumps(settings))
        return [self.program, str(file)]

    def version(self) -> str:
        return _first_line([self.program, "--version"])


class NewerOrthanc(Orthanc):
    """An Orthanc of another release: what $NEWER_ORTHANC runs, installed in the tree $NEWER_ROOT."""

    name = "orthanc-newer"
    program = os.environ.get("NEWER_ORTHANC", "orthanc-newer")
    root = Path(os.environ.get("NEWER_ROOT", "/"))


class Storescp(Target):
    """dcmtk's receiver: writes files, keeps no index and syncs nothing. For context only."""

    name = "storescp"
    answers_find = False
    forks = True
    durability = "file handed to the page cache, no sync, no index"

    def command(self) -> list[str]:
        # --fork: without it one association is served after the other
        return ["storescp", "--fork", "-od", str(self.data), "-pdu", "131072", "+xa", str(self.port)]

    def version(self) -> str:
        return _first_line(["storescp", "--version"])

    def count(self, batches: Iterable[tuple[str, str]]) -> int:
        """All files there are: their names tell neither study nor series."""
        return self.holding()

    def holding(self) -> int:
        return sum(1 for _ in os.scandir(self.data))


TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (Pacsnode, Orthanc, NewerOrthanc, Storescp)
}


def usual_targets() -> list[str]:
    """All but an Orthanc that nobody named."""
    return [name for name in TARGETS if name != NewerOrthanc.name or "NEWER_ORTHANC" in os.environ]


def free_ports(number: int) -> list[int]:
    """Ports nobody listens on at the moment."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"{command[0]}: {error}") from error
    return (done.stdout.strip().splitlines() or ["?"])[0].strip("$ ")
