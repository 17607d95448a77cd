"""The specification of a frame's way from one end to the other: forwarded, or one named drop.

Every engine inlines this; a property test proves each engine equal to it. Kernel: drivers/net/veth.c
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
    """Return the longest frame in bytes, Ethernet header included, that a receiver of that MTU takes."""
    return mtu + ETH_HLEN + VLAN_HLEN


class Road(NamedTuple):
    """What decides over one direction's frames at this instant."""

    gate: Drop | None  # None: open; else what every frame is dropped as
    limit: int  # forward_limit() of the receiver's MTU
    trust: bool = False  # rx_checksum = "trust"
    vnet_hdr_len: int = 10


class Verdict(NamedTuple):
    """drop None: forward the bytes with flags in place of the header's first byte."""

    drop: Drop | None
    flags: int = 0


def verdict(data: bytes, road: Road) -> Verdict:
    """Judge data, one read from a TAP: a virtio_net_hdr of road.vnet_hdr_len bytes, then the frame.

    The outer VLAN tag of a frame longer than the limit is not counted: the sender's stack carries that tag
    beside the frame, veth never sees it in the length, and only reading from a TAP puts it inside.
    Differs: a tag that was inside all along is forgiven too, where the tun filter does not catch it first.
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
