"""The native engine: worker threads without the GIL, each with an io_uring. See docs/datapath.md and _worker.pxd.

This module implements the engine protocol. The extension module _uring handles the frames; pip builds it if there is a
C compiler. why_not() returns the reason if it cannot run here.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from vethd.datapath.engine import Counters, nobody, plus
from vethd.model.drops import Drop
from vethd.model.errors import symbol

_MISSING = ""
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from vethd.datapath import _uring
else:
    try:
        from vethd.datapath import _uring
    except ImportError as error:
        _uring = None
        if error.name != "vethd.datapath":  # the module exists, but was built for another Python or C library
            _MISSING = str(error)

_OPEN = -1
_REASONS = {
    errno.ENOSYS: "this kernel has no io_uring",
    errno.EINVAL: "this kernel's io_uring is too old (vethd needs Linux 5.6 or newer for it)",
    errno.EPERM: "io_uring is forbidden here (sysctl kernel.io_uring_disabled, or a seccomp filter)",
    errno.EACCES: "io_uring is forbidden here (a seccomp filter, or no permission to open /dev/net/tun)",
}


class Obstacle(NamedTuple):
    """The reason why the engine cannot run, and whether the extension module exists at all."""

    reason: str
    built: bool = True

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


def why_not() -> Obstacle | None:
    """Return why the engine cannot run here; None if it can. Blocks for microseconds."""
    if _uring is None:
        return Obstacle("the native engine is not built" + (f" ({_MISSING})" if _MISSING else ""), built=False)
    code = _uring.probe()
    if code in (0, errno.EOPNOTSUPP):
        return None
    return Obstacle(_REASONS.get(code, f"io_uring does not work here ({symbol(code)})"))


def plain() -> bool:
    """Return whether reads and writes are separate system calls here, and io_uring only polls.

    This is so if the tun driver does not support RWF_NOWAIT (Linux 6.1's does not, 6.18's does), or with
    VETHD_URING_PLAIN=1 in the environment. Blocks for microseconds.
    """
    return os.environ.get("VETHD_URING_PLAIN") == "1" or _uring.probe() == errno.EOPNOTSUPP


class _Thread:
    """A worker and the thread that runs it."""

    def __init__(self, number: int, spin_us: int, dead: Callable[[int], None]) -> None:
        self.worker = _uring.Worker(spin_us, plain())
        self._loop: AbstractEventLoop | None = None
        self._dead = dead
        self._thread = threading.Thread(target=self.worker.run, name=f"vethd-uring-{number}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # Python raises this for EAGAIN of pthread_create()
            raise OSError(errno.EAGAIN, "cannot start a worker thread") from error
        self.worker.wait_started()

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


class UringWire:
    """A Wire whose lanes, one for each queue and direction, belong to worker threads."""

    def __init__(self, engine: UringEngine, died: Callable[[int], None]) -> None:
        """Start with no lanes; the engine adds them."""
        self._engine = engine
        self._died = died
        self._gone = [False, False]
        self.lanes: tuple[dict[int, _uring.Lane], dict[int, _uring.Lane]] = ({}, {})
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
        """See Wire. The counters of each queue are of one instant."""
        total = Counters()
        for lane in self.lanes[side].values():
            one = Counters(*lane.counters())
            total = plus(total, one)._replace(in_flight=total.in_flight + one.in_flight)
        return total

    def dry(self, side: int) -> bool:
        """See Wire."""
        return all([lane.dry() for lane in self.lanes[side].values()])  # noqa: C419 - every queue must be read

    def close(self) -> None:
        """See Wire. All lanes wait for the worker together."""
        self._engine.close_wires([self])

    def begin_close(self) -> list[_uring.Lane]:
        """Close the lanes that can be closed at once; return those that wait for their worker."""
        if self._closed:
            return []
        self._closed = True
        self._died = nobody
        self._engine.forget(self)
        return [lane for lanes in self.lanes for lane in lanes.values() if lane.begin_close()]

    def lane_died(self, tag: int) -> None:
        """Handle, on the loop, that a lane's device is gone."""
        side = 0 if tag in self.lanes[0] else 1
        if not self._gone[side] and not self._closed:
            self._gone[side] = True
            self._died(side)


