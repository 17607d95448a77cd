"""One direction of the asyncio engine: reads a batch, judges it, and writes it. aio.py has the part on the loop.

Theory of operation. A wake-up reads a batch, up to BATCH frames or BATCH_BYTES, each frame into a buffer of its own,
judges the frames, and writes those that pass. To read all and then write all is a third faster than to alternate.
Writes complete inline and in order, so order within a direction is never broken. The buffers are free again before the
callback returns.

A write error concerns one frame: it is counted, and the batch continues. Only EAGAIN of a read means dry. A device that
is gone returns EBADFD: its reader is removed, otherwise a level-triggered loop would spin.

A device that is being unregistered returns EAGAIN to read(2) for some milliseconds, while poll(2) reports POLLERR at
once. libuv reports a POLLERR once and then stops watching the descriptor. So every batch ends with poll(2) as well. The
call costs 0.5 us and is the only way to notice such a death.

Reads and writes are those of io.FileIO: they cost less than os.readv() and os.write(), and return None for EAGAIN, with
which every wake-up ends, instead of raising an exception.
"""

from __future__ import annotations

import errno
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from itertools import count

from vethd.datapath.aio_capture import Tap
from vethd.datapath.aio_gro import Coalescer, strangers
from vethd.datapath.engine import DROPPED_HEAD, DROPPED_MAX, Dropped
from vethd.model.capture import DROPPED, FORWARDED, RECEIVED, SENT
from vethd.model.drops import DROPS, Drop
from vethd.model.latency import BUCKETS, bucket
from vethd.model.verdict import ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, VLAN_HLEN
from vethd.model.vnet import F_DATA_VALID, FIELDS, GSO_NONE, acceptable

BATCH = 64
BATCH_BYTES = 192 << 10  # three super-frames: one direction's turn stays under 0.2 ms
FRAME_MAX = 24 + 14 + 4 + 65535  # vnet header, Ethernet header, VLAN tag, the longest IP packet

_RUNT = int(Drop.RUNT)
_OVERSIZE = int(Drop.OVERSIZE)
_BAD_VNET_HEADER = int(Drop.BAD_VNET_HEADER)
_WRITE_ERROR = int(Drop.WRITE_ERROR)
_PEER_DOWN = int(Drop.PEER_DOWN)
_NO_PEER = int(Drop.NO_PEER)
_DEAD = (errno.EBADFD, errno.EBADF, errno.EFAULT)  # EFAULT: tun_ring_recv(), during a device's deletion

Readinto = Callable[[bytearray], int | None]  # None: nothing to read
Write = Callable[[bytes | memoryview], int | None]  # None: no room
Poll = Callable[[float], list[tuple[int, int]]]  # polls one descriptor; [] or [(descriptor, POLLERR or POLLHUP)]
Channel = tuple[Readinto, Write, Poll, int]

# number, time, reason, errno, frames, length with the vnet header, limit, first bytes: see engine.Dropped
_Kept = tuple[int, int, int, int, int, int, int, bytes]
_numbers = count(1)  # of the dropped frames of all directions


def channel(source: FileIO, sink: FileIO, queue: int) -> Channel:
    """Return the arguments of pump() for one queue to read, of that number, and one to write to."""
    poller = select.poll()
    poller.register(source, 0)
    return source.readinto, sink.write, poller.poll, queue


class Buffers:
    """BATCH frame buffers, shared by every direction: the loop runs one direction at a time."""

    def __init__(self) -> None:
        """Allocate the buffers."""
        self.whole = [bytearray(FRAME_MAX) for _ in range(BATCH)]
        self.views = [memoryview(buffer) for buffer in self.whole]


