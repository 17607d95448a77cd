"""Who is at the other end of a unix socket, and whose a network namespace is: what the kernel alone can vouch for.

Theory of operation. A socket's peer is who called connect(), as he was at that moment: passing the socket on, changing
the uid or leaving a group changes nothing. The PID is not asked for, as it may be another process's by now.

A network namespace belongs to the user namespace in which it was made (NS_GET_USERNS), and that to the uid which made
it (NS_GET_OWNER_UID). Its maker has every capability over it and all that is nested in it, as security/commoncap.c
cap_capable() has it: so the parents are asked, too (NS_GET_PARENT), up to ours, where the kernel answers EPERM. None of
this ever changes in the life of a namespace.

Ids are as our own user namespace maps them. All that it does not map look alike (overflowuid): such a one is NOBODY,
and owns nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from array import array
from functools import cache
from pathlib import Path
from typing import NamedTuple

from vethd.kernel.uapi import NS_GET_OWNER_UID, NS_GET_PARENT, NS_GET_USERNS, SO_PEERGROUPS
from vethd.model.errors import VethError

NOBODY = -1
_WHOLE_MAP = ["0", "0", str((1 << 32) - 1)]
_GROUPS = 64  # more than most have; the kernel says where it is too few

_libc = ctypes.CDLL(None, use_errno=True)


class Peer(NamedTuple):
    """Who connected: effective uid, and every group, the supplementary ones included."""

    uid: int
    gids: frozenset[int]


def peer(sock: socket.socket) -> Peer:
    """Ask who is at the other end of a connected unix socket. Raises OSError."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
    _, uid, gid = struct.unpack("=iII", credentials)
    gids = {gid, *_groups(sock.fileno())} - {_stranger("gid")}
    return Peer(NOBODY if uid == _stranger("uid") else uid, frozenset(gids))


def owns(uid: int, netns_fd: int) -> bool:
    """Tell whether the network namespace is uid's: of a user namespace that uid made, or of one nested in it."""
    try:
        fd = fcntl.ioctl(netns_fd, NS_GET_USERNS)
        while True:
            try:
                if _maker(fd) == uid:
                    return True
                parent = fcntl.ioctl(fd, NS_GET_PARENT)
            finally:
                os.close(fd)
            fd = parent
    except OSError as error:
        if error.errno == errno.EPERM:  # beyond what we may see: not his
            return False
        raise VethError(error.errno or errno.EIO, "netns") from error


def _maker(userns_fd: int) -> int:
    return int(struct.unpack("=I", fcntl.ioctl(userns_fd, NS_GET_OWNER_UID, bytes(4)))[0])


def _groups(sock_fd: int) -> list[int]:
    """Give the supplementary groups; Python's own getsockopt() would stop at 256 of them."""
    count = _GROUPS
    while True:
        gids = array("I", bytes(4 * count))  # not an array type of ctypes, which each call would make anew
        address, _ = gids.buffer_info()
        length = ctypes.c_uint32(4 * count)
        space = ctypes.c_void_p(address)
        if _libc.getsockopt(sock_fd, socket.SOL_SOCKET, SO_PEERGROUPS, space, ctypes.byref(length)) == 0:
            return list(gids[: length.value // 4])
        code = ctypes.get_errno()
        if code != errno.ERANGE:
            raise OSError(code, os.strerror(code))
        count = length.value // 4


@cache
def _stranger(kind: str) -> int:
    """Give the id that stands for all that our user namespace does not map; NOBODY where it maps every one."""
    if Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").split() == _WHOLE_MAP:
        return NOBODY
    return int(Path(f"/proc/sys/kernel/overflow{kind}").read_text(encoding="ascii"))
