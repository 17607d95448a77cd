"""Coalescing in the asyncio engine: model.gro over buffers that stay where they were read.

Theory of operation. What costs in Python is to take a header apart, so most are looked at whole: as one big integer,
from the virtio_net_hdr to the end of UDP or TCP. Between two full segments that one super-frame is cut into, it
differs by a constant: the IP id is one more, the IP checksum one less, the sequence number one payload more. An open
flow is found by the number that its next full segment must have (Batch.known), and takes a run of them with a
conversion, a comparison and an addition each. Who has the header that is expected, and the length, also has the
verdict of the one before. Where the id wraps around or the checksum passes 0 the constant is another: `room` ends
the run before that, and the long way sets up the next one.

The long way is for all else. It takes the frame apart (_parsed()), computes the number that the header of the flow's
next segment would have in its place, short or with PSH (_Flow.header()), and compares. The super-frame's header is
such a number, too. Payloads are touched by nothing but the one join that makes what is written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from vethd.model.gro import FLOWS, SUPER_MAX, UDP_SEGMENTS_MAX, adjusted
from vethd.model.verdict import ETH_HLEN
from vethd.model.vnet import F_NEEDS_CSUM, FIELDS, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_LEN

_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_ACK, _PSH = 0x10, 0x08
_L4_IPV4, _L4_IPV6 = 34, 54  # where UDP's or TCP's header begins in a frame without IP options or extensions
_FRAGMENT = 0x3FFF  # of IPv4's fragment field: MF and the offset
_CANDIDATE = bytes((F_NEEDS_CSUM, GSO_NONE))  # what the virtio_net_hdr begins with of what may coalesce
_ID_UP_CHECK_DOWN = (1 << 48) - 1  # the id ends 6 bytes before the checksum
_NONE = -1  # no header's number

# from Ethernet on; the last is the addresses and ports
_ipv4 = struct.Struct("!B11xHBxHHHxBH12s").unpack_from  # MAC, type, version, length, id, fragment, protocol, checksum
_ipv6 = struct.Struct("!B11xHBx2xHBx36s").unpack_from  # MAC, type, version, length, protocol
_csum = struct.Struct("=HH").unpack_from  # csum_start, csum_offset
_u16 = struct.Struct("!H").unpack_from
_number = int.from_bytes

Key = tuple[int, bytes]  # protocol; addresses and ports
Parsed = tuple[Key, int, int, int, int]  # where UDP or TCP begins, and the payload; IPv4's id and checksum


class Batch:
    """What one look at a queue gave, on its way through the flow table."""

    def __init__(
        self, whole: Sequence[bytearray], views: Sequence[memoryview], lengths: Sequence[int], vnet_hdr_len: int
    ) -> None:
        """Begin with frames that are the first lengths[n] bytes of the buffers, which views are of."""
        self.whole = whole
        self.views = views
        self.lengths = lengths
        self.vnet = vnet_hdr_len
        self.table: dict[Key, _Flow] = {}  # in the order of opening
        self.known: dict[int, _Flow] = {}  # by the headers that they wait for; of old ones the flow knows better
        self.ends: list[int] = []  # how long those headers are
        self.out: list[memoryview | _Flow] = []

    def follow(self, number: int) -> int:
        """Take frames from number on as long as their headers tell all; give the first that is not taken.

        What is taken here passes the verdict as what it follows did.
        """
        whole, lengths, known, ends = self.whole, self.lengths, self.known, self.ends
        stop = len(lengths)
        last = None
        while number < stop:
            for end in ends:
                header = _number(whole[number][:end], "big")
                flow = known.get(header)
                if flow is None or lengths[number] != flow.length:
                    continue
                if header == flow.expected:
                    if flow is last:  # a run, likely
                        number = flow.run(whole, lengths, number)
                    else:
                        flow.members.append(number)
                        flow.room -= 1
                        flow.expected = header + flow.step if flow.room else _NONE
                        number += 1
                    known[flow.expected] = last = flow
                    break
                if header == flow.first and len(flow.members) == 1:
                    self._again(flow, number)
                    number += 1
                    break
            else:
                break
        return number

    def add(self, number: int) -> None:
        """Take frame number, which passed the verdict."""
        buffer = self.whole[number]
        length = self.lengths[number]
        parsed = None
        if self.table or buffer.startswith(_CANDIDATE):  # else there is nothing to close and nothing to open
            parsed = _parsed(buffer, self.vnet, length)
            if parsed is None:
                self.table.clear()
                self.known.clear()
        if parsed is not None:
            key, l4, end = parsed[:3]
            flow = self.table.get(key)
            if flow is not None:
                joined = flow.joined(number, buffer, length - end, parsed)
                if joined and flow.length:
                    self.known[flow.expected] = flow
                else:
                    self._close(flow)
                if joined:
                    return
            if end and not (key[0] == _TCP and buffer[l4 + 13] & _PSH):
                self._open(_Flow(self.vnet, number, buffer, length, parsed))
                return
        self.out.append(self.views[number][:length])

    def written(self) -> Iterator[tuple[bytes | memoryview, int, int]]:
        """Give what to write, how many frames each is, and how many bytes those had without a virtio_net_hdr."""
        views, vnet = self.views, self.vnet
        for item in self.out:
            if isinstance(item, memoryview):
                yield item, 1, len(item) - vnet
            elif len(item.members) == 1:
                yield views[item.members[0]][: item.full], 1, item.full - vnet
            else:
                yield item.packed(views)

    def _open(self, flow: _Flow) -> None:
        if len(self.table) == FLOWS:
            self._close(next(iter(self.table.values())))
        flow.place = len(self.out)
        self.out.append(flow)
        self.table[flow.key] = flow
        self.known[flow.first] = self.known[flow.expected] = flow
        if flow.end not in self.ends:
            self.ends.append(flow.end)

    def _close(self, flow: _Flow) -> None:
        flow.length = 0
        del self.table[flow.key]

    def _again(self, flow: _Flow, number: int) -> None:
        """Open a flow anew with the header that it has, as where the id is always 0: that joins nothing."""
        self.out[flow.place] = self.views[flow.members[0]][: flow.full]
        flow.place = len(self.out)
        flow.members[0] = number
        self.out.append(flow)
        self.table[flow.key] = self.table.pop(flow.key)


class _Flow:
    """A super-frame that takes more: the numbers of its frames. Positions count from the virtio_net_hdr."""

    __slots__ = (
        "end", "expected", "first", "full", "gso_size", "ip_check", "ip_id", "ipv4", "key", "l4", "last", "length",
        "members", "place", "push", "room", "step", "tcp", "vnet",
    )  # fmt: skip
    expected: int

    def __init__(self, vnet: int, number: int, buffer: bytearray, length: int, parsed: Parsed) -> None:
        """Open with a candidate that has no PSH."""
        self.vnet = vnet
        self.key, self.l4, self.end, self.ip_id, self.ip_check = key, l4, end, ip_id, ip_check = parsed
        self.full = self.length = length  # of a frame with a full segment; length becomes 0 where no more may join
        self.gso_size = self.last = size = length - end  # last: bytes of payload in the last segment
        self.members = [number]
        self.push = False
        self.place = 0
        self.first = header = _number(buffer[:end], "big")
        self.ipv4 = l4 == vnet + _L4_IPV4
        self.tcp = key[0] == _TCP
        self.step = _ID_UP_CHECK_DOWN << 8 * (end - vnet - 26) if self.ipv4 else 0
        if self.tcp:
            self.step += size << 8 * (end - l4 - 8)
        self._expect(header, ip_id, ip_check)

    def run(self, whole: Sequence[bytearray], lengths: Sequence[int], number: int) -> int:
        """Take full segments from number on; give the first frame that is none."""
        length, end, expected, step = self.length, self.end, self.expected, self.step
        stop = min(number + self.room, len(lengths))
        at = number
        while at < stop and lengths[at] == length and _number(whole[at][:end], "big") == expected:
            expected += step
            at += 1
        self.members += range(number, at)
        self.room -= at - number
        self.expected = expected if self.room else _NONE
        return at

    def joined(self, number: int, buffer: bytearray, size: int, parsed: Parsed) -> bool:
        """Take a candidate of that payload if it is the next segment; length is 0 where nothing can follow it."""
        count = len(self.members)
        _, l4, end, ip_id, ip_check = parsed
        if end != self.end or size > self.gso_size or (self.ipv4 and ip_id != self.ip_id + count & 0xFFFF):
            return False
        if self._bytes() + size > SUPER_MAX or (count == UDP_SEGMENTS_MAX and not self.tcp):
            return False
        push = self.tcp and bool(buffer[l4 + 13] & _PSH)
        header = _number(buffer[:end], "big")
        # hdr_len and gso_size, at 2 in the virtio_net_hdr, mean nothing without GSO
        if (header ^ self._header(count, size, push=push)) & ~(0xFFFFFFFF << 8 * (end - 6)):
            return False
        self.members.append(number)
        self.last = size
        self.push = push
        if push or size < self.gso_size:
            self.length, self.expected = 0, _NONE
        else:
            self._expect(header, ip_id, ip_check)
        return True

    def packed(self, views: Sequence[memoryview]) -> tuple[bytes, int, int]:
        """See Batch.written()."""
        vnet, end, members = self.vnet, self.end, self.members
        count = len(members)
        gso_type = (GSO_TCPV4 if self.ipv4 else GSO_TCPV6) if self.tcp else GSO_UDP_L4
        fields = FIELDS.pack(F_NEEDS_CSUM, gso_type, end - vnet, self.gso_size, self.l4 - vnet, 16 if self.tcp else 6)
        payload = (count - 1) * self.gso_size + self.last
        header = self._header(0, payload, push=self.push).to_bytes(end, "big")
        full = self.full
        parts: list[bytes | memoryview] = [views[number][end:full] for number in members]
        parts[-1] = views[members[-1]][end : end + self.last]
        return b"".join((fields, header[HDR_LEN:], *parts)), count, count * (end - vnet) + payload

    def _bytes(self) -> int:
        """Give how long the super-frame is, as long as all its segments are full."""
        return self.end - self.vnet + len(self.members) * self.gso_size

    def _expect(self, header: int, ip_id: int, ip_check: int) -> None:
        """Wait for the full segment behind that header, and for as many as can come before something wraps."""
        room = (SUPER_MAX - self._bytes()) // self.gso_size
        if self.ipv4:
            room = min(room, 0xFFFF - ip_id, ip_check)
        if self.tcp:
            seq = header >> 8 * (self.end - self.l4 - 8) & 0xFFFFFFFF
            room = min(room, (0xFFFFFFFF - seq) // self.gso_size)
        else:
            room = min(room, UDP_SEGMENTS_MAX - len(self.members))
        self.room = room
        self.expected = header + self.step if room else _NONE

    def _header(self, nth: int, size: int, *, push: bool) -> int:
        """Give the header of the nth segment with a payload of size bytes; 0 and all of it: the super-frame's."""
        header = self.first
        grown = size - self.gso_size
        ip, l4 = 8 * (self.end - self.vnet), 8 * (self.end - self.l4)  # bits from where they begin
        if self.ipv4:
            up = (self.ip_id + nth & 0xFFFF) - self.ip_id
            check = (self.ip_check - up - grown) % 0xFFFF  # of a sum in one's complement, and of the two zeros 0
            header += (grown << ip - 144) + (up << ip - 160) + (check - self.ip_check << ip - 208)
        else:
            header += grown << ip - 160
        at = l4 - 144 if self.tcp else l4 - 64
        l4_len = self.end - self.l4 + self.gso_size
        check = self.first >> at & 0xFFFF
        header += adjusted(check, l4_len, l4_len + grown) - check << at
        if not self.tcp:
            return header + (grown << l4 - 48)
        seq = self.first >> l4 - 64 & 0xFFFFFFFF
        header += (seq + nth * self.gso_size & 0xFFFFFFFF) - seq << l4 - 64
        return header | (_PSH << l4 - 112 if push else 0)


