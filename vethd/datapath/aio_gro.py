"""Coalescing in the asyncio engine: model.gro over buffers that stay where they were read.

Theory of operation. In Python it is expensive to split a header. So most headers are compared as a whole: as one big
integer, from the virtio_net_hdr to the end of UDP or TCP. From one full segment of a flow to the next, this number
grows by a constant: the IP id is one more, the IP checksum one less, the sequence number one payload more. So a flow is
found by the number that its next segment must have (Coalescer.known), which costs a conversion and a look-up; in a run
of segments, each costs a conversion, a comparison and an addition. The number proves that the frame is a candidate,
that it continues its flow, and that its verdict is that of the segment before. It is also valid in the next batch,
where it opens a super-frame, and some steps later, if the sender's queue dropped the segments in between. If the id
wraps around or the checksum passes 0, the step is different: Flow.wraps ends the run before that.

All other frames are split (parsed()): the number that the header of the flow's next segment would have in this place,
short or with PSH, is computed and compared. The super-frame's header is such a number as well. Payloads are copied only
by the one join that makes the data to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vethd.datapath.aio_flow import CANDIDATE, NONE, Flow, Key, Parsed, Super, parsed
from vethd.model.gro import FLOWS, SUPER_MAX

_REMEMBERED = 64  # flows kept from earlier batches; some 75 KB
_ENDS = 4  # header lengths that are tried; each costs 0.2 us if no flow is found
_UDP = 17
_HEADERS_MAX = 24 + 14 + 40 + 60  # virtio_net_hdr, Ethernet, IPv6, TCP with all options
_TWO_MAX = SUPER_MAX + 24 + _HEADERS_MAX  # bytes, as read, of two frames that may become one

_number = int.from_bytes


def strangers(lengths: Sequence[int]) -> bool:
    """Return whether it is obvious that no two frames of a batch can become one: there is one, or all are too long."""
    count = len(lengths)
    return count == 1 or (sum(lengths) > count * (_TWO_MAX // 2) and sum(sorted(lengths)[:2]) > _TWO_MAX)


class Coalescer:
    """A direction's flows, and the current batch."""

    def __init__(
        self, whole: Sequence[bytearray], views: Sequence[memoryview], vnet_hdr_len: int, *, udp: bool
    ) -> None:
        """Read frames from the buffers whole, of which views are the memoryviews; udp: datagrams coalesce as well."""
        self.whole = whole
        self.views = views
        self.vnet = vnet_hdr_len
        self.udp = udp
        self.lengths: Sequence[int] = ()
        self.limit = 0
        self.flows: dict[Key, Flow] = {}
        self.known: dict[int, Flow] = {}  # by expected header
        self.ends: list[int] = []  # lengths of those headers
        self.table: dict[Key, Flow] = {}  # the open flows, in the order of opening
        self.out: list[int | Super] = []  # to write: the number of a frame as it was read, or a super-frame
        self.last: Flow | None = None

    def begin(self, lengths: Sequence[int], limit: int) -> None:
        """Start a batch: the first lengths[n] bytes of the buffers. Known flows are valid only for the same limit."""
        self.lengths = lengths
        self.out = []
        self._close_all()
        if limit != self.limit or max(len(self.flows), len(self.known)) > _REMEMBERED:
            self.limit = limit
            self.flows.clear()
            self.known.clear()
            self.ends = []
            self.last = None

    def follow(self, number: int) -> int:
        """Take frames from number on while their headers are expected; return the first frame that is not taken.

        A frame that is taken here passes the verdict, as the segment before it did.
        """
        whole, lengths, known, ends, last = self.whole, self.lengths, self.known, self.ends, self.last
        stop = len(lengths)
        while number < stop:
            for end in ends:
                header = _number(whole[number][:end], "big")
                flow = known.get(header)
                if flow is None and last is not None and end == last.end and lengths[number] == last.length:
                    flow = self._skipped(last, header)
                if flow is None or lengths[number] != flow.length:
                    continue
                if header != flow.expected:
                    if header != flow.now.first or len(flow.now.members) > 1:
                        continue
                    self._open(flow, header, number)  # the same header again is not the next one
                    number += 1
                elif flow.room and flow is last:  # probably a run
                    del known[header]
                    number = flow.run(whole, lengths, number)
                    known[flow.expected] = flow
                else:
                    del known[header]
                    if flow.room:
                        flow.now.members.append(number)
                        flow.room -= 1
                    else:
                        self._open(flow, header, number)
                    flow.wraps -= 1
                    flow.expected = header = header + flow.step if flow.wraps else NONE
                    known[header] = flow
                    number += 1
                last = flow
                break
            else:
                break
        self.last = last
        return number

    def add(self, number: int) -> None:
        """Take frame number, which passed the verdict."""
        buffer = self.whole[number]
        length = self.lengths[number]
        # if nothing is open, there is nothing to close
        known = parsed(buffer, self.vnet, length) if self.table or buffer.startswith(CANDIDATE) else None
        if known is None:
            self._close_all()
            self.out.append(number)
            return
        key, _, end, push = known
        if not self.udp and key[0] == _UDP:
            end = 0
        flow = self.table.get(key)
        header = _number(buffer[:end], "big") if end else NONE
        if flow is not None:
            if end == flow.end and flow.now.joined(number, header, length - end, push=push):
                flow.room -= 1
                if length == flow.length:
                    self._wait(flow, header & ~flow.psh)
                if push or length < flow.length:
                    self._close(flow)
                return
            self._close(flow)
        if not end or push:
            self.out.append(number)
            return
        self.last = flow = self._flow(header, length, known)
        self._open(flow, header, number)

    def written(self) -> Iterator[tuple[int, bytes | memoryview, int, int]]:
        """Yield the first frame's number, the data to write, how many frames it is, and their length.

        The length is in bytes without a virtio_net_hdr.
        """
        for item in self.out:
            if isinstance(item, int):
                length = self.lengths[item]
                yield item, self.views[item][:length], 1, length - self.vnet
            else:
                yield item.members[0], *item.packed(self.views)

    def _open(self, flow: Flow, header: int, number: int) -> None:
        """Open a flow with a full segment that joins no super-frame."""
        before = self.table.get(flow.key)
        if before is not None:
            self._close(before)
        if len(self.table) == FLOWS:
            self._close(next(iter(self.table.values())))
        self.table[flow.key] = flow
        flow.room = flow.capacity
        flow.now = Super(flow, header, number)
        self.out.append(flow.now)

    def _close(self, flow: Flow) -> None:
        flow.room = 0
        del self.table[flow.key]

    def _close_all(self) -> None:
        for flow in self.table.values():
            flow.room = 0
        self.table.clear()

    def _flow(self, header: int, length: int, known: Parsed) -> Flow:
        """Return the flow of a candidate.

        The expected header is computed at the second segment of a size: with many flows, or random sizes, most segments
        have no second one.
        """
        key = known[0]
        flow = self.flows.get(key)
        if flow is not None:
            if length == flow.length:
                if not flow.wraps:
                    self._wait(flow, flow.now.first)
                if header == flow.expected or self._skipped(flow, header) is not None:
                    self._wait(flow, header)
                    return flow
                if header == flow.now.first and flow.step:
                    self._wait(flow, header)
                    self.known.pop(flow.same, None)
                    flow.same = header
                    self.known[header] = flow
                    return flow
            self.known.pop(flow.expected, None)
            self.known.pop(flow.same, None)
            del flow.now  # otherwise the two would wait for the garbage collector
        self.flows[key] = flow = Flow(self.vnet, length, known)
        return flow

    def _skipped(self, flow: Flow, header: int) -> Flow | None:
        """Make a flow expect this header, if it is some steps after the expected one; return the flow, or None."""
        ahead = header - flow.expected
        if not 0 < ahead < flow.wraps * flow.step or ahead % flow.step:
            return None
        del self.known[flow.expected]
        flow.wraps -= ahead // flow.step
        flow.expected = header
        flow.room = 0
        self.known[header] = flow
        return flow

    def _wait(self, flow: Flow, header: int) -> None:
        """Make a flow expect the segment after this header."""
        self.known.pop(flow.expected, None)
        flow.wait(header)
        self.known[flow.expected] = flow
        if flow.end not in self.ends:
            self.ends = [flow.end, *self.ends][:_ENDS]
