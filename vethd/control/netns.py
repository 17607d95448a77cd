"""Translate a caller's namespace references into references for the daemon.

Names and paths are sent as they are. The caller itself opens a PID's namespace, and its own if none is given, and sends
them as file descriptors; "fd:0" is the first one sent. The daemon refuses names and paths of callers that are not
administrators (EPERM); then these are also opened here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from vethd.model.errors import VethError

NAMES = Path("/run/netns")
OWN = "/proc/thread-self/ns/net"  # setns() changes only the calling thread
FD_PREFIX = "fd:"


def own_inode() -> int:
    """Return the inode of the caller's own network namespace, as the calling thread sees it."""
    return Path(OWN).stat().st_ino


def is_pid(netns: str) -> bool:
    """Return whether netns is a PID: only digits, and not the name of a namespace. Names win, as in iproute2."""
    return netns.isascii() and netns.isdigit() and not (NAMES / netns).exists()


def path_of(netns: str) -> str:
    """Return the path of the file that netns refers to here, whether it exists or not."""
    if netns.startswith(FD_PREFIX):
        return f"/proc/self/fd/{netns.removeprefix(FD_PREFIX)}"
    if is_pid(netns):
        return f"/proc/{netns}/ns/net"
    return netns if "/" in netns else str(NAMES / netns)


def inode_of(netns: str) -> int | None:
    """Return the inode of the namespace that netns refers to here; None if it is not visible."""
    try:
        return Path(path_of(netns)).stat().st_ino
    except (OSError, ValueError):  # ValueError: a NUL byte
        return None


class NetnsFds:
    """The file descriptors to send with one request; a context manager that closes those it opened."""

    def __init__(self, op: str, ifname: str, *, by_fd: bool = False) -> None:
        """Take the operation and the link that an error names; by_fd also opens names and paths here.

        named is true if the daemon has to open a name or path.
        """
        self.fds: list[int] = []
        self.by_fd = by_fd
        self.named = False
        self._opened: list[int] = []
        self._op = op
        self._ifname = ifname

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        while self._opened:
            os.close(self._opened.pop())

    def resolve(self, netns: str) -> str:
        """Return the reference to send: a name or path as it is, "fd:N" for a PID or one of the caller's own fds.

        Raises VethError ESRCH (no such process, or no such name to open), EBADF (no such fd), EACCES.
        """
        if netns.startswith(FD_PREFIX):
            return self._send(self._inherited(netns))
        if is_pid(netns):
            return self._send(self._open(f"/proc/{netns}/ns/net", f"no process {netns}"))
        if self.by_fd and netns:
            return self._send(self._open(path_of(netns), f"no network namespace {netns!r}"))
        self.named = True
        return netns

    def own(self) -> str:
        """Return the reference for the caller's own namespace."""
        return self._send(self._open(OWN, "/proc is not mounted"))

    def _send(self, fd: int) -> str:
        self.fds.append(fd)
        return f"{FD_PREFIX}{len(self.fds) - 1}"

    def _open(self, path: str, absent: str) -> int:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise VethError(errno.ESRCH, self._op, self._ifname, absent) from error
        except OSError as error:
            number = error.errno or errno.EINVAL
            raise VethError(number, self._op, self._ifname, f"{path}: {os.strerror(number)}") from error
        self._opened.append(fd)
        return fd

    def _inherited(self, netns: str) -> int:
        number = netns.removeprefix(FD_PREFIX)
        try:
            fd = int(number)
            os.fstat(fd)
        except (ValueError, OverflowError, OSError) as error:
            raise VethError(errno.EBADF, self._op, self._ifname, f"{netns} is not an open file descriptor") from error
        return fd
