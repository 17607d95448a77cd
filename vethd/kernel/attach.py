"""Attach again to a TAP that outlived its process by TUNSETPERSIST.

Theory of operation. TUNSETIFF finds a device by its name, and only in the namespace in which /dev/net/tun was opened:
so it is opened there, and pins that namespace for as long as the fd is open (Tap.pinned_inode() tells which;
pairs/pins.py sees to it that the namespace can die all the same). A name proves nothing: the device must have the
ifindex and the MAC that were written down, be a TAP, multi-queue or not as it was, and be nobody's at present. It is
looked at again once attached: TUNSETIFF makes a device where there is none of that name, and anybody may rename.

Attaching leaves alone what the device kept: addresses, header size, offloads, filter. Its carrier went with the last
close, and stays off here (IFF_NO_CARRIER).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from vethd.kernel import netns
from vethd.kernel.tun import DEV_NET_TUN, set_offload
from vethd.kernel.uapi import (
    IFF_MULTI_QUEUE,
    IFF_NO_CARRIER,
    IFF_NO_PI,
    IFF_TAP,
    IFF_VNET_HDR,
    IFLA_TUN_MULTI_QUEUE,
    IFLA_TUN_NUM_DISABLED_QUEUES,
    IFLA_TUN_NUM_QUEUES,
    IFLA_TUN_TYPE,
    IFNAMSIZ,
    NETLINK_ROUTE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    RTM_GETLINK,
    TUNGETIFF,
    TUNGETVNETHDRSZ,
    TUNSETIFF,
)
from vethd.model.errors import VethError
from vethd.model.persisted import Spot

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2

_HDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ATTR = struct.Struct("=HH")  # length with this header, type
_IFREQ = struct.Struct("=16sH22x")  # ifr_name, ifr_flags
_TYPE = 0x3FFF  # without the bits that say how an attribute is encoded
_RECV = 1 << 16
_TIMEOUT_S = 30.0
_TRIES = 3


class _Seen(NamedTuple):
    """What rtnetlink says of a device: its name, its MAC, and what sort of TAP it is, with how many queues in use."""

    name: bytes
    address: str
    tap: bool
    multi_queue: bool
    queues: int


def attach(spot: Spot, queues: int) -> tuple[int, ...]:
    """Return fds, the caller's, non-blocking, of the device at spot: one a queue. For a worker thread.

    Raises VethError: ENOENT (no such namespace), ENODEV (no such device there, or another in its place), EBUSY
    (somebody else has attached to it), and then it is as it was.
    """
    target = netns.open_ref(spot.netns or None)
    try:
        with netns.inside(target), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
            sock.settimeout(_TIMEOUT_S)
            for _ in range(_TRIES):
                fds = _attached(sock, spot, queues)
                if fds:
                    return fds
    except OSError as error:
        raise VethError(error.errno or errno.EIO, "attach", spot.name) from error
    finally:
        os.close(target)
    raise VethError(errno.EAGAIN, "attach", spot.name, "it would not keep its name")


def _attached(sock: socket.socket, spot: Spot, queues: int) -> tuple[int, ...]:
    """Try once; nothing where it was renamed meanwhile."""
    seen = _look(sock, spot)
    if seen.address != spot.address or not seen.tap or seen.multi_queue != (queues > 1):
        name = os.fsdecode(seen.name)
        raise VethError(errno.ENODEV, "attach", spot.name, f"another device, {name!r}, has its place")
    if seen.queues:
        raise VethError(errno.EBUSY, "attach", spot.name, "somebody else has attached to it")
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_NO_CARRIER | (IFF_MULTI_QUEUE if queues > 1 else 0)
    with ExitStack() as undo:
        fds = []
        for _ in range(queues):
            fds.append(os.open(DEV_NET_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            undo.callback(os.close, fds[-1])
            # not by pytun: a name need not be UTF-8
            fcntl.ioctl(fds[-1], TUNSETIFF, _IFREQ.pack(seen.name, flags))
        has = fcntl.ioctl(fds[0], TUNGETIFF, bytes(_IFREQ.size))[:IFNAMSIZ].split(b"\0", 1)[0]
        now = _look(sock, spot)
        if (now.name, now.address) != (has, spot.address):
            return ()
        if struct.unpack("i", fcntl.ioctl(fds[0], TUNGETVNETHDRSZ, bytes(4)))[0] != spot.vnet_hdr_len:
            set_offload(fds[0], spot.name)  # somebody had it meanwhile; else what a user said by ethtool stays
        undo.pop_all()
        return tuple(fds)


def _look(sock: socket.socket, spot: Spot) -> _Seen:
    """Ask for the device of spot's ifindex. Raises VethError ENODEV."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, spot.ifindex, 0, 0)
    sock.send(_HDR.pack(_HDR.size + len(body), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + body)
    answer = sock.recv(_RECV)
    length, kind, *_ = _HDR.unpack_from(answer)
    if kind == NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, _HDR.size)[0]
        raise VethError(code, "attach", spot.name, f"there is no device of index {spot.ifindex} any more")
    attrs = dict(_attributes(answer[_HDR.size + _IFINFO.size : length]))
    info = dict(_attributes(attrs.get(IFLA_LINKINFO, b"")))
    tun = dict(_attributes(info.get(IFLA_INFO_DATA, b""))) if info.get(IFLA_INFO_KIND) == b"tun\0" else {}
    in_use = [tun[key] for key in (IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES) if key in tun]
    return _Seen(
        attrs[IFLA_IFNAME].rstrip(b"\0"),
        attrs.get(IFLA_ADDRESS, b"").hex(":"),
        tap=tun.get(IFLA_TUN_TYPE) == bytes([IFF_TAP]),
        multi_queue=tun.get(IFLA_TUN_MULTI_QUEUE) == b"\1",
        queues=sum(struct.unpack("=I", value)[0] for value in in_use),
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTR.size <= len(data):
        size, kind = _ATTR.unpack_from(data, at)
        yield kind & _TYPE, data[at + _ATTR.size : at + size]
        at += max((size + 3) & ~3, _ATTR.size)
