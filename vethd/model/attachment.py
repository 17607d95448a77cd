"""A container's attachment to a network: a pair, one end in the container, the other a bridge's port or routed.

The structs describe the requests of a container runtime's plugin in the terms of the kernel: the pair, the bridge,
sysctls, addresses and routes. IPAM and firewall rules belong to the plugin. Network, container and the name of the
container's end identify an attachment (api.AttachmentKey); the pair's record keeps these three over a restart.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from typing import Literal

import msgspec

from vethd.model.api import AttachmentKey
from vethd.model.errors import VethError
from vethd.model.spec import U32_MAX, LinkSpec, PairSpec, check_name

VLAN_MAX = 4094
BURST_S_MAX = 274  # psched counts 2^32 ticks of 64 ns
SUBNETS_MAX = 64  # of each kind: addresses, routes, gateways
WORD_MAX = 255  # bytes of a network's or container's name; IPAM plugins use it as a file name

_WORD = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")  # a valid CNI name of a network or container

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class BridgeSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The bridge of which the host's end becomes a port. The daemon makes it if it does not exist.

    gateways are addresses of the bridge, "10.88.0.1/16". If the bridge has another IPv4 address, or an IPv6 address
    whose subnet overlaps, the request fails, or, with force, deletes that address. hairpin and isolated are flags of
    the port; mtu is for a new bridge.

    vlan and trunk are the port's VLANs: untagged frames are in vlan (in VLAN 1 if only trunk is given); trunk has
    ranges (first, last) of tagged VLANs. The port leaves the bridge's default VLAN unless default_vlan is true. With
    vlan, the gateways are addresses of a VLAN device on the bridge, "cni0.5", and not of the bridge.
    """

    name: str
    mtu: int | None = None
    promisc: bool = False
    hairpin: bool = False
    isolated: bool = False
    vlan: int | None = None
    trunk: list[tuple[int, int]] = []
    default_vlan: bool = False
    gateways: list[str] = []
    force: bool = False

    @property
    def filters(self) -> bool:
        """Whether the bridge must filter VLANs."""
        return self.vlan is not None or bool(self.trunk)

    @property
    def vlan_device(self) -> str | None:
        """The name of the VLAN device that has the gateways' addresses, None if the bridge has them."""
        return f"{self.name}.{self.vlan}" if self.vlan is not None and self.gateways else None


class IPSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An address of the container's end, "10.88.0.2/16", and the address of its gateway."""

    address: str
    gateway: str | None = None


class RouteSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A route of the container through its end. The default of gw is the first gateway of the family in ips."""

    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Attachment(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request. bridge None: the container is routed, and its gateways are addresses of the host's end.

    netns and host_netns have the form of LinkSpec.netns; ifname and address are for the container's end, mtu is for
    both ends. up False leaves the container's end down, without addresses. dad: wait for duplicate address detection of
    the IPv6 addresses. sysctls "fd:N" is a /proc/sys/net to write through; None is the daemon's own, which is often
    read-only.
    """

    network: str
    container: str
    ifname: str
    netns: str
    host_netns: str | None = None
    address: str | None = None
    mtu: int | None = None
    bridge: BridgeSpec | None = None
    ips: list[IPSpec] = []
    routes: list[RouteSpec] = []
    up: bool = True
    dad: bool = False
    sysctls: str | None = None

    @property
    def key(self) -> AttachmentKey:
        """The identity of the attachment."""
        return AttachmentKey(self.network, self.container, self.ifname)

    def pair(self) -> PairSpec:
        """Return the pair, the host's end first. Neither end is up, because their sysctls are set before that."""
        far = LinkSpec(name=self.ifname, netns=self.netns, address=self.address, mtu=self.mtu)
        return PairSpec(
            netns=self.host_netns,
            mtu=self.mtu,
            master=self.bridge.name if self.bridge else None,
            peer=far,
        )


class BandwidthSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An attachment's limits in bit/s, and bursts in bits; 0: no limit. The container receives ingress."""

    network: str
    container: str
    ifname: str
    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0

    @property
    def key(self) -> AttachmentKey:
        """The identity of the attachment."""
        return AttachmentKey(self.network, self.container, self.ifname)


class LinkBrief(msgspec.Struct, kw_only=True, frozen=True):
    """A link, with the fields that a plugin's result needs."""

    name: str
    address: str
    mtu: int


class Attached(msgspec.Struct, kw_only=True, frozen=True):
    """The result of a request. bridge is null if the container is routed, vlan if there is no VLAN device.

    refused has a line of text for each sysctl that could not be set and that the attachment does not need.
    """

    pair: str
    bridge: LinkBrief | None
    host: LinkBrief
    container: LinkBrief
    vlan: LinkBrief | None = None
    refused: list[str] = []


class AttachmentInfo(msgspec.Struct, kw_only=True, frozen=True):
    """An existing attachment."""

    network: str
    container: str
    ifname: str
    pair: str
    state: Literal["attached"] = "attached"


