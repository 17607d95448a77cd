"""Frames, made and taken apart by hand: Ethernet, VLAN tags, IPv4, UDP, TCP, and their checksums."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

ETH_HLEN = 14
VLAN_HLEN = 4
ETH_P_IP = 0x0800
ETH_P_8021Q = 0x8100
ETH_P_8021AD = 0x88A8
ETH_P_TEST = 0x88B5  # IEEE 802 local experimental: no stack answers it
ETH_P_802_3_MIN = 0x0600  # below it the field is a length

BROADCAST = "ff:ff:ff:ff:ff:ff"
ANY_SRC = "02:00:00:00:aa:01"
ANY_DST = "02:00:00:00:aa:02"

_VNET = struct.Struct("=BBHHHH")
NEEDS_CSUM = 1
GSO_TCPV4 = 1
GSO_UDP_L4 = 5


class Vnet(NamedTuple):
    """A virtio_net_hdr of 10 bytes, as PACKET_VNET_HDR sends and gives it."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return _VNET.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> Vnet:
        """Read the header from the first 10 bytes of data."""
        return cls(*_VNET.unpack_from(data))


def mac(address: str) -> bytes:
    """Return an address's 6 bytes."""
    return bytes.fromhex(address.replace(":", ""))


def ether(payload: bytes, *, dst: str = ANY_DST, src: str = ANY_SRC, proto: int = ETH_P_TEST) -> bytes:
    """Return a frame; nothing is padded."""
    return mac(dst) + mac(src) + proto.to_bytes(2, "big") + payload


def sized(length: int, seed: int = 0) -> bytes:
    """Return a test frame of exactly length bytes, header included, whose payload tells seed."""
    fill = struct.pack("!I", seed) * (length // 4 + 1)
    return ether(fill[: length - ETH_HLEN])


def tagged(frame: bytes, vid: int, tpid: int = ETH_P_8021Q) -> bytes:
    """Return frame with a VLAN tag put in: 4 bytes longer."""
    return frame[:12] + struct.pack("!HH", tpid, vid) + frame[12:]


def csum(data: bytes, start: int = 0) -> int:
    """Return the Internet checksum of data (RFC 1071), before the complement; start is a sum to begin with."""
    data += b"\0" * (len(data) % 2)
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = start + sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_sum(src: str, dst: str, proto: int, length: int) -> int:
    """Return the sum of an IPv4 pseudo header: what a checksum field holds under CHECKSUM_PARTIAL."""
    return csum(socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!HH", proto, length))


def ipv4(src: str, dst: str, proto: int, payload: bytes) -> bytes:
    """Return an IPv4 packet of at most 65,535 bytes."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0x1234, 0x4000, 64, proto, 0)
    head += socket.inet_aton(src) + socket.inet_aton(dst)
    return head[:10] + struct.pack("!H", ~csum(head) & 0xFFFF) + head[12:] + payload


def udp(src: tuple[str, int], dst: tuple[str, int], data: bytes, *, bad: bool = False, partial: bool = False) -> bytes:
    """Return an IPv4 packet with a UDP datagram whose checksum is right, bad, or left to be completed (partial)."""
    length = 8 + len(data)
    head = struct.pack("!HHHH", src[1], dst[1], length, 0)
    pseudo = pseudo_sum(src[0], dst[0], socket.IPPROTO_UDP, length)
    check = pseudo if partial else (~csum(head + data, pseudo) & 0xFFFF) or 0xFFFF
    if bad:
        check ^= 0x5555
    return ipv4(src[0], dst[0], socket.IPPROTO_UDP, head[:6] + struct.pack("!H", check) + data)


def tcp_partial(src: tuple[str, int], dst: tuple[str, int], data: bytes) -> bytes:
    """Return an IPv4 packet with a TCP segment whose checksum is left to be completed."""
    pseudo = pseudo_sum(src[0], dst[0], socket.IPPROTO_TCP, 20 + len(data))
    head = struct.pack("!HHIIBBHHH", src[1], dst[1], 1, 1, 5 << 4, 0x10, 8192, pseudo, 0)
    return ipv4(src[0], dst[0], socket.IPPROTO_TCP, head + data)


def l4_checksum_ok(frame: bytes) -> bool:
    """Return whether the UDP or TCP checksum of an untagged IPv4 frame is complete and right."""
    packet = frame[ETH_HLEN:]
    packet = packet[: int.from_bytes(packet[2:4], "big")]  # without Ethernet padding
    header = (packet[0] & 15) * 4
    segment, proto = packet[header:], packet[9]
    pseudo = csum(packet[12:20] + struct.pack("!HH", proto, len(segment)))
    return csum(segment, pseudo) == 0xFFFF
