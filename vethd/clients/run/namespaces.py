"""The network namespaces that a message names: by descriptor, by process, or by the id that another one has for it."""

from __future__ import annotations

import _socket
import errno
import posix
import struct

from vethd.clients.run import rtnl
from vethd.clients.run.acting import enter
from vethd.clients.run.caller import Caller
from vethd.clients.run.calls import Socket
from vethd.clients.veth import UNKNOWN_NSID

_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_NAMED = "/var/run/netns"
_CLOEXEC = posix.O_RDONLY | posix.O_CLOEXEC
UNKNOWN = -1


class NamespaceError(Exception):
    """The kernel would refuse what names a namespace or a device in it: with this errno, and this message or ""."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(number, text)
        self.errno = number
        self.text = text


def named(attribute: int, value: int, caller: Caller, home: int) -> int:
    """Open the namespace that an attribute names; home is the one of the caller's socket.

    Raises NamespaceError EBADF, EPERM, ESRCH or EINVAL.
    """
    if attribute == rtnl.IFLA_NET_NS_FD:
        try:
            fd = caller.take(value)
        except OSError:
            fd = -1
        if fd < 0 or not is_netns(fd):
            raise NamespaceError(errno.EINVAL if fd >= 0 else errno.EBADF)
        return fd
    if attribute == rtnl.IFLA_NET_NS_PID:
        try:
            return caller.netns_of(value)
        except PermissionError:  # another user's
            raise NamespaceError(errno.EPERM) from None
        except OSError:
            raise NamespaceError(errno.ESRCH) from None
    return with_id(value, home)


def with_id(nsid: int, home: int) -> int:
    """Open the namespace that has this id in the namespace home. Raises NamespaceError EINVAL."""
    with _Ids(home) as ids:
        for fd in _all():
            if ids.of(fd) == nsid:
                return fd
            posix.close(fd)
    raise NamespaceError(errno.EINVAL, UNKNOWN_NSID)


def id_of(inode: int, home: int) -> int:
    """Return the id that the namespace home has for another, by its inode; UNKNOWN if that cannot be found.

    As the kernel does when it first shows a link whose peer is there, it gives it an id if it has none.
    """
    with _Ids(home) as ids:
        for fd in _all():
            try:
                if posix.fstat(fd).st_ino == inode:
                    return ids.given(fd)
            finally:
                posix.close(fd)
    return UNKNOWN


def is_netns(fd: int) -> bool:
    """Return whether a descriptor refers to a network namespace."""
    return posix.readlink(f"/proc/self/fd/{fd}").startswith("net:[") or posix.fstat(fd).st_dev == _nsfs()


def _nsfs() -> int:
    return posix.stat("/proc/self/ns/net").st_dev


def _all() -> list[int]:
    """Open every namespace that has a name or a process, each once. The caller closes what it does not need."""
    found: dict[int, int] = {}
    paths = []
    for directory, form in ((_NAMED, f"{_NAMED}/%s"), ("/proc", "/proc/%s/ns/net")):
        try:
            names = posix.listdir(directory)
        except OSError:
            continue
        paths += [form % name for name in names if directory == _NAMED or name.isdigit()]
    for path in paths:
        try:
            fd = posix.open(path, _CLOEXEC)
        except OSError:
            continue
        status = posix.fstat(fd)
        if status.st_dev != _nsfs() or status.st_ino in found:
            posix.close(fd)
        else:
            found[status.st_ino] = fd
    return list(found.values())


class _Ids:
    """Asks a namespace for the ids that it has for others. A context manager; this process enters the namespace."""

    def __init__(self, home: int) -> None:
        enter(home)
        self._sock = Socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)

    def __enter__(self) -> _Ids:  # noqa: PYI034 - importing typing takes 4 ms
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def of(self, fd: int) -> int:
        """Return the id of a namespace, UNKNOWN without."""
        reply = self._ask(_RTM_GETNSID, 0, (_NETNSA_FD, fd))
        found = [rtnl.first(rtnl.parse(m.payload[4:]), _NETNSA_NSID) for m in reply if m.kind == _RTM_NEWNSID]
        return rtnl.number(found[0]) if found and found[0] is not None else UNKNOWN

    def given(self, fd: int) -> int:
        """Return the id of a namespace, after giving it one if it has none."""
        if self.of(fd) == UNKNOWN:
            self._ask(_RTM_NEWNSID, rtnl.NLM_F_ACK, (_NETNSA_FD, fd), (_NETNSA_NSID, UNKNOWN))
        return self.of(fd)

    def _ask(self, kind: int, flags: int, *attributes: tuple[int, int]) -> list[rtnl.Message]:
        payload = bytes(4) + rtnl.pack([(name, struct.pack("=i", value)) for name, value in attributes])
        head = rtnl.HEAD.pack(rtnl.HEAD.size + len(payload), kind, rtnl.NLM_F_REQUEST | flags, 1, 0)
        self._sock.send(head + payload)
        return rtnl.split(self._sock.recv(4096))
