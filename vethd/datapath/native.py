"""The native engine: worker threads without the GIL, each with an epoll instance. See docs/datapath.md and _worker.pxd.

This module implements the engine protocol. The extension module _native reads and writes the frames; pip builds it if
there is a C compiler. why_not() returns whether it is available.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import TYPE_CHECKING

from vethd.datapath.engine import Counters, Dropped, Latency, TapSpec, nobody, plus
from vethd.model.drops import Drop
from vethd.model.errors import VethError

_MISSING = ""
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from vethd.datapath import _native
else:
    try:
        from vethd.datapath import _native
    except ImportError as error:
        _native = None
        if error.name != "vethd.datapath":  # it exists, and was built for another Python or another C library
            _MISSING = str(error)

_OPEN = -1
_FINE_NS = 1000  # if the clock's resolution is coarser, a pause of 50 us lasts a jiffy


def why_not() -> str | None:
    """Return why the engine cannot run here, None if it can."""
    if _native is None:
        return "the native engine is not built" + (f" ({_MISSING})" if _MISSING else "")
    return None


def _possible(moderation_us: int) -> int:
    """Return moderation_us, or 0 if so short a pause would last a jiffy on this machine."""
    return moderation_us if _native.clock_resolution_ns() <= _FINE_NS else 0


class _Thread:
    """A worker and the thread that runs it."""

    def __init__(self, number: int, spin_us: int, moderation_us: int, dead: Callable[[int], None]) -> None:
        self.worker = _native.Worker(spin_us, moderation_us)
        self._loop: AbstractEventLoop | None = None
        self._dead = dead
        self._thread = threading.Thread(target=self.worker.run, name=f"vethd-native-{number}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # pthread_create() returned EAGAIN
            raise OSError(errno.EAGAIN, "cannot start a worker's thread") from error

    def attach(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self.worker.news_fd, self._news)

    def _news(self) -> None:
        for tag in self.worker.take_dead():
            self._dead(tag)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self.worker.news_fd)
        self.worker.stop()
        self._thread.join()
        self.worker.close()


class NativeWire:
    """A Wire whose lanes, one for each queue and direction, belong to worker threads."""

    def __init__(self, engine: NativeEngine, died: Callable[[int], None]) -> None:
        """Make a wire without lanes; the engine adds them."""
        self._engine = engine
        self._died = died
        self._gone = [False, False]
        self.lanes: tuple[dict[int, _native.Lane], dict[int, _native.Lane]] = ({}, {})
        self._closed = False

    def start(self) -> None:
        """Start reading."""
        for side in (0, 1):
            for lane in self.lanes[side].values():
                if not self._closed:
                    lane.start()

    def set_gate(self, side: int, gate: Drop | None) -> None:
        """See Wire."""
        for lane in self.lanes[side].values():
            lane.set_gate(_OPEN if gate is None else int(gate))

    def set_limit(self, side: int, limit: int) -> None:
        """See Wire."""
        for lane in self.lanes[side].values():
            lane.set_limit(limit)

    def set_trust(self, *, trust: bool) -> None:
        """See Wire."""
        for lanes in self.lanes:
            for lane in lanes.values():
                lane.set_trust(trust)

    def set_gro(self, *, gro: bool, udp: bool = True) -> None:
        """See Wire."""
        for lanes in self.lanes:
            for lane in lanes.values():
                lane.set_gro(gro, udp)

    def counters(self, side: int) -> Counters:
        """See Wire. The counters of each queue are those of one instant."""
        total = Counters()
        for lane in self.lanes[side].values():
            one = Counters(*lane.counters())
            total = plus(total, one)._replace(in_flight=total.in_flight + one.in_flight)
        return total

    def dropped(self, side: int) -> list[Dropped]:
        """See Wire."""
        lanes = enumerate(self.lanes[side].values())
        return sorted(Dropped(*values, queue=queue) for queue, lane in lanes for values in lane.dropped())

    def latency(self, side: int) -> Latency:
        """See Wire."""
        found = [lane.latency() for lane in self.lanes[side].values()]
        counts = tuple(map(sum, zip(*(counts for counts, _ in found), strict=True)))
        return Latency(counts or Latency().counts, sum(total for _, total in found))

    def capture(self, side: int, rings: Sequence[memoryview], spec: TapSpec) -> Callable[[], None]:
        """See Wire."""
        taps: list[_native.Tap] = []
        for queue, (lane, ring) in enumerate(zip(self.lanes[side].values(), rings, strict=True)):
            taps.append(_native.Tap(lane, ring, spec.program, spec.snaplen, spec.kinds, queue, spec.event_fd))

        def stop() -> None:
            for tap in taps:
                tap.close()

        return stop

    def dry(self, side: int) -> bool:
        """See Wire."""
        return all([lane.dry() for lane in self.lanes[side].values()])  # noqa: C419 - every queue must be read

    def close(self) -> None:
        """See Wire."""
        if self._closed:
            return
        self._closed = True
        self._died = nobody
        self._engine.forget(self)
        for lanes in self.lanes:
            for lane in lanes.values():
                lane.close()

    def lane_died(self, tag: int) -> None:
        """Report that a lane's device is gone. Call on the loop."""
        side = 0 if tag in self.lanes[0] else 1
        if not self._gone[side] and not self._closed:
            self._gone[side] = True
            self._died(side)


