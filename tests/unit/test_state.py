"""The life of a pair, against a veth of twenty lines that shares nothing with the table under test."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vethd.model.drops import Drop
from vethd.model.state import (
    END_TABLE,
    GATES,
    DeleteLink,
    Effect,
    End,
    Event,
    Kind,
    PairState,
    SetCarrier,
    SetGate,
    SetLimit,
    Side,
)

NEAR, FAR = Side.NEAR, Side.FAR
UNSET = "nobody has said"


class Veth:
    """drivers/net/veth.c, as far as carriers go: who is up, who has a carrier, how often that changed."""

    def __init__(self) -> None:
        self.there, self.up, self.carrier, self.changes = ([False] * 2, [False] * 2, [False] * 2, [0] * 2)

    def netif_carrier(self, on: bool, *ends: int) -> None:
        for end in ends:
            self.changes[end] += self.carrier[end] != on
            self.carrier[end] = on

    def veth_open(self, end: int) -> None:
        self.up[end] = True
        if self.up[1 - end]:
            self.netif_carrier(True, end, 1 - end)

    def veth_close(self, end: int) -> None:
        self.up[end] = False
        self.netif_carrier(False, end, 1 - end)

    def veth_dellink(self, end: int) -> None:
        self.veth_close(end)
        self.there[end] = False


@dataclass
class Device:
    """A TAP: its carrier is what it was last set to, and each change counts."""

    carrier: bool = False
    changes: int = 0
    limit: int = 0

    def set_carrier(self, on: bool) -> None:
        self.changes += self.carrier != on
        self.carrier = on


@dataclass
class World:
    """What carries effects out: two devices and an engine's two gates, from the instant at which each is there."""

    devices: dict[Side, Device] = field(default_factory=dict)
    gates: dict[Side, Drop | str | None] = field(default_factory=dict)
    deletes: list[Side] = field(default_factory=list)

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case SetGate(side, gate):
                assert gate != self.gates[side], "a gate set to what it is"
                self.gates[side] = gate
            case SetCarrier(sides, on, _):
                for side in sides:
                    self.devices[side].set_carrier(on)
            case SetLimit(side, limit):
                if side in self.devices:  # else it is not made yet, or dead
                    self.devices[side].limit = limit
            case DeleteLink(side):
                assert side in self.devices
                self.deletes.append(side)


class PairLife(RuleBasedStateMachine):
    """Any news in any order: the two devices are what veth's ends would be."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.veth, self.world = PairState(), Veth(), World(gates=dict.fromkeys(Side, UNSET))
        self.flips = dict.fromkeys(Side, 0)
        self.mtu = dict.fromkeys(Side, 0)
        self.first_death_left_one = False

    def feed(self, kind: Kind, side: Side, value: int = 0) -> None:
        for effect in self.state.feed(Event(kind, side, value)):
            self.world.carry_out(effect)

    def alive(self, side: Side) -> bool:
        return self.veth.there[side]

    @initialize(up_between=st.booleans())
    def newlink(self, up_between: bool) -> None:
        """The peer first; somebody may turn it up before the near end is there."""
        for side in (FAR, NEAR):
            self.veth.there[side] = True
            self.world.devices[side] = Device()
            self.feed(Kind.CREATED, side)
            if side is FAR and up_between:
                self.admin_up(FAR)
                assert not self.state.carrier
        self.world.gates = {side: self.state.gate(side) for side in Side}

    @rule(side=st.sampled_from(Side))
    def admin_up(self, side: Side) -> None:
        if self.alive(side):
            self.veth.veth_open(side)
        self.feed(Kind.ADMIN_UP, side)

    @rule(side=st.sampled_from(Side))
    def admin_down(self, side: Side) -> None:
        if self.alive(side):
            self.veth.veth_close(side)
        self.feed(Kind.ADMIN_DOWN, side)

    @rule(side=st.sampled_from(Side))
    def moved(self, side: Side) -> None:
        if self.alive(side):
            self.veth.veth_close(side)
        self.feed(Kind.MOVED, side)

    @rule(side=st.sampled_from(Side), mtu=st.integers(68, 65521))
    def changed_mtu(self, side: Side, mtu: int) -> None:
        if self.alive(side):
            self.mtu[side] = mtu
        self.feed(Kind.MTU, side, mtu)

    @precondition(lambda self: any(self.veth.there))
    @rule(side=st.sampled_from(Side))
    def a_user_flips_the_carrier(self, side: Side) -> None:
        if self.alive(side):
            device = self.world.devices[side]
            device.set_carrier(not device.carrier)
            self.flips[side] += 1
            self.feed(Kind.CARRIER, side, int(device.carrier))

    @rule(side=st.sampled_from(Side), seen=st.booleans())
    def old_news_of_a_carrier(self, side: Side, seen: bool) -> None:
        """rtnetlink's tale may lag behind what is."""
        self.feed(Kind.CARRIER, side, int(seen))

    @rule(side=st.sampled_from(Side))
    def gone(self, side: Side) -> None:
        """Also again: the descriptor and rtnetlink both tell of a death."""
        if self.alive(side):
            self.first_death_left_one |= self.alive(side.other)
            self.veth.veth_dellink(side)
            del self.world.devices[side]
        self.feed(Kind.GONE, side)

    @invariant()
    def carriers_and_their_counts_are_veths(self) -> None:
        assert self.state.carrier == all(self.veth.up)
        for side, device in self.world.devices.items():
            assert device.carrier == self.veth.carrier[side]
            assert device.changes - 2 * self.flips[side] == self.veth.changes[side]

    @invariant()
    def gates_are_the_states(self) -> None:
        for side in self.world.devices:
            assert self.world.gates[side] == self.state.gate(side)
            assert (self.world.gates[side] is None) == self.state.carrier

    @invariant()
    def limits_are_kept_up(self) -> None:
        for side, device in self.world.devices.items():
            assert device.limit == (self.mtu[side.other] + 18 if self.mtu[side.other] else 0)

    @invariant()
    def the_other_end_is_deleted_once(self) -> None:
        assert len(self.world.deletes) == self.first_death_left_one


