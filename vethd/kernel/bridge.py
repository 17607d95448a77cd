"""A Linux bridge, made if it does not exist, and its ports, over rtnetlink; for worker threads."""

from __future__ import annotations

import errno
import os
import struct

from vethd.kernel.l3 import L3
from vethd.kernel.message import (
    IFINFOMSG,
    NDMSG,
    attr,
    attributes,
    ip,
    link_body,
    nest,
    number,
    read,
    text,
    u8,
    u16,
    u32,
)
from vethd.kernel.uapi import (
    AF_BRIDGE,
    BRIDGE_FLAGS_SELF,
    BRIDGE_VLAN_INFO_PVID,
    BRIDGE_VLAN_INFO_RANGE_BEGIN,
    BRIDGE_VLAN_INFO_RANGE_END,
    BRIDGE_VLAN_INFO_UNTAGGED,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_BR_VLAN_DEFAULT_PVID,
    IFLA_BR_VLAN_FILTERING,
    IFLA_BRIDGE_FLAGS,
    IFLA_BRIDGE_VLAN_INFO,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_MODE,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_VLAN_ID,
    NDA_DST,
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
        data = [u8(IFLA_BR_VLAN_FILTERING, 1)] if bridge.filters else []
        address = bytearray(os.urandom(6))
        address[0] = address[0] & 0xFE | 0x02
        info = nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"), nest(IFLA_INFO_DATA, *data))
        message = link_body(text(IFLA_IFNAME, bridge.name), attr(IFLA_ADDRESS, bytes(address)), info)
        if bridge.mtu is not None:
            message += u32(IFLA_MTU, bridge.mtu)
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
        if not self._own(ifindex, IFLA_BR_VLAN_FILTERING, bridge) and bridge.filters:
            reason = f"the bridge {bridge.name!r} exists and does not filter VLANs"
            raise VethError(errno.EEXIST, "newlink", bridge.name, reason)

    def _own(self, ifindex: int, attribute: int, bridge: BridgeSpec) -> int:
        """Return an attribute of a bridge, 0 if it has none. Raises VethError EEXIST if the link is no bridge."""
        for reply in self._request(link_body(ifindex=ifindex), RTM_GETLINK, 0, "getlink", bridge.name):
            info = dict(attributes(read(IFINFOMSG, reply)[1].get(IFLA_LINKINFO, b"")))
            if info.get(IFLA_INFO_KIND, b"").rstrip(b"\0") == b"bridge":
                return number(dict(attributes(info.get(IFLA_INFO_DATA, b""))).get(attribute))
        raise VethError(errno.EEXIST, "newlink", bridge.name, f"{bridge.name!r} exists and is not a bridge")

    def ensure_vlan_device(self, ifindex: int, name: str, vlan: int) -> int:
        """Make a VLAN device, down, on the bridge if it does not exist, and add the bridge itself to that VLAN.

        Returns the device's ifindex. Raises VethError.
        """
        info = nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "vlan"), nest(IFLA_INFO_DATA, u16(IFLA_VLAN_ID, vlan)))
        message = link_body(text(IFLA_IFNAME, name), u32(IFLA_LINK, ifindex), info)
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
        own = u8(IFLA_BRPORT_MODE, bridge.hairpin), u8(IFLA_BRPORT_ISOLATED, bridge.isolated)
        info = nest(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), nest(IFLA_INFO_SLAVE_DATA, *own))
        self._request(link_body(info, ifindex=ifindex), RTM_NEWLINK, NLM_F_ACK, "setport", bridge.name)
        if bridge.filters:
            self._set_vlans(ifindex, bridge)

    def _set_vlans(self, ifindex: int, bridge: BridgeSpec) -> None:
        entries = vlan_entries(bridge)
        default = self._own(self.ifindex(bridge.name), IFLA_BR_VLAN_DEFAULT_PVID, bridge)
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
        message = NDMSG.pack(2 if address.version == 4 else 10, ifindex, 0, 0, 0) + ip(NDA_DST, address)
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


def vlan_message(ifindex: int, entries: list[dict[str, int]], *, of_bridge: bool = False) -> bytes:
    """Return the body of the request that adds VLANs to a port (of_bridge: to the bridge) or removes them from it."""
    attrs = [u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF)] if of_bridge else []
    attrs += [attr(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", entry["flags"], entry["vid"])) for entry in entries]
    return link_body(nest(IFLA_AF_SPEC, *attrs), ifindex=ifindex, family=AF_BRIDGE)