class UringEngine:
    """The Engine that forwards frames on its own threads."""

    name = "uring"

    def __init__(self, loop: AbstractEventLoop | None, workers: int = 1, spin_us: int = 50) -> None:
        """Start the worker threads. Raises OSError if io_uring does not work; see why_not().

        Without a loop, frames are forwarded from begin() on, and the caller must call attach() later.
        """
        self.loop: AbstractEventLoop | None = None
        self.workers = workers
        self.spin_us = spin_us
        self._threads: list[_Thread] = []
        self._wires: set[UringWire] = set()
        self._waiting: list[UringWire] = []
        self._owners: dict[int, UringWire] = {}
        self._tags = count()
        self._next = count()  # the worker of a new pair's first queue
        try:
            for number in range(workers):
                self._threads.append(_Thread(number, spin_us, self._dead))
        except OSError:
            self.close()
            raise
        if loop is not None:
            self.attach(loop)

    def attach(self, loop: AbstractEventLoop) -> None:
        """See SpinningEngine."""
        self.loop = loop
        for thread in self._threads:
            thread.attach(loop)

    def begin(self) -> None:
        """See SpinningEngine."""
        waiting, self._waiting = self._waiting, []
        for wire in waiting:
            wire.start()

    def set_spin(self, spin_us: int) -> None:
        """Set for how many microseconds the workers poll after a frame before they sleep, from now on."""
        self.spin_us = spin_us
        for thread in self._threads:
            thread.worker.set_spin(spin_us)

    def join(
        self,
        fds: tuple[Sequence[int], Sequence[int]],
        vnet_hdr_len: int,
        died: Callable[[int], None],
        gates: tuple[Drop | None, Drop | None] = (Drop.NO_CARRIER, Drop.NO_CARRIER),
    ) -> UringWire:
        """See Engine. Queue i of a pair has both its directions on one worker, queue i + 1 on the next.

        Raises RuntimeError after close().
        """
        if not self._threads:
            raise RuntimeError("the engine is closed")
        wire = UringWire(self, died)
        first = next(self._next)
        for side, (sources, sinks) in enumerate(((fds[0], fds[1]), (fds[1], fds[0]))):
            for queue, source in enumerate(sources):
                tag = next(self._tags)
                worker = self._threads[(first + queue) % self.workers].worker
                gate = gates[side]
                sink = sinks[queue % len(sinks)]  # a flow stays on one queue, for any numbers of queues
                wire.lanes[side][tag] = _uring.Lane(
                    worker, source, sink, vnet_hdr_len, tag, _OPEN if gate is None else int(gate)
                )
                self._owners[tag] = wire
        self._wires.add(wire)
        self._waiting.append(wire)
        if self.loop is not None:
            self.loop.call_soon(self.begin)
        return wire

    def forget(self, wire: UringWire) -> None:
        """Remove a closed wire."""
        self._wires.discard(wire)
        for lanes in wire.lanes:
            for tag in lanes:
                self._owners.pop(tag, None)

    @staticmethod
    def close_wires(wires: Sequence[UringWire]) -> None:
        """Close wires. They share one wait for the workers, which cancel polls."""
        for lane in [lane for wire in wires for lane in wire.begin_close()]:
            lane.end_close()

    def close(self) -> None:
        """See Engine."""
        self.close_wires(list(self._wires))
        for thread in self._threads:
            thread.close()
        self._threads.clear()

    def _dead(self, tag: int) -> None:
        wire = self._owners.get(tag)
        if wire is not None:
            wire.lane_died(tag)
