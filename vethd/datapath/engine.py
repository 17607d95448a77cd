"""The contract between pairs and whatever forwards their frames.

An engine joins the fds of two TAPs into a Wire of two directions. A direction is named by its sending side: 0 is
what the near end sends. All calls are made on the loop's thread. None waits for a device. Of an engine with threads
a call waits for the round that a worker is at: 0.1 to 0.2 ms at full speed, nothing otherwise; closing an idle wire
waits some 50 us for the worker to let go. An opening gate takes as long as what it drops.

Who writes what: gates, limits and trust are the manager's; counters the engine's. The fds stay the caller's: close()
first, then close the fds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from vethd.model.drops import DROPS, Drop

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

STALE_FRAMES = 1 << 16
"""What an opening gate drops of a queue at most: no sender makes the loop wait for longer than that takes (30 ms)."""


class Counters(NamedTuple):
    """One direction since the wire was made; frames, and bytes with the Ethernet header but no vnet header.

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


def nobody(_side: int) -> None:
    """Take the place of died() in a wire that is closed, whose pair may go."""


def plus(one: Counters, other: Counters) -> Counters:
    """Add two counts of one direction; in_flight is the second's."""
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
        """Drop every frame that side sends for that reason, or (None) forward them.

        Opening first drops, as STALE, what is still in the rings from before: all of it, where that is no more than
        STALE_FRAMES a queue.
        """

    def set_limit(self, side: int, limit: int) -> None:
        """Let side send frames of at most limit bytes (model.verdict.forward_limit())."""

    def set_trust(self, *, trust: bool) -> None:
        """Choose rx_checksum "trust" or "verify" for both directions."""

    def set_gro(self, *, gro: bool, udp: bool = True) -> None:
        """Coalesce frames of one flow in both directions (model.gro), or write each as it was read, as at first.

        udp False leaves datagrams alone: for a kernel that takes no super-frame of them (kernel.tun.Tap.uso).
        """

    def counters(self, side: int) -> Counters:
        """Read the counters of what side sent."""

    def dry(self, side: int) -> bool:
        """Read what side has queued, up to a budget; tell whether nothing is left."""

    def close(self) -> None:
        """Stop reading. After it returned no frame is touched, and nobody hears of a death. Twice is once.

        The wire keeps its counters and refers to nobody any more: what dies with a pair is freed at once.
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
    ) -> Wire:
        """Forward between two devices. Limits are 0 until set; nothing is read before control returns to the loop.

        gates are the first ones; an open one forwards what is in the ring already, as a takeover must.
        fds: of either end, one a queue, non-blocking. died(side) is called at most once for either side, on the
        loop, when a device is gone; the wire goes on dropping what the other end sends.
        """

    def close(self) -> None:
        """Close every wire that is left."""


@runtime_checkable
class SpinningEngine(Engine, Protocol):
    """An engine with threads of its own, which look on for spin_us microseconds before they sleep.

    Frames flow without the loop: it may come later.
    """

    workers: int
    spin_us: int

    def set_spin(self, spin_us: int) -> None:
        """Look on for so long from now on; 0 sleeps at once."""

    def begin(self) -> None:
        """Begin to read the wires joined until now; the loop's next turn does it, where there is a loop."""

    def attach(self, loop: AbstractEventLoop) -> None:
        """Hear of deaths on that loop from now on, those included that happened while there was none."""
