"""sd_notify: send one datagram of assignments to $NOTIFY_SOCKET. If it is not set, do nothing."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


class Notify:
    """Reports the daemon's state to the service manager. Never blocks for long; only keep() raises."""

    def __init__(self) -> None:
        """Take the manager's address and the watchdog interval; an address means that there is an fd store."""
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self.fd_store = bool(self._address)
        usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        ours = usec.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if ours and self._address else 0.0

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, is done."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the daemon is stopping."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Report that the loop is running."""
        self._send("WATCHDOG=1")

    def keep(self, name: str, fd: int) -> None:
        """Put a duplicate of fd into the service's fd store (Keeper). Raises OSError.

        Does not raise if no process listens: then the service manager that would restart the daemon is gone.
        """
        with suppress(ConnectionRefusedError, FileNotFoundError):
            self._say(f"FDSTORE=1\nFDNAME={name}", fd)

    def forget(self, name: str) -> None:
        """Remove the fd of that name from the fd store (Keeper)."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, text: str) -> None:
        with suppress(OSError):
            self._say(text)

    def _say(self, text: str, *fds: int) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.connect(address)  # send_fds() has an address parameter, but ignores it
            if fds:
                socket.send_fds(sock, [text.encode()], list(fds))
            else:
                sock.send(text.encode())
