"""A Linux bridge, made if it does not exist, and its ports, over rtnetlink; for worker threads."""

from __future__ import annotations

import errno
import os
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from vethd.kernel.l3 import L3
from vethd.kernel.uapi import (
    AF_BRIDGE,
    BRIDGE_FLAGS_SELF,
    BRIDGE_VLAN_INFO_PVID,
    BRIDGE_VLAN_INFO_RANGE_BEGIN,
    BRIDGE_VLAN_INFO_RANGE_END,
    BRIDGE_VLAN_INFO_UNTAGGED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
)
from vethd.model.attachment import BridgeSpec, Interface, IPAddress
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec


class Bridges(L3):
    """An rtnetlink socket that makes bridges and sets up their ports."""

    def ensure(self, bridge: BridgeSpec) -> int:
        """Make the bridge, down, if it does not exist, and check that it is one; return its ifindex.

        The MAC of a new bridge, and of one with gateways, is set: otherwise it would change with the ports. Raises
        VethError EEXIST (another kind of link has the name, or the bridge must filter VLANs and does not), EOPNOTSUPP
        (the kernel has no bridge, or none that filters VLANs).
        """
        data: list[tuple[str, Any]] = [("IFLA_BR_VLAN_FILTERING", 1)] if bridge.filters else []
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
        if bridge.gateways:
            self.set_link(ifindex, LinkSpec(address=self.link(ifindex).address))
        return ifindex

    def _check(self, ifindex: int, bridge: BridgeSpec) -> None:
        """Check that a link is a bridge, and filters VLANs if required. Raises VethError EEXIST."""
        if not self._own(ifindex, "IFLA_BR_VLAN_FILTERING", bridge) and bridge.filters:
            reason = f"the bridge {bridge.name!r} exists and does not filter VLANs"
            raise VethError(errno.EEXIST, "newlink", bridge.name, reason)

    def _own(self, ifindex: int, attribute: str, bridge: BridgeSpec) -> int:
        """Return an attribute of a bridge, 0 if it has none. Raises VethError EEXIST if the link is no bridge."""
        message = ifinfmsg()
        message["index"] = ifindex
        for reply in self._request(message, RTM_GETLINK, 0, "getlink", bridge.name):
            link = ifinfmsg(reply)
            link.decode()
            info = link.get_attr("IFLA_LINKINFO")
            if info is not None and info.get_attr("IFLA_INFO_KIND") == "bridge":
                return int(info.get_nested("IFLA_INFO_DATA", attribute) or 0)
        raise VethError(errno.EEXIST, "newlink", bridge.name, f"{bridge.name!r} exists and is not a bridge")

    def ensure_vlan_device(self, ifindex: int, name: str, vlan: int) -> int:
        """Make a VLAN device, down, on the bridge if it does not exist, and add the bridge itself to that VLAN.

        Returns the device's ifindex. Raises VethError.
        """
        message = ifinfmsg()
        data = {"attrs": [("IFLA_VLAN_ID", vlan)]}
        info = {"attrs": [("IFLA_INFO_KIND", "vlan"), ("IFLA_INFO_DATA", data)]}
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_LINK", ifindex), ("IFLA_LINKINFO", info)]
        try:
            self._request(message, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, "newlink", name)
        except VethError as error:
            if error.errno != errno.EEXIST:
                raise
        itself = vlan_message(ifindex, [{"flags": 0, "vid": vlan}], of_bridge=True)
        self._request(itself, RTM_SETLINK, NLM_F_ACK, "setlink", name)
        return self.ifindex(name)

    def gateway(self, ifindex: int, bridge: BridgeSpec, address: Interface) -> None:
        """Give the bridge, or its VLAN device, an address.

        Raises VethError EEXIST if it has another address and force is False; with force, the other address is deleted.
        Any IPv4 address counts as another, and an IPv6 address whose subnet overlaps.
        """
        for other in [own for own, _ in self.addresses(ifindex)]:
            if other == address:
                return
            if other.version != address.version or (other.version == 6 and not other.network.overlaps(address.network)):
                continue
            if not bridge.force:
                name = bridge.vlan_device or bridge.name
                reason = f"{name!r} already has the address {other}, which is not {address}"
                raise VethError(errno.EEXIST, "newaddr", name, reason)
            self.del_address(ifindex, other)
        self.add_address(ifindex, address, dad=False)

    def set_port(self, ifindex: int, bridge: BridgeSpec) -> None:
        """Set the attributes of the port: hairpin, isolation and VLANs. Raises VethError."""
        message = ifinfmsg()
        message["index"] = ifindex
        own = [("IFLA_BRPORT_MODE", int(bridge.hairpin)), ("IFLA_BRPORT_ISOLATED", int(bridge.isolated))]
        info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": own})]}
        message["attrs"] = [("IFLA_LINKINFO", info)]
        self._request(message, RTM_NEWLINK, NLM_F_ACK, "setport", bridge.name)
        if bridge.filters:
            self._set_vlans(ifindex, bridge)

    def _set_vlans(self, ifindex: int, bridge: BridgeSpec) -> None:
        entries = vlan_entries(bridge)
        default = self._own(self.ifindex(bridge.name), "IFLA_BR_VLAN_DEFAULT_PVID", bridge)
        wanted = [(bridge.vlan or 1,) * 2, *bridge.trunk]
        if default and not bridge.default_vlan and not any(first <= default <= last for first, last in wanted):
            leave = vlan_message(ifindex, [{"flags": 0, "vid": default}])
            try:
                self._request(leave, RTM_DELLINK, NLM_F_ACK, "setport", bridge.name)
            except VethError as error:
                if error.errno != errno.ENOENT:  # the port has left that VLAN already
                    raise
        self._request(vlan_message(ifindex, entries), RTM_SETLINK, NLM_F_ACK, "setport", bridge.name)

    def forget_neighbour(self, ifindex: int, address: IPAddress) -> None:
        """Delete the neighbour entry of a reassigned address. A missing entry is no error. Raises VethError."""
        message = ndmsg()
        message["family"] = 2 if address.version == 4 else 10
        message["ifindex"] = ifindex
        message["attrs"] = [("NDA_DST", str(address))]
        try:
            self._request(message, RTM_DELNEIGH, NLM_F_ACK, "delneigh", str(address))
        except VethError as error:
            if error.errno != errno.ENOENT:
                raise


