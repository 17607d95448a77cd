"""The contract between pairs and the engine that forwards their frames.

An engine joins the fds of two TAPs into a Wire of two directions. A direction is named by its sending side: in
direction 0, the near end sends. All calls are made on the loop's thread. No call waits for a device. If the engine has
threads, a call waits for the worker's current round (at most 64 frames or 256 KB, and as much of urgent queues),
otherwise not at all. Opening a gate takes as long as dropping the waiting frames.

Who writes what: the manager sets gates, limits and trust; the engine writes the counters. The fds stay the caller's:
call close() first, then close the fds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from vethd.model.drops import DROPS, Drop
from vethd.model.latency import BUCKETS

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

STALE_FRAMES = 1 << 16
"""The most frames of a queue that an opening gate drops: a sender can make the loop wait for 0.1 s, not longer."""

DROPPED_MAX = 64
"""The number of dropped frames that an engine keeps, for each queue and direction."""

DROPPED_HEAD = 128
"""The bytes of a dropped frame that an engine keeps, without the vnet header."""


class Counters(NamedTuple):
    """One direction since the wire was made, in frames, and in bytes with the Ethernet header but no vnet header.

    drops is indexed by Drop; write_errors maps errno to frames and adds up to drops[WRITE_ERROR].
    read = forwarded + sum(drops) + in_flight, at every instant.
    """

    read: int = 0
    read_bytes: int = 0
    forwarded: int = 0
    forwarded_bytes: int = 0
    in_flight: int = 0
    drops: tuple[int, ...] = (0,) * DROPS
    write_errors: dict[int, int] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


class Dropped(NamedTuple):
    """A frame that was dropped after it was read.

    number increases by at least one with each dropped frame of the engine. time_ns is in nanoseconds since the epoch.
    error is the errno of a write, 0 if the frame was not written. frames is the number of frames that were coalesced to
    this one. length and limit are in bytes, as in Counters. vnet and data are the frame's vnet header and first
    DROPPED_HEAD bytes.
    """

    number: int
    time_ns: int
    reason: int
    error: int
    frames: int
    length: int
    limit: int
    vnet: bytes
    data: bytes
    queue: int = 0


class Latency(NamedTuple):
    """How long frames of one direction were in vethd, from before their turn's first read to after its last write.

    counts are frames by model.latency.bucket(), total_ns is the sum of their times, in nanoseconds.
    """

    counts: tuple[int, ...] = (0,) * BUCKETS
    total_ns: int = 0


class TapSpec(NamedTuple):
    """What a capture wants of a wire: see model.capture.

    program is an array of struct sock_filter that model.cbpf has checked, empty to accept all frames. snaplen is the
    number of bytes kept of each frame. kinds is a sum of SENT, DROPPED and RECEIVED. event_fd is the eventfd that wakes
    the reader, non-blocking.
    """

    program: bytes
    snaplen: int
    kinds: int
    event_fd: int


def nobody(_side: int) -> None:
    """Replace died() in a closed wire, so that the wire does not refer to its pair."""


def plus(one: Counters, other: Counters) -> Counters:
    """Add two counts of one direction; in_flight is that of the second."""
    codes = one.write_errors | other.write_errors
    return Counters(
        one.read + other.read,
        one.read_bytes + other.read_bytes,
        one.forwarded + other.forwarded,
        one.forwarded_bytes + other.forwarded_bytes,
        other.in_flight,
        tuple(a + b for a, b in zip(one.drops, other.drops, strict=True)),
        {code: one.write_errors.get(code, 0) + other.write_errors.get(code, 0) for code in codes},
    )


class Wire(Protocol):
    """A living pair's two directions."""

    def set_gate(self, side: int, gate: Drop | None) -> None:
        """Drop every frame that side sends, for the reason gate, or forward them (None).

        Opening first drops, as STALE, the frames that are still in the rings: all of them, if they are no more than
        STALE_FRAMES per queue.
        """

    def set_limit(self, side: int, limit: int) -> None:
        """Let side send frames of at most limit bytes (model.verdict.forward_limit())."""

    def set_trust(self, *, trust: bool) -> None:
        """Choose rx_checksum "trust" or "verify" for both directions."""

    def set_gro(self, *, gro: bool, udp: bool = True) -> None:
        """Coalesce frames of one flow in both directions (model.gro), or write each as it was read (the default).

        udp False excludes datagrams: for a kernel that refuses super-frames of UDP (kernel.tun.Tap.uso).
        """

    def counters(self, side: int) -> Counters:
        """Return the counters of the frames that side sent."""

    def dropped(self, side: int) -> list[Dropped]:
        """Return the last frames of side that were dropped, the oldest first: DROPPED_MAX of each queue."""

    def latency(self, side: int) -> Latency:
        """Return the times of the frames that side sent, dropped ones included."""

    def capture(self, side: int, rings: Sequence[memoryview], spec: TapSpec) -> Callable[[], None]:
        """Copy the frames that side sends into rings, one per queue, until the returned function is called.

        After it has returned, the engine does not touch the rings. A closed wire has stopped copying.
        """

    def dry(self, side: int) -> bool:
        """Read the frames that side has queued, up to a budget; return whether none is left."""

    def close(self) -> None:
        """Stop reading. After it returns, no frame is touched and no death is reported. Idempotent.

        A closed wire keeps its counters and refers to no other object, so that a dead pair is freed at once.
        """


class Engine(Protocol):
    """A maker of wires."""

    name: str

    def join(
        self,
        fds: tuple[Sequence[int], Sequence[int]],
        vnet_hdr_len: int,
        died: Callable[[int], None],
        gates: tuple[Drop | None, Drop | None] = (Drop.NO_CARRIER, Drop.NO_CARRIER),
        urgent: Collection[int] = (),
    ) -> Wire:
        """Forward between two devices. Limits are 0 until set; nothing is read before control returns to the loop.

        gates are the initial gates. An open gate forwards frames that are already in the ring, as a takeover needs.
        fds: of each end, one per queue, non-blocking. urgent: the numbers of the queues to read before the others; an
        engine may treat all queues alike. died(side) is called on the loop, at most once for each side, when its device
        is gone; the wire continues to drop the frames that the other end sends.
        """

    def close(self) -> None:
        """Close all remaining wires."""


@runtime_checkable
class ThreadedEngine(Engine, Protocol):
    """An engine with threads of its own. It forwards frames without a loop, which can be attached later.

    A thread polls for spin_us microseconds before it sleeps. In bulk transfers it pauses for up to moderation_us
    microseconds instead, which is 0 where the kernel cannot time so short a pause.
    """

    workers: int
    spin_us: int
    moderation_us: int

    def set_times(self, spin_us: int, moderation_us: int) -> None:
        """Set both times; 0 sleeps at once, and never pauses."""

    def begin(self) -> None:
        """Start reading the wires joined so far; if there is a loop, its next turn does it."""

    def attach(self, loop: AbstractEventLoop) -> None:
        """Report deaths on this loop from now on, including those that happened while there was no loop."""
