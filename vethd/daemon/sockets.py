"""The two listening sockets: systemd's, or our own, with a lock that allows one daemon for each path."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vethd.doors.routing import BACKLOG
from vethd.model.errors import VethError


@dataclass
class Sockets:
    """Two bound, listening sockets. close() removes the files that we made; systemd's sockets stay."""

    control: socket.socket
    fdpass: socket.socket
    _lock: int = -1
    _paths: tuple[str, ...] = ()

    def fds(self) -> dict[str, int]:
        """Return the fds for a successor, by name."""
        lock = {"lock": self._lock} if self._lock >= 0 else {}
        return {"control": self.control.fileno(), "fdpass": self.fdpass.fileno()} | lock

    def leave(self) -> None:
        """Leave the files and the lock to a successor: close() then closes only our own descriptors."""
        self._paths = ()

    def close(self) -> None:
        """Close both sockets, and delete the files that we made."""
        self.control.close()
        self.fdpass.close()
        for path in self._paths:
            with suppress(OSError):
                Path(path).unlink()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def listen(path: str, mode: int, group: str | None, passed: dict[str, int]) -> Sockets:
    """Return the sockets for path and path + ".fd": those in passed, which are removed from it, otherwise new ones.

    Raises VethError EADDRINUSE if another daemon serves path, or the errno of bind().
    """
    given = {name: socket.socket(fileno=passed.pop(name)) for name in ("control", "fdpass") if name in passed}
    if {"control", "fdpass"} <= given.keys():
        if "lock" in passed:  # from a predecessor, which made all three
            return Sockets(given["control"], given["fdpass"], passed.pop("lock"), _files(path))
        return Sockets(given["control"], given["fdpass"])
    if "control" in given:
        fd_path = path + ".fd"
        _remove_stale(fd_path)
        return Sockets(given["control"], _bind(fd_path, socket.SOCK_SEQPACKET, mode, group), _paths=(fd_path,))
    lock = _lock(path)
    made: list[socket.socket] = []
    try:
        for name, kind in ((path, socket.SOCK_STREAM), (path + ".fd", socket.SOCK_SEQPACKET)):
            _remove_stale(name)
            made.append(_bind(name, kind, mode, group))
    except BaseException:
        for listener in made:
            Path(listener.getsockname()).unlink(missing_ok=True)
            listener.close()
        Path(path + ".lock").unlink(missing_ok=True)
        os.close(lock)
        raise
    return Sockets(made[0], made[1], lock, _files(path))


def _files(path: str) -> tuple[str, str, str]:
    return path, path + ".fd", path + ".lock"


def _lock(path: str) -> int:
    """Lock the file path + ".lock". Raises VethError."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VethError(error.errno or errno.EIO, "listen", reason=f"{path}.lock: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # a daemon that ends deletes its file before it unlocks it: a lock on that file would keep nobody else out
        if not os.path.samestat(os.fstat(lock), Path(path + ".lock").stat()):
            raise FileNotFoundError
    except OSError as error:
        os.close(lock)
        raise VethError(errno.EADDRINUSE, "listen", reason=f"another vethd serves {path}") from error
    return lock


def _remove_stale(path: str) -> None:
    """Delete the socket that a killed predecessor left; a file of another type stays."""
    if Path(path).is_socket():
        Path(path).unlink()


def _bind(path: str, kind: socket.SocketKind, mode: int, group: str | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    bound = False
    try:
        umask = os.umask(0o177)  # no access for other users until mode and group are set
        try:
            listener.bind(path)
            bound = True
        finally:
            os.umask(umask)
        if group is not None:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        Path(path).chmod(mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except KeyError as error:
        _unbind(listener, path if bound else None)
        raise VethError(errno.EINVAL, "listen", reason=f"socket_group: no such group: {group!r}") from error
    except OSError as error:
        _unbind(listener, path if bound else None)
        raise VethError(error.errno or errno.EIO, "listen", reason=f"{path}: {error.strerror or error}") from error
    return listener


def _unbind(listener: socket.socket, path: str | None) -> None:
    listener.close()
    if path is not None:
        Path(path).unlink(missing_ok=True)
