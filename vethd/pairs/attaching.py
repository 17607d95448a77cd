"""The kernel's part of an attachment: bridge, port, sysctls, addresses and routes; for worker threads.

Theory of operation. The host must not accept routes or addresses from a container, so accept_ra is set to 0 on the
bridge and on the host's end before either is up: the pair is made down, and comes up here. The container's end comes up
last, with its sysctls and addresses, so it gets its carrier when the host's end is ready.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from vethd.kernel import netns
from vethd.kernel.bridge import Bridges
from vethd.kernel.l3 import L3, Route
from vethd.kernel.sysctl import Sysctl, Sysctls, sysctls
from vethd.kernel.uapi import IFA_F_DADFAILED, IFA_F_TENTATIVE, RT_SCOPE_HOST, RTAX_ADVMSS, RTAX_MTU
from vethd.model.attachment import (
    Attachment,
    BridgeSpec,
    IPAddress,
    IPSpec,
    LinkBrief,
    interface,
    network,
    same_family,
)
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec

T = TypeVar("T")

_METRICS = (("mtu", RTAX_MTU), ("advmss", RTAX_ADVMSS))
_ALL_BITS = {4: "32", 6: "128"}
_FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}


def in_netns(ref: str | None, fds: Sequence[int] | None, act: Callable[[Bridges], T]) -> T:
    """Call act with a socket in the namespace that ref names. Raises VethError."""
    fd = netns.open_ref(ref, fds)
    try:
        with netns.inside(fd), Bridges() as here:
            return act(here)
    finally:
        os.close(fd)


def set_up_bridge(asked: Attachment, bridge: BridgeSpec, fds: Sequence[int] | None) -> list[str]:
    """Make the bridge if it does not exist, and bring it up; return the refused sysctls. Raises VethError."""

    def act(here: Bridges) -> list[str]:
        ifindex = here.ensure(bridge)
        with sysctls(asked.sysctls, fds) as tunables:
            refused = _ignore_routers(here, tunables, ifindex, bridge.name)
        here.set_link(ifindex, LinkSpec(up=True, promisc=True if bridge.promisc else None))
        return refused

    return in_netns(asked.host_netns, fds, act)


def set_up(asked: Attachment, host: str, fds: Sequence[int] | None) -> list[str]:
    """Bring both ends up, with their sysctls and addresses; return the refused sysctls. Raises VethError.

    host is the name of the host's end. Settings that already exist are no error: with dhcp, this is called twice.
    """
    with sysctls(asked.sysctls, fds) as tunables:
        refused = in_netns(asked.host_netns, fds, lambda here: _set_up_host(asked, host, here, tunables))
        return refused + in_netns(asked.netns, fds, lambda here: _set_up_container(asked, here, tunables))


def complete(asked: Attachment, fds: Sequence[int] | None) -> None:
    """Add the container's routes, whose sources can now be its addresses, and announce these. Raises VethError.

    The announcement gives all neighbours the MAC of the addresses, because one of them may have another MAC for them.
    The kernel makes it when a link gets a MAC, even the one that it already has, if arp_notify and ndisc_notify are
    set. The kernel also makes one when a link comes up, but a bridge drops frames that arrive before it has seen the
    port's carrier.
    """

    def act(here: Bridges) -> None:
        ifindex = here.ifindex(asked.ifname, "attach")
        _add_routes(asked, ifindex, here)
        if asked.ips:
            here.set_link(ifindex, LinkSpec(address=here.link(ifindex).address), op="attach")

    in_netns(asked.netns, fds, act)


def settled(asked: Attachment, fds: Sequence[int] | None) -> bool:
    """Return whether duplicate address detection of the container's addresses is over.

    Raises VethError EADDRINUSE if it found another host with such an address.
    """
    flags = in_netns(asked.netns, fds, lambda here: dict(here.addresses(here.ifindex(asked.ifname, "attach"))))
    for ip in asked.ips:
        if flags.get(interface(ip.address), 0) & IFA_F_DADFAILED:
            raise VethError(errno.EADDRINUSE, "attach", asked.ifname, f"another host has the address {ip.address}")
    return not any(flags.get(interface(ip.address), 0) & IFA_F_TENTATIVE for ip in asked.ips)


def check(asked: Attachment, fds: Sequence[int] | None) -> None:
    """Check that container and bridge are as asked. Raises VethError ESTALE with the difference."""
    in_netns(asked.netns, fds, lambda here: _check_container(asked, here))
    bridge = asked.bridge
    if bridge is not None and bridge.promisc:
        promisc = in_netns(asked.host_netns, fds, lambda here: here.link(here.ifindex(bridge.name, "check")).promisc)
        if not promisc:
            raise VethError(errno.ESTALE, "check", asked.ifname, f"the bridge {bridge.name} is not promiscuous")


def brief(asked: Attachment, name: str, fds: Sequence[int] | None) -> LinkBrief:
    """Describe the host's link of that name. Raises VethError."""

    def act(here: L3) -> LinkBrief:
        link = here.link(here.ifindex(name, "attach"))
        return LinkBrief(name=name, address=link.address, mtu=link.mtu)

    return in_netns(asked.host_netns, fds, act)


def _ignore_routers(here: L3, tunables: Sysctls, ifindex: int, name: str) -> list[str]:
    """Have the host accept no route and no address from router advertisements on a link. Raises VethError."""
    refused = tunables.ensure([Sysctl(f"ipv6/conf/{name}/accept_ra", "0")])
    if here.ifindex(name, "attach") != ifindex:  # the path of a sysctl has the link's name
        raise VethError(errno.ENODEV, "attach", name, "the link was renamed while it was set up")
    return refused


