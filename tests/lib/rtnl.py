"""rtnetlink, as little of it as the tests need, and none of vethd's: an oracle shares no code with what it judges.

Attributes are (type, payload) pairs; nested ones are payloads made by nest(). A test may so send what a library
would not let it, an address of 5 bytes for one. Numbers stand in include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.lib.netns import Netns

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR = 20
RTM_NEWLINKPROP = 108
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
RTMGRP_LINK = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC = 1, 3, 4, 5, 6
IFLA_MASTER, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO = 10, 13, 16, 18
IFLA_IFALIAS, IFLA_STATS64, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 20, 23, 26, 27, 28
IFLA_PROMISCUITY, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_CARRIER, IFLA_CARRIER_CHANGES = 30, 31, 32, 33, 35
IFLA_LINK_NETNSID, IFLA_GSO_MAX_SEGS, IFLA_GSO_MAX_SIZE = 37, 40, 41
IFLA_CARRIER_UP_COUNT, IFLA_CARRIER_DOWN_COUNT = 47, 48
IFLA_PROP_LIST, IFLA_ALT_IFNAME, IFLA_GRO_MAX_SIZE, IFLA_ALLMULTI = 52, 53, 58, 61
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFA_F_NODAD = 0x02

IFF_UP, IFF_BROADCAST, IFF_RUNNING, IFF_NOARP, IFF_PROMISC = 0x1, 0x2, 0x40, 0x80, 0x100
IFF_ALLMULTI, IFF_MULTICAST, IFF_LOWER_UP = 0x200, 0x1000, 0x10000

OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
ADDR_GEN_MODES = ("eui64", "none", "stable_secret", "random")

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index

Attrs = list[tuple[int, bytes]]


def nest(attrs: Attrs) -> bytes:
    """Return attributes as the bytes of a message or of a nested attribute."""
    out = b""
    for kind, payload in attrs:
        out += struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)
    return out


def text(value: str) -> bytes:
    """Return a string attribute's payload."""
    return value.encode() + b"\0"


def u32(value: int) -> bytes:
    """Return a number's payload."""
    return struct.pack("=I", value)


