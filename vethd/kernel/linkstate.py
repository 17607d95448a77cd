"""Decodes rtnetlink's RTM_NEWLINK and RTM_DELLINK messages into values.

Only the attributes in use are decoded: the loop that forwards frames does it, between the moment when an end comes up
and its carrier. A test checks that pyroute2, which decodes all sixty, gives the same result.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from vethd.kernel.message import attributes
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

    new_nsid is set in a DELLINK of a link that moved: the id of the target namespace, NSID_NOT_ASSIGNED if that
    namespace has no id here. It is None if the link was deleted.
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
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def arp(self) -> bool:
        """Whether the link uses ARP."""
        return not self.flags & IFF_NOARP

    @property
    def multicast(self) -> bool:
        """Whether the link supports multicast."""
        return bool(self.flags & IFF_MULTICAST)

    @property
    def allmulticast(self) -> bool:
        """Whether all-multicast mode was requested."""
        return bool(self.flags & IFF_ALLMULTI)

    @property
    def promisc(self) -> bool:
        """Whether promiscuous mode was requested."""
        return bool(self.flags & IFF_PROMISC)


_HEAD = struct.Struct("=IHHIIBxHiII")  # struct nlmsghdr, struct ifinfomsg


def peek(data: bytes) -> tuple[int, int]:
    """Return (message type, ifindex) of a link's message without decoding it; (0, 0) for any other message.

    A bridge reports its ports in messages of the same types but another address family. These are other messages here:
    a port that leaves a bridge is not a deleted device.
    """
    if len(data) < _HEAD.size:
        return 0, 0
    _, kind, _, _, _, family, _, ifindex, _, _ = _HEAD.unpack_from(data)
    return (kind, ifindex) if family == socket.AF_UNSPEC else (0, 0)


def parse_link(data: bytes) -> LinkState | None:
    """Decode one whole message; None if it is neither RTM_NEWLINK nor RTM_DELLINK, or is malformed."""
    kind, ifindex = peek(data)
    if kind not in (RTM_NEWLINK, RTM_DELLINK):
        return None
    length, *_, flags, _ = _HEAD.unpack_from(data)
    try:
        attrs = dict(attributes(data[_HEAD.size : length]))
        return _state(kind == RTM_DELLINK, ifindex, flags, attrs)
    except (struct.error, ValueError, IndexError):  # the kernel sends no such message
        return None


_STATS64 = struct.Struct("=4Q16x2Q")  # struct rtnl_link_stats64 without rx_errors and tx_errors (the 16 bytes)


def _state(deleted: bool, ifindex: int, flags: int, attrs: dict[int, bytes]) -> LinkState:  # noqa: FBT001
    def number(kind: int, form: str = "=I") -> int:
        return int(struct.unpack(form, attrs[kind])[0]) if kind in attrs else 0

    properties = attributes(attrs.get(IFLA_PROP_LIST, b""))
    families = dict(attributes(attrs.get(IFLA_AF_SPEC, b"")))
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
    """Return a string. The kernel allows bytes that are not UTF-8; these are escaped."""
    return value.split(b"\0")[0].decode(errors="backslashreplace")


def _addrgenmode(inet6: bytes) -> str | None:
    """Return how IPv6 makes the link-local address; None if the link has no IPv6 (MTU below 1280)."""
    mode = dict(attributes(inet6)).get(IFLA_INET6_ADDR_GEN_MODE)
    return next((name for name, value in ADDR_GEN_MODES.items() if mode == bytes([value])), None)
