"""Reads the few facts about a device that forwarding needs, with as few imports as possible.

One RTM_GETLINK per device, in the device's namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple

from vethd.kernel import netns
from vethd.kernel.linkstate import parse_link
from vethd.kernel.tun import Tap
from vethd.kernel.uapi import IFLA_IFNAME, NETLINK_ROUTE, NLM_F_REQUEST, NLMSG_ERROR, RTM_GETLINK
from vethd.model.errors import VethError

_HDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ATTR = struct.Struct("=HH")  # length with this header, type
_RECV = 1 << 16


class Glance(NamedTuple):
    """A device at one instant: whether it is administratively up, its MTU, and its traffic counters."""

    up: bool
    mtu: int
    tx_packets: int
    tx_bytes: int
    rx_bytes: int


def glance(tap: Tap) -> Glance:
    """Read a device in its namespace. Blocks; the calling thread enters the device's namespace and returns.

    Raises VethError: ENODEV if the device is gone, EPERM without CAP_SYS_ADMIN.
    """
    fd = tap.netns_fd()
    try:
        with netns.inside(fd), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
            return _parsed(_ask(sock, tap.ifname))
    except OSError as error:
        raise VethError(error.errno or errno.EIO, "getlink") from error
    finally:
        os.close(fd)


def _ask(sock: socket.socket, name: str) -> bytes:
    text = os.fsencode(name) + b"\0"
    attr = (_ATTR.pack(_ATTR.size + len(text), IFLA_IFNAME) + text).ljust((_ATTR.size + len(text) + 3) & ~3, b"\0")
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attr
    sock.settimeout(30.0)
    sock.send(_HDR.pack(_HDR.size + len(body), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + body)
    return sock.recv(_RECV)


def _parsed(answer: bytes) -> Glance:
    _, kind, *_ = _HDR.unpack_from(answer)
    if kind == NLMSG_ERROR:
        raise VethError(-struct.unpack_from("=i", answer, _HDR.size)[0], "getlink")
    state = parse_link(answer)
    if state is None:
        raise VethError(errno.EBADMSG, "getlink")
    counters = state.counters
    return Glance(state.up, state.mtu, counters.tx_packets, counters.tx_bytes, counters.rx_bytes)
