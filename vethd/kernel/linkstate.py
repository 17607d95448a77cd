"""What rtnetlink says of a link, as a value: the one reading of RTM_NEWLINK and RTM_DELLINK."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from vethd.kernel.uapi import (
    ADDR_GEN_MODES,
    IFF_ALLMULTI,
    IFF_MULTICAST,
    IFF_NOARP,
    IFF_PROMISC,
    IFF_UP,
    NSID_NOT_ASSIGNED,
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
    """Give (message type, ifindex) of a link's message without decoding it; (0, 0) where it is none.

    A bridge tells of its ports in messages of the same types and another family; a port that leaves is no
    device that dies.
    """
    if len(data) < _HEAD.size:
        return 0, 0
    _, kind, _, _, _, family, _, ifindex, _, _ = _HEAD.unpack_from(data)
    return (kind, ifindex) if family == socket.AF_UNSPEC else (0, 0)


def parse_link(data: bytes) -> LinkState | None:
    """Read one whole message; None where it is no RTM_NEWLINK or RTM_DELLINK, or cannot be read."""
    if peek(data)[0] not in (RTM_NEWLINK, RTM_DELLINK):
        return None
    message = ifinfmsg(data)
    try:
        message.decode()
        return _state(message, deleted=peek(data)[0] == RTM_DELLINK)
    except Exception:  # noqa: BLE001 - the codec raises whatever a bad attribute provokes; the kernel sends none
        return None


def _state(message: Any, *, deleted: bool) -> LinkState:
    # get_attr() walks all attributes at every call; a slot decodes its value when it is asked for
    slots = {slot[0]: slot for slot in message["attrs"]}

    def get(name: str) -> Any:
        return slots[name][1] if name in slots else None

    def number(name: str) -> int:
        value = get(name) or 0
        if not isinstance(value, int):  # the codec gives what it cannot read as it came
            raise TypeError(name)
        return value

    address = get("IFLA_ADDRESS") or ""
    if not isinstance(address, str):
        raise TypeError(address)
    stats: dict[str, int] = get("IFLA_STATS64") or {}
    props = get("IFLA_PROP_LIST")
    new_nsid = get("IFLA_NEW_NETNSID")
    if new_nsid is not None and new_nsid >= 1 << 31:
        new_nsid = NSID_NOT_ASSIGNED
    operstate = get("IFLA_OPERSTATE")
    return LinkState(
        deleted=deleted,
        ifindex=message["index"],
        name=_text(get("IFLA_IFNAME")),
        flags=message["flags"],
        mtu=number("IFLA_MTU"),
        address=address,
        txqueuelen=number("IFLA_TXQLEN"),
        group=number("IFLA_GROUP"),
        alias=_text(get("IFLA_IFALIAS")),
        altnames=tuple(map(_text, props.get_attrs("IFLA_ALT_IFNAME"))) if props is not None else (),
        master=number("IFLA_MASTER"),
        carrier=bool(number("IFLA_CARRIER")),
        carrier_changes=number("IFLA_CARRIER_CHANGES"),
        operstate=operstate if isinstance(operstate, str) else OPERSTATES[operstate or 0],
        counters=LinkCounters(*(stats.get(key, 0) for key in LinkCounters._fields)),
        gso_max_size=number("IFLA_GSO_MAX_SIZE"),
        gso_max_segs=number("IFLA_GSO_MAX_SEGS"),
        gro_max_size=number("IFLA_GRO_MAX_SIZE"),
        addrgenmode=_addrgenmode(get("IFLA_AF_SPEC")),
        new_nsid=new_nsid,
    )


def _text(value: str | bytes | None) -> str:
    """Give a string; what is no UTF-8, which the kernel does not mind, the codec gives as bytes."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value or ""


def _addrgenmode(af_spec: Any) -> str | None:
    """Give IPv6's way to make a link-local address here; None where the link has no IPv6 (MTU below 1280)."""
    inet6 = af_spec.get_attr("AF_INET6") if af_spec is not None else None
    mode = inet6.get_attr("IFLA_INET6_ADDR_GEN_MODE") if inet6 is not None else None
    return next((name for name, value in ADDR_GEN_MODES.items() if value == mode), None)
