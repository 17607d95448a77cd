"""The part of systemd that keeps descriptors for a service, without systemd: to be killed beside it a hundred times.

As systemd's (src/core/service.c): a name a message, what polls EPOLLERR or EPOLLHUP is let go, FDSTOREREMOVE closes
all of that name.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lib.meanwhile import meanwhile

FDS_MAX = 253


class FdStore:
    """Listens where $NOTIFY_SOCKET says. A context manager, which closes what it keeps."""

    def __init__(self, path: Path) -> None:
        """Listen at path, which is made."""
        self.path = path
        self._status = ""
        self._fds: dict[str, int] = {}
        self._lock = threading.Lock()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)  # recv_fds() heeds no flags
        self._sock.bind(str(path))
        self._stack = ExitStack()

    @property
    def environ(self) -> dict[str, str]:
        """Return the variable that a service finds it by."""
        return {"NOTIFY_SOCKET": str(self.path)}

    def __enter__(self) -> Self:
        self._stack.callback(self._close)
        self._stack.enter_context(meanwhile(self._work, "fd store"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, tb)

    @property
    def status(self) -> str:
        """What the service last said of itself, once all that was sent has been heard."""
        with self._lock:
            self._hear_all()
            return self._status

    def names(self) -> set[str]:
        """Return the names of what is kept."""
        return set(self.fds())

    def fds(self) -> dict[str, int]:
        """Return what is kept, by name, once all that was sent has been heard; dead devices are let go first."""
        with self._lock:
            self._hear_all()
            poller = select.poll()
            for fd in self._fds.values():
                poller.register(fd, 0)
            dead = {fd for fd, _ in poller.poll(0)}
            for name in [name for name, fd in self._fds.items() if fd in dead]:
                os.close(self._fds.pop(name))
            return dict(self._fds)

    def keep(self, name: str, fd: int) -> None:
        """Keep a duplicate of fd, as if it had been sent."""
        with self._lock:
            self._fds[name] = os.dup(fd)

    def forget(self, name: str) -> None:
        """Let go of what has that name, as if that had been asked for."""
        with self._lock:
            os.close(self._fds.pop(name))

    def clear(self) -> None:
        """Let go of everything, as systemd does when the service is stopped."""
        for name in self.names():
            self.forget(name)

    def _close(self) -> None:
        self._sock.close()
        self.path.unlink()
        for fd in self._fds.values():
            os.close(fd)

    def _work(self, end: int) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(end, select.POLLIN)
        while not any(fd == end for fd, _ in poller.poll()):
            with self._lock:
                self._hear_all()

    def _hear_all(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, FDS_MAX)
            except BlockingIOError:
                return
            said = dict(line.split("=", 1) for line in data.decode().splitlines())
            name = said.get("FDNAME", "stored")
            self._status = said.get("STATUS", self._status)
            if "FDSTOREREMOVE" in said and name in self._fds:
                os.close(self._fds.pop(name))
            for fd in fds:
                if "FDSTORE" in said and name not in self._fds:
                    self._fds[name] = fd
                else:
                    os.close(fd)
