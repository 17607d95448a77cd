"""The specification of the verdict on a frame: it is forwarded, or dropped for one named reason.

Every engine inlines it; a property test proves that each engine gives the same verdicts. Kernel: drivers/net/veth.c
veth_xmit(), net/core/dev.c __dev_forward_skb(), include/linux/netdevice.h is_skb_forwardable().
"""

from __future__ import annotations

from typing import NamedTuple

from vethd.model.drops import Drop
from vethd.model.vnet import F_DATA_VALID, GSO_NONE, VnetHdr

ETH_HLEN = 14
VLAN_HLEN = 4
ETH_P_8021Q = b"\x81\x00"
ETH_P_8021AD = b"\x88\xa8"


def forward_limit(mtu: int) -> int:
    """Return the length in bytes, Ethernet header included, of the longest frame for a receiver with this MTU."""
    return mtu + ETH_HLEN + VLAN_HLEN


class Road(NamedTuple):
    """The values that determine the verdict on one direction's frames at this instant."""

    gate: Drop | None  # None: open; otherwise the reason for which every frame is dropped
    limit: int  # forward_limit() of the receiver's MTU
    trust: bool = False  # rx_checksum = "trust"
    vnet_hdr_len: int = 10


class Verdict(NamedTuple):
    """The verdict on a frame. drop None: forward the bytes with flags as the header's first byte."""

    drop: Drop | None
    flags: int = 0


def verdict(data: bytes, road: Road) -> Verdict:
    """Return the verdict on data, one read from a TAP: a virtio_net_hdr of road.vnet_hdr_len bytes, then the frame.

    If the frame is longer than the limit, its outer VLAN tag is not counted. The sender's stack keeps this tag in the
    frame's metadata, so on veth it is not part of the length; a read from a TAP inserts it into the frame.
    Differs: a tag that was in the frame from the start is not counted either, unless the tun filter refuses the frame.
    """
    if road.gate is not None:
        return Verdict(road.gate)
    frame_len = len(data) - road.vnet_hdr_len
    if frame_len < 0:
        return Verdict(Drop.BAD_VNET_HEADER)
    if frame_len < ETH_HLEN:
        return Verdict(Drop.RUNT)
    hdr = VnetHdr.parse(data)
    if not hdr.acceptable(frame_len):
        return Verdict(Drop.BAD_VNET_HEADER)
    if hdr.gso_type == GSO_NONE and frame_len > road.limit:
        ethertype = data[road.vnet_hdr_len + 12 : road.vnet_hdr_len + 14]
        tagged = ethertype in (ETH_P_8021Q, ETH_P_8021AD)
        if not tagged or frame_len > road.limit + VLAN_HLEN:
            return Verdict(Drop.OVERSIZE)
    if hdr.flags == 0 and road.trust:
        return Verdict(None, F_DATA_VALID)
    return Verdict(None, hdr.flags)