class Direction:
    """The frames that one side sends: the reader of its queues, the verdict, the counters."""

    def __init__(
        self, side: int, buffers: Buffers, vnet_hdr_len: int, gate: Drop | None, dead: Callable[[int], None]
    ) -> None:
        """Start with counters of 0. dead is called with side, perhaps several times, after the device is gone."""
        self.side = side
        self.buffers = buffers
        self.vnet_hdr_len = vnet_hdr_len
        self.dead = dead
        self.gate = gate
        self.limit = 0
        self.trust = False
        self.gro: Coalescer | None = None
        self.read = self.read_bytes = self.forwarded = self.forwarded_bytes = 0
        self.drops = [0] * DROPS
        self.write_errors: dict[int, int] = {}
        self.latency = [0] * BUCKETS
        self.latency_ns = 0
        self.queue = 0  # of the present batch
        self.taps: list[Sequence[Tap]] = []  # of captures, each by queue
        self._kept: dict[int, deque[_Kept]] = {}  # by queue

    def set_gro(self, *, gro: bool, udp: bool) -> None:
        """See Wire."""
        self.gro = Coalescer(self.buffers.whole, self.buffers.views, self.vnet_hdr_len, udp=udp) if gro else None

    def tap(self, taps: Sequence[Tap]) -> Callable[[], None]:
        """See Wire.capture()."""
        self.taps.append(taps)

        def stop() -> None:
            if taps in self.taps:
                self.taps.remove(taps)

        return stop

    def pump(self, readinto: Readinto, write: Write, poll: Poll, queue: int = 0) -> bool:
        """Read and write one batch; return whether its source was dry. The loop's callback: must not raise."""
        began_ns = time.perf_counter_ns()
        lengths: list[int] = []
        budget = BATCH_BYTES
        dry = False
        try:
            for buffer in self.buffers.whole:
                length = readinto(buffer)
                if length is None:
                    dry = True
                    break
                lengths.append(length)
                budget -= length
                if budget <= 0:
                    break
        except OSError as error:
            dry = True
            if error.errno in _DEAD:
                self.dead(self.side)
        if lengths:
            self.queue = queue
            for taps in self.taps:
                taps[queue].begin()
            self._judge(lengths, write)
            for taps in self.taps:
                taps[queue].publish()
            took_ns = time.perf_counter_ns() - began_ns
            self.latency[bucket(took_ns)] += len(lengths)
            self.latency_ns += took_ns * len(lengths)
        if dry and (events := poll(0)) and events[0][1] & select.POLLERR:
            self.dead(self.side)
        return dry

    def _judge(self, lengths: list[int], write: Write) -> None:
        """Forward or drop the frames in the buffers, in order."""
        self.read += len(lengths)
        self.read_bytes += sum(lengths) - self.vnet_hdr_len * len(lengths)
        if self.gate is not None:
            for buffer, length in zip(self.buffers.whole, lengths, strict=False):
                self._drop(self.gate, buffer, length)
            return
        forwarded = forwarded_bytes = 0
        gro = None if strangers(lengths) else self.gro
        for number, data, frames, size in self._passed(lengths) if gro is None else self._merged(lengths, gro):
            try:
                written = write(data)
            except OSError as error:
                self._failed(error.errno or errno.EIO, number, data, frames)
                continue
            if written is None:
                self._failed(errno.EAGAIN, number, data, frames)
                continue
            forwarded += frames
            forwarded_bytes += size
            if self.taps:
                self._tell(RECEIVED, data, len(data), frames=frames, number=number)
        self.forwarded += forwarded
        self.forwarded_bytes += forwarded_bytes

    def _passed(self, lengths: list[int]) -> Iterator[tuple[int, memoryview, int, int]]:
        """Yield each frame that passes the verdict: its number, its data, 1 for one frame, and its length in bytes."""
        buffers = self.buffers
        for number, (buffer, view, length) in enumerate(zip(buffers.whole, buffers.views, lengths, strict=False)):
            if not self._refused(buffer, length):
                yield number, view[:length], 1, length - self.vnet_hdr_len

    def _merged(self, lengths: list[int], gro: Coalescer) -> Iterator[tuple[int, bytes | memoryview, int, int]]:
        """Return the frames that pass the verdict, coalesced: see Coalescer.written()."""
        gro.begin(lengths, self.limit)
        number = self._follow(gro, 0)
        while number < len(lengths):
            if not self._refused(self.buffers.whole[number], lengths[number]):
                gro.add(number)
            number = self._follow(gro, number + 1)
        return gro.written()

    def _follow(self, gro: Coalescer, number: int) -> int:
        """See Coalescer.follow(); the frames that it takes pass the verdict."""
        stop = gro.follow(number)
        if self.taps:
            for taken in range(number, stop):
                self._tell(SENT, self.buffers.whole[taken], gro.lengths[taken])
        return stop

    def _refused(self, buffer: bytearray, length: int) -> bool:
        """Return whether model.verdict, without the gate, drops a frame; drop the frame if so."""
        vnet_hdr_len = self.vnet_hdr_len
        if length < ETH_HLEN + vnet_hdr_len:
            self._drop(_RUNT if length >= vnet_hdr_len else _BAD_VNET_HEADER, buffer, length)
            return True
        flags, gso_type, hdr_len, _, csum_start, csum_offset = FIELDS.unpack_from(buffer)
        # almost no header needs the full check
        odd = gso_type or hdr_len or (flags and csum_start + csum_offset + 2 > length - vnet_hdr_len)
        if odd and not acceptable(buffer, length - vnet_hdr_len):
            self._drop(_BAD_VNET_HEADER, buffer, length)
            return True
        over = length - vnet_hdr_len > self.limit
        if over and gso_type == GSO_NONE and not self._forgiven(buffer, length):
            self._drop(_OVERSIZE, buffer, length)
            return True
        if self.trust and not flags:
            buffer[0] = F_DATA_VALID
        if self.taps:
            self._tell(SENT, buffer, length)
        return False

    def _forgiven(self, buffer: bytearray, length: int) -> bool:
        """Return whether the frame exceeds the limit only by its outer VLAN tag; see model.verdict."""
        at = self.vnet_hdr_len + 12
        tagged = buffer[at : at + 2] in (ETH_P_8021Q, ETH_P_8021AD)
        return tagged and length <= self.limit + self.vnet_hdr_len + VLAN_HLEN

    def _failed(self, code: int, number: int, data: bytes | memoryview, frames: int) -> None:
        """Drop the frames of a failed write, for the reason that the errno means."""
        if code == errno.EIO:
            reason = _PEER_DOWN  # tun_get_user(): the device is not IFF_UP
        elif code == errno.EINVAL:
            reason = _BAD_VNET_HEADER  # the kernel refused the header
        elif code in _DEAD:
            reason = _NO_PEER
        else:
            reason = _WRITE_ERROR
            self.write_errors[code] = self.write_errors.get(code, 0) + frames
        self._drop(reason, data, len(data), code, frames, number)

    def _drop(  # noqa: PLR0913, PLR0917 - the fields of a record
        self,
        reason: int,
        data: bytes | bytearray | memoryview,
        length: int,
        code: int = 0,
        frames: int = 1,
        number: int | None = None,
    ) -> None:
        """Count frames that are not forwarded, and keep the first bytes of data, whose length is given."""
        self.drops[reason] += frames
        if self.taps:
            self._tell(DROPPED, data, length, reason, code, frames, number)
        kept = self._kept.get(self.queue)
        if kept is None:
            kept = self._kept[self.queue] = deque(maxlen=DROPPED_MAX)
        head = bytes(data[: min(length, self.vnet_hdr_len + DROPPED_HEAD)])
        kept.append((next(_numbers), time.time_ns(), reason, code, frames, length, self.limit, head))

    def dropped(self) -> list[Dropped]:
        """See Wire."""
        start = self.vnet_hdr_len
        return sorted(
            Dropped(number, ns, reason, code, n, max(0, length - start), limit, head[:start], head[start:], queue)
            for queue, kept in self._kept.items()
            for number, ns, reason, code, n, length, limit, head in kept
        )

    def _tell(  # noqa: PLR0913, PLR0917 - as above
        self,
        kind: int,
        data: bytes | bytearray | memoryview,
        length: int,
        reason: int = FORWARDED,
        code: int = 0,
        frames: int = 1,
        number: int | None = None,
    ) -> None:
        """Offer a frame to the captures: as it was read (number None), or a written one and its number in the batch."""
        for taps in self.taps:
            taps[self.queue].note(kind, data, length, self.vnet_hdr_len, self.limit, reason, code, frames, number)
