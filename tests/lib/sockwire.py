"""A wire of any engine over socketpairs, which keep boundaries as a TAP does; the test plays both devices.

The asyncio engine moves frames when its loop turns, and all that it read is written by the end of the turn. The native
one has threads: it moves frames at any time, and what it has read may be in flight for a moment. settle() waits until
nothing is.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvloop

from tests.lib.engines import make
from tests.lib.wait import DEADLINE_S
from vethd.datapath.engine import Counters, Engine, Wire
from vethd.model.drops import Drop
from vethd.model.verdict import forward_limit
from vethd.model.vnet import VnetHdr

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, LoopFactory] = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
Sockets = tuple[list[socket.socket], list[socket.socket]]


class Bench:
    """A wire between two sides of `queues` sockets each; devices[side][q] is where the test plays the kernel."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        queues: tuple[int, int],
        vnet_hdr_len: int,
        kind: socket.SocketKind,
        *,
        engine: str,
        workers: int,
        urgent: tuple[int, ...],
    ) -> None:
        self.loop = loop
        self.urgent = urgent
        self.engine: Engine = make(engine, loop, workers)
        self.devices: Sockets = ([], [])
        self.fds: Sockets = ([], [])
        for side in (0, 1):
            for _ in range(queues[side]):
                device, fd = socket.socketpair(socket.AF_UNIX, kind)
                for sock in (device, fd):
                    sock.setblocking(False)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                self.devices[side].append(device)
                self.fds[side].append(fd)
        self.died: list[int] = []
        self.wire = self.join(vnet_hdr_len)

    def join(self, vnet_hdr_len: int) -> Wire:
        """Make a wire over the sockets."""
        near, far = ([sock.fileno() for sock in socks] for socks in self.fds)
        return self.engine.join((near, far), vnet_hdr_len, self.died.append, urgent=self.urgent)

    def start_over(self, vnet_hdr_len: int) -> None:
        """Take a new wire; what an example that failed left behind is thrown away."""
        self.wire.close()
        for side in (0, 1):
            self.received(side)
            self.received(side, of=self.fds)
        self.wire = self.join(vnet_hdr_len)

    def open(self, mtu: int = 1500) -> None:
        """Open both directions."""
        for side in (0, 1):
            self.wire.set_limit(side, forward_limit(mtu))
            self.wire.set_gate(side, None)

    def turn(self) -> None:
        """Let the loop look once for what is ready, and call it."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Turn the loop until condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}; {self.counters(0)} {self.counters(1)}"
            self.turn()

    def settle(self, *read: int) -> None:
        """Wait until side n has read read[n] frames, and none is in flight."""

        def settled() -> bool:
            counters = [self.counters(side) for side in (0, 1)]
            here = all(one.read >= wanted for one, wanted in zip(counters, read, strict=False))
            return here and not any(one.in_flight for one in counters)

        self.until(settled, f"{read} frames read, and none in flight")

    def counters(self, side: int) -> Counters:
        """Read counters, and see that they add up."""
        counters = self.wire.counters(side)
        assert counters.read == counters.forwarded + sum(counters.drops) + counters.in_flight
        assert sum(counters.write_errors.values()) == counters.drops[Drop.WRITE_ERROR]
        return counters

    def received(self, side: int, queue: int = 0, *, of: Sockets | None = None) -> list[bytes]:
        """Take all that the device at side was given."""
        frames = []
        while True:
            try:
                frames.append((of or self.devices)[side][queue].recv(1 << 17))
            except BlockingIOError:
                return frames

    def close(self) -> None:
        """Close the engine, then the sockets."""
        self.engine.close()
        self.turn()
        for sock in (*self.devices[0], *self.devices[1], *self.fds[0], *self.fds[1]):
            sock.close()


@contextmanager
def bench(
    factory: LoopFactory = asyncio.SelectorEventLoop,
    queues: tuple[int, int] = (1, 1),
    vnet_hdr_len: int = 10,
    kind: socket.SocketKind = socket.SOCK_SEQPACKET,
    *,
    engine: str = "asyncio",
    workers: int = 1,
    urgent: tuple[int, ...] = (),
) -> Iterator[Bench]:
    """Yield a bench on a loop of its own. Raises AssertionError where a callback of the loop raised."""
    loop = factory()
    loop_errors: list[object] = []
    loop.set_exception_handler(lambda _, context: loop_errors.append(context))
    try:
        it = Bench(loop, queues, vnet_hdr_len, kind, engine=engine, workers=workers, urgent=urgent)
        try:
            yield it
        finally:
            it.close()
        assert not loop_errors, "an exception left a callback"
    finally:
        loop.close()


def frame(length: int, fill: int = 0, hdr: VnetHdr = VnetHdr(), vnet_hdr_len: int = 10) -> bytes:  # noqa: B008
    """Return a header and a frame of length bytes."""
    return hdr.pack(vnet_hdr_len) + (bytes(12) + b"\x88\xb5" + bytes([fill]) * length)[:length]
