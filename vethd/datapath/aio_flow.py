"""Headers as numbers: the asyncio engine's state of a flow, and the super-frames of its segments. See aio_gro."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vethd.model.gro import SUPER_MAX, UDP_SEGMENTS_MAX, adjusted
from vethd.model.verdict import ETH_HLEN
from vethd.model.vnet import F_NEEDS_CSUM, FIELDS, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_LEN

CANDIDATE = bytes((F_NEEDS_CSUM, GSO_NONE))  # the first bytes of a candidate's virtio_net_hdr
NONE = -1  # not the number of any header

_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_ACK, _PSH = 0x10, 0x08
_L4_IPV4, _L4_IPV6 = 34, 54  # offset of the UDP or TCP header in a frame without IP options or extensions
_FRAGMENT = 0x3FFF  # in IPv4's fragment field: MF and the offset
_ID_UP_CHECK_DOWN = (1 << 48) - 1  # the id ends 6 bytes before the checksum

# from the Ethernet header on; the last value is addresses and ports
_ipv4 = struct.Struct("!B11xHBxHHHxBH12s").unpack_from  # MAC, type, version, length, id, fragment, protocol, checksum
_ipv6 = struct.Struct("!B11xHBx2xHBx36s").unpack_from  # MAC, type, version, length, protocol
_csum = struct.Struct("=HH").unpack_from  # csum_start, csum_offset
_u16 = struct.Struct("!H").unpack_from
_number = int.from_bytes

Key = tuple[int, bytes]  # protocol; addresses and ports
Parsed = tuple[Key, int, int, bool]  # flow; offset of UDP or TCP; offset of the payload; whether PSH is set


class Flow:
    """The common properties of a flow's segments of one size, and the header that is expected next.

    Positions count from the virtio_net_hdr; the *_at count bits from the number's end.
    """

    __slots__ = (
        "capacity", "end", "expected", "gso_size", "ip_at", "ipv4", "key", "l4", "l4_at", "length", "now", "psh",
        "room", "same", "step", "tcp", "vnet", "wraps",
    )  # fmt: skip
    now: Super  # the super-frame that was opened last; it takes full segments while there is room

    def __init__(self, vnet: int, length: int, parsed: Parsed) -> None:
        """Start with a candidate of length bytes; nothing is expected before wait()."""
        self.key, self.l4, self.end, _ = parsed
        self.vnet = vnet
        self.length = length
        self.gso_size = length - self.end
        self.ip_at = 8 * (self.end - vnet)
        self.l4_at = 8 * (self.end - self.l4)
        self.tcp = self.key[0] == _TCP
        self.ipv4 = self.l4 == vnet + _L4_IPV4
        self.step = _ID_UP_CHECK_DOWN << self.ip_at - 208 if self.ipv4 else 0
        self.capacity = (SUPER_MAX - length + vnet) // self.gso_size  # full segments after the first
        if self.tcp:
            self.step += self.gso_size << self.l4_at - 64
        elif self.capacity >= UDP_SEGMENTS_MAX:
            self.capacity = UDP_SEGMENTS_MAX - 1
        self.psh = _PSH << self.l4_at - 112 if self.tcp else 0
        self.room = self.wraps = 0
        self.expected = NONE
        self.same = NONE  # the header that two consecutive segments had, e.g. because the id is always 0

    def wait(self, header: int) -> None:
        """Expect the full segment after this header, and compute how many can come before a field wraps around."""
        self.wraps = 0xFFFFFFFF
        if self.tcp:
            self.wraps = (0xFFFFFFFF - (header >> self.l4_at - 64 & 0xFFFFFFFF)) // self.gso_size
        if self.ipv4:
            ip_id, check = header >> self.ip_at - 160 & 0xFFFF, header >> self.ip_at - 208 & 0xFFFF
            self.wraps = min(self.wraps, 0xFFFF - ip_id, check)
        self.expected = header + self.step if self.wraps else NONE

    def run(self, whole: Sequence[bytearray], lengths: Sequence[int], number: int) -> int:
        """Take full segments from frame number on; return the first frame that is not one, or has no room."""
        length, end, expected, step = self.length, self.end, self.expected, self.step
        stop = min(number + min(self.room, self.wraps), len(lengths))
        at = number
        while at < stop and lengths[at] == length and _number(whole[at][:end], "big") == expected:
            expected += step
            at += 1
        self.now.members += range(number, at)
        self.room -= at - number
        self.wraps -= at - number
        self.expected = expected if self.wraps else NONE
        return at


class Super:
    """A super-frame, as the numbers of its frames in the batch."""

    __slots__ = ("first", "flow", "last", "members", "push")

    def __init__(self, flow: Flow, header: int, number: int) -> None:
        """Start with frame number, a full segment."""
        self.flow = flow
        self.first = header
        self.members = [number]
        self.last = flow.gso_size  # bytes of payload in the last segment
        self.push = False

    def joined(self, number: int, header: int, size: int, *, push: bool) -> bool:
        """Take a candidate with a payload of size bytes if it is the next segment, full or not."""
        flow, count = self.flow, len(self.members)
        at = flow.ip_at - 160
        if flow.ipv4 and header >> at & 0xFFFF != (self.first >> at) + count & 0xFFFF:
            return False  # the id: it differs in most frames that are not the next segment
        if size > flow.gso_size or flow.end - flow.vnet + count * flow.gso_size + size > SUPER_MAX:
            return False
        if count == UDP_SEGMENTS_MAX and not flow.tcp:
            return False
        # hdr_len and gso_size, at offset 2 in the virtio_net_hdr, mean nothing without GSO
        if (header ^ self._header(count, size, push=push)) & ~(0xFFFFFFFF << 8 * (flow.end - 6)):
            return False
        self.members.append(number)
        self.last = size
        self.push = push
        return True

    def packed(self, views: Sequence[memoryview]) -> tuple[bytes | memoryview, int, int]:
        """Return the data to write, how many frames it is, and their length in bytes without a virtio_net_hdr."""
        flow, members = self.flow, self.members
        vnet, end, full = flow.vnet, flow.end, flow.length
        count = len(members)
        if count == 1:
            return views[members[0]][:full], 1, full - vnet
        gso_type = (GSO_TCPV4 if flow.ipv4 else GSO_TCPV6) if flow.tcp else GSO_UDP_L4
        fields = FIELDS.pack(F_NEEDS_CSUM, gso_type, end - vnet, flow.gso_size, flow.l4 - vnet, 16 if flow.tcp else 6)
        payload = (count - 1) * flow.gso_size + self.last
        header = self._header(0, payload, push=self.push).to_bytes(end, "big")
        parts: list[bytes | memoryview] = [views[number][end:full] for number in members]
        parts[-1] = views[members[-1]][end : end + self.last]
        return b"".join((fields, header[HDR_LEN:], *parts)), count, count * (end - vnet) + payload

    def _header(self, nth: int, size: int, *, push: bool) -> int:
        """Return the header of the nth segment with a payload of size bytes; of 0 and all bytes: the super-frame's."""
        flow = self.flow
        first = header = self.first
        grown = size - flow.gso_size
        ip, l4 = flow.ip_at, flow.l4_at
        if flow.ipv4:
            ip_id, check = first >> ip - 160 & 0xFFFF, first >> ip - 208 & 0xFFFF
            up = (ip_id + nth & 0xFFFF) - ip_id
            down = (check - up - grown) % 0xFFFF - check  # in one's complement; of its two zeros, 0
            header += (grown << ip - 144) + (up << ip - 160) + (down << ip - 208)
        else:
            header += grown << ip - 160
        at = l4 - 144 if flow.tcp else l4 - 64
        l4_len = flow.end - flow.l4 + flow.gso_size
        check = first >> at & 0xFFFF
        header += adjusted(check, l4_len, l4_len + grown) - check << at
        if not flow.tcp:
            return header + (grown << l4 - 48)
        seq = first >> l4 - 64 & 0xFFFFFFFF
        header += (seq + nth * flow.gso_size & 0xFFFFFFFF) - seq << l4 - 64
        return header | (flow.psh if push else 0)


