"""Messages to the service manager (sd_notify(3)): start, readiness, reload, stop, watchdog. Imports nothing.

Without NOTIFY_SOCKET in the environment every method does nothing, so callers need not ask.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Self


class ServiceManager:
    """The one-way line to systemd. Datagrams are small and never wait."""

    def __init__(self, address: str | None, watchdog_interval: float | None = None) -> None:
        self.watchdog_interval = watchdog_interval  # seconds between two signs of life; None: not wanted
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket:
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read NOTIFY_SOCKET and WATCHDOG_USEC; a sign of life is due at half that time."""
        address = environ.get("NOTIFY_SOCKET") or None
        if address and address.startswith("@"):
            address = "\0" + address[1:]  # abstract socket
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        interval = int(usec) / 2e6 if address and ours and usec.isdigit() and int(usec) else None
        return cls(address, interval)

    def starting(self, within: float) -> None:
        """The start goes on for `within` seconds more at most, as far as is known."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(within * 1e6)}")

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is complete."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str, within: float) -> None:
        """The end has begun and takes `within` seconds at most: kill nobody before that."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within * 1e6)}\nSTATUS={status}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket and self._address:
            with contextlib.suppress(OSError):  # a manager that went away must not stop the node
                self._socket.sendto(message.encode(), self._address)
