"""Segments of UDP and TCP as a TAP gives them, and a cutter of super-frames written from the kernel's words.

The cutter shares nothing with vethd.model.gro: it is what the coalescing is judged by.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, replace
from typing import Self

from tests.lib.frames import ANY_DST, ANY_SRC, ETH_HLEN, ETH_P_IP, NEEDS_CSUM, Vnet, csum, mac

ETH_P_IPV6 = 0x86DD
TCP, UDP = 6, 17
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 4, 5
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
VNET_LEN = 10


@dataclass(frozen=True)
class Segment:
    """One datagram or TCP segment, everything about it that a rule may ask for; the defaults coalesce."""

    payload: bytes = b"x" * 100
    proto: int = UDP
    src: str = "10.0.0.1"  # an IPv6 address makes an IPv6 packet
    dst: str = "10.0.0.2"
    sport: int = 1000
    dport: int = 2000
    ip_id: int = 0
    tos: int = 0
    ttl: int = 64
    fragment: int = 0x4000  # DF
    flow_label: int = 0
    seq: int = 0
    ack: int = 77
    flags: int = ACK
    window: int = 500
    urgent: int = 0
    reserved: int = 0  # the low half of TCP's byte 12
    options: bytes = b""  # a multiple of 4
    dst_mac: str = ANY_DST
    src_mac: str = ANY_SRC
    check_error: int = 0  # added to the pseudo-header sum
    finished: bool = False  # with the whole checksum, and no NEEDS_CSUM

    def but(self, **changes: object) -> Self:
        """Return a copy with changes."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def after(self, payload: bytes | None = None, **changes: object) -> Self:
        """Return the flow's next segment."""
        payload = self.payload if payload is None else payload
        ip_id, seq = (self.ip_id + 1) % (1 << 16), (self.seq + len(self.payload)) % (1 << 32)
        return replace(self, payload=payload, ip_id=ip_id, seq=seq).but(**changes)

    @property
    def ipv6(self) -> bool:
        """Whether this is an IPv6 packet."""
        return ":" in self.src

    def run(self, count: int) -> list[bytes]:
        """Return the data of count segments of this size, each with a payload of its own."""
        out, segment = [], self
        for n in range(count):
            out.append(segment.but(payload=numbered(len(self.payload), n)).data())
            segment = segment.after()
        return out

    def data(self, vnet_tail: bytes = b"") -> bytes:
        """Return the virtio_net_hdr and the frame."""
        start = ETH_HLEN + (40 if self.ipv6 else 20)
        vnet = Vnet(NEEDS_CSUM, csum_start=start, csum_offset=16 if self.proto == TCP else 6)
        return (Vnet() if self.finished else vnet).pack() + vnet_tail + self.frame()

    def frame(self) -> bytes:
        """Return the frame."""
        proto = ETH_P_IPV6 if self.ipv6 else ETH_P_IP
        ether = mac(self.dst_mac) + mac(self.src_mac) + proto.to_bytes(2, "big")
        l4 = self._tcp() if self.proto == TCP else self._udp()
        return ether + self._ip(len(l4)) + l4

    def _ip(self, length: int) -> bytes:
        src, dst = ipaddress.ip_address(self.src).packed, ipaddress.ip_address(self.dst).packed
        if self.ipv6:
            first = 6 << 28 | self.tos << 20 | self.flow_label
            return struct.pack("!IHBB", first, length, self.proto, self.ttl) + src + dst
        head = struct.pack("!BBHHHBB", 0x45, self.tos, 20 + length, self.ip_id, self.fragment, self.ttl, self.proto)
        return head + (csum(head + src + dst) ^ 0xFFFF).to_bytes(2, "big") + src + dst

    def _check(self, l4: bytes) -> int:
        src, dst = ipaddress.ip_address(self.src).packed, ipaddress.ip_address(self.dst).packed
        pseudo = csum(src + dst + struct.pack("!IHH", len(l4), 0, self.proto), self.check_error)
        return (csum(l4, pseudo) ^ 0xFFFF) or 0xFFFF if self.finished else pseudo

    def _udp(self) -> bytes:
        head = struct.pack("!HHH", self.sport, self.dport, 8 + len(self.payload))
        return head + self._check(head + bytes(2) + self.payload).to_bytes(2, "big") + self.payload

    def _tcp(self) -> bytes:
        offset = (5 + len(self.options) // 4) << 4 | self.reserved
        head = struct.pack("!HHIIBBH", self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.window)
        tail = self.urgent.to_bytes(2, "big") + self.options + self.payload
        return head + self._check(head + bytes(2) + tail).to_bytes(2, "big") + tail


def numbered(length: int, n: int) -> bytes:
    """Return a payload of length bytes that tells n."""
    return (n.to_bytes(4, "big") * (length // 4 + 1))[:length]


def finished(data: bytes, vnet_hdr_len: int = VNET_LEN) -> bytes:
    """Return the frame with its checksum completed, as skb_checksum_help() does; no frame is cut."""
    vnet, frame = Vnet.parse(data), bytearray(data[vnet_hdr_len:])
    if vnet.flags & NEEDS_CSUM:
        total = csum(bytes(frame[vnet.csum_start :])) ^ 0xFFFF
        at = vnet.csum_start + vnet.csum_offset
        frame[at : at + 2] = (total or 0xFFFF).to_bytes(2, "big")
    return bytes(frame)


def cut(data: bytes, vnet_hdr_len: int = VNET_LEN) -> list[bytes]:
    """Return the frames that leave the machine for one that a TAP was written, checksums completed.

    Kernel: skb_segment() copies the header and cuts the payload; inet_gso_segment() counts ids up;
    __udp_gso_segment() and tcp_gso_segment() write lengths, numbers, flags and checksums.
    """
    vnet, frame = Vnet.parse(data), data[vnet_hdr_len:]
    if not vnet.gso_type:
        return [finished(data, vnet_hdr_len)]
    ipv4, tcp = frame[12:14] == b"\x08\x00", vnet.gso_type != GSO_UDP_L4
    _assert_well_formed(vnet, frame)
    head, payload = frame[: vnet.hdr_len], frame[vnet.hdr_len :]
    l4 = vnet.csum_start
    chunks = [payload[at : at + vnet.gso_size] for at in range(0, len(payload), vnet.gso_size)]
    out = []
    for n, chunk in enumerate(chunks):
        header = bytearray(head)
        length = len(head) - l4 + len(chunk)
        check = int.from_bytes(header[l4 + vnet.csum_offset : l4 + vnet.csum_offset + 2], "big")
        check = csum(struct.pack("!HHH", check, length, 0xFFFF - (len(frame) - l4)))
        if ipv4:
            ip_id = (int.from_bytes(head[18:20], "big") + n) % (1 << 16)
            struct.pack_into("!HH", header, 16, length + 20, ip_id)
            header[24:26] = bytes(2)
            header[24:26] = (csum(bytes(header[14:34])) ^ 0xFFFF).to_bytes(2, "big")
        else:
            struct.pack_into("!H", header, 18, length)
        if tcp:
            seq = (int.from_bytes(head[l4 + 4 : l4 + 8], "big") + n * vnet.gso_size) % (1 << 32)
            struct.pack_into("!I", header, l4 + 4, seq)
            if n < len(chunks) - 1:
                header[l4 + 13] &= ~(PSH | FIN)
            if n > 0:
                header[l4 + 13] &= ~CWR
        else:
            struct.pack_into("!H", header, l4 + 4, length)
        struct.pack_into("!H", header, l4 + vnet.csum_offset, check)
        single = Vnet(NEEDS_CSUM, csum_start=l4, csum_offset=vnet.csum_offset)
        out.append(finished(single.pack() + bytes(header) + chunk))
    return out


def _assert_well_formed(vnet: Vnet, frame: bytes) -> None:
    """Hold a super-frame to what the kernel asks of it, and to the lengths that a capture would show."""
    ipv4, tcp = frame[12:14] == b"\x08\x00", vnet.gso_type != GSO_UDP_L4
    l4 = ETH_HLEN + (20 if ipv4 else 40)
    assert vnet.flags == NEEDS_CSUM
    assert vnet.gso_type == (GSO_UDP_L4 if not tcp else GSO_TCPV4 if ipv4 else GSO_TCPV6)
    assert (vnet.csum_start, vnet.csum_offset) == (l4, 16 if tcp else 6)
    assert vnet.hdr_len == l4 + ((frame[l4 + 12] >> 4) * 4 if tcp else 8)
    assert 0 < vnet.gso_size < len(frame) - vnet.hdr_len, "one segment is no super-frame; the kernel refuses it"
    assert len(frame) <= 65535
    check = frame[l4 + vnet.csum_offset : l4 + vnet.csum_offset + 2]
    assert check != b"\0\0", "in UDP it would say that there is none"
    if ipv4:
        assert int.from_bytes(frame[16:18], "big") == len(frame) - ETH_HLEN
        assert csum(frame[14:34]) == 0xFFFF, "the IPv4 checksum is right"
    else:
        assert int.from_bytes(frame[18:20], "big") == len(frame) - 54
    if not tcp:
        assert int.from_bytes(frame[l4 + 4 : l4 + 6], "big") == len(frame) - l4
