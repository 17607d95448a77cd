"""The reference engine: pure Python on the event loop.

Theory of operation. Each TAP queue has one add_reader. A wake-up reads a batch, up to BATCH frames or BATCH_BYTES, each
frame into a buffer of its own, judges the frames, and writes those that pass. To read all and then write all is a third
faster than to alternate. A full batch leaves the rest to the next wake-up (the loop is level-triggered), so one pair at
full speed delays another by at most one batch. Writes complete inline and in order, so order within a direction is
never broken. The buffers belong to the engine, are shared by all wires, and are free again before the callback returns.

A write error concerns one frame: it is counted, and the batch continues. Only EAGAIN of a read means dry. A device that
is gone returns EBADFD: its reader is removed, otherwise a level-triggered loop would spin.

Reads and writes are those of io.FileIO: they cost less than os.readv() and os.write(), and return None for EAGAIN, with
which every wake-up ends, instead of raising an exception.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import FileIO

from vethd.datapath.aio_gro import Coalescer, strangers
from vethd.datapath.engine import STALE_FRAMES, Counters
from vethd.model.drops import DROPS, Drop
from vethd.model.verdict import ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, VLAN_HLEN
from vethd.model.vnet import F_DATA_VALID, FIELDS, GSO_NONE, acceptable

BATCH = 64
BATCH_BYTES = 192 << 10  # three super-frames: one direction's turn stays under 0.2 ms
FRAME_MAX = 24 + 14 + 4 + 65535  # vnet header, Ethernet header, VLAN tag, the longest IP packet
_DRAIN_BATCHES = 16  # the most that dry() reads: a default ring of 1,000 frames

_RUNT = int(Drop.RUNT)
_OVERSIZE = int(Drop.OVERSIZE)
_BAD_VNET_HEADER = int(Drop.BAD_VNET_HEADER)
_WRITE_ERROR = int(Drop.WRITE_ERROR)
_PEER_DOWN = int(Drop.PEER_DOWN)
_NO_PEER = int(Drop.NO_PEER)
_DEAD = (errno.EBADFD, errno.EBADF, errno.EFAULT)  # EFAULT: tun_ring_recv(), during a device's deletion

Readinto = Callable[[bytearray], int | None]  # None: nothing to read
Write = Callable[[bytes | memoryview], int | None]  # None: no room


class _Buffers:
    """BATCH frame buffers, shared by every direction: the loop runs one direction at a time."""

    def __init__(self) -> None:
        self.whole = [bytearray(FRAME_MAX) for _ in range(BATCH)]
        self.views = [memoryview(buffer) for buffer in self.whole]


class _Direction:
    """The frames that one side sends: the reader of its queues, the verdict, the counters."""

    def __init__(self, buffers: _Buffers, vnet_hdr_len: int, gate: Drop | None, dead: Callable[[], None]) -> None:
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

    def set_gro(self, *, gro: bool, udp: bool) -> None:
        """See Wire."""
        self.gro = Coalescer(self.buffers.whole, self.buffers.views, self.vnet_hdr_len, udp=udp) if gro else None

    def pump(self, readinto: Readinto, write: Write) -> bool:
        """Read and write one batch; return whether its source was dry. The loop's callback: must not raise."""
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
                self.dead()
        if lengths:
            self._judge(lengths, write)
        return dry

    def _judge(self, lengths: list[int], write: Write) -> None:
        """Forward or drop the frames in the buffers, in order."""
        self.read += len(lengths)
        self.read_bytes += sum(lengths) - self.vnet_hdr_len * len(lengths)
        if self.gate is not None:
            self.drops[self.gate] += len(lengths)
            return
        forwarded = forwarded_bytes = 0
        gro = None if strangers(lengths) else self.gro
        for data, frames, size in self._passed(lengths) if gro is None else self._merged(lengths, gro):
            try:
                written = write(data)
            except OSError as error:
                self._failed(error.errno or errno.EIO, frames)
                continue
            if written is None:
                self._failed(errno.EAGAIN, frames)
                continue
            forwarded += frames
            forwarded_bytes += size
        self.forwarded += forwarded
        self.forwarded_bytes += forwarded_bytes

    def _passed(self, lengths: list[int]) -> Iterator[tuple[memoryview, int, int]]:
        """Yield each frame that passes the verdict: its data, 1 for one frame, and its length in bytes."""
        buffers = self.buffers
        for buffer, view, length in zip(buffers.whole, buffers.views, lengths, strict=False):
            if not self._refused(buffer, length):
                yield view[:length], 1, length - self.vnet_hdr_len

    def _merged(self, lengths: list[int], gro: Coalescer) -> Iterator[tuple[bytes | memoryview, int, int]]:
        """Return the frames that pass the verdict, coalesced: data, number of frames, and their length in bytes."""
        gro.begin(lengths, self.limit)
        number = gro.follow(0)
        while number < len(lengths):
            if not self._refused(self.buffers.whole[number], lengths[number]):
                gro.add(number)
            number = gro.follow(number + 1)
        return gro.written()

    def _refused(self, buffer: bytearray, length: int) -> bool:
        """Return whether model.verdict, without the gate, drops a frame; count the frame if so."""
        vnet_hdr_len = self.vnet_hdr_len
        if length < ETH_HLEN + vnet_hdr_len:
            self.drops[_RUNT if length >= vnet_hdr_len else _BAD_VNET_HEADER] += 1
            return True
        flags, gso_type, hdr_len, _, csum_start, csum_offset = FIELDS.unpack_from(buffer)
        # almost no header needs the full check
        odd = gso_type or hdr_len or (flags and csum_start + csum_offset + 2 > length - vnet_hdr_len)
        if odd and not acceptable(buffer, length - vnet_hdr_len):
            self.drops[_BAD_VNET_HEADER] += 1
            return True
        over = length - vnet_hdr_len > self.limit
        if over and gso_type == GSO_NONE and not self._forgiven(buffer, length):
            self.drops[_OVERSIZE] += 1
            return True
        if self.trust and not flags:
            buffer[0] = F_DATA_VALID
        return False

    def _forgiven(self, buffer: bytearray, length: int) -> bool:
        """Return whether the frame exceeds the limit only by its outer VLAN tag; see model.verdict."""
        at = self.vnet_hdr_len + 12
        tagged = buffer[at : at + 2] in (ETH_P_8021Q, ETH_P_8021AD)
        return tagged and length <= self.limit + self.vnet_hdr_len + VLAN_HLEN

    def _failed(self, code: int, frames: int) -> None:
        """Count the frames of a failed write, under the drop reason that the errno means."""
        if code == errno.EIO:
            self.drops[_PEER_DOWN] += frames  # tun_get_user(): the device is not IFF_UP
        elif code == errno.EINVAL:
            self.drops[_BAD_VNET_HEADER] += frames  # the kernel refused the header
        elif code in _DEAD:
            self.drops[_NO_PEER] += frames
        else:
            self.drops[_WRITE_ERROR] += frames
            self.write_errors[code] = self.write_errors.get(code, 0) + frames


