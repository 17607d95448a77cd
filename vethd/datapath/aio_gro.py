"""Coalescing in the asyncio engine: model.gro over buffers that stay where they were read.

Theory of operation. What costs in Python is to look at a frame at all, so most are looked at once, as one number.
Between two segments that one super-frame is cut into, the headers, read as one big integer from the virtio_net_hdr
to the end of UDP or TCP, differ by a constant: the IP id is one more, the IP checksum one less, the sequence number
one payload more. So an open flow holds the number that its next full segment must be, and a run of segments costs a
conversion, a comparison and an addition each; no field is taken apart. A header that is as expected also has the
verdict of the one before. Where the id wraps around or the checksum passes 0 the constant is another: `room` ends
the run before that, and the long way sets up the next one.

The long way is for all else: it writes down the header that the kernel would give the next segment
(_Flow.header(), which also makes the super-frame's) and compares. Payloads are touched by nothing but the one join
that makes what is written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from vethd.model.gro import FLOWS, SUPER_MAX, UDP_SEGMENTS_MAX, adjusted, ip_check
from vethd.model.vnet import F_NEEDS_CSUM, FIELDS, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_LEN

_IPV4, _IPV6 = 0x0800, 0x86DD
_FRAGMENT = 0x3FFF  # of IPv4's fragment field: MF and the offset
_TCP, _UDP = 6, 17
_ACK, _ACK_PSH = 0x10, 0x18
_L4_IPV4, _L4_IPV6 = 34, 54  # where UDP's or TCP's header begins in a frame without IP options or extensions
_key_ipv4 = struct.Struct("!B2x12s").unpack_from  # at byte 23: protocol, addresses and ports
_key_ipv6 = struct.Struct("!Bx36s").unpack_from  # at byte 20
_u16 = struct.Struct("!H").unpack_from
_number = int.from_bytes

Key = tuple[Any, ...]  # as struct gives it


class Batch:
    """What one look at a queue gave, on its way through the flow table."""

    def __init__(
        self, whole: Sequence[bytearray], views: Sequence[memoryview], lengths: Sequence[int], vnet_hdr_len: int
    ) -> None:
        """Begin; the frames are the first lengths[n] bytes of the buffers, which views are of."""
        self.whole = whole
        self.views = views
        self.lengths = lengths
        self.vnet = vnet_hdr_len
        self.table: dict[Key, _Flow] = {}  # in the order of opening
        self.out: list[memoryview | _Flow] = []

    def follow(self, number: int) -> int:
        """Take frame number, and those behind it, as far as a flow goes on as before; give the first not taken.

        What is taken here passes the verdict as what it follows did.
        """
        if not self.table:
            return number
        # of a frame without a flow this is no key, and of a short one an older frame's; no header follows then
        flow = self.table.get(_key(self.whole[number], self.vnet))
        return number if flow is None else flow.run(number)

    def add(self, number: int) -> int:
        """Take frame number, which passed the verdict, and what follows it; give the first not taken."""
        buffer = self.whole[number]
        if not self.table and (buffer[0] != F_NEEDS_CSUM or buffer[1] != GSO_NONE):
            return self._alone(number)  # nothing to close, nothing to open
        l4 = _l4_of(buffer, self.vnet, self.lengths[number])
        if not l4:
            self.table.clear()
            return self._alone(number)
        key = _key(buffer, self.vnet)
        flow = self.table.get(key)
        if flow is None or not flow.joined(number):
            self.table.pop(key, None)
            end = _payload_of(buffer, self.vnet, l4, self.lengths[number])
            if not end:
                return self._alone(number)
            flow = _Flow(self, number, l4, end)
            self.out.append(flow)
            if flow.open:
                if len(self.table) == FLOWS:
                    del self.table[next(iter(self.table))]
                self.table[key] = flow
        elif not flow.open:
            del self.table[key]
        return flow.run(number + 1)

    def written(self) -> Iterator[tuple[bytes | memoryview, int, int]]:
        """Give what to write, how many frames each is, and how many bytes those had without a virtio_net_hdr."""
        for item in self.out:
            if isinstance(item, memoryview):
                yield item, 1, len(item) - self.vnet
            else:
                yield item.packed(), item.count, item.total + (item.count - 1) * (item.end - self.vnet)

    def _alone(self, number: int) -> int:
        self.out.append(self.views[number][: self.lengths[number]])
        return number + 1


class _Flow:
    """A super-frame that may take more: its first segment, in its buffer, and the payloads behind it.

    Positions count from the virtio_net_hdr, as the buffer does.
    """

    __slots__ = (
        "batch", "buffer", "count", "end", "expected", "gso_size", "ipv4", "l4", "length", "open", "parts", "push",
        "room", "step", "tcp", "total", "view", "vnet",
    )  # fmt: skip

    def __init__(self, batch: Batch, number: int, l4: int, end: int) -> None:
        """Open with a candidate, whose header of UDP or TCP begins at l4 and whose payload at end."""
        self.batch = batch
        self.buffer = buffer = batch.whole[number]
        self.view = batch.views[number]
        self.vnet = vnet = batch.vnet
        self.length = length = batch.lengths[number]
        self.l4 = l4
        self.end = end
        self.ipv4 = l4 == vnet + _L4_IPV4
        self.tcp = buffer[vnet + 23 if self.ipv4 else vnet + 20] == _TCP
        self.gso_size = length - end
        self.count = 1
        self.total = length - vnet  # bytes of the super-frame so far
        self.parts: list[memoryview] = []
        self.push = self.tcp and buffer[l4 + 13] == _ACK_PSH
        self.open = not self.push
        step = 0
        if self.ipv4:  # the id is at 18, the checksum at 24
            step = (1 << 8 * (end - vnet - 20)) - (1 << 8 * (end - vnet - 26))
        if self.tcp:  # the sequence number is at 4 of TCP
            step += self.gso_size << 8 * (end - l4 - 8)
        self.step = step
        self.expected, self.room = self._next(buffer)

    def run(self, number: int) -> int:
        """Take full segments from frame number on; give the first that is none."""
        whole, lengths = self.batch.whole, self.batch.lengths
        length, end, expected, step = self.length, self.end, self.expected, self.step
        stop = min(number + self.room, len(lengths))
        at = number
        while at < stop and lengths[at] == length and _number(whole[at][:end], "big") == expected:
            expected += step
            at += 1
        if at > number:
            taken = at - number
            self.expected = expected
            self.room -= taken
            self.count += taken
            self.total += taken * self.gso_size
            self.parts += [view[end:length] for view in self.batch.views[number:at]]
        return at

    def joined(self, number: int) -> bool:
        """Take frame number if it is the next, full or not; open says whether more may follow."""
        first, vnet, l4, end = self.buffer, self.vnet, self.l4, self.end
        buffer = self.batch.whole[number]
        length = self.batch.lengths[number]
        size = length - end
        if not 0 < size <= self.gso_size or self.total + size > SUPER_MAX:
            return False
        if not self.tcp and self.count == UDP_SEGMENTS_MAX:
            return False
        # what most often is another, before a header is made to compare with: the id, ack and options
        if self.ipv4 and _u16(buffer, vnet + 18)[0] != (_u16(first, vnet + 18)[0] + self.count) & 0xFFFF:
            return False
        if buffer[l4 + 8 : l4 + 12] != first[l4 + 8 : l4 + 12] and self.tcp:
            return False
        if buffer[0] != F_NEEDS_CSUM or buffer[1] != GSO_NONE or buffer[6:vnet] != first[6:vnet]:
            return False
        push = self.tcp and buffer[l4 + 13] == _ACK_PSH
        if buffer[vnet:end] != self._header(self.count, size, push=push):
            return False
        self.count += 1
        self.total += size
        self.parts.append(self.batch.views[number][end:length])
        self.push = push
        self.open = size == self.gso_size and not push
        self.expected, self.room = self._next(buffer)
        return True

    def packed(self) -> bytes | memoryview:
        """Give the super-frame, or the frame that nobody joined."""
        if self.count == 1:
            return self.view[: self.length]
        payload = self.view[self.end : self.length]
        header = self._header(0, self.total - (self.end - self.vnet), push=self.push)
        gso_type = (GSO_TCPV4 if self.ipv4 else GSO_TCPV6) if self.tcp else GSO_UDP_L4
        start, offset = self.l4 - self.vnet, 16 if self.tcp else 6
        vnet = FIELDS.pack(F_NEEDS_CSUM, gso_type, self.end - self.vnet, self.gso_size, start, offset)
        return b"".join((vnet, self.buffer[HDR_LEN : self.vnet], header, payload, *self.parts))

    def _next(self, last: bytearray) -> tuple[int, int]:
        """Give the number of the full segment behind last, and how many such may come until something wraps."""
        room = (SUPER_MAX - self.total) // self.gso_size if self.open else 0
        if self.ipv4:
            room = min(room, 0xFFFF - _u16(last, self.vnet + 18)[0], _u16(last, self.vnet + 24)[0])
        if self.tcp:
            seq = int.from_bytes(last[self.l4 + 4 : self.l4 + 8], "big")
            room = min(room, (0xFFFFFFFF - seq) // self.gso_size)
        else:
            room = min(room, UDP_SEGMENTS_MAX - self.count)
        return _number(last[: self.end], "big") + self.step, room

    def _header(self, nth: int, size: int, *, push: bool) -> bytearray:
        """Give the header, from Ethernet's on, of the nth segment with a payload of size bytes."""
        header = self.buffer[self.vnet : self.end]
        l4 = self.l4 - self.vnet
        if self.ipv4:
            ip_id = (_u16(header, 18)[0] + nth) & 0xFFFF
            header[16:20] = (self.end - self.vnet - 14 + size).to_bytes(2, "big") + ip_id.to_bytes(2, "big")
            header[24:26] = ip_check(header[14:34]).to_bytes(2, "big")
        else:
            header[18:20] = (self.end - self.l4 + size).to_bytes(2, "big")
        check_at = l4 + (16 if self.tcp else 6)
        l4_len = self.end - self.l4
        check = adjusted(_u16(header, check_at)[0], l4_len + self.gso_size, l4_len + size)
        header[check_at : check_at + 2] = check.to_bytes(2, "big")
        if self.tcp:
            seq = int.from_bytes(header[l4 + 4 : l4 + 8], "big") + nth * self.gso_size
            header[l4 + 4 : l4 + 8] = (seq & 0xFFFFFFFF).to_bytes(4, "big")
            header[l4 + 13] = _ACK_PSH if push else _ACK
        else:
            header[l4 + 4 : l4 + 6] = (l4_len + size).to_bytes(2, "big")
        return header