class NativeEngine:
    """The Engine that forwards frames in its own threads."""

    name = "native"

    def __init__(
        self, loop: AbstractEventLoop | None, workers: int = 1, spin_us: int = 50, moderation_us: int = 50
    ) -> None:
        """Start the worker threads. Raises OSError if threads, memory or descriptors run out.

        Without a loop, the engine forwards frames from begin() on, and the caller must call attach() later.
        """
        self.loop: AbstractEventLoop | None = None
        self.workers = workers
        self.spin_us = spin_us
        self.moderation_us = _possible(moderation_us)
        self._threads: list[_Thread] = []
        self._wires: set[NativeWire] = set()
        self._waiting: list[NativeWire] = []
        self._owners: dict[int, NativeWire] = {}
        self._tags = count()
        self._next = count()  # the worker of a new pair's first queue
        try:
            for number in range(workers):
                self._threads.append(_Thread(number, spin_us, self.moderation_us, self._dead))
        except OSError:
            self.close()
            raise
        if loop is not None:
            self.attach(loop)

    def attach(self, loop: AbstractEventLoop) -> None:
        """See ThreadedEngine."""
        self.loop = loop
        for thread in self._threads:
            thread.attach(loop)

    def begin(self) -> None:
        """See ThreadedEngine."""
        waiting, self._waiting = self._waiting, []
        for wire in waiting:
            wire.start()

    def set_times(self, spin_us: int, moderation_us: int) -> None:
        """See ThreadedEngine."""
        self.spin_us, self.moderation_us = spin_us, _possible(moderation_us)
        for thread in self._threads:
            thread.worker.set_times(self.spin_us, self.moderation_us)

    def join(
        self,
        fds: tuple[Sequence[int], Sequence[int]],
        vnet_hdr_len: int,
        died: Callable[[int], None],
        gates: tuple[Drop | None, Drop | None] = (Drop.NO_CARRIER, Drop.NO_CARRIER),
        urgent: Collection[int] = (),
    ) -> NativeWire:
        """See Engine. One worker has both directions of queue i of a pair, the next worker those of queue i + 1.

        A worker reads the urgent queues of all its pairs first in every round.

        Raises RuntimeError after close(), and VethError if the kernel cannot watch more descriptors.
        """
        if not self._threads:
            raise RuntimeError("the engine is closed")
        wire = NativeWire(self, died)
        first = next(self._next)
        queues: list[dict[int, _native.Lane]] = [{}, {}]
        try:
            for side, (sources, sinks) in enumerate(((fds[0], fds[1]), (fds[1], fds[0]))):
                gate = gates[side]
                for queue, source in enumerate(sources):
                    tag = next(self._tags)
                    worker = self._threads[(first + queue) % self.workers].worker
                    sink = sinks[queue % len(sinks)]  # a flow stays on one queue, for any numbers of queues
                    word = _OPEN if gate is None else int(gate)
                    lane = _native.Lane(worker, source, sink, vnet_hdr_len, tag, word, queue in urgent)
                    wire.lanes[side][tag] = queues[side][queue] = lane
                    self._owners[tag] = wire
        except OSError as error:
            wire.close()
            raise VethError(error.errno or errno.EIO, "join") from error
        for queue in queues[0].keys() & queues[1].keys():
            queues[0][queue].join_back(queues[1][queue])
        self._wires.add(wire)
        self._waiting.append(wire)
        if self.loop is not None:
            self.loop.call_soon(self.begin)
        return wire

    def forget(self, wire: NativeWire) -> None:
        """Remove a closed wire."""
        self._wires.discard(wire)
        for lanes in wire.lanes:
            for tag in lanes:
                self._owners.pop(tag, None)

    def close(self) -> None:
        """See Engine."""
        for wire in list(self._wires):
            wire.close()
        for thread in self._threads:
            thread.close()
        self._threads.clear()

    def _dead(self, tag: int) -> None:
        wire = self._owners.get(tag)
        if wire is not None:
            wire.lane_died(tag)