def _parsed(buffer: bytearray, vnet: int, length: int) -> Parsed | None:
    """Take a frame apart; None where it has no flow. Where it is no candidate, its payload begins nowhere: at 0."""
    ipv4 = buffer[vnet + 12] == _IPV4 >> 8
    ip_id = ip_check = end = 0
    if ipv4:
        mac, ethertype, version, total, ip_id, fragment, proto, ip_check, ports = _ipv4(buffer, vnet)
        l4, begin = vnet + _L4_IPV4, vnet + ETH_HLEN  # begin: of what IP's length counts
        if ethertype != _IPV4 or version != 0x45 or fragment & _FRAGMENT:
            return None
    else:
        mac, ethertype, version, total, proto, ports = _ipv6(buffer, vnet)
        l4 = begin = vnet + _L4_IPV6
        if ethertype != _IPV6 or version >> 4 != 6:
            return None
    if proto not in (_TCP, _UDP) or length < l4 + 4:
        return None
    if total == length - begin and not mac & 1 and buffer.startswith(_CANDIDATE):
        end = _payload(buffer, vnet, l4, length, proto)
        # a sum in one's complement is a remainder: right is 0, and of the two zeros the kernel writes 0
        if end and ipv4 and (ip_check == 0xFFFF or _number(buffer[begin:l4], "big") % 0xFFFF):
            end = 0
    return (proto, ports), l4, end, ip_id, ip_check


def _payload(buffer: bytearray, vnet: int, l4: int, length: int, proto: int) -> int:
    """Give where the payload begins of UDP or TCP that may coalesce, 0 where it may not."""
    if proto == _UDP:
        fine = _csum(buffer, 6) == (l4 - vnet, 6) and length > l4 + 8 and _u16(buffer, l4 + 4)[0] == length - l4
        return l4 + 8 if fine else 0
    end = l4 + (buffer[l4 + 12] >> 4) * 4
    fine = l4 + 20 <= end < length and buffer[l4 + 13] & ~_PSH == _ACK and _csum(buffer, 6) == (l4 - vnet, 16)
    return end if fine and not _u16(buffer, l4 + 18)[0] else 0
