"""A Linux bridge by rtnetlink, made where there is none, and its ports; for worker threads."""

from __future__ import annotations

import errno
import os
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from vethd.kernel.l3 import L3
from vethd.kernel.uapi import (
    AF_BRIDGE,
    BRIDGE_VLAN_INFO_PVID,
    BRIDGE_VLAN_INFO_UNTAGGED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELNEIGH,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
)
from vethd.model.attachment import BridgeSpec, Interface, IPAddress
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec


class Bridges(L3):
    """An rtnetlink socket that knows of bridges."""

    def ensure(self, bridge: BridgeSpec) -> int:
        """Make the bridge where there is none, see that it is one, and up; return its ifindex.

        Its MAC is set, or it would change with the ports. Raises VethError EEXIST (another kind of link has that name),
        EOPNOTSUPP (a kernel without VLAN filtering).
        """
        data: list[tuple[str, Any]] = [("IFLA_BR_VLAN_FILTERING", 1)] if bridge.vlan is not None else []
        message = ifinfmsg()
        mac = bytearray(os.urandom(6))
        mac[0] = mac[0] & 0xFE | 0x02
        info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]}
        attrs = [("IFLA_IFNAME", bridge.name), ("IFLA_ADDRESS", mac.hex(":")), ("IFLA_LINKINFO", info)]
        message["attrs"] = attrs + ([("IFLA_MTU", bridge.mtu)] if bridge.mtu is not None else [])
        try:
            self._request(message, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, "newlink", bridge.name)
        except VethError as error:
            if error.errno == errno.EOPNOTSUPP:
                reason = "this kernel's bridge does not filter VLANs" if data else "this kernel has no bridge"
                raise VethError(error.errno, "newlink", bridge.name, reason) from error
            if error.errno != errno.EEXIST:
                raise
        ifindex = self.ifindex(bridge.name)
        self._check(ifindex, bridge)
        self.set_link(ifindex, LinkSpec(up=True, promisc=True if bridge.promisc else None))
        return ifindex

    def _check(self, ifindex: int, bridge: BridgeSpec) -> None:
        """See that a link is a bridge, and filters VLANs where that is asked for. Raises VethError EEXIST."""
        message = ifinfmsg()
        message["index"] = ifindex
        for reply in self._request(message, RTM_GETLINK, 0, "getlink", bridge.name):
            link = ifinfmsg(reply)
            link.decode()
            info = link.get_attr("IFLA_LINKINFO")
            if info is None or info.get_attr("IFLA_INFO_KIND") != "bridge":
                raise VethError(errno.EEXIST, "newlink", bridge.name, f"{bridge.name!r} is there and is no bridge")
            filters = info.get_nested("IFLA_INFO_DATA", "IFLA_BR_VLAN_FILTERING")
            if bridge.vlan is not None and not filters:
                reason = f"the bridge {bridge.name!r} is there and does not filter VLANs"
                raise VethError(errno.EEXIST, "newlink", bridge.name, reason)

    def gateway(self, ifindex: int, bridge: BridgeSpec, address: Interface) -> None:
        """Give the bridge an address. Raises VethError EEXIST where it has another and force is not said.

        Another is any of IPv4, and one of IPv6 whose subnet overlaps.
        """
        for other in list(self.addresses(ifindex)):
            if other == address:
                return
            if other.version != address.version or (other.version == 6 and not other.network.overlaps(address.network)):
                continue
            if not bridge.force:
                reason = f"the bridge {bridge.name!r} has the address {other} already, which is not {address}"
                raise VethError(errno.EEXIST, "newaddr", bridge.name, reason)
            self.del_address(ifindex, other)
        self.add_address(ifindex, address, dad=False)

    def set_port(self, ifindex: int, bridge: BridgeSpec) -> None:
        """Set what is the port's own: hairpin, and its VLAN, untagged and alone. Raises VethError."""
        message = ifinfmsg()
        message["index"] = ifindex
        mode = {"attrs": [("IFLA_BRPORT_MODE", int(bridge.hairpin))]}
        info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", mode)]}
        message["attrs"] = [("IFLA_LINKINFO", info)]
        self._request(message, RTM_NEWLINK, NLM_F_ACK, "setport", bridge.name)
        if bridge.vlan is not None:
            self._request(vlan_message(ifindex, bridge.vlan), RTM_SETLINK, NLM_F_ACK, "setport", bridge.name)

    def forget_neighbour(self, ifindex: int, address: IPAddress) -> None:
        """Forget who had the address before: it may have been given anew. None is no error."""
        message = ndmsg()
        message["family"] = 2 if address.version == 4 else 10
        message["ifindex"] = ifindex
        message["attrs"] = [("NDA_DST", str(address))]
        try:
            self._request(message, RTM_DELNEIGH, NLM_F_ACK, "delneigh", str(address))
        except VethError as error:
            if error.errno != errno.ENOENT:
                raise


def vlan_message(ifindex: int, vlan: int) -> ifinfmsg:
    """Return the request that puts a port into a VLAN: what it sends untagged is in it, and leaves it untagged."""
    message = ifinfmsg()
    message["family"] = AF_BRIDGE
    message["index"] = ifindex
    entry = {"flags": BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED, "vid": vlan}
    message["attrs"] = [("IFLA_AF_SPEC", {"attrs": [("IFLA_BRIDGE_VLAN_INFO", entry)]})]
    return message
