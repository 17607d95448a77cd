"""The virtio_net_hdr in front of every frame on a TAP, and the rules by which the receiving TAP checks it.

Layout (native byte order, because TUNSETVNETLE/BE are never used): 10 bytes, or 24 with the zero-filled tail of
virtio_net_hdr_v1_hash_tunnel if UDP tunnel offload is on:

    u8 flags | u8 gso_type | u16 hdr_len | u16 gso_size | u16 csum_start | u16 csum_offset | tail

Source: include/uapi/linux/virtio_net.h, include/linux/virtio_net.h virtio_net_hdr_to_skb(),
drivers/net/tun_vnet.h tun_vnet_hdr_get().
"""

from __future__ import annotations

import struct
from typing import NamedTuple

F_NEEDS_CSUM = 1  # CHECKSUM_PARTIAL: the checksum is still to be completed
F_DATA_VALID = 2  # CHECKSUM_UNNECESSARY: the checksum was verified

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_UDP_TUNNEL_IPV4 = 0x20
GSO_UDP_TUNNEL_IPV6 = 0x40
GSO_ECN = 0x80
GSO_TUNNEL = GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6

HDR_LEN = 10
HDR_LEN_TUNNEL = 24  # virtio_net_hdr_v1_hash_tunnel; with a shorter one, tunnel offload loses every frame (EFAULT)

FIELDS = struct.Struct("=BBHHHH")  # the fields of VnetHdr, in its order
_GSO_TYPES = frozenset((GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4))


class VnetHdr(NamedTuple):
    """The header's fields; offsets and lengths in bytes, counted from the start of the Ethernet frame."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> VnetHdr:
        """Read the first 10 bytes of data. Raises struct.error if data is shorter."""
        return cls(*FIELDS.unpack_from(data))

    def pack(self, length: int = HDR_LEN) -> bytes:
        """Return the header as length bytes; the tail is zero."""
        return FIELDS.pack(*self).ljust(length, b"\0")

    def acceptable(self, frame_len: int) -> bool:
        """Return whether a TAP accepts the packed header; see the function of this name."""
        return acceptable(self.pack(), frame_len)


def acceptable(data: bytes | bytearray | memoryview, frame_len: int) -> bool:
    """Return whether a TAP accepts the header at the start of data for a frame of frame_len bytes (Ethernet included).

    As in virtio_net_hdr_to_skb(), these are refused: an unknown gso_type, a gso_type with gso_size 0, and lengths or
    checksum offsets beyond the frame. Engines call it for single frames, so it reads bytes and creates no object.
    """
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = FIELDS.unpack_from(data)
    if gso_type:
        kind = gso_type & ~(GSO_ECN | GSO_TUNNEL)
        if kind not in _GSO_TYPES or gso_size == 0:
            return False
    if flags & F_NEEDS_CSUM and csum_start + csum_offset + 2 > frame_len:
        return False
    return hdr_len <= frame_len  # type: ignore[no-any-return]
