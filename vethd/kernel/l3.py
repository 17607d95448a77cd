"""Addresses and routes over rtnetlink, as with `ip address` and `ip route`; for worker threads."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from vethd.kernel.rtnl import Rtnl
from vethd.kernel.uapi import (
    AF_UNSPEC,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
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
    """A unicast route through one link. gw None: the destination is on the link. metrics: RTAX_* names and values."""

    dst: Network
    gw: IPAddress | None = None
    src: IPAddress | None = None
    scope: int | None = None
    priority: int | None = None
    table: int | None = None
    metrics: tuple[tuple[str, int], ...] = ()


class L3(Rtnl):
    """An rtnetlink socket that reads and changes addresses and routes."""

    def add_address(self, ifindex: int, address: Interface, *, dad: bool, prefix_route: bool = True) -> None:
        """Give the link an address and, with prefix_route, the route to its subnet. An existing address is no error.

        dad: do duplicate address detection (IPv6). Raises VethError.
        """
        message = _address(ifindex, address)
        flags = (0 if prefix_route else IFA_F_NOPREFIXROUTE) | (IFA_F_NODAD if address.version == 6 and not dad else 0)
        message["attrs"].append(("IFA_FLAGS", flags))
        if address.version == 4 and address.network.prefixlen <= _BROADCAST_PREFIX_MAX:
            message["attrs"].append(("IFA_BROADCAST", str(address.network.broadcast_address)))
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
        message = ifaddrmsg()
        message["family"] = AF_UNSPEC
        for data in self._request(message, RTM_GETADDR, NLM_F_DUMP, "getaddr", ""):
            found = ifaddrmsg(data)
            found.decode()
            if found["index"] == ifindex:
                text = found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")
                yield ipaddress.ip_interface(f"{text}/{found['prefixlen']}"), found.get_attr("IFA_FLAGS")

    def add_route(self, ifindex: int, route: Route) -> None:
        """Add a route through the link; an identical route is no error. Raises VethError.

        A route to the same destination through another link stays: of two default routes, the last one added takes
        precedence.
        """
        message = rtmsg()
        message["family"] = _FAMILY[route.dst.version]
        message["dst_len"] = route.dst.prefixlen
        message["proto"] = RTPROT_BOOT
        message["type"] = RTN_UNICAST
        scope = route.scope if route.scope is not None else RT_SCOPE_UNIVERSE if route.gw else RT_SCOPE_LINK
        message["scope"] = scope
        attrs: list[tuple[str, Any]] = [("RTA_OIF", ifindex), ("RTA_TABLE", route.table or RT_TABLE_MAIN)]
        if route.dst.prefixlen:
            attrs.append(("RTA_DST", str(route.dst.network_address)))
        for name, value in (("RTA_GATEWAY", route.gw), ("RTA_PREFSRC", route.src)):
            if value is not None:
                attrs.append((name, str(value)))
        if route.priority is not None:
            attrs.append(("RTA_PRIORITY", route.priority))
        if route.metrics:
            attrs.append(("RTA_METRICS", {"attrs": list(route.metrics)}))
        message["attrs"] = attrs
        try:
            self._request(message, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, "newroute", str(route.dst))
        except VethError as error:
            if error.errno != errno.EEXIST:
                raise

    def routes(self, ifindex: int) -> Iterator[tuple[str, str | None]]:
        """Yield the unicast routes through the link, in any table: (destination, gateway or None)."""
        message = rtmsg()
        message["family"] = AF_UNSPEC
        for data in self._request(message, RTM_GETROUTE, NLM_F_DUMP, "getroute", ""):
            found = rtmsg(data)
            found.decode()
            if found.get_attr("RTA_OIF") == ifindex and found["type"] == RTN_UNICAST:
                nowhere = "::" if found["family"] == _FAMILY[6] else "0.0.0.0"
                yield f"{found.get_attr('RTA_DST') or nowhere}/{found['dst_len']}", found.get_attr("RTA_GATEWAY")


def _address(ifindex: int, address: Interface) -> ifaddrmsg:
    message = ifaddrmsg()
    message["family"] = _FAMILY[address.version]
    message["index"] = ifindex
    message["prefixlen"] = address.network.prefixlen
    message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    return message
