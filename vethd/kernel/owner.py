"""The peer of a unix socket, and the owner of a network namespace, as the kernel reports them.

Theory of operation. A socket's peer has the credentials that the connecting process had when it called connect().
Passing the socket on, changing the uid or leaving a group does not change them. The PID is not read, because another
process may have it by now.

A network namespace belongs to the user namespace in which it was made (NS_GET_USERNS), and a user namespace belongs to
the uid that made it (NS_GET_OWNER_UID). This uid has every capability over the user namespace and all that are nested
in it (security/commoncap.c cap_capable()). So the parents are read as well (NS_GET_PARENT), up to our own, for which
the kernel returns EPERM. None of this ever changes while a namespace exists.

Ids are as our own user namespace maps them. All ids that it does not map look the same (overflowuid): such an id is
NOBODY, and owns nothing.
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
_GROUPS = 64  # enough for most processes; the kernel returns ERANGE if it is not

_libc = ctypes.CDLL(None, use_errno=True)


class Peer(NamedTuple):
    """The credentials of a peer: effective uid, and all groups including supplementary ones."""

    uid: int
    gids: frozenset[int]


def peer(sock: socket.socket) -> Peer:
    """Return the credentials of a connected unix socket's peer. Raises OSError."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
    _, uid, gid = struct.unpack("=iII", credentials)
    gids = {gid, *_groups(sock.fileno())} - {_stranger("gid")}
    return Peer(NOBODY if uid == _stranger("uid") else uid, frozenset(gids))


def owns(uid: int, netns_fd: int) -> bool:
    """Return whether uid owns the network namespace: uid made its user namespace, or one that contains it."""
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
        if error.errno == errno.EPERM:  # outside of what we may see: uid does not own it
            return False
        raise VethError(error.errno or errno.EIO, "netns") from error


def _maker(userns_fd: int) -> int:
    return int(struct.unpack("=I", fcntl.ioctl(userns_fd, NS_GET_OWNER_UID, bytes(4)))[0])


def _groups(sock_fd: int) -> list[int]:
    """Return the supplementary groups. Python's own getsockopt() would stop at 256 groups."""
    count = _GROUPS
    while True:
        gids = array("I", bytes(4 * count))  # not a ctypes array: each call would create its type again
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
    """Return the id that stands for all ids that our user namespace does not map; NOBODY if it maps every id.

    A kernel without CONFIG_USER_NS has one user namespace, which maps every id, and no file that says so.
    """
    try:
        ids = Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return NOBODY
    if ids == _WHOLE_MAP:
        return NOBODY
    return int(Path(f"/proc/sys/kernel/overflow{kind}").read_text(encoding="ascii"))
