"""Help, errors and exit statuses."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pacsnode import __version__, cli
from pacsnode.errors import ArchiveError
from tests.cli.conftest import Pacsnode

HEAVY = {"asyncio", "pydicom", "pynetdicom", "sqlalchemy", "alembic", "uvicorn", "starlette", "pydantic"}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line with a command that raises; give status and standard error."""

    def run(error: BaseException) -> tuple[int, str]:
        def version() -> None:
            raise error

        monkeypatch.setattr(cli.version, "version", version)
        monkeypatch.setattr(sys, "argv", ["pacsnode", "version"])
        return cli.main(), capsys.readouterr().err

    return run


def test_help_names_every_command(pacsnode) -> None:
    ran = pacsnode("--help")
    assert ran.status == 0
    for command in ("serve", "config", "index", "echo", "store", "find", "version"):
        assert f" {command} " in ran.output


@pytest.mark.parametrize(
    "command", [["serve"], ["config"], ["index"], ["echo"], ["store"], ["find"], ["index", "verify"]]
)
def test_every_command_explains_itself(pacsnode, command: list[str]) -> None:
    ran = pacsnode(*command, "--help")
    assert (ran.status, ran.errors) == (0, "")
    assert "Usage: pacsnode " + " ".join(command) in ran.output


def test_version_is_told(pacsnode) -> None:
    told = pacsnode("version").output
    assert told.startswith(f"pacsnode {__version__}\n")
    assert pacsnode("--version").output == told


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["serv"], "No such command 'serv'"),
        (["echo"], "Missing argument 'PEER'"),
        (["store", "A@h:1", ".", "--parallel", "0"], "'--parallel'"),
        (["find", "A@h:1", "--level", "FRAME"], "'FRAME' is none of PATIENT, STUDY, SERIES, IMAGE"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(pacsnode, command: list[str], complaint: str) -> None:
    ran = pacsnode(*command)
    assert (ran.status, ran.output) == (2, "")
    assert ran.errors.startswith("pacsnode: ")
    assert ran.errors.count("\n") == 1
    assert complaint in ran.errors


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["serve", "--dimse-port", "70000"], 'dimse.port = "70000" on the command line; allowed: 0 to 65535'),
        (["serve", "--config", "none.toml"], "none.toml: No such file or directory"),
        (["serve", "--peer", "CT1"], "'CT1' is no peer"),
        (["echo", "CT1"], "'CT1' is no peer"),
        (["store", "A@localhost:1", "nowhere"], "nowhere: No such file or directory"),
        (["find", "A@localhost:1", "-k", "PatientNam=X"], "'PatientNam' is no attribute"),
        (["index", "verify", "--storage", "nowhere"], "data root nowhere does not exist"),
        (["worklist", "import", "none.json"], "none.json: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(pacsnode, command: list[str], complaint: str) -> None:
    ran = pacsnode(*command)
    assert (ran.status, ran.output) == (1, "")
    assert ran.errors.startswith(f"pacsnode: {complaint}")
    assert ran.errors.count("\n") == 1


def test_an_unreachable_peer_is_one_line(pacsnode) -> None:
    ran = pacsnode("echo", "NOBODY@127.0.0.1:1")
    assert ran.status == 1
    assert ran.errors == "pacsnode: NOBODY@127.0.0.1:1 cannot be reached: Connection refused\n"


def test_a_peer_that_is_no_dicom_node_is_one_line(pacsnode: Pacsnode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = f"WEB@127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with ThreadPoolExecutor() as pool:
            pool.submit(answer)
            ran = pacsnode("echo", peer)
    assert ran.status == 1
    assert ran.errors == f"pacsnode: aborted by this side: unknown PDU type 48H ({peer})\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ArchiveError("data root in use"), 1, "pacsnode: data root in use\n"),
        (PermissionError(13, "Permission denied", "storage"), 1, "pacsnode: storage: Permission denied\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_a_line_and_a_status(failing, error: BaseException, status: int, line: str) -> None:
    assert failing(error) == (status, line)


def test_a_bug_is_no_traceback_unless_asked_for(failing, monkeypatch: pytest.MonkeyPatch) -> None:
    status, line = failing(ValueError("oops"))
    assert status == 1
    assert line == "pacsnode: internal error, ValueError: oops (PACSNODE_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("PACSNODE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="oops"):
        failing(ValueError("oops"))


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from pacsnode.cli import application; application(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & HEAVY


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m pacsnode.cli config show | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command",
    ["jobs list", "jobs retry 1", "peers list", "peers add A@b:1", "worklist list", "hl7 list", "mpps list"],
)
def test_a_folder_that_is_no_data_root_is_left_alone(
    pacsnode: Pacsnode, tmp_path: Path, command: str
) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        ran = pacsnode(*command.split(), "--storage", folder)
        line = f"pacsnode: {folder} is no data root (--storage): no node has been started on it\n"
        assert (ran.status, ran.errors) == (1, line)
    assert not list(tmp_path.iterdir())
