"""The life of a pair as a table: events in, effects out, no I/O.

Each end is ABSENT, DOWN or UP (IFF_UP). Events about an end move it by END_TABLE; GATES says, for every
combination of the two, what becomes of a frame that the one sends to the other, and the carrier is on where
both gates are open. All that touches the kernel carries out effects and reports events; nothing else decides.

Kernel: drivers/net/veth.c veth_open(), veth_close(), veth_dellink(), veth_change_mtu().
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from vethd.model.drops import Drop
from vethd.model.verdict import forward_limit


class Side(IntEnum):
    """Which end of a pair; the near one is the one that `ip link add` names first."""

    NEAR = 0
    FAR = 1

    @property
    def other(self) -> Side:
        """The end across the pair."""
        return Side(1 - self)


class End(Enum):
    """What the kernel says of one end."""

    ABSENT = "absent"
    DOWN = "down"
    UP = "up"


class Kind(Enum):
    """What can happen to an end."""

    CREATED = "created"
    ADMIN_UP = "admin_up"
    ADMIN_DOWN = "admin_down"
    MOVED = "moved"  # to another netns: the kernel closes the device on the way
    GONE = "gone"  # deleted, or its netns died
    MTU = "mtu"
    CARRIER = "carrier"  # somebody else than us flipped it


class Event(NamedTuple):
    """Something that happened to the end at side; value is the new MTU (MTU) or the carrier seen (CARRIER)."""

    kind: Kind
    side: Side
    value: int = 0


class SetGate(NamedTuple):
    """Drop every frame that the end at side sends for that reason, or (None) forward them."""

    side: Side
    gate: Drop | None


class SetCarrier(NamedTuple):
    """Turn the carriers of the ends at sides on or off, in that order."""

    sides: tuple[Side, ...]
    on: bool


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
"""(end, what happened) -> end. What is not here (news of an end that is gone) changes nothing."""

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
"""(sender, receiver) -> what the sender's frames are dropped as; None forwards them."""


@dataclass
class PairState:
    """One pair's two ends. feed() takes an event and gives the effects to carry out, in order."""

    ends: list[End] = field(default_factory=lambda: [End.ABSENT, End.ABSENT])

    @property
    def carrier(self) -> bool:
        """Whether the pair has its carrier: both ends are up."""
        return self.ends[Side.NEAR] is End.UP and self.ends[Side.FAR] is End.UP

    def gate(self, side: Side) -> Drop | None:
        """Return what the frames of the end at side are dropped as; None forwards them."""
        return GATES[self.ends[side], self.ends[side.other]]

    def feed(self, event: Event) -> list[Effect]:
        """Apply one event.

        Gates open before the carrier comes on: what is sent under it finds them open. They close without waiting
        for it to go off, which may take the hands a while.
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
            on = [SetCarrier((event.side, event.side.other), on=True)]
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
