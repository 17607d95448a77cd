"""The state machine of a pair, as tables: events in, effects out, no I/O.

Each end is ABSENT, DOWN or UP (IFF_UP). An event changes the state of its end by END_TABLE. GATES has, for every
combination of sender and receiver, the reason for which the sender's frames are dropped, or None. The carrier is on if
both gates are open. The code that calls the kernel executes the effects and reports events; all decisions are here.

Kernel: drivers/net/veth.c veth_open(), veth_close(), veth_dellink(), veth_change_mtu().
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from vethd.model.drops import Drop
from vethd.model.verdict import forward_limit


class Side(IntEnum):
    """One of a pair's two ends; the near end is the one that `ip link add` names first."""

    NEAR = 0
    FAR = 1

    @property
    def other(self) -> Side:
        """The end across the pair."""
        return Side(1 - self)


class End(Enum):
    """The state of one end in the kernel."""

    ABSENT = "absent"
    DOWN = "down"
    UP = "up"


class Kind(Enum):
    """The kinds of events of an end."""

    CREATED = "created"
    ADMIN_UP = "admin_up"
    ADMIN_DOWN = "admin_down"
    MOVED = "moved"  # to another netns: the kernel brings the device down
    GONE = "gone"  # deleted, or its netns was deleted
    MTU = "mtu"
    CARRIER = "carrier"  # changed by another program


class Event(NamedTuple):
    """An event of the end at side; value is the new MTU (MTU) or the new carrier state (CARRIER)."""

    kind: Kind
    side: Side
    value: int = 0


class SetGate(NamedTuple):
    """Drop every frame that the end at side sends, for the reason gate, or forward them (None)."""

    side: Side
    gate: Drop | None


class SetCarrier(NamedTuple):
    """Turn the carriers of the ends at sides on or off, in that order.

    announce is the end that came up and so turned the carriers on. The kernel announces an end's addresses when the end
    comes up. On veth the end has its carrier by then. Here it does not, so the announcement is lost and must be
    repeated.
    """

    sides: tuple[Side, ...]
    on: bool
    announce: Side | None = None


class SetLimit(NamedTuple):
    """Let the end at side send frames of at most limit bytes (the other end's MTU + 14 + 4)."""

    side: Side
    limit: int


class DeleteLink(NamedTuple):
    """Delete the end at side: its peer is gone."""

    side: Side


Effect = SetGate | SetCarrier | SetLimit | DeleteLink

END_TABLE: dict[tuple[End, Kind], End] = {
    (End.ABSENT, Kind.CREATED): End.DOWN,
    (End.DOWN, Kind.ADMIN_UP): End.UP,
    (End.UP, Kind.ADMIN_UP): End.UP,
    (End.DOWN, Kind.ADMIN_DOWN): End.DOWN,
    (End.UP, Kind.ADMIN_DOWN): End.DOWN,
    (End.DOWN, Kind.MOVED): End.DOWN,
    (End.UP, Kind.MOVED): End.DOWN,
    (End.DOWN, Kind.GONE): End.ABSENT,
    (End.UP, Kind.GONE): End.ABSENT,
    (End.DOWN, Kind.MTU): End.DOWN,
    (End.UP, Kind.MTU): End.UP,
    (End.DOWN, Kind.CARRIER): End.DOWN,
    (End.UP, Kind.CARRIER): End.UP,
}
"""(state, event) -> next state. Combinations that are missing here (events of a deleted end) change nothing."""

GATES: dict[tuple[End, End], Drop | None] = {
    (End.UP, End.UP): None,
    (End.UP, End.DOWN): Drop.PEER_DOWN,
    (End.UP, End.ABSENT): Drop.NO_PEER,
    (End.DOWN, End.UP): Drop.STALE,
    (End.DOWN, End.DOWN): Drop.STALE,
    (End.DOWN, End.ABSENT): Drop.NO_PEER,
    (End.ABSENT, End.UP): Drop.STALE,
    (End.ABSENT, End.DOWN): Drop.STALE,
    (End.ABSENT, End.ABSENT): Drop.NO_PEER,
}
"""(sender, receiver) -> the reason for which the sender's frames are dropped; None forwards them."""


@dataclass
class PairState:
    """The state of a pair's two ends. feed() takes an event and returns the effects to execute, in order."""

    ends: list[End] = field(default_factory=lambda: [End.ABSENT, End.ABSENT])

    @property
    def carrier(self) -> bool:
        """Whether the pair has its carrier: both ends are up."""
        return self.ends[Side.NEAR] is End.UP and self.ends[Side.FAR] is End.UP

    def gate(self, side: Side) -> Drop | None:
        """Return the reason for which the frames of the end at side are dropped; None forwards them."""
        return GATES[self.ends[side], self.ends[side.other]]

    def feed(self, event: Event) -> list[Effect]:
        """Apply one event and return its effects.

        Gates open before the carrier comes on, so that the first frames sent with carrier are forwarded. Gates close
        without waiting for the carrier to go off, which may take some time.
        """
        before = self.ends[event.side]
        after = END_TABLE.get((before, event.kind))
        if after is None:
            return []
        had_carrier, old_gates = self.carrier, [self.gate(side) for side in Side]
        self.ends[event.side] = after

        off: list[Effect] = []
        on: list[Effect] = []
        if had_carrier and not self.carrier:
            there = [side for side in (event.side, event.side.other) if self.ends[side] is not End.ABSENT]
            off = [SetCarrier(tuple(there), on=False)] if there else []
        elif self.carrier and not had_carrier:
            on = [SetCarrier((event.side, event.side.other), on=True, announce=event.side)]
        gates: list[Effect] = [
            SetGate(side, self.gate(side))
            for side in Side
            if self.ends[side] is not End.ABSENT
            and (self.gate(side) != old_gates[side] or (event.kind is Kind.CREATED and side is event.side))
        ]
        return off + gates + on + self._consequences(event)

    def _consequences(self, event: Event) -> list[Effect]:
        side = event.side
        match event.kind:
            case Kind.MTU if self.ends[side.other] is not End.ABSENT:
                return [SetLimit(side.other, forward_limit(event.value))]
            case Kind.CARRIER if bool(event.value) != self.carrier:
                return [SetCarrier((side,), on=self.carrier)]
            case Kind.GONE if self.ends[side.other] is not End.ABSENT:
                return [DeleteLink(side.other)]
        return []
