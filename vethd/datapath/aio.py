"""The reference engine: pure Python on the event loop.

Theory of operation. One add_reader per TAP queue. A wake-up reads a batch, up to BATCH frames or BATCH_BYTES, each into
a buffer of its own, judges it, and writes what passed: read all, then write all, which is a third faster than by turns.
A batch that is full leaves the rest to the next wake-up (the loop is level-triggered), so that one pair at full
speed delays another by one batch at most. Writes complete inline and in order, so order within a direction is never
broken; buffers are the engine's, shared by all wires, and free again before the callback returns.

A write's error is that frame's: it is counted, and the batch goes on. Only a read's EAGAIN means dry. A device that is
gone answers EBADFD: its reader is taken away, or a level-triggered loop would spin.

A device that is being unregistered answers a read with EAGAIN for some milliseconds, and a poll with POLLERR from the
first of them on. libuv reports a POLLERR once and then stops watching the descriptor. So the end of every batch asks
poll(2) as well: it costs 0.5 us, and is the only way to hear of such a death.

Reads and writes are those of io.FileIO: they cost less than os.readv() and os.write(), and tell EAGAIN, with which
every wake-up ends, by None instead of an exception.
"""

from __future__ import annotations

import asyncio
import errno
import select
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
_DRAIN_BATCHES = 16  # what dry() reads at most: a default ring of 1,000 frames

_RUNT = int(Drop.RUNT)
_OVERSIZE = int(Drop.OVERSIZE)
_BAD_VNET_HEADER = int(Drop.BAD_VNET_HEADER)
_WRITE_ERROR = int(Drop.WRITE_ERROR)
_PEER_DOWN = int(Drop.PEER_DOWN)
_NO_PEER = int(Drop.NO_PEER)
_DEAD = (errno.EBADFD, errno.EBADF, errno.EFAULT)  # EFAULT: tun_ring_recv(), of a device that is just going

Readinto = Callable[[bytearray], int | None]  # None: nothing to read
Write = Callable[[bytes | memoryview], int | None]  # None: no room
Poll = Callable[[float], list[tuple[int, int]]]  # of one descriptor: none, or it and its POLLERR or POLLHUP
Channel = tuple[Readinto, Write, Poll]


class _Buffers:
    """BATCH frame buffers, shared by every direction: the loop runs one at a time."""

    def __init__(self) -> None:
        self.whole = [bytearray(FRAME_MAX) for _ in range(BATCH)]
        self.views = [memoryview(buffer) for buffer in self.whole]


class _Direction:
    """What one side sends: its queues' readers, its verdict, its counters."""

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

    def pump(self, readinto: Readinto, write: Write, poll: Poll) -> bool:
        """Move one batch; tell whether its source was dry. The loop's callback: must not raise."""
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
        if dry and (events := poll(0)) and events[0][1] & select.POLLERR:
            self.dead()
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
        """Give what passes the verdict: data, 1 for one frame, and its bytes."""
        buffers = self.buffers
        for buffer, view, length in zip(buffers.whole, buffers.views, lengths, strict=False):
            if not self._refused(buffer, length):
                yield view[:length], 1, length - self.vnet_hdr_len

    def _merged(self, lengths: list[int], gro: Coalescer) -> Iterator[tuple[bytes | memoryview, int, int]]:
        """Give what passes the verdict, coalesced: data, how many frames it is, and their bytes."""
        gro.begin(lengths, self.limit)
        number = gro.follow(0)
        while number < len(lengths):
            if not self._refused(self.buffers.whole[number], lengths[number]):
                gro.add(number)
            number = gro.follow(number + 1)
        return gro.written()

    def _refused(self, buffer: bytearray, length: int) -> bool:
        """Judge a frame; count it if it is dropped. The verdict of model.verdict, but for the gate."""
        vnet_hdr_len = self.vnet_hdr_len
        if length < ETH_HLEN + vnet_hdr_len:
            self.drops[_RUNT if length >= vnet_hdr_len else _BAD_VNET_HEADER] += 1
            return True
        flags, gso_type, hdr_len, _, csum_start, csum_offset = FIELDS.unpack_from(buffer)
        # nearly every header is one that needs no second look
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
        """Tell whether only the outer VLAN tag is too much; see model.verdict."""
        at = self.vnet_hdr_len + 12
        tagged = buffer[at : at + 2] in (ETH_P_8021Q, ETH_P_8021AD)
        return tagged and length <= self.limit + self.vnet_hdr_len + VLAN_HLEN

    def _failed(self, code: int, frames: int) -> None:
        """Count the frames of a write that failed, for what the errno says."""
        if code == errno.EIO:
            self.drops[_PEER_DOWN] += frames  # tun_get_user(): the device is not IFF_UP
        elif code == errno.EINVAL:
            self.drops[_BAD_VNET_HEADER] += frames  # the kernel's own opinion of the header
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
            for fd, channel in zip(self._fds[side], self._channels[side], strict=True):
                self._loop.add_reader(fd, direction.pump, *channel)

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
        """See Wire. Nothing is ever in flight between two callbacks of the loop."""
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
        if self._fds[side]:  # else closed meanwhile
            self._died(side)

    def _stop_reading(self, side: int) -> None:
        for fd in self._fds[side]:
            self._loop.remove_reader(fd)


def _channels(sources: Sequence[FileIO], sinks: Sequence[FileIO]) -> list[Channel]:
    """Pair every queue of one end with one of the other: a flow stays on one, whatever their numbers."""
    return [(source.readinto, sinks[index % len(sinks)].write, _poll(source)) for index, source in enumerate(sources)]


def _poll(source: FileIO) -> Poll:
    """Give what asks a descriptor for errors alone."""
    poller = select.poll()
    poller.register(source, 0)
    return poller.poll


class AsyncioEngine:
    """The Engine that is always there."""

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
        """Take a closed wire off the list."""
        self._wires.discard(wire)

    def close(self) -> None:
        """See Engine."""
        for wire in list(self._wires):
            wire.close()