def parsed(buffer: bytearray, vnet: int, length: int) -> Parsed | None:
    """Split a frame; None if it has no flow. If it is not a candidate, the offset of its payload is 0."""
    ipv4 = buffer[vnet + 12] == _IPV4 >> 8
    check = end = 0
    if ipv4:
        mac, ethertype, version, total, _, fragment, proto, check, ports = _ipv4(buffer, vnet)
        l4, begin = vnet + _L4_IPV4, vnet + ETH_HLEN  # begin: start of the bytes that IP's length counts
        if ethertype != _IPV4 or version != 0x45 or fragment & _FRAGMENT:
            return None
    else:
        mac, ethertype, version, total, proto, ports = _ipv6(buffer, vnet)
        l4 = begin = vnet + _L4_IPV6
        if ethertype != _IPV6 or version >> 4 != 6:
            return None
    if proto not in (_TCP, _UDP) or length < l4 + 4:
        return None
    if total == length - begin and not mac & 1 and buffer.startswith(CANDIDATE):
        end = _payload(buffer, vnet, l4, length, proto)
        # a sum in one's complement is a remainder: 0 is correct, and of its two zeros the kernel writes 0
        if end and ipv4 and (check == 0xFFFF or _number(buffer[begin:l4], "big") % 0xFFFF):
            end = 0
    return (proto, ports), l4, end, proto == _TCP and bool(buffer[l4 + 13] & _PSH)


def _payload(buffer: bytearray, vnet: int, l4: int, length: int, proto: int) -> int:
    """Return the offset of the payload of a UDP or TCP packet that may coalesce, 0 if it may not."""
    if proto == _UDP:
        fine = _csum(buffer, 6) == (l4 - vnet, 6) and length > l4 + 8 and _u16(buffer, l4 + 4)[0] == length - l4
        return l4 + 8 if fine else 0
    end = l4 + (buffer[l4 + 12] >> 4) * 4
    fine = l4 + 20 <= end < length and buffer[l4 + 13] & ~_PSH == _ACK and _csum(buffer, 6) == (l4 - vnet, 16)
    return end if fine and not _u16(buffer, l4 + 18)[0] else 0
