"""A process whose call was trapped: its memory, its descriptors, its namespaces and its rights.

Everything here needs ptrace access to the process: the same user, and no more capabilities than the supervisor has.
"""

from __future__ import annotations

import _socket
import ctypes
import posix
import resource

from vethd.clients.run.calls import PIDFD_GETFD, Socket, failed, libc, syscall

CAP_NET_ADMIN = 12
_CLOEXEC = posix.O_RDONLY | posix.O_CLOEXEC
_MEMORY_MAX = 1 << 20  # of one message
_NO_LIMIT = 1 << 30


class _Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


# made once: a supervisor has one thread, and reads memory in every trapped call
_BUFFER = ctypes.create_string_buffer(1 << 16)
_MINE, _THEIRS = _Span(), _Span()
_SPANS = ctypes.byref(_MINE), 1, ctypes.byref(_THEIRS), 1, 0


class Caller:
    """The process of a thread. A context manager, which closes its pidfd."""

    def __init__(self, thread: int) -> None:
        """Look at the process of a thread id. Raises OSError if it is gone."""
        self.thread = thread
        self._pidfd = -1
        self._status: dict[str, str] = {}

    def __enter__(self) -> Caller:  # noqa: PYI034 - importing typing takes 4 ms
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd >= 0:
            posix.close(self._pidfd)

    # --- memory

    def read(self, address: int, size: int) -> bytes:
        """Copy bytes out of its memory. Raises OSError."""
        if not 0 < size <= _MEMORY_MAX:
            return b""
        buffer = _BUFFER if size <= len(_BUFFER) else ctypes.create_string_buffer(size)
        _MINE.base, _MINE.len = ctypes.addressof(buffer), size
        _THEIRS.base, _THEIRS.len = address, size
        done = libc.process_vm_readv(self.thread, *_SPANS)
        if done < 0:
            raise failed()
        return ctypes.string_at(buffer, done)

    def write(self, address: int, data: bytes) -> None:
        """Copy bytes into its memory. Raises OSError."""
        _MINE.base, _MINE.len = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value, len(data)
        _THEIRS.base, _THEIRS.len = address, len(data)
        if data and libc.process_vm_writev(self.thread, *_SPANS) < 0:
            raise failed()

    # --- descriptors

    def take(self, number: int) -> int:
        """Return a duplicate of one of its descriptors, which is the caller's to close. Raises OSError."""
        if self._pidfd < 0:
            try:
                self._pidfd = posix.pidfd_open(self.thread)
            except OSError:  # not the process's first thread
                self._pidfd = posix.pidfd_open(self.pid)
        return syscall(PIDFD_GETFD, self._pidfd, number)

    def descriptors(self) -> set[int]:
        """Return the numbers of its descriptors. Raises OSError."""
        return {int(name) for name in posix.listdir(f"/proc/{self.thread}/fd")}

    def limit(self) -> int:
        """Return its soft limit of descriptors. Raises OSError."""
        soft, _ = resource.prlimit(self.thread, resource.RLIMIT_NOFILE)
        return soft if soft != resource.RLIM_INFINITY else _NO_LIMIT

    def socket(self, number: int) -> Socket | None:
        """Return a duplicate of one of its descriptors if it is an rtnetlink socket, else None. Raises OSError."""
        fd = self.take(number)
        try:
            sock = Socket(fileno=fd)
        except OSError:  # ENOTSOCK
            posix.close(fd)
            return None
        if (sock.family, sock.proto) == (_socket.AF_NETLINK, 0):
            return sock
        sock.close()
        return None

    # --- identity

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.status("Tgid"))

    def status(self, key: str) -> str:
        """Return a line of /proc/PID/status, as this process sees it. Raises OSError if it is gone."""
        if not self._status:
            lines = _read(f"/proc/{self.thread}/status").decode("utf-8", "replace").splitlines()
            self._status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return self._status.get(key, "")

    def forget(self) -> None:
        """Read its status anew next time: this process has entered another user namespace."""
        self._status = {}

    def may_administer(self) -> bool:
        """Return whether it has CAP_NET_ADMIN in its user namespace."""
        return bool(int(self.status("CapEff") or "0", 16) >> CAP_NET_ADMIN & 1)

    def namespace(self, kind: str) -> int:
        """Open one of its namespaces ("net", "user"). Raises OSError."""
        return posix.open(f"/proc/{self.thread}/ns/{kind}", _CLOEXEC)

    def same(self, kind: str) -> bool:
        """Return whether this process is in the same namespace of that kind."""
        return _identity("self", kind) == _identity(str(self.thread), kind)

    def netns_of(self, pid: int) -> int:
        """Open the network namespace of a process that it knows by that id. Raises OSError (ENOENT: there is none)."""
        if self.same("pid"):
            return posix.open(f"/proc/{pid}/ns/net", _CLOEXEC)
        place = posix.stat(f"/proc/{self.thread}/ns/pid")[1:3]
        for name in filter(str.isdigit, posix.listdir("/proc")):
            try:
                inside = posix.stat(f"/proc/{name}/ns/pid")[1:3] == place
                if inside and Caller(int(name)).status("NSpid").split()[-1] == str(pid):
                    return posix.open(f"/proc/{name}/ns/net", _CLOEXEC)
            except OSError:
                continue
        raise FileNotFoundError(2, "no such process")


def _identity(process: str, kind: str) -> tuple[int, int]:
    """Return what tells a process's namespace from others."""
    status = posix.stat(f"/proc/{process}/ns/{kind}")
    return status.st_ino, status.st_dev


def _read(path: str) -> bytes:
    fd = posix.open(path, _CLOEXEC)
    try:
        return posix.read(fd, 1 << 16)
    finally:
        posix.close(fd)
