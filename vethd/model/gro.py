"""The specification of coalescing: which frames of a batch become one super-frame, and its exact bytes.

A batch is the frames that were read at once from one queue of one direction, in order, after the verdict. The
receiver's stack takes as long for one datagram as for sixty-four that arrive together. So consecutive segments of a
flow are written as one super-frame (virtio_net_hdr with gso_type UDP_L4, TCPV4 or TCPV6). The kernel cuts it up again
when single segments are needed: at a UDP socket, or when they leave the machine. Every rule here serves one
guarantee: cutting (Kernel: net/core/gso.c skb_gso_segment(), net/ipv4/af_inet.c inet_gso_segment(), udp_offload.c,
tcp_offload.c) yields exactly the frames that were read, bit for bit, in order within the flow. No frame waits for a
later batch, so coalescing adds no delay.

Only frames whose checksum is still to be completed (NEEDS_CSUM) coalesce. Their checksum field holds the sum of the
pseudo-header, and only that is compared. A frame with a finished checksum, right or wrong, is written alone.

Engines inline these rules; property tests prove that each engine's output equals that of coalesce(), byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from vethd.model.verdict import ETH_HLEN
from vethd.model.vnet import F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_LEN, VnetHdr

FLOWS = 16  # flows open at once; coalescing gains little if more flows are interleaved
UDP_SEGMENTS_MAX = 64  # the smallest value that UDP_MAX_SEGMENTS has had (include/linux/udp.h)
SUPER_MAX = 65535  # bytes of a super-frame, Ethernet header included

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP, _UDP = 6, 17
_IPV4_HLEN, _IPV6_HLEN = 20, 40  # without options, without extension headers
_MF_OR_OFFSET = 0x3FFF  # in IPv4's fragment field; the other bits are DF and the reserved bit
_ACK, _PSH = 0x10, 0x08


class Coalesced(NamedTuple):
    """The data of one write, virtio_net_hdr and frame, and how many frames of the batch it contains."""

    data: bytes
    frames: int


class _Segment(NamedTuple):
    """A candidate frame, split into its parts. Numbers have the values of the header fields; lengths are in bytes."""

    vnet_tail: bytes
    header: bytes  # from the Ethernet header to the end of the UDP or TCP header
    payload: bytes
    l4: int  # offset of the UDP or TCP header in the frame
    tcp: bool
    stencil: bytes  # header without the fields that cutting counts up or computes: lengths, id, seq, checksums, flags
    ip_id: int  # IPv6: 0
    seq: int  # UDP: 0
    check: int  # the checksum field of UDP or TCP, which holds the pseudo-header sum
    push: bool

    @property
    def l4_len(self) -> int:
        """Return the length of the UDP or TCP header and its payload, as in the pseudo-header."""
        return len(self.header) - self.l4 + len(self.payload)


class _Super:
    """An open super-frame: the segments that have joined so far."""

    def __init__(self, segment: _Segment) -> None:
        self.first = segment
        self.segments = [segment]
        self.length = len(segment.header) + len(segment.payload)

    def takes(self, segment: _Segment) -> bool:
        """Return whether segment may join: cutting the super-frame would then yield it as the next frame."""
        first, count = self.first, len(self.segments)
        sent = count * len(first.payload)  # every segment is full: a shorter one would have closed the super-frame
        return (
            segment.stencil == first.stencil
            and segment.vnet_tail == first.vnet_tail
            and (segment.header[12:14] == _IPV6 or segment.ip_id == (first.ip_id + count) % (1 << 16))
            and (not segment.tcp or segment.seq == (first.seq + sent) % (1 << 32))
            and len(segment.payload) <= len(first.payload)
            and segment.check == adjusted(first.check, first.l4_len, segment.l4_len)
            and self.length + len(segment.payload) <= SUPER_MAX
            and (segment.tcp or count < UDP_SEGMENTS_MAX)
        )

    def join(self, segment: _Segment) -> bool:
        """Add a segment that takes() accepts; return whether more may follow."""
        self.segments.append(segment)
        self.length += len(segment.payload)
        return len(segment.payload) == len(self.first.payload) and not segment.push

    def pack(self) -> bytes:
        """Return the bytes of a super-frame of two or more segments."""
        first, last = self.first, self.segments[-1]
        header = bytearray(first.header)
        total = self.length - ETH_HLEN  # length of the IP packet
        if header[12:14] == _IPV4:
            struct.pack_into("!H", header, 16, total)
            struct.pack_into("!H", header, 24, ip_check(header[14:34]))
        else:
            struct.pack_into("!H", header, 18, total - _IPV6_HLEN)
        l4_len = self.length - first.l4
        check = adjusted(first.check, first.l4_len, l4_len)
        if first.tcp:
            header[first.l4 + 13] |= _PSH if last.push else 0
            struct.pack_into("!H", header, first.l4 + 16, check)
            gso_type = GSO_TCPV4 if header[12:14] == _IPV4 else GSO_TCPV6
        else:
            struct.pack_into("!HH", header, first.l4 + 4, l4_len, check)
            gso_type = GSO_UDP_L4
        vnet = VnetHdr(F_NEEDS_CSUM, gso_type, len(header), len(first.payload), first.l4, _check_at(tcp=first.tcp))
        payloads = (segment.payload for segment in self.segments)
        return b"".join((vnet.pack(), first.vnet_tail, header, *payloads))


def coalesce(batch: Sequence[bytes], vnet_hdr_len: int, *, udp: bool = True) -> list[Coalesced]:
    """Return the data to write for a batch of frames, each preceded by its virtio_net_hdr of vnet_hdr_len bytes.

    udp False is for kernels whose TAPs refuse gso_type UDP_L4 (before Linux 6.2): a datagram still belongs to its flow
    but is written alone.

    The result is in the order of the first frame of each super-frame. A frame that no other frame joins is returned
    unchanged, so a batch of one is unchanged. If more than FLOWS flows would be open, the flow that was opened first is
    closed: its super-frame stays as it is and accepts no more segments. A segment with PSH that joins no open
    super-frame is not opened, so it does not close another flow.
    """
    out: list[tuple[bytes, _Super | None]] = []
    table: dict[bytes, _Super] = {}  # the open super-frames, in the order of opening
    for data in batch:
        frame = data[vnet_hdr_len:]
        flow = flow_of(frame)
        if flow is None:  # a barrier: the frame may belong to any flow
            table.clear()
            out.append((data, None))
            continue
        segment = _candidate(data, frame, vnet_hdr_len) if udp or flow[0] != _UDP else None
        entry = table.get(flow)
        if segment is not None and entry is not None and entry.takes(segment):
            if not entry.join(segment):
                del table[flow]
            continue
        table.pop(flow, None)
        entry = _Super(segment) if segment is not None else None
        out.append((data, entry))
        if entry is not None and not entry.first.push:
            if len(table) == FLOWS:
                del table[next(iter(table))]
            table[flow] = entry
    return [
        Coalesced(entry.pack(), len(entry.segments)) if entry and len(entry.segments) > 1 else Coalesced(data, 1)
        for data, entry in out
    ]


def flow_of(frame: bytes) -> bytes | None:
    """Return protocol, addresses and ports of a whole TCP or UDP packet without IP options; None for other frames.

    Other frames are fragments, ARP, ICMP, and packets with IP options, extension headers or VLAN tags.
    """
    if frame[12:14] == _IPV4 and len(frame) >= ETH_HLEN + _IPV4_HLEN + 4:
        fragment = int.from_bytes(frame[20:22], "big") & _MF_OR_OFFSET
        if frame[14] == 0x45 and not fragment and frame[23] in (_TCP, _UDP):
            return frame[23:24] + frame[26:38]
    if frame[12:14] == _IPV6 and len(frame) >= ETH_HLEN + _IPV6_HLEN + 4:  # noqa: SIM102 - as above
        if frame[14] >> 4 == 6 and frame[20] in (_TCP, _UDP):
            return frame[20:21] + frame[22:58]
    return None


def adjusted(check: int, old_len: int, new_len: int) -> int:
    """Return a 16-bit pseudo-header sum, adjusted to another length.

    The result is check + new_len + (0xFFFF - old_len), with the high half added to the low half until the high half is
    0. Such a sum in one's complement is never 0; the kernel's is never 0 either. If the lengths are equal, check is
    returned unchanged, even if it is 0.
    """
    if old_len == new_len:
        return check
    return _folded(check + new_len + (0xFFFF - old_len))


def ip_check(header: bytes | bytearray) -> int:
    """Return the checksum of an IPv4 header of 20 bytes, regardless of the value in its checksum field."""
    words: tuple[int, ...] = struct.unpack("!10H", header)
    return _folded(sum(words) - words[5]) ^ 0xFFFF


def _folded(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _check_at(*, tcp: bool) -> int:
    return 16 if tcp else 6


class _L4(NamedTuple):
    """The parts of a UDP or TCP header."""

    end: int  # offset of the payload in the frame
    stencil: bytes
    check: int
    seq: int = 0
    push: bool = False


def _candidate(data: bytes, frame: bytes, vnet_hdr_len: int) -> _Segment | None:
    """Split a frame that has a flow; None if it must be written alone, which closes its flow's super-frame.

    Cutting generates every header. So a frame whose header cutting would not reproduce exactly is not a candidate: a
    bad IPv4 checksum, padding after the packet, flags that belong to a single segment (SYN, FIN, RST, URG, ECE, CWR).
    """
    ipv4 = frame[12:14] == _IPV4
    tcp = frame[23 if ipv4 else 20] == _TCP
    l4 = ETH_HLEN + (_IPV4_HLEN if ipv4 else _IPV6_HLEN)
    vnet = VnetHdr.parse(data)
    if vnet.flags != F_NEEDS_CSUM or vnet.gso_type != GSO_NONE:
        return None
    if vnet.csum_start != l4 or vnet.csum_offset != _check_at(tcp=tcp):
        return None
    if frame[0] & 1:  # multicast or broadcast: one frame has many receivers
        return None
    if not (_ipv4_exact(frame) if ipv4 else _ipv6_exact(frame)):
        return None
    head = _tcp_header(frame, l4) if tcp else _udp_header(frame, l4)
    if head is None or head.end >= len(frame):  # no payload, or a header that is longer than the frame
        return None
    ip_id = int.from_bytes(frame[18:20], "big") if ipv4 else 0
    ip_stencil = frame[:16] + frame[20:24] + frame[26:34] if ipv4 else frame[:18] + frame[20:54]
    tail = data[HDR_LEN:vnet_hdr_len]
    header, payload, stencil = frame[: head.end], frame[head.end :], ip_stencil + head.stencil
    return _Segment(tail, header, payload, l4, tcp, stencil, ip_id, head.seq, head.check, head.push)


def _ipv4_exact(frame: bytes) -> bool:
    total = int.from_bytes(frame[16:18], "big")
    check = int.from_bytes(frame[24:26], "big")
    return total == len(frame) - ETH_HLEN and check == ip_check(frame[14:34])


def _ipv6_exact(frame: bytes) -> bool:
    return int.from_bytes(frame[18:20], "big") == len(frame) - ETH_HLEN - _IPV6_HLEN


def _udp_header(frame: bytes, l4: int) -> _L4 | None:
    if len(frame) < l4 + 8:
        return None
    length, check = struct.unpack_from("!HH", frame, l4 + 4)
    return _L4(l4 + 8, frame[l4 : l4 + 4], check) if length == len(frame) - l4 else None


def _tcp_header(frame: bytes, l4: int) -> _L4 | None:
    if len(frame) < l4 + 20:
        return None
    ports, seq, ack, offset, flags, window, check, urgent = struct.unpack_from("!4sI4sBB2sHH", frame, l4)
    end = l4 + (offset >> 4) * 4
    if end < l4 + 20 or flags & ~_PSH != _ACK or urgent:
        return None
    stencil = b"".join((ports, ack, bytes([offset]), window, frame[l4 + 20 : end]))
    return _L4(end, stencil, check, seq, bool(flags & _PSH))
