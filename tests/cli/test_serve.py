"""`pacsnode serve` as systemd runs it: readiness, reload, stop."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Service:
    """A started `pacsnode serve` and the datagrams it sends to the service manager."""

    def __init__(self, folder: Path, config: Path, descriptors: tuple[int, int] | None = None) -> None:
        self.config = config
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.settimeout(30)
        self.log = folder / "log"
        limited = ["prlimit", f"--nofile={descriptors[0]}:{descriptors[1]}"] if descriptors else []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*limited, sys.executable, "-m", "pacsnode.cli", "serve", "--config", str(config)],
                env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "200000"},
                cwd=folder,
                stderr=log,
            )

    def wait_for(self, word: str) -> str:
        """The first datagram that holds `word`."""
        while True:
            message = self.manager.recv(4096).decode()
            if word in message:
                return message

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.manager.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    config = tmp_path / "pacsnode.toml"
    config.write_text("[dimse]\nhost = '127.0.0.1'\nport = 0\n[web]\nport = 0\n[storage]\nreserve = 0\n")
    service = Service(tmp_path, config)
    yield service
    service.close()


def test_the_node_says_when_it_is_ready_that_it_lives_and_that_it_stops(service: Service) -> None:
    assert "STATUS=" in service.wait_for("READY=1")
    assert service.wait_for("WATCHDOG=1")
    service.process.send_signal(signal.SIGTERM)
    service.wait_for("STOPPING=1")
    assert service.process.wait(20) == 0
    assert "Traceback" not in service.log.read_text()


def test_a_low_limit_of_open_files_is_raised_or_told(tmp_path: Path) -> None:
    config = tmp_path / "pacsnode.toml"
    config.write_text("[dimse]\nport = 0\n[web]\nport = 0\n[storage]\nreserve = 0\n")
    service = Service(tmp_path, config, descriptors=(128, 700))
    try:
        service.wait_for("READY=1")
        limits = Path(f"/proc/{service.process.pid}/limits").read_text()
        assert re.search(r"Max open files +700 +700 ", limits)
        assert '"event": "node.few_descriptors", "allowed": 700, "needed": 768' in service.log.read_text()
    finally:
        service.close()


def test_sighup_takes_over_the_log_level_and_names_what_waits(service: Service) -> None:
    service.wait_for("READY=1")
    service.config.write_text(service.config.read_text() + "workers = 7\n[log]\nlevel = 'debug'\n")
    service.process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in service.wait_for("RELOADING=1")
    service.wait_for("READY=1")
    log = service.log.read_text()
    assert '"log.level"' in log
    assert '"storage.workers"' in log


def test_sighup_with_a_wrong_file_changes_nothing(service: Service) -> None:
    service.wait_for("READY=1")
    service.config.write_text("[dimse]\nport = -1\n")
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("RELOADING=1")
    service.wait_for("READY=1")
    assert "dimse.port = -1" in service.log.read_text()
    assert service.process.poll() is None


def test_a_second_node_on_the_same_data_root_refuses(service: Service) -> None:
    service.wait_for("READY=1")
    second = subprocess.run(
        [sys.executable, "-m", "pacsnode.cli", "serve", "--config", str(service.config)],
        cwd=service.config.parent,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith("pacsnode: ")
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(("what", "taken"), [("DICOM", "--dimse-port"), ("HTTP", "--web-port")])
def test_a_port_in_use_is_one_line_and_ends_the_node(tmp_path: Path, what: str, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = {"--dimse-port": "0", "--web-port": "0", taken: str(port)}
        flags = ["--dimse-host", "127.0.0.1", *(word for pair in ports.items() for word in pair)]
        ran = subprocess.run(
            [sys.executable, "-m", "pacsnode.cli", "serve", "--storage", str(tmp_path / "root"), *flags],
            capture_output=True,
            text=True,
            timeout=30,
        )
    line = f"pacsnode: {what} cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert (ran.returncode, ran.stderr) == (1, line)


def test_a_peer_to_be_called_that_is_unknown_is_told(tmp_path: Path) -> None:
    config = tmp_path / "pacsnode.toml"
    known = "[peers]\nRIS = 'localhost:104'\n[mpps]\nforward = ['RIS']\nnotify = ['NOBODY']\n"
    config.write_text("[dimse]\nport = 0\n[web]\nport = 0\n[storage]\nreserve = 0\n" + known)
    service = Service(tmp_path, config)
    try:
        service.wait_for("READY=1")
        log = service.log.read_text()
    finally:
        service.close()
    assert log.count('"peer.unknown"') == 1
    assert '"ae_title": "NOBODY", "setting": "mpps.notify"' in log


def test_a_log_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    config = tmp_path / "pacsnode.toml"
    config.write_text("[dimse]\nport = 0\n[web]\nport = 0\n[storage]\nreserve = 0\n")
    (tmp_path / "log").symlink_to("/dev/full")
    service = Service(tmp_path, config)
    try:
        service.wait_for("READY=1")
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
    finally:
        service.close()