def ifinfomsg(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """Return the header of a link message; change says which of flags are meant."""
    return _IFINFOMSG.pack(0, 0, index, flags, change)


class Rtnl:
    """A socket in one namespace, blocking, closed by the caller."""

    def __init__(self, netns: Netns, groups: int = 0) -> None:
        """Open the socket; groups is a mask of RTMGRP_* to listen to."""
        self.sock = netns.run(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.sock.bind((0, groups))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; again is no error."""
        self.sock.close()

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send one request and return its answer's body, b"" where that is a bare acknowledgement.

        Raises OSError with the kernel's errno.
        """
        size = 16 + len(body)
        self.sock.send(struct.pack("=IHHII", size, kind, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
        answer = b""
        while True:
            for reply, payload in messages(self.sock.recv(1 << 16)):
                if reply != NLMSG_ERROR:
                    answer = payload
                    continue
                code = -struct.unpack_from("=i", payload)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return answer

    def getlink(self, name: str) -> Link | None:
        """Read a link by its name or altname; None where there is none."""
        kind = IFLA_IFNAME if len(name.encode()) < 16 else IFLA_ALT_IFNAME
        try:
            return Link.parse(self.request(RTM_GETLINK, 0, ifinfomsg() + nest([(kind, text(name))])))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def set_up(self, name: str, up: bool) -> None:
        """Set a link up or down. Raises OSError with the kernel's errno."""
        self.request(RTM_NEWLINK, 0, ifinfomsg(self._index(name), IFF_UP if up else 0, IFF_UP))

    def add_address(self, name: str, cidr: str) -> None:
        """Give a link an address, "10.0.0.1/24"; IPv6 without duplicate address detection. Raises OSError."""
        it = ipaddress.ip_interface(cidr)
        family, flags = (socket.AF_INET, 0) if it.version == 4 else (socket.AF_INET6, IFA_F_NODAD)
        attrs = [(IFA_LOCAL, it.packed), (IFA_ADDRESS, it.packed)]
        header = _IFADDRMSG.pack(family, it.network.prefixlen, flags, 0, self._index(name))
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, header + nest(attrs))

    def _index(self, name: str) -> int:
        link = self.getlink(name)
        if link is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
        return link.ifindex

    def links(self) -> list[Link]:
        """Read all links of the namespace."""
        head = struct.pack("=IHHII", 32, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 2, 0)
        self.sock.send(head + ifinfomsg())
        found: list[Link] = []
        while True:
            for kind, body in messages(self.sock.recv(1 << 17)):
                if kind == NLMSG_DONE:
                    return found
                found.append(Link.parse(body))

    def events(self) -> list[tuple[int, Link]]:
        """Return the link events that have come, as (RTM_NEWLINK or RTM_DELLINK, link), without waiting."""
        seen: list[tuple[int, Link]] = []
        while True:
            try:
                data = self.sock.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return seen
            seen += [(kind, Link.parse(body)) for kind, body in messages(data) if kind in (RTM_NEWLINK, RTM_DELLINK)]


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split what one recv() gave into (message type, body)."""
    while len(data) >= 16:
        size, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:size]
        data = data[(size + 3) & ~3 :]


def parse_attrs(data: bytes) -> dict[int, bytes]:
    """Split attributes; of several of one type the last stays."""
    return dict(iter_attrs(data))


def iter_attrs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split attributes into (type, payload)."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        yield kind & ~NLA_F_NESTED, data[4:size]
        data = data[(size + 3) & ~3 :]


@dataclass(frozen=True)
class Stats:
    """rtnl_link_stats64's beginning, in its order."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    multicast: int = 0
    collisions: int = 0

    def __sub__(self, other: Stats) -> Stats:
        mine, theirs = vars(self), vars(other)
        return Stats(**{key: mine[key] - theirs[key] for key in mine})


@dataclass(frozen=True)
class Link:
    """A link as RTM_NEWLINK tells it. iflink is 0 where the kernel names no other end."""

    name: str
    ifindex: int
    flags: int
    address: str
    mtu: int
    txqueuelen: int
    group: int
    qdisc: str
    operstate: str
    carrier: bool
    carrier_changes: int
    carrier_ups: int
    carrier_downs: int
    promiscuity: int
    allmulti: int
    master: int
    alias: str
    altnames: tuple[str, ...]
    kind: str
    iflink: int
    addrgenmode: str
    gso_max_size: int
    gso_max_segs: int
    gro_max_size: int
    stats: Stats = field(default_factory=Stats)

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def lower_up(self) -> bool:
        """IFF_LOWER_UP: the carrier as flags tell it."""
        return bool(self.flags & IFF_LOWER_UP)

    @classmethod
    def parse(cls, body: bytes) -> Link:
        """Read a link message's body."""
        _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
        attrs = parse_attrs(body[16:])

        def number(kind: int) -> int:
            return int.from_bytes(attrs.get(kind, b""), "little")

        def string(kind: int) -> str:
            return attrs.get(kind, b"").rstrip(b"\0").decode()

        info = parse_attrs(attrs.get(IFLA_LINKINFO, b""))
        inet6 = parse_attrs(parse_attrs(attrs.get(IFLA_AF_SPEC, b"")).get(socket.AF_INET6, b""))
        props = [value for kind, value in iter_attrs(attrs.get(IFLA_PROP_LIST, b"")) if kind == IFLA_ALT_IFNAME]
        mode = inet6.get(IFLA_INET6_ADDR_GEN_MODE)
        return cls(
            name=string(IFLA_IFNAME),
            ifindex=index,
            flags=flags,
            address=attrs.get(IFLA_ADDRESS, b"").hex(":"),
            mtu=number(IFLA_MTU),
            txqueuelen=number(IFLA_TXQLEN),
            group=number(IFLA_GROUP),
            qdisc=string(IFLA_QDISC),
            operstate=OPERSTATES[number(IFLA_OPERSTATE)],
            carrier=bool(number(IFLA_CARRIER)),
            carrier_changes=number(IFLA_CARRIER_CHANGES),
            carrier_ups=number(IFLA_CARRIER_UP_COUNT),
            carrier_downs=number(IFLA_CARRIER_DOWN_COUNT),
            promiscuity=number(IFLA_PROMISCUITY),
            allmulti=number(IFLA_ALLMULTI),
            master=number(IFLA_MASTER),
            alias=string(IFLA_IFALIAS),
            altnames=tuple(value.rstrip(b"\0").decode() for value in props),
            kind=info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
            iflink=number(IFLA_LINK),
            addrgenmode=ADDR_GEN_MODES[mode[0]] if mode else "",
            gso_max_size=number(IFLA_GSO_MAX_SIZE),
            gso_max_segs=number(IFLA_GSO_MAX_SEGS),
            gro_max_size=number(IFLA_GRO_MAX_SIZE),
            stats=Stats(*struct.unpack_from("=10Q", attrs.get(IFLA_STATS64, bytes(80)))),
        )
