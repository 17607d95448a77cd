"""What `ethtool DEVICE` and `ethtool -i DEVICE` ask, by SIOCETHTOOL; numbers from include/uapi/linux/ethtool.h."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from typing import NamedTuple

from tests.lib.netns import Netns

SIOCETHTOOL = 0x8946
GSET, GDRVINFO, GLINK = 0x01, 0x03, 0x0A
GRXCSUM, GTXCSUM, GSG, GTSO, GGSO = 0x14, 0x16, 0x18, 0x1E, 0x23

DUPLEX_FULL = 1
PORT_TP = 0
AUTONEG_DISABLE = 0


class Settings(NamedTuple):
    """A link's settings; speed in Mb/s."""

    speed: int
    duplex: int
    port: int
    autoneg: int


class Driver(NamedTuple):
    """Who drives the device, and how many statistics of its own it has."""

    name: str
    n_stats: int


def settings(netns: Netns, name: str) -> Settings:
    """Read a link's settings (ETHTOOL_GSET)."""
    data = _ethtool(netns, name, GSET, 44)
    _, _, _, low, duplex, port, _, _, autoneg, _, _, _, _, high = struct.unpack_from("=IIIHBBBBBBIIHH", data)
    return Settings(high << 16 | low, duplex, port, autoneg)


def driver(netns: Netns, name: str) -> Driver:
    """Read who drives the device (ETHTOOL_GDRVINFO)."""
    data = _ethtool(netns, name, GDRVINFO, 196)
    return Driver(data[4:36].rstrip(b"\0").decode(), struct.unpack_from("=I", data, 180)[0])


def value(netns: Netns, name: str, what: int) -> int:
    """Read one number: GLINK, or one of the offload switches."""
    return int(struct.unpack_from("=II", _ethtool(netns, name, what, 8))[1])


def _ethtool(netns: Netns, name: str, what: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(struct.pack("=I", what), size)
    with netns.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ifreq = struct.pack("16sP16x", name.encode(), ctypes.addressof(buffer))
        fcntl.ioctl(sock, SIOCETHTOOL, ifreq)
    return buffer.raw
