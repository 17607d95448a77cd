"""The reference engine: pure Python on the event loop.

Theory of operation. Each TAP queue has one add_reader, whose callback Direction.pump() forwards one batch. A full batch
leaves the rest to the next wake-up (the loop is level-triggered), so one pair at full speed delays another by at most
one batch. The buffers belong to the engine and are shared by all wires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from io import FileIO

from vethd.datapath.aio_capture import Tap
from vethd.datapath.aio_direction import Buffers, Channel, Direction, channel
from vethd.datapath.engine import STALE_FRAMES, Counters, Dropped, Latency, TapSpec, nobody
from vethd.model.drops import Drop

_DRAIN_BATCHES = 16  # the most that dry() reads: a default ring of 1,000 frames


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
        """Forward on that loop."""
        self._engine = engine
        self._loop = engine.loop
        self._died = died
        self._gone = [False, False]
        self._fds = (tuple(fds[0]), tuple(fds[1]))
        files = [[FileIO(fd, "r+", closefd=False) for fd in end] for end in self._fds]
        self._channels = (_channels(files[0], files[1]), _channels(files[1], files[0]))
        self._directions = tuple(
            Direction(side, engine.buffers, vnet_hdr_len, gates[side], self._dead) for side in (0, 1)
        )
        for side, direction in enumerate(self._directions):
            for fd, ways in zip(self._fds[side], self._channels[side], strict=True):
                self._loop.add_reader(fd, direction.pump, *ways)

    def set_gate(self, side: int, gate: Drop | None) -> None:
        """See Wire."""
        direction = self._directions[side]
        if gate is None and direction.gate is not None:
            direction.gate = Drop.STALE
            for ways in self._channels[side]:
                enough = direction.read + STALE_FRAMES
                while not direction.pump(*ways) and direction.read < enough:
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

    def dropped(self, side: int) -> list[Dropped]:
        """See Wire."""
        return self._directions[side].dropped()

    def latency(self, side: int) -> Latency:
        """See Wire."""
        direction = self._directions[side]
        return Latency(tuple(direction.latency), direction.latency_ns)

    def capture(self, side: int, rings: Sequence[memoryview], spec: TapSpec) -> Callable[[], None]:
        """See Wire."""
        direction = self._directions[side]
        taps = [Tap(ring, queue, spec) for queue, ring in zip(range(len(self._fds[side])), rings, strict=True)]
        return direction.tap(taps)

    def dry(self, side: int) -> bool:
        """See Wire."""
        dry = True
        for ways in self._channels[side]:
            if not any(self._directions[side].pump(*ways) for _ in range(_DRAIN_BATCHES)):
                dry = False
        return dry

    def close(self) -> None:
        """See Wire."""
        for side in (0, 1):
            self._stop_reading(side)
        self._fds = ((), ())
        self._channels = ([], [])
        self._died = nobody
        for direction in self._directions:
            direction.dead = nobody
            direction.taps.clear()
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


def _channels(sources: Sequence[FileIO], sinks: Sequence[FileIO]) -> list[Channel]:
    """Pair every queue of one end with one of the other, so that a flow stays on one, for any numbers of queues."""
    return [channel(source, sinks[index % len(sinks)], index) for index, source in enumerate(sources)]


class AsyncioEngine:
    """The Engine that is always available."""

    name = "asyncio"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forward on that loop."""
        self.loop = loop
        self.buffers = Buffers()
        self._wires: set[AsyncioWire] = set()

    def join(
        self,
        fds: tuple[Sequence[int], Sequence[int]],
        vnet_hdr_len: int,
        died: Callable[[int], None],
        gates: tuple[Drop | None, Drop | None] = (Drop.NO_CARRIER, Drop.NO_CARRIER),
        urgent: Collection[int] = (),  # noqa: ARG002 - see below
    ) -> AsyncioWire:
        """See Engine. Urgent queues are read like others: the loop reads one batch of each readable queue in turn."""
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