TestPairLife = PairLife.TestCase
TestPairLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


EXPECTED = {
    Kind.CREATED: {End.ABSENT: End.DOWN},
    Kind.ADMIN_UP: {End.DOWN: End.UP, End.UP: End.UP},
    Kind.ADMIN_DOWN: {End.DOWN: End.DOWN, End.UP: End.DOWN},
    Kind.MOVED: {End.DOWN: End.DOWN, End.UP: End.DOWN},
    Kind.GONE: {End.DOWN: End.ABSENT, End.UP: End.ABSENT},
    Kind.MTU: {End.DOWN: End.DOWN, End.UP: End.UP},
    Kind.CARRIER: {End.DOWN: End.DOWN, End.UP: End.UP},
}
COMBINATIONS = list(itertools.product(End, Kind, End))


@pytest.mark.parametrize(("end", "kind", "other"), COMBINATIONS)
@pytest.mark.parametrize("side", Side)
def test_every_end_and_every_event(end: End, kind: Kind, other: End, side: Side) -> None:
    state = PairState([end, other] if side is NEAR else [other, end])
    effects = state.feed(Event(kind, side, 1500))
    expected = EXPECTED[kind].get(end)
    assert END_TABLE.get((end, kind)) is expected
    assert state.ends[side] is (end if expected is None else expected)
    assert state.ends[side.other] is other
    if expected is None:
        assert effects == []


@pytest.mark.parametrize(("sender", "receiver"), list(itertools.product(End, End)))
def test_gates_are_total(sender: End, receiver: End) -> None:
    gate = GATES[sender, receiver]
    if receiver is End.ABSENT:
        assert gate is Drop.NO_PEER
    elif sender is not End.UP:
        assert gate is Drop.STALE
    else:
        assert gate is (None if receiver is End.UP else Drop.PEER_DOWN)


def test_tables_hold_nothing_else() -> None:
    assert len(GATES) == len(End) ** 2
    assert set(END_TABLE) == {(end, kind) for kind, ends in EXPECTED.items() for end in ends}


@pytest.mark.parametrize("side", Side)
def test_gates_open_before_the_carrier_and_close_after_it(side: Side) -> None:
    """A frame sent under a carrier is never dropped for the want of one."""
    state = PairState([End.UP, End.UP])
    state.ends[side] = End.DOWN
    up = state.feed(Event(Kind.ADMIN_UP, side))
    assert [type(effect) for effect in up] == [SetGate, SetGate, SetCarrier]
    assert up[2] == SetCarrier((side, side.other), on=True, announce=side)  # in veth_open()'s order
    down = state.feed(Event(Kind.ADMIN_DOWN, side))
    assert [type(effect) for effect in down] == [SetCarrier, SetGate, SetGate]
    assert down[0] == SetCarrier((side, side.other), on=False)
    assert {effect for effect in down if isinstance(effect, SetGate)} == {
        SetGate(side, Drop.STALE),
        SetGate(side.other, Drop.PEER_DOWN),
    }


@pytest.mark.parametrize("side", Side)
def test_a_death_under_full_carrier(side: Side) -> None:
    state = PairState([End.UP, End.UP])
    assert state.feed(Event(Kind.GONE, side)) == [
        SetCarrier((side.other,), on=False),
        SetGate(side.other, Drop.NO_PEER),
        DeleteLink(side.other),
    ]
    assert state.feed(Event(Kind.GONE, side.other)) == []


@pytest.mark.parametrize("side", Side)
def test_a_move_closes_the_moved_end(side: Side) -> None:
    state = PairState([End.UP, End.UP])
    effects = state.feed(Event(Kind.MOVED, side))
    assert state.ends[side] is End.DOWN
    assert effects[0] == SetCarrier((side, side.other), on=False)


@pytest.mark.parametrize("first", Side)
@pytest.mark.parametrize("start", [Drop.NO_CARRIER, Drop.NO_PEER])
def test_an_engine_that_was_there_before_the_ends_has_their_gates(first: Side, start: Drop) -> None:
    """Whatever its gates were when it began."""
    state, gates = PairState(), dict.fromkeys(Side, start)
    for side in (first, first.other):
        for effect in state.feed(Event(Kind.CREATED, side)):
            if isinstance(effect, SetGate):
                gates[effect.side] = effect.gate  # type: ignore[assignment]
    assert gates == {side: state.gate(side) for side in Side}


@pytest.mark.parametrize("side", Side)
def test_a_dead_end_gets_no_effects(side: Side) -> None:
    for kind in Kind:
        state = PairState([End.UP, End.UP])
        state.feed(Event(Kind.GONE, side))
        for effect in state.feed(Event(kind, side.other, 1500)):
            assert side not in (effect.sides if isinstance(effect, SetCarrier) else (effect.side,))