def _key(buffer: bytearray, vnet: int) -> Key:
    """Give what is protocol, addresses and ports, if the frame has a flow."""
    return _key_ipv4(buffer, vnet + 23) if buffer[vnet + 12] == _IPV4 >> 8 else _key_ipv6(buffer, vnet + 20)


def _l4_of(buffer: bytearray, vnet: int, length: int) -> int:
    """Give where the ports of a frame are that has a flow; 0 where it has none. See model.gro flow_of()."""
    (ethertype,) = _u16(buffer, vnet + 12)
    if ethertype == _IPV4 and length >= vnet + _L4_IPV4 + 4:
        plain = buffer[vnet + 14] == 0x45 and not _u16(buffer, vnet + 20)[0] & _FRAGMENT
        return vnet + _L4_IPV4 if plain and buffer[vnet + 23] in (_TCP, _UDP) else 0
    if ethertype == _IPV6 and length >= vnet + _L4_IPV6 + 4:
        plain = buffer[vnet + 14] >> 4 == 6
        return vnet + _L4_IPV6 if plain and buffer[vnet + 20] in (_TCP, _UDP) else 0
    return 0


def _payload_of(buffer: bytearray, vnet: int, l4: int, length: int) -> int:
    """Give where the payload of a frame begins that may coalesce, 0 where it may not. See model.gro."""
    flags, gso_type, _, _, start, offset = FIELDS.unpack_from(buffer)
    if flags != F_NEEDS_CSUM or gso_type != GSO_NONE or start != l4 - vnet or buffer[vnet] & 1:
        return 0
    if start == _L4_IPV4:
        # a sum in one's complement is a remainder: right is 0, and of the two zeros the kernel writes 0
        right = int.from_bytes(buffer[vnet + 14 : l4], "big") % 0xFFFF == 0 and _u16(buffer, vnet + 24)[0] != 0xFFFF
        if _u16(buffer, vnet + 16)[0] != length - vnet - 14 or not right:
            return 0
        tcp = buffer[vnet + 23] == _TCP
    else:
        if _u16(buffer, vnet + 18)[0] != length - l4:
            return 0
        tcp = buffer[vnet + 20] == _TCP
    if not tcp:
        udp = offset == 6 and length > l4 + 8 and _u16(buffer, l4 + 4)[0] == length - l4
        return l4 + 8 if udp else 0
    if offset != 16 or length <= l4 + 20 or buffer[l4 + 13] not in (_ACK, _ACK_PSH) or _u16(buffer, l4 + 18)[0]:
        return 0
    end = l4 + (buffer[l4 + 12] >> 4) * 4
    return end if l4 + 20 <= end < length else 0
