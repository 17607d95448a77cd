"""Attach again to a TAP that outlived its process by TUNSETPERSIST.

Theory of operation. TUNSETIFF finds a device by its name, and only in the namespace in which /dev/net/tun was opened.
So /dev/net/tun is opened in the device's namespace, and the fd pins that namespace while it is open
(Tap.pinned_inode() returns its inode; pairs/pins.py ensures that the namespace can still be deleted). A name does not
identify a device. The device must have the recorded ifindex and MAC, be a TAP, be multi-queue or not as recorded, and
have no attached process. It is checked again after attaching, because TUNSETIFF makes a device if there is none of that
name, and because any program may rename devices.

Attaching does not change what the device kept: addresses, header size, offloads, filter. Its carrier went off with the
last close, and stays off here (IFF_NO_CARRIER).
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
from vethd.kernel.tun import IFREQ, set_offload
from vethd.kernel.uapi import (
    DEV_NET_TUN,
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
_TYPE = 0x3FFF  # without the bits for the attribute's encoding
_RECV = 1 << 16
_TIMEOUT_S = 30.0
_TRIES = 3


class _Seen(NamedTuple):
    """A device's attributes from rtnetlink: name, MAC, whether it is a TAP and multi-queue, number of queues in use."""

    name: bytes
    address: str
    tap: bool
    multi_queue: bool
    queues: int


def attach(spot: Spot, queues: int) -> tuple[int, ...]:
    """Attach to the device at spot; return its fds, one per queue, non-blocking, the caller's. For worker threads.

    Raises VethError: ENOENT (no such namespace), ENODEV (no such device there, or another in its place), EBUSY
    (another process is attached to it). The device is unchanged in that case.
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
    raise VethError(errno.EAGAIN, "attach", spot.name, "the device was renamed at every attempt")


def _attached(sock: socket.socket, spot: Spot, queues: int) -> tuple[int, ...]:
    """Try once; return () if the device was renamed meanwhile."""
    seen = _look(sock, spot)
    if seen.address != spot.address or not seen.tap or seen.multi_queue != (queues > 1):
        name = os.fsdecode(seen.name)
        raise VethError(errno.ENODEV, "attach", spot.name, f"another device, {name!r}, is in its place")
    if seen.queues:
        raise VethError(errno.EBUSY, "attach", spot.name, "another process is attached to it")
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_NO_CARRIER | (IFF_MULTI_QUEUE if queues > 1 else 0)
    with ExitStack() as undo:
        fds = []
        for _ in range(queues):
            fds.append(os.open(DEV_NET_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            undo.callback(os.close, fds[-1])
            # not with pytun: a name need not be UTF-8
            fcntl.ioctl(fds[-1], TUNSETIFF, IFREQ.pack(seen.name, flags))
        has = fcntl.ioctl(fds[0], TUNGETIFF, bytes(IFREQ.size))[:IFNAMSIZ].split(b"\0", 1)[0]
        now = _look(sock, spot)
        if (now.name, now.address) != (has, spot.address):
            return ()
        if struct.unpack("i", fcntl.ioctl(fds[0], TUNGETVNETHDRSZ, bytes(4)))[0] != spot.vnet_hdr_len:
            set_offload(fds[0], spot.name)  # another process had it; otherwise a user's ethtool settings stay
        undo.pop_all()
        return tuple(fds)


def _look(sock: socket.socket, spot: Spot) -> _Seen:
    """Read the device with spot's ifindex. Raises VethError ENODEV."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, spot.ifindex, 0, 0)
    sock.send(_HDR.pack(_HDR.size + len(body), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + body)
    answer = sock.recv(_RECV)
    length, kind, *_ = _HDR.unpack_from(answer)
    if kind == NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, _HDR.size)[0]
        raise VethError(code, "attach", spot.name, f"the device with index {spot.ifindex} is gone")
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
