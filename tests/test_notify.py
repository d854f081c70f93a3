"""sd_notify against a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsnode.notify import ServiceManager


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


@pytest.fixture
def manager(systemd: socket.socket) -> Iterator[ServiceManager]:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": systemd.getsockname()})
    yield manager
    manager.close()


def fields(systemd: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in systemd.recv(4096).decode().splitlines())


def test_a_long_start_asks_for_time(systemd: socket.socket, manager: ServiceManager) -> None:
    manager.starting(60)
    assert fields(systemd) == {"EXTEND_TIMEOUT_USEC": "60000000"}


def test_ready_and_stopping_carry_a_status(systemd: socket.socket, manager: ServiceManager) -> None:
    manager.ready("listening on 11112")
    assert fields(systemd) == {"READY": "1", "STATUS": "listening on 11112"}
    manager.stopping("draining 3 associations", 20.5)
    told = {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "20500000", "STATUS": "draining 3 associations"}
    assert fields(systemd) == told


def test_reloading_carries_the_monotonic_time(systemd: socket.socket, manager: ServiceManager) -> None:
    manager.reloading()
    sent = fields(systemd)
    assert sent["RELOADING"] == "1"
    assert int(sent["MONOTONIC_USEC"]) > 0


def test_status_and_watchdog_are_one_line_each(systemd: socket.socket, manager: ServiceManager) -> None:
    manager.status("2 associations")
    manager.watchdog()
    assert fields(systemd) == {"STATUS": "2 associations"}
    assert fields(systemd) == {"WATCHDOG": "1"}


def test_an_abstract_socket_is_reached() -> None:
    name = f"pacsnode-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": "@" + name})
        manager.watchdog()
        assert fields(listener) == {"WATCHDOG": "1"}
        manager.close()


def test_without_a_manager_nothing_happens() -> None:
    manager = ServiceManager.from_environment({"WATCHDOG_USEC": "10000000"})
    manager.ready("alone")
    manager.close()
    assert manager.watchdog_interval is None


def test_a_manager_that_went_away_does_not_stop_the_node(tmp_path: Path) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    manager.watchdog()
    manager.close()
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_sign_of_life_is_due_at_half_the_watchdog_time(
    environ: dict[str, str], interval: float | None
) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": "/run/nobody", **environ})
    assert manager.watchdog_interval == interval
    manager.close()
