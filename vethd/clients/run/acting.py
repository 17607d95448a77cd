"""Act as a caller: with its user, its groups and no more than its capabilities, in the caller's user namespace."""

from __future__ import annotations

import ctypes
import fcntl
import posix

from vethd.clients.door import DownError, Reply, ask
from vethd.clients.run.caller import Caller
from vethd.clients.run.calls import Socket, failed, libc

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGSKNS = 0x894C
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8


def become(caller: Caller) -> None:
    """Take a caller's user namespace, user, groups and capabilities, for the rest of this process. Raises OSError."""
    if not caller.same("user"):
        namespace = caller.namespace("user")
        enter(namespace, _CLONE_NEWUSER)
        posix.close(namespace)
        caller.forget()
    uid, gid = int(caller.status("Uid").split()[1]), int(caller.status("Gid").split()[1])
    if posix.geteuid() == 0:
        if (posix.geteuid(), posix.getegid()) != (uid, gid) or not caller.same("user"):
            _take_groups(caller)
        libc.prctl(*map(ctypes.c_ulong, (_PR_SET_KEEPCAPS, 1, 0, 0, 0)))
        posix.setresgid(gid, gid, gid)
        posix.setresuid(uid, uid, uid)
    _limit_capabilities(int(caller.status("CapEff") or "0", 16))


def ask_as(caller: Caller, request: bytes, fds: list[int]) -> Reply | None:
    """Make one request to the daemon as the caller; None if no daemon answers. This process stays who it is."""
    ids = [int(caller.status(key).split()[1]) for key in ("Uid", "Gid")]
    if ids == [posix.geteuid(), posix.getegid()] and caller.same("user"):
        return _answer(request, fds)
    mine, its = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        try:
            become(caller)
            reply = _answer(request, fds)
            data = b'{"status":%d,"body":%b}' % (reply.status, reply.text) if reply is not None else b""
            while data:
                data = data[posix.write(its, data) :]
        finally:
            posix._exit(0)  # noqa: SLF001 - its public name is in os, whose import takes 4 ms
    posix.close(its)
    parts = []
    while part := posix.read(mine, 1 << 16):
        parts.append(part)
    posix.close(mine)
    posix.waitpid(pid, 0)
    return Reply(b"".join(parts)) if parts else None


def _answer(request: bytes, fds: list[int]) -> Reply | None:
    try:
        return ask(request, fds)
    except DownError:
        return None


def _take_groups(caller: Caller) -> None:
    try:
        posix.setgroups([int(word) for word in caller.status("Groups").split()])
    except OSError:  # a user namespace of a plain user denies it: the groups are the same then
        return


def _limit_capabilities(effective: int) -> None:
    """Keep those of this process's capabilities that are in effective. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise failed()
    for word in range(2):
        kept = sets[3 * word + 1] & effective >> 32 * word
        sets[3 * word] = sets[3 * word + 1] = kept & 0xFFFFFFFF
        sets[3 * word + 2] = 0
    if libc.capset(header, sets):
        raise failed()


def enter(namespace: int, kind: int = _CLONE_NEWNET) -> None:
    """Move this process into a namespace. Raises OSError."""
    if libc.setns(namespace, kind):
        raise failed()


def netns_of(sock: Socket, caller: Caller) -> int:
    """Open the network namespace of a socket. Raises OSError."""
    try:
        return fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    except PermissionError:  # a user namespace of the caller's, which this process has not entered
        return caller.namespace("net")
