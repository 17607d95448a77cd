"""Network namespaces: opens, names and enters them, and makes anonymous ones.

Theory of operation. An open fd on a namespace, a tun fd opened inside it and a netlink socket made inside it all
keep it alive after `ip netns del`. So nothing here stays open: a namespace is opened, entered by a worker thread for
one operation, and closed. A namespace is identified by its inode, which no two existing namespaces share.

setns(2) moves only the calling thread. Never call these functions on an event loop's thread: entering is cheap, but the
operations inside take the RTNL lock, which any program may hold for tens of milliseconds.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from vethd.kernel.uapi import AT_EMPTY_PATH, AT_STATX_DONT_SYNC, CLONE_NEWNET, NS_GET_NSTYPE, SO_NETNS_COOKIE
from vethd.model.errors import VethError
from vethd.model.needs import NET_NS

RUN_NETNS = "/run/netns"
INHERITED = range(1 << 20)
"""For open_ref(): "fd:N" is this process's own fd N, inherited from the process that started it."""
_FD_DIGITS = 10
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""The errnos of a call that do not depend on the object of the call."""
_HOMEWARD_S = (0.0, 0.001, 0.01, 0.1, 1.0)
"""Pauses before each attempt to return from a namespace."""

_Statx = ctypes.c_char * 256
_STX_DEV = slice(136, 144)  # stx_dev_major, stx_dev_minor

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, op: str, invalid: str = "") -> None:
    """Raise VethError if a call failed; invalid replaces the C library's text for EINVAL."""
    if result != 0:
        code = ctypes.get_errno()
        raise VethError(code, op, reason=invalid if code == errno.EINVAL else "")


@contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """Run the body with the calling thread in the namespace of netns_fd, then return to the thread's namespace.

    A thread that does not return does all further work in the wrong namespace. setns(2) allocates memory and can fail,
    so the return is retried. Raises VethError EPERM (no CAP_SYS_ADMIN over it) or EINVAL (not a network namespace).
    """
    home = open_own()
    try:
        _check(_libc.setns(netns_fd, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _go_home(home)
    finally:
        os.close(home)


def _go_home(home: int) -> None:
    for pause_s in _HOMEWARD_S:
        time.sleep(pause_s)
        if _libc.setns(home, CLONE_NEWNET) == 0:
            return
    # from now on this process would work in the wrong namespace; a new process starts in the right one
    os.abort()


def open_own() -> int:
    """Return an fd on the calling thread's namespace; the caller closes it. Raises VethError, e.g. EMFILE."""
    try:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        reason = "/proc is not mounted" if error.errno == errno.ENOENT else ""
        raise VethError(error.errno or errno.EIO, "netns", reason=reason) from error


def new_anonymous() -> int:
    """Return an fd on a new namespace that nothing else holds; the caller closes it.

    Raises VethError EPERM without CAP_SYS_ADMIN, EINVAL without CONFIG_NET_NS.
    """
    made: list[int | VethError] = []

    def make() -> None:
        try:
            _check(_libc.unshare(CLONE_NEWNET), "unshare", NET_NS.missing)
            made.append(open_own())
        except VethError as error:
            made.append(error)

    thread = threading.Thread(target=make, name="vethd-unshare")
    thread.start()
    thread.join()
    if isinstance(made[0], VethError):
        raise made[0]
    return made[0]


def open_ref(ref: str | None, fds: Sequence[int] | None = None) -> int:
    """Open the namespace that ref names; the caller closes the fd.

    ref: None or "" (the calling thread's own), a name of `ip netns`, a path, a PID, or "fd:N", the N-th of fds.
    A name wins over a PID of the same digits, as in iproute2.
    Raises VethError ENOENT (no namespace of that name or path at present), ESRCH (no such PID), EACCES (another user's
    PID: send an fd instead), EBADF (no such fd), EINVAL (not a network namespace).
    """
    if not ref:
        return open_own()
    if ref.startswith("fd:"):
        return _dup_checked(ref, fds)
    path = ref if "/" in ref else f"{RUN_NETNS}/{ref}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # do not wait, even if it is a FIFO
    except ValueError as error:  # a NUL byte, or half a surrogate pair
        raise VethError(errno.EINVAL, "netns", reason=f"no network namespace {ref!r}") from error
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise VethError(error.errno, "netns") from error
        if "/" in ref or not (ref.isascii() and ref.isdigit()):
            # before `ip netns add` mounts, and after `ip netns del` has unmounted, there is only a file of mode 000
            bare = error.errno == errno.EACCES and "/" not in ref and os.access(RUN_NETNS, os.X_OK)
            code = errno.ENOENT if bare else error.errno or errno.ENOENT
            raise VethError(code, "netns", reason=f"no network namespace {ref!r}") from error
        fd = _open_pid(ref)
    return _checked(fd, ref)


def is_namespace(fd: int) -> bool:
    """Return whether fd is a namespace of any kind: all of them are on one file system, nsfs.

    This must be the first call on another user's fd. An ioctl, fstat or close is handled by the file system behind the
    fd, perhaps that user's FUSE server, which may never answer. statx() with AT_STATX_DONT_SYNC answers from memory.
    """
    return _device(fd) == _nsfs()


def _device(fd: int) -> bytes:
    """Return the number of the device that a file is on; b"" if fd is not open."""
    statx = _Statx()
    if _libc.statx(fd, b"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, statx) != 0:
        return b""
    return statx.raw[_STX_DEV]


@cache
def _nsfs() -> bytes:
    fd = open_own()
    try:
        return _device(fd)
    finally:
        os.close(fd)


def inode(netns_fd: int) -> int:
    """Return the namespace's inode, which identifies it while it exists. Raises VethError."""
    try:
        return os.fstat(netns_fd).st_ino
    except OSError as error:
        raise VethError(error.errno or errno.EIO, "netns") from error


def cookie(sock: socket.socket) -> int:
    """Return a number that identifies the namespace of a socket and is never reused; 0 before Linux 5.14.

    Inodes are reused: a new namespace often has the inode of one that was deleted. Raises VethError.
    """
    try:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return 0
        raise VethError(error.errno or errno.EIO, "netns") from error


def label(netns_inode: int, own_inode: int) -> str:
    """Return the name that `ip netns` shows, "" for the daemon's own, or "net:[INODE]" if it has no name.

    Raises VethError if the names cannot be read.
    """
    if netns_inode == own_inode:
        return ""
    try:
        with os.scandir(RUN_NETNS) as entries:
            for entry in entries:
                # the file of a deleted or unfinished namespace is no namespace, and may be unreadable
                try:
                    if entry.stat().st_ino == netns_inode:
                        return entry.name
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        raise
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise VethError(error.errno, "netns") from error
    return f"net:[{netns_inode}]"


def names() -> dict[int, str]:
    """Return the names that `ip netns` shows, by the namespaces' inodes. Raises VethError if they cannot be read."""
    found: dict[int, str] = {}
    try:
        with os.scandir(RUN_NETNS) as entries:
            for entry in entries:
                try:
                    found[entry.stat().st_ino] = entry.name
                except OSError as error:  # as in label()
                    if error.errno in _EXHAUSTED:
                        raise
    except FileNotFoundError:  # `ip netns` was never used here
        pass
    except OSError as error:
        raise VethError(error.errno or errno.EIO, "netns") from error
    return found


def _open_pid(pid: str) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        reason = f"no permission to open the namespace of process {pid}: name the namespace, or send its fd"
        raise VethError(errno.EACCES, "netns", reason=reason) from error
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise VethError(error.errno, "netns") from error
        raise VethError(errno.ESRCH, "netns", reason=f"no network namespace and no process {pid!r}") from error


def given(ref: str, fds: Sequence[int] | None) -> int:
    """Return the fd that "fd:N" names, the N-th of fds, which stays its owner's. Raises VethError EBADF."""
    digits = ref[3:]
    if fds is None:
        raise VethError(errno.EBADF, "netns", reason=f"{ref!r} needs the fd-passing socket, or an inherited fd")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _FD_DIGITS else len(fds)
    if not ref.startswith("fd:") or number >= len(fds):
        raise VethError(errno.EBADF, "netns", reason=f"{ref!r}: {len(fds)} file descriptors came with the request")
    try:
        fcntl.fcntl(fds[number], fcntl.F_GETFD)  # asks our own table alone
    except OSError as error:
        raise VethError(errno.EBADF, "netns", reason=f"{ref!r} is not an open file descriptor") from error
    return fds[number]


def _dup_checked(ref: str, fds: Sequence[int] | None) -> int:
    fd = given(ref, fds)
    if not is_namespace(fd):
        raise VethError(errno.EINVAL, "netns", reason=f"{ref!r} is not a network namespace")
    try:
        return _checked(os.dup(fd), ref)
    except OSError as error:
        raise VethError(error.errno or errno.EBADF, "netns") from error


def _checked(fd: int, ref: str) -> int:
    try:
        kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:  # no namespace of any kind
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise VethError(errno.EINVAL, "netns", reason=f"{ref!r} is not a network namespace")
    return fd
