"""Addresses and routes over rtnetlink, as with `ip address` and `ip route`; for worker threads."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from vethd.kernel.message import IFADDRMSG, RTMSG, ip, nest, number, read, u32
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.uapi import (
    AF_UNSPEC,
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_FLAGS,
    IFA_LOCAL,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_METRICS,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTPROT_BOOT,
)
from vethd.model.attachment import Interface, IPAddress, Network
from vethd.model.errors import VethError

_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6
_BROADCAST_PREFIX_MAX = 30  # a /31 has no broadcast address


class Route(NamedTuple):
    """A unicast route through one link. gw None: the destination is on the link. metrics: RTAX_* and values."""

    dst: Network
    gw: IPAddress | None = None
    src: IPAddress | None = None
    scope: int | None = None
    priority: int | None = None
    table: int | None = None
    metrics: tuple[tuple[int, int], ...] = ()


class L3(Rtnl):
    """An rtnetlink socket that reads and changes addresses and routes."""

    def add_address(self, ifindex: int, address: Interface, *, dad: bool, prefix_route: bool = True) -> None:
        """Give the link an address and, with prefix_route, the route to its subnet. An existing address is no error.

        dad: do duplicate address detection (IPv6). Raises VethError.
        """
        message = _address(ifindex, address)
        flags = (0 if prefix_route else IFA_F_NOPREFIXROUTE) | (IFA_F_NODAD if address.version == 6 and not dad else 0)
        message += u32(IFA_FLAGS, flags)
        if address.version == 4 and address.network.prefixlen <= _BROADCAST_PREFIX_MAX:
            message += ip(IFA_BROADCAST, address.network.broadcast_address)
        try:
            self._request(message, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, "newaddr", str(address))
        except VethError as error:
            if error.errno != errno.EEXIST:
                raise

    def del_address(self, ifindex: int, address: Interface) -> None:
        """Delete an address of the link. Raises VethError EADDRNOTAVAIL if the link does not have it."""
        self._request(_address(ifindex, address), RTM_DELADDR, NLM_F_ACK, "deladdr", str(address))

    def addresses(self, ifindex: int) -> Iterator[tuple[Interface, int]]:
        """Yield the link's addresses, each with its flags (IFA_F_*)."""
        message = IFADDRMSG.pack(AF_UNSPEC, 0, 0, 0, 0)
        for data in self._request(message, RTM_GETADDR, NLM_F_DUMP, "getaddr", ""):
            (_, prefixlen, _, _, index), attrs = read(IFADDRMSG, data)
            if index == ifindex:
                packed = attrs.get(IFA_LOCAL) or attrs[IFA_ADDRESS]
                yield ipaddress.ip_interface((packed, prefixlen)), number(attrs.get(IFA_FLAGS))

    def add_route(self, ifindex: int, route: Route) -> None:
        """Add a route through the link; an identical route is no error. Raises VethError.

        A route to the same destination through another link stays: of two default routes, the last one added takes
        precedence.
        """
        scope = route.scope if route.scope is not None else RT_SCOPE_UNIVERSE if route.gw else RT_SCOPE_LINK
        family = _FAMILY[route.dst.version]
        message = RTMSG.pack(family, route.dst.prefixlen, 0, 0, 0, RTPROT_BOOT, scope, RTN_UNICAST, 0)
        message += u32(RTA_OIF, ifindex) + u32(RTA_TABLE, route.table or RT_TABLE_MAIN)
        if route.dst.prefixlen:
            message += ip(RTA_DST, route.dst.network_address)
        for kind, value in ((RTA_GATEWAY, route.gw), (RTA_PREFSRC, route.src)):
            if value is not None:
                message += ip(kind, value)
        if route.priority is not None:
            message += u32(RTA_PRIORITY, route.priority)
        if route.metrics:
            message += nest(RTA_METRICS, *(u32(*metric) for metric in route.metrics))
        try:
            self._request(message, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, "newroute", str(route.dst))
        except VethError as error:
            if error.errno != errno.EEXIST:
                raise

    def routes(self, ifindex: int) -> Iterator[tuple[str, str | None]]:
        """Yield the unicast routes through the link, in any table: (destination, gateway or None)."""
        message = RTMSG.pack(AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
        for data in self._request(message, RTM_GETROUTE, NLM_F_DUMP, "getroute", ""):
            (family, dst_len, *_, kind, _), attrs = read(RTMSG, data)
            if number(attrs.get(RTA_OIF)) == ifindex and kind == RTN_UNICAST:
                nowhere = "::" if family == _FAMILY[6] else "0.0.0.0"
                dst, gateway = (_shown(attrs.get(which)) for which in (RTA_DST, RTA_GATEWAY))
                yield f"{dst or nowhere}/{dst_len}", gateway


def _shown(packed: bytes | None) -> str | None:
    return None if packed is None else str(ipaddress.ip_address(packed))


def _address(ifindex: int, address: Interface) -> bytes:
    message = IFADDRMSG.pack(_FAMILY[address.version], address.network.prefixlen, 0, 0, ifindex)
    return message + ip(IFA_LOCAL, address.ip) + ip(IFA_ADDRESS, address.ip)