def validate_attachment(asked: Attachment) -> None:
    """Check the parts that the pair's own validation does not check. Raises VethError EINVAL, ERANGE."""
    for key, word in (("network", asked.network), ("container", asked.container)):
        if not _WORD.match(word):
            raise VethError(errno.EINVAL, "attach", asked.ifname, f"{key} {word!r} is not a valid name")
        if len(word) > WORD_MAX:
            raise VethError(errno.ERANGE, "attach", asked.ifname, f"the {key}'s name is longer than {WORD_MAX} bytes")
    check_name(asked.ifname, "attach", pattern=False)
    gateways = _validate_bridge(asked.bridge) if asked.bridge is not None else []
    if asked.ips and not asked.up:
        raise VethError(errno.EINVAL, "attach", asked.ifname, "addresses require that the container's end is up")
    if max(len(gateways), len(asked.ips), len(asked.routes)) > SUBNETS_MAX:
        raise VethError(errno.EINVAL, "attach", asked.ifname, f"more than {SUBNETS_MAX} addresses, gateways or routes")
    for text in gateways:
        interface(text)
    for ip in asked.ips:
        _validate_ip(ip, routed=asked.bridge is None)
    for route in asked.routes:
        _validate_route(route)


def _validate_bridge(bridge: BridgeSpec) -> list[str]:
    check_name(bridge.name, "attach", pattern=False)
    if bridge.vlan_device is not None:
        check_name(bridge.vlan_device, "attach", pattern=False)
    if len(bridge.trunk) > VLAN_MAX:
        raise VethError(errno.EINVAL, "attach", bridge.name, f"more than {VLAN_MAX} ranges of VLANs")
    for first, last in [*bridge.trunk, *([(bridge.vlan, bridge.vlan)] if bridge.vlan is not None else [])]:
        if not 1 <= first <= last <= VLAN_MAX:
            said = f"vlan {first}" if first == last else f"a range of VLANs from {first} to {last}"
            raise VethError(errno.EINVAL, "attach", bridge.name, f"{said} is outside 1..{VLAN_MAX}")
    return bridge.gateways


def _validate_ip(ip: IPSpec, *, routed: bool) -> None:
    subnet = interface(ip.address)
    if ip.gateway is not None:
        same_family(subnet, ip.gateway)
    elif routed:
        raise VethError(errno.EINVAL, "attach", reason=f"{ip.address} needs a gateway, because the container is routed")


def _validate_route(route: RouteSpec) -> None:
    dst = network(route.dst)
    if route.gw is not None:
        same_family(dst, route.gw)
    for key, most in (("mtu", U32_MAX), ("advmss", U32_MAX), ("priority", U32_MAX), ("table", U32_MAX), ("scope", 255)):
        value = getattr(route, key)
        if value is not None and not 0 <= value <= most:
            raise VethError(errno.EINVAL, "attach", reason=f"{key} {value} of a route is outside 0..{most}")


def validate_bandwidth(asked: BandwidthSpec) -> None:
    """Check each pair of a rate and a burst: both or neither, and in the range of the kernel's token buckets.

    Raises VethError EINVAL.
    """
    for way in ("ingress", "egress"):
        rate, burst = getattr(asked, f"{way}_rate"), getattr(asked, f"{way}_burst")
        if bool(rate) != bool(burst):
            raise VethError(errno.EINVAL, "shape", asked.ifname, f"{way} needs both a rate and a burst")
        if rate and not (8 <= rate <= 8 * U32_MAX and 8 <= burst <= U32_MAX and burst / rate <= BURST_S_MAX):
            reason = f"{way}: {rate} bit/s with bursts of {burst} bits is outside a token bucket's range"
            raise VethError(errno.EINVAL, "shape", asked.ifname, reason)


def interface(text: str) -> Interface:
    """Parse an address with its prefix. Raises VethError EINVAL."""
    try:
        if "/" in text:
            return ipaddress.ip_interface(text)
    except ValueError:
        pass
    raise VethError(errno.EINVAL, "attach", reason=f"{text!r} is not an address with a prefix, such as 10.88.0.2/16")


def network(text: str) -> Network:
    """Parse a route's destination; bits beyond the prefix are ignored. Raises VethError EINVAL."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise VethError(errno.EINVAL, "attach", reason=f"{text!r} is not a destination of a route") from error


def same_family(subnet: Interface | Network, gateway: str) -> IPAddress:
    """Parse a gateway's address, which must be of the subnet's family. Raises VethError EINVAL."""
    try:
        address = ipaddress.ip_address(gateway)
    except ValueError as error:
        raise VethError(errno.EINVAL, "attach", reason=f"{gateway!r} is not an IP address") from error
    if address.version != subnet.version:
        raise VethError(errno.EINVAL, "attach", reason=f"gateway {gateway} and {subnet} are of different families")
    return address