class AsyncioWire:
    """A Wire on the event loop."""

    def __init__(
        self,
        engine: AsyncioEngine,
        fds: tuple[Sequence[int], Sequence[int]],
        vnet_hdr_len: int,
        died: Callable[[int], None],
        gates: tuple[Drop | None, Drop | None],
    ) -> None:
        """Start reading both ends, on the loop's next turn."""
        self._engine = engine
        self._loop = engine.loop
        self._died = died
        self._gone = [False, False]
        self._fds = (tuple(fds[0]), tuple(fds[1]))
        files = [[FileIO(fd, "r+", closefd=False) for fd in end] for end in self._fds]
        self._channels = (_channels(files[0], files[1]), _channels(files[1], files[0]))
        self._directions = tuple(
            _Direction(engine.buffers, vnet_hdr_len, gates[side], partial(self._dead, side)) for side in (0, 1)
        )
        for side, direction in enumerate(self._directions):
            for fd, (readinto, write) in zip(self._fds[side], self._channels[side], strict=True):
                self._loop.add_reader(fd, direction.pump, readinto, write)

    def set_gate(self, side: int, gate: Drop | None) -> None:
        """See Wire."""
        direction = self._directions[side]
        if gate is None and direction.gate is not None:
            direction.gate = Drop.STALE
            for channel in self._channels[side]:
                enough = direction.read + STALE_FRAMES
                while not direction.pump(*channel) and direction.read < enough:
                    pass
        direction.gate = gate

    def set_limit(self, side: int, limit: int) -> None:
        """See Wire."""
        self._directions[side].limit = limit

    def set_trust(self, *, trust: bool) -> None:
        """See Wire."""
        for direction in self._directions:
            direction.trust = trust

    def set_gro(self, *, gro: bool, udp: bool = True) -> None:
        """See Wire."""
        for direction in self._directions:
            direction.set_gro(gro=gro, udp=udp)

    def counters(self, side: int) -> Counters:
        """See Wire. No frame is in flight between two callbacks of the loop."""
        d = self._directions[side]
        return Counters(d.read, d.read_bytes, d.forwarded, d.forwarded_bytes, 0, tuple(d.drops), dict(d.write_errors))

    def dry(self, side: int) -> bool:
        """See Wire."""
        dry = True
        for channel in self._channels[side]:
            if not any(self._directions[side].pump(*channel) for _ in range(_DRAIN_BATCHES)):
                dry = False
        return dry

    def close(self) -> None:
        """See Wire."""
        for side in (0, 1):
            self._stop_reading(side)
        self._fds = ((), ())
        self._channels = ([], [])
        self._engine.forget(self)

    def _dead(self, side: int) -> None:
        self._stop_reading(side)
        if not self._gone[side]:
            self._gone[side] = True
            self._loop.call_soon(self._tell, side)

    def _tell(self, side: int) -> None:
        if self._fds[side]:  # otherwise the wire was closed meanwhile
            self._died(side)

    def _stop_reading(self, side: int) -> None:
        for fd in self._fds[side]:
            self._loop.remove_reader(fd)


def _channels(sources: Sequence[FileIO], sinks: Sequence[FileIO]) -> list[tuple[Readinto, Write]]:
    """Pair every queue of one end with one of the other, so that a flow stays on one, for any numbers of queues."""
    return [(source.readinto, sinks[index % len(sinks)].write) for index, source in enumerate(sources)]


class AsyncioEngine:
    """The Engine that is always available."""

    name = "asyncio"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forward on that loop."""
        self.loop = loop
        self.buffers = _Buffers()
        self._wires: set[AsyncioWire] = set()

    def join(
        self,
        fds: tuple[Sequence[int], Sequence[int]],
        vnet_hdr_len: int,
        died: Callable[[int], None],
        gates: tuple[Drop | None, Drop | None] = (Drop.NO_CARRIER, Drop.NO_CARRIER),
    ) -> AsyncioWire:
        """See Engine."""
        wire = AsyncioWire(self, fds, vnet_hdr_len, died, gates)
        self._wires.add(wire)
        return wire

    def forget(self, wire: AsyncioWire) -> None:
        """Remove a closed wire."""
        self._wires.discard(wire)

    def close(self) -> None:
        """See Engine."""
        for wire in list(self._wires):
            wire.close()
