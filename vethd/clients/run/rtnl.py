"""rtnetlink messages as vethd-run reads and makes them: headers, attributes, and the numbers of linux/if_link.h."""

from __future__ import annotations

import struct

NLMSG_ERROR = 2
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO = 1, 4, 8
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200  # of an NLMSG_ERROR
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_TXQLEN = 1, 3, 4, 5, 10, 13
IFLA_LINKMODE, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = (
    17,
    18,
    19,
    20,
    26,
    27,
    28,
)
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID = 31, 32, 37
IFLA_GSO_MAX_SEGS, IFLA_GSO_MAX_SIZE, IFLA_TARGET_NETNSID, IFLA_ALT_IFNAME, IFLA_GRO_MAX_SIZE = 40, 41, 46, 53, 58
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_TUN_TYPE, IFF_TAP = 3, 2
VETH_INFO_PEER = 1

HEAD = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask of changed flags
_ATTR = struct.Struct("=HH")
TYPE, RAW = 0x3FFF, 0xFFFF  # without and with NLA_F_NESTED and NLA_F_NET_BYTEORDER

Attributes = list[tuple[int, bytes]]


class MalformedError(Exception):
    """A message that the kernel would refuse: it is left to the kernel to say so."""


class Message:
    """One message: its header's fields, and its payload."""

    __slots__ = ("data", "flags", "kind", "payload", "port", "sequence")

    def __init__(self, data: bytes) -> None:
        _, self.kind, self.flags, self.sequence, self.port = HEAD.unpack_from(data)
        self.data = data
        self.payload = data[HEAD.size :]

    def answered(self, kind: int, flags: int, payload: bytes) -> bytes:
        """Return another message with this one's sequence number and port."""
        return HEAD.pack(HEAD.size + len(payload), kind, flags, self.sequence, self.port) + payload

    @property
    def link(self) -> tuple[int, int, int, int, int]:
        """The ifinfomsg. Raises MalformedError."""
        if len(self.payload) < LINK.size:
            raise MalformedError
        family, kind, index, flags, change = LINK.unpack_from(self.payload)
        return family, kind, index, flags, change

    @property
    def attributes(self) -> Attributes:
        """The attributes behind the ifinfomsg. Raises MalformedError."""
        return parse(self.payload[LINK.size :])


def split(data: bytes) -> list[Message]:
    """Split what was sent or received at once. Raises MalformedError."""
    found, at = [], 0
    while len(data) - at >= HEAD.size:
        (size,) = struct.unpack_from("=I", data, at)
        if not HEAD.size <= size <= len(data) - at:
            raise MalformedError
        found.append(Message(data[at : at + size]))
        at += aligned(size)
    return found


def parse(data: bytes, mask: int = TYPE) -> Attributes:
    """Parse attributes; RAW keeps NLA_F_NESTED and NLA_F_NET_BYTEORDER in the kinds. Raises MalformedError."""
    found, at = [], 0
    while len(data) - at >= _ATTR.size:
        size, kind = _ATTR.unpack_from(data, at)
        if not _ATTR.size <= size <= len(data) - at:
            raise MalformedError
        found.append((kind & mask, data[at + _ATTR.size : at + size]))
        at += aligned(size)
    return found


def pack(attributes: Attributes) -> bytes:
    """Return attributes as bytes, each padded."""
    return b"".join(attribute(kind, data) for kind, data in attributes)


def attribute(kind: int, data: bytes) -> bytes:
    """Return one attribute, padded."""
    return _ATTR.pack(_ATTR.size + len(data), kind) + data + bytes(-len(data) % 4)


def first(attributes: Attributes, kind: int) -> bytes | None:
    """Return the value of the last attribute of that kind, which is the one that the kernel takes; None without."""
    return next((data for name, data in reversed(attributes) if name == kind), None)


def text(data: bytes) -> str:
    """Return a string attribute, which may end with NUL."""
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def number(data: bytes) -> int:
    """Return a 32-bit attribute. Raises MalformedError."""
    if len(data) != 4:
        raise MalformedError
    return int(struct.unpack("=i", data)[0])


def kind_of(attributes: Attributes) -> str:
    """Return IFLA_INFO_KIND, "" without. Raises MalformedError."""
    info = first(attributes, IFLA_LINKINFO)
    kind = first(parse(info), IFLA_INFO_KIND) if info is not None else None
    return text(kind) if kind is not None else ""


def aligned(size: int) -> int:
    """Round a size up to the next multiple of 4."""
    return size + 3 & ~3
