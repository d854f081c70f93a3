"""The unit, as systemd reads it."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parent.parent / "systemd" / "pacsnode.service"


class Unit(configparser.RawConfigParser):
    """A unit file; of a key that is repeated the last value is kept."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def service() -> configparser.SectionProxy:
    unit = Unit(strict=False, interpolation=None)
    unit.read(UNIT)
    return unit["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_to_say() -> None:
    found = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_readiness_and_life_are_told_by_the_node(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert service["Restart"] == "on-failure"


def test_the_stop_leaves_time_to_drain(service: configparser.SectionProxy) -> None:
    from pacsnode.config import Settings

    assert int(service["TimeoutStopSec"]) > Settings().dimse.drain_timeout + 10


def test_port_104_needs_no_root(service: configparser.SectionProxy) -> None:
    assert service["User"] == "pacsnode"
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"


def test_only_the_state_directory_is_writable(service: configparser.SectionProxy) -> None:
    assert service["ProtectSystem"] == "strict"
    assert service["StateDirectory"] == "pacsnode"
    assert service["WorkingDirectory"] == "%S/pacsnode"