def vlan_entries(bridge: BridgeSpec) -> list[dict[str, int]]:
    """Return the VLANs of a port: the tagged ones, then that of untagged frames.

    If this one is among the tagged ones, too, the later entry takes precedence.
    """
    entries = []
    for first, last in bridge.trunk:
        if first == last:
            entries.append({"flags": 0, "vid": first})
        else:
            entries.append({"flags": BRIDGE_VLAN_INFO_RANGE_BEGIN, "vid": first})
            entries.append({"flags": BRIDGE_VLAN_INFO_RANGE_END, "vid": last})
    native = {"flags": BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED, "vid": bridge.vlan or 1}
    return [*entries, native]


def vlan_message(ifindex: int, entries: list[dict[str, int]], *, of_bridge: bool = False) -> ifinfmsg:
    """Return the request that adds VLANs to a port (of_bridge: to the bridge itself) or removes them from it."""
    message = ifinfmsg()
    message["family"] = AF_BRIDGE
    message["index"] = ifindex
    attrs: list[tuple[str, Any]] = [("IFLA_BRIDGE_FLAGS", BRIDGE_FLAGS_SELF)] if of_bridge else []
    attrs += [("IFLA_BRIDGE_VLAN_INFO", entry) for entry in entries]
    message["attrs"] = [("IFLA_AF_SPEC", {"attrs": attrs})]
    return message
