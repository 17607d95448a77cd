"""The network's sysctls, through a directory that another process may lend; for worker threads.

Theory of operation. The kernel lets a process with CAP_NET_ADMIN over a network namespace write that namespace's
sysctls, whatever its uid. A service often cannot: systemd's ProtectKernelTunables mounts /proc/sys read-only for it.
The mount belongs to the directory, not to the process that writes. So a client whose /proc/sys is writable opens
/proc/sys/net and sends the fd with its request, and the daemon opens the files below it. The kernel looks up a name
below /proc/sys/net in the network namespace of the thread that opens it, so one directory serves every namespace.

A lent directory must not make the daemon write any other file, and the client may have mounted anything there, in a
mount namespace of its own. So the directory must be of procfs, and a file below it must be of the same mount.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from vethd.kernel import netns
from vethd.kernel.uapi import PROC_SUPER_MAGIC
from vethd.model.errors import VethError

DIRECTORY = "/proc/sys/net"
_VALUE_MAX = 64
_STATFS_BYTES = 256
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""The errnos of a sysctl that the daemon is not permitted to write."""

_libc = ctypes.CDLL(None, use_errno=True)


class Sysctl(NamedTuple):
    """A sysctl and its required value: ("ipv6/conf/veth0/accept_ra", "0").

    needed: a refusal to write it is an error. Otherwise the refusal is reported as a line of text.
    """

    key: str
    value: str
    needed: bool = False


class Sysctls:
    """The sysctls of the calling thread's network namespace."""

    def __init__(self, directory_fd: int) -> None:
        """Use the directory; the caller owns its fd. Raises VethError."""
        self._directory_fd = directory_fd
        try:
            self._mount = _mount(directory_fd)
        except OSError as error:
            raise VethError(error.errno or errno.EIO, "sysctl", reason=f"/proc: {error.strerror}") from error

    def ensure(self, wanted: Iterable[Sysctl]) -> list[str]:
        """Set, in this order, the sysctls that have another value; return a line of text for each refusal.

        A sysctl that does not exist is skipped: the kernel has no IPv6, or the link has none (its MTU is below 1280).
        Raises VethError.
        """
        refusals = []
        for one in wanted:
            try:
                self._set(one.key, one.value.encode())
            except FileNotFoundError:
                continue
            except OSError as error:
                code = error.errno or errno.EIO
                reason = f"{DIRECTORY}/{one.key} could not be set to {one.value}: {os.strerror(code)}"
                if one.needed or code not in _REFUSED:
                    raise VethError(code, "sysctl", reason=reason) from error
                refusals.append(reason)
        return refusals

    def _set(self, key: str, value: bytes) -> None:
        """Write a sysctl, unless it has the value; then it need not be writable. Raises OSError."""
        with self._open(key, os.O_RDONLY) as fd:
            if os.read(fd, _VALUE_MAX).strip() == value:
                return
        with self._open(key, os.O_WRONLY) as fd:
            os.write(fd, value)

    @contextmanager
    def _open(self, key: str, flags: int) -> Iterator[int]:
        fd = os.open(key, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._directory_fd)
        try:
            if _mount(fd) != self._mount:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            yield fd
        finally:
            os.close(fd)


@contextmanager
def sysctls(ref: str | None, fds: Sequence[int] | None) -> Iterator[Sysctls]:
    """Open /proc/sys/net: the daemon's own if ref is None, or the one lent as "fd:N", the N-th of fds.

    Raises VethError EBADF (no such fd), EINVAL (not of procfs).
    """
    fd = _directory(ref, fds)
    try:
        yield Sysctls(fd)
    finally:
        os.close(fd)


def _directory(ref: str | None, fds: Sequence[int] | None) -> int:
    try:
        if ref is None:
            return os.open(DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        fd = netns.given(ref, fds)
        if not _is_proc(fd):
            raise VethError(errno.EINVAL, "sysctl", reason=f"{ref!r} is not {DIRECTORY}")
        return os.dup(fd)
    except OSError as error:
        raise VethError(error.errno or errno.EIO, "sysctl", reason=f"{DIRECTORY}: {error.strerror}") from error


def _is_proc(fd: int) -> bool:
    statfs = ctypes.create_string_buffer(_STATFS_BYTES)
    return _libc.fstatfs(fd, statfs) == 0 and ctypes.c_long.from_buffer(statfs).value == PROC_SUPER_MAGIC


def _mount(fd: int) -> bytes:
    """Return the id of the mount through which a file was opened. Raises OSError."""
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(info, 1024).partition(b"mnt_id:")[2].split(None, 1)[0]
    finally:
        os.close(info)