def _set_up_host(asked: Attachment, name: str, here: Bridges, tunables: Sysctls) -> list[str]:
    """Set up the host's end as a port of the bridge, or as the container's gateway."""
    ifindex = here.ifindex(name, "attach")
    refused = _ignore_routers(here, tunables, ifindex, name)
    if asked.bridge is not None:
        here.set_port(ifindex, asked.bridge)
    here.set_link(ifindex, LinkSpec(up=True), op="attach")
    if asked.bridge is None or asked.bridge.gateways:
        families = sorted({interface(ip.address).version for ip in asked.ips})
        refused += tunables.ensure(Sysctl(_FORWARDING[family], "1", needed=True) for family in families)
    if asked.bridge is not None:
        return refused + _set_up_gateways(asked, asked.bridge, here, tunables)
    for ip in asked.ips:
        own = interface(ip.address)
        bits = _ALL_BITS[own.version]
        here.add_address(ifindex, interface(f"{ip.gateway}/{bits}"), dad=False)
        here.add_route(ifindex, Route(network(f"{own.ip}/{bits}"), scope=RT_SCOPE_HOST if own.version == 4 else None))
    return refused


def _set_up_gateways(asked: Attachment, bridge: BridgeSpec, here: Bridges, tunables: Sysctls) -> list[str]:
    """Add the gateways' addresses to the bridge, or to its VLAN device; return the refused sysctls."""
    refused: list[str] = []
    ifindex = here.ifindex(bridge.name, "attach")
    if bridge.vlan_device is not None and bridge.vlan is not None:
        ifindex = here.ensure_vlan_device(ifindex, bridge.vlan_device, bridge.vlan)
        refused += _ignore_routers(here, tunables, ifindex, bridge.vlan_device)
        here.set_link(ifindex, LinkSpec(up=True), op="attach")
    for gateway in bridge.gateways:
        here.gateway(ifindex, bridge, interface(gateway))
    for ip in asked.ips:
        here.forget_neighbour(ifindex, interface(ip.address).ip)
    return refused


def _set_up_container(asked: Attachment, here: Bridges, tunables: Sysctls) -> list[str]:
    """Set the sysctls of the container's end; return the refused ones.

    Unless the end is to stay down, add its addresses and bring it up.
    """
    ifindex = here.ifindex(asked.ifname, "attach")
    refused = tunables.ensure(_of_container(asked))
    if not asked.up:
        return refused
    for ip in asked.ips:
        here.add_address(ifindex, interface(ip.address), dad=asked.dad, prefix_route=asked.bridge is not None)
    here.set_link(ifindex, LinkSpec(up=True), op="attach")
    return refused


def _add_routes(asked: Attachment, ifindex: int, here: L3) -> None:
    for ip in asked.ips if asked.bridge is None else ():  # the neighbours, too, are reached through the host
        own = interface(ip.address)
        gateway = same_family(own, ip.gateway or "")
        here.add_route(ifindex, Route(network(f"{gateway}/{_ALL_BITS[own.version]}"), src=own.ip))
        here.add_route(ifindex, Route(own.network, gateway, own.ip))
    for route in asked.routes:
        dst = network(route.dst)
        gw = same_family(dst, route.gw) if route.gw is not None else _first_gateway(asked.ips, dst.version)
        metrics = tuple((metric, value) for key, metric in _METRICS if (value := getattr(route, key)) is not None)
        here.add_route(ifindex, Route(dst, gw, None, route.scope, route.priority, route.table, metrics))


def _of_container(asked: Attachment) -> Iterator[Sysctl]:
    """Yield the sysctls of the container's end; those that enable IPv6 only if it has an IPv6 address."""
    own = f"ipv6/conf/{asked.ifname}"
    if any(interface(ip.address).version == 6 for ip in asked.ips):  # IPv6 may be off by default in a container
        yield Sysctl("ipv6/conf/lo/disable_ipv6", "0", needed=True)
        yield Sysctl(f"{own}/disable_ipv6", "0", needed=True)
        yield Sysctl(f"{own}/keep_addr_on_down", "1")
    if asked.dad:
        yield Sysctl(f"{own}/enhanced_dad", "1")
    yield Sysctl(f"{own}/accept_dad", "1" if asked.dad else "0")
    yield Sysctl(f"{own}/ndisc_notify", "1")
    yield Sysctl(f"ipv4/conf/{asked.ifname}/arp_notify", "1")


def _check_container(asked: Attachment, here: L3) -> None:
    ifindex = here.ifindex(asked.ifname, "check")
    link = here.link(ifindex)
    missing = [] if link.up or not asked.up else ["up"]
    if asked.address is not None and link.address != asked.address.lower():
        missing.append(f"address {asked.address} (it is {link.address})")
    has = dict(here.addresses(ifindex))
    missing += [ip.address for ip in asked.ips if interface(ip.address) not in has]
    routed = list(here.routes(ifindex))
    for route in asked.routes:
        dst = str(network(route.dst))
        if not any(dst == there and route.gw in (None, gw) for there, gw in routed):
            missing.append(f"the route to {dst}" + (f" via {route.gw}" if route.gw else ""))
    if missing:
        raise VethError(errno.ESTALE, "check", asked.ifname, f"missing: {', '.join(missing)}")


def _first_gateway(ips: Sequence[IPSpec], version: int) -> IPAddress | None:
    """Return the first gateway of a family; None if there is none, so that the destination is on the link."""
    for ip in ips:
        own = interface(ip.address)
        if own.version == version and ip.gateway is not None:
            return same_family(own, ip.gateway)
    return None
