"""What ethtool(8) asks and sets by SIOCETHTOOL; numbers from include/uapi/linux/ethtool.h."""

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
GSTRINGS, GSSET_INFO, GFEATURES, SFEATURES = 0x1B, 0x37, 0x3A, 0x3B

STRINGS_STATS, STRINGS_FEATURES = 1, 4
STRING_LEN = 32

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


class Feature(NamedTuple):
    """An offload switch; fixed where the device lets nobody change it."""

    on: bool
    fixed: bool


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


def strings(netns: Netns, name: str, which: int) -> list[str]:
    """Read a set of strings: STRINGS_STATS, STRINGS_FEATURES; [] where the device has none of that kind."""
    info = call(netns, name, struct.pack("=IIQI", GSSET_INFO, 0, 1 << which, 0))
    _, _, known, count = struct.unpack("=IIQI", info)
    if not known:
        return []
    head = struct.pack("=III", GSTRINGS, which, count)
    data = call(netns, name, head.ljust(len(head) + STRING_LEN * count, b"\0"))[len(head) :]
    words = [data[place : place + STRING_LEN] for place in range(0, len(data), STRING_LEN)]
    return [word.split(b"\0")[0].decode() for word in words]


def features(netns: Netns, name: str) -> dict[str, Feature]:
    """Read every offload switch (`ethtool -k`)."""
    names = strings(netns, name, STRINGS_FEATURES)
    blocks = -(-len(names) // 32)
    data = call(netns, name, struct.pack("=II", GFEATURES, blocks) + bytes(16 * blocks))
    found = {}
    for place, feature in enumerate(names):
        available, _, active, never_changed = struct.unpack_from("=IIII", data, 8 + 16 * (place // 32))
        bit = 1 << place % 32
        found[feature] = Feature(bool(active & bit), not available & bit or bool(never_changed & bit))
    return found


def set_feature(netns: Netns, name: str, feature: str, on: bool) -> None:
    """Ask for an offload switch to be on or off (`ethtool -K`); what then is so, features() tells."""
    names = strings(netns, name, STRINGS_FEATURES)
    place = names.index(feature)
    words = [(0, 0)] * -(-len(names) // 32)
    bit = 1 << place % 32
    words[place // 32] = (bit, bit if on else 0)
    request = struct.pack("=II", SFEATURES, len(words)) + b"".join(struct.pack("=II", *word) for word in words)
    call(netns, name, request)


def call(netns: Netns, name: str, request: bytes) -> bytes:
    """Make the ioctl with a structure whose first word is the command; return what the kernel made of it.

    Raises OSError with the kernel's errno.
    """
    buffer = ctypes.create_string_buffer(request, len(request))
    with netns.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ifreq = struct.pack("16sP16x", name.encode(), ctypes.addressof(buffer))
        fcntl.ioctl(sock, SIOCETHTOOL, ifreq)
    return buffer.raw


def _ethtool(netns: Netns, name: str, what: int, size: int) -> bytes:
    return call(netns, name, struct.pack("=I", what).ljust(size, b"\0"))
