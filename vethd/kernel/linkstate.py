"""What rtnetlink says of a link, as a value: the one reading of RTM_NEWLINK and RTM_DELLINK.

Read here and not by pyroute2, which decodes all of a message's sixty attributes: 1 ms and more, between an end that
comes up and its carrier, on the loop that forwards frames. A test holds both to the same result.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from vethd.kernel.uapi import (
    ADDR_GEN_MODES,
    IFF_ALLMULTI,
    IFF_MULTICAST,
    IFF_NOARP,
    IFF_PROMISC,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_ALT_IFNAME,
    IFLA_CARRIER,
    IFLA_CARRIER_CHANGES,
    IFLA_GRO_MAX_SIZE,
    IFLA_GROUP,
    IFLA_GSO_MAX_SEGS,
    IFLA_GSO_MAX_SIZE,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NEW_NETNSID,
    IFLA_OPERSTATE,
    IFLA_PROP_LIST,
    IFLA_STATS64,
    IFLA_TXQLEN,
    NLA_TYPE_MASK,
    OPERSTATES,
    RTM_DELLINK,
    RTM_NEWLINK,
)


class LinkCounters(NamedTuple):
    """The kernel's own counters of a link (rtnl_link_stats64): frames and bytes, Ethernet header counted."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class LinkState(NamedTuple):
    """One link at the instant of the message.

    new_nsid is where a DELLINK says that the link went, NSID_NOT_ASSIGNED for a place without an id here (and
    None where it did not go, but died).
    """

    deleted: bool
    ifindex: int
    name: str
    flags: int
    mtu: int
    address: str
    txqueuelen: int
    group: int
    alias: str
    altnames: tuple[str, ...]
    master: int
    carrier: bool
    carrier_changes: int
    operstate: str
    counters: LinkCounters
    gso_max_size: int
    gso_max_segs: int
    gro_max_size: int
    addrgenmode: str | None
    new_nsid: int | None = None

    @property
    def up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def arp(self) -> bool:
        """Whether the link speaks ARP."""
        return not self.flags & IFF_NOARP

    @property
    def multicast(self) -> bool:
        """Whether the link does multicast."""
        return bool(self.flags & IFF_MULTICAST)

    @property
    def allmulticast(self) -> bool:
        """Whether somebody asked for all multicast."""
        return bool(self.flags & IFF_ALLMULTI)

    @property
    def promisc(self) -> bool:
        """Whether somebody asked for promiscuity."""
        return bool(self.flags & IFF_PROMISC)


_HEAD = struct.Struct("=IHHIIBxHiII")  # struct nlmsghdr, struct ifinfomsg


def peek(data: bytes) -> tuple[int, int]:
    """Return (message type, ifindex) of a link's message without decoding it; (0, 0) where it is none.

    A bridge tells of its ports in messages of the same types and another family; a port that leaves is no
    device that dies.
    """
    if len(data) < _HEAD.size:
        return 0, 0
    _, kind, _, _, _, family, _, ifindex, _, _ = _HEAD.unpack_from(data)
    return (kind, ifindex) if family == socket.AF_UNSPEC else (0, 0)


def parse_link(data: bytes) -> LinkState | None:
    """Read one whole message; None where it is no RTM_NEWLINK or RTM_DELLINK, or cannot be read."""
    kind, ifindex = peek(data)
    if kind not in (RTM_NEWLINK, RTM_DELLINK):
        return None
    length, *_, flags, _ = _HEAD.unpack_from(data)
    try:
        attrs = dict(_attributes(data[_HEAD.size : length]))
        return _state(kind == RTM_DELLINK, ifindex, flags, attrs)
    except (struct.error, ValueError, IndexError):  # the kernel sends none such
        return None


_HEAD_ATTR = struct.Struct("=HH")  # struct nlattr: length with this header, type
_STATS64 = struct.Struct("=4Q16x2Q")  # struct rtnl_link_stats64, between its rx_bytes and rx_dropped two of errors


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each attribute. Raises ValueError where one does not end where it may."""
    at = 0
    while at + _HEAD_ATTR.size <= len(data):
        size, kind = _HEAD_ATTR.unpack_from(data, at)
        if not _HEAD_ATTR.size <= size <= len(data) - at:
            raise ValueError(size)
        yield kind & NLA_TYPE_MASK, data[at + _HEAD_ATTR.size : at + size]
        at += (size + 3) & ~3


def _state(deleted: bool, ifindex: int, flags: int, attrs: dict[int, bytes]) -> LinkState:  # noqa: FBT001
    def number(kind: int, form: str = "=I") -> int:
        return int(struct.unpack(form, attrs[kind])[0]) if kind in attrs else 0

    properties = _attributes(attrs.get(IFLA_PROP_LIST, b""))
    families = dict(_attributes(attrs.get(IFLA_AF_SPEC, b"")))
    return LinkState(
        deleted=deleted,
        ifindex=ifindex,
        name=_text(attrs.get(IFLA_IFNAME, b"")),
        flags=flags,
        mtu=number(IFLA_MTU),
        address=attrs.get(IFLA_ADDRESS, b"").hex(":"),
        txqueuelen=number(IFLA_TXQLEN),
        group=number(IFLA_GROUP),
        alias=_text(attrs.get(IFLA_IFALIAS, b"")),
        altnames=tuple(_text(value) for kind, value in properties if kind == IFLA_ALT_IFNAME),
        master=number(IFLA_MASTER),
        carrier=bool(number(IFLA_CARRIER, "=B")),
        carrier_changes=number(IFLA_CARRIER_CHANGES),
        operstate=OPERSTATES[number(IFLA_OPERSTATE, "=B")],
        counters=LinkCounters(*_STATS64.unpack_from(attrs[IFLA_STATS64])) if IFLA_STATS64 in attrs else LinkCounters(),
        gso_max_size=number(IFLA_GSO_MAX_SIZE),
        gso_max_segs=number(IFLA_GSO_MAX_SEGS),
        gro_max_size=number(IFLA_GRO_MAX_SIZE),
        addrgenmode=_addrgenmode(families.get(socket.AF_INET6, b"")),
        new_nsid=number(IFLA_NEW_NETNSID, "=i") if IFLA_NEW_NETNSID in attrs else None,
    )


def _text(value: bytes) -> str:
    """Return a string, which need be no UTF-8: the kernel does not mind."""
    return value.split(b"\0")[0].decode(errors="backslashreplace")


def _addrgenmode(inet6: bytes) -> str | None:
    """Return IPv6's way to make a link-local address here; None where the link has no IPv6 (MTU below 1280)."""
    mode = dict(_attributes(inet6)).get(IFLA_INET6_ADDR_GEN_MODE)
    return next((name for name, value in ADDR_GEN_MODES.items() if mode == bytes([value])), None)
