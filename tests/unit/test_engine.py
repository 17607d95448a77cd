"""Every engine is the model's verdict: whatever is asked of it in whatever order, it does what the model says.

An engine with threads moves frames at any time, so there are two tests of it: one where all that was sent is through
before anything is changed, and what comes out is known; and one where changes meet frames under way, and what comes
out must be what the model says of every frame under one of the roads that there were, none older than its neighbour's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.judged import LIMITS, frames
from tests.lib.sockwire import Bench, bench, frame
from vethd.datapath.engine import DROPPED_HEAD, DROPPED_MAX, Counters
from vethd.model.drops import DROPS, Drop
from vethd.model.verdict import Road, verdict


class Queue(NamedTuple):
    """The device at side sends; the engine is not looking yet."""

    side: int
    data: bytes


class Run(NamedTuple):
    """The engine looks."""


class Gate(NamedTuple):
    side: int
    gate: Drop | None


class Limit(NamedTuple):
    side: int
    limit: int


class Trust(NamedTuple):
    trust: bool


Step = Queue | Run | Gate | Limit | Trust
SIDES = st.sampled_from((0, 1))
THREADED = ("native",)  # moves frames without a turn of the loop


def steps(vnet_hdr_len: int) -> st.SearchStrategy[list[Step]]:
    gates = st.sampled_from((None, None, Drop.NO_CARRIER, Drop.PEER_DOWN, Drop.NO_PEER, Drop.STALE))
    step: st.SearchStrategy[Step] = st.one_of(
        st.builds(Queue, SIDES, frames(vnet_hdr_len)),
        st.builds(Queue, SIDES, frames(vnet_hdr_len)),
        st.builds(Queue, SIDES, frames(vnet_hdr_len)),
        st.just(Run()),
        st.builds(Gate, SIDES, gates),
        st.builds(Limit, SIDES, st.sampled_from(LIMITS)),
        st.builds(Trust, st.booleans()),
    )
    return st.lists(step, max_size=40)


class Oracle:
    """What the model says shall come out of one direction."""

    def __init__(self, vnet_hdr_len: int) -> None:
        self.road = Road(None, LIMITS[0], vnet_hdr_len=vnet_hdr_len)
        self.waiting: list[bytes] = []
        self.out: list[bytes] = []
        self.read = self.read_bytes = self.forwarded_bytes = 0
        self.drops = [0] * DROPS
        self.dropped: list[tuple[int, int, int, bytes, bytes]] = []

    def run(self, gate: Drop | None) -> None:
        """Judge all that waits."""
        for data in self.waiting:
            size = len(data) - self.road.vnet_hdr_len
            drop, flags = verdict(data, self.road._replace(gate=gate))
            self.read += 1
            self.read_bytes += size
            if drop is None:
                self.out.append(bytes([flags]) + data[1:])
                self.forwarded_bytes += size
            else:
                self.drops[drop] += 1
                start, limit = self.road.vnet_hdr_len, self.road.limit
                head = (data[:start], data[start : start + DROPPED_HEAD])
                self.dropped.append((drop, max(0, size), limit, *head))
        self.waiting.clear()

    def expect(self) -> Counters:
        drops = tuple(self.drops)
        return Counters(self.read, self.read_bytes, len(self.out), self.forwarded_bytes, 0, drops, {})


@pytest.fixture(scope="module")
def shared(engine: str) -> Iterator[Bench]:
    """Yield sockets and an engine that many examples use, each with a wire of its own."""
    with bench(engine=engine) as it:
        yield it


@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_engine_is_the_model(shared: Bench, engine: str, vnet_hdr_len: int, data: st.DataObject) -> None:
    it = shared
    it.start_over(vnet_hdr_len)
    it.open(68)
    oracles = [Oracle(vnet_hdr_len), Oracle(vnet_hdr_len)]

    def run() -> None:
        for oracle in oracles:
            oracle.run(oracle.road.gate)
        it.settle(oracles[0].read, oracles[1].read)

    for step in [*data.draw(steps(vnet_hdr_len)), Run()]:
        if engine in THREADED and not isinstance(step, Queue):
            run()
        match step:
            case Queue(side, frame_data):
                it.devices[side][0].send(frame_data)
                oracles[side].waiting.append(frame_data)
            case Run():
                run()
            case Gate(side, gate):
                if gate is None and oracles[side].road.gate is not None:
                    oracles[side].run(Drop.STALE)
                oracles[side].road = oracles[side].road._replace(gate=gate)
                it.wire.set_gate(side, gate)
            case Limit(side, limit):
                oracles[side].road = oracles[side].road._replace(limit=limit)
                it.wire.set_limit(side, limit)
            case Trust(trust):
                for oracle in oracles:
                    oracle.road = oracle.road._replace(trust=trust)
                it.wire.set_trust(trust=trust)
    for side, oracle in enumerate(oracles):
        assert it.received(1 - side) == oracle.out
        kept = it.wire.dropped(side)
        assert [(one.reason, one.length, one.limit, one.vnet, one.data) for one in kept] == oracle.dropped[
            -DROPPED_MAX:
        ]
        assert it.counters(side) == oracle.expect()
    assert it.died == []


class Sent(NamedTuple):
    """A frame under way: it may be judged by any of its direction's roads from first to last."""

    data: bytes
    first: int
    last: int


class Witness:
    """What one direction was asked while frames were under way, and whether what came out can be of that."""

    def __init__(self, vnet_hdr_len: int) -> None:
        self.roads = [Road(None, LIMITS[0], vnet_hdr_len=vnet_hdr_len)]
        self.sent: list[Sent] = []

    def send(self, data: bytes) -> None:
        self.sent.append(Sent(data, len(self.roads) - 1, -1))

    def change(self, road: Road) -> None:
        """Hear what holds from now on. Behind a gate that opens no older frame is left: STALE is the last it meets."""
        if road.gate is None and self.roads[-1].gate is not None:
            self.roads.append(self.roads[-1]._replace(gate=Drop.STALE))
            stale = len(self.roads) - 1
            self.sent = [one._replace(last=stale) if one.last < 0 else one for one in self.sent]
        self.roads.append(road)

    def explains(self, out: list[bytes], drops: list[int]) -> bool:
        """Return whether out, and so many drops, can have come of what was sent; begin anew."""
        # which road the last frame met, how many were forwarded, the drops
        states = {(0, 0, (0,) * DROPS)}
        for data, first, last in self.sent:
            reached = set()
            for met, done, dropped in states:
                for index in range(max(met, first), (last if last >= 0 else len(self.roads) - 1) + 1):
                    drop, flags = verdict(data, self.roads[index])
                    if drop is not None:
                        tally = (*dropped[:drop], dropped[drop] + 1, *dropped[drop + 1 :])
                        if tally[drop] <= drops[drop]:
                            reached.add((index, done, tally))
                    elif done < len(out) and out[done] == bytes([flags]) + data[1:]:
                        reached.add((index, done + 1, dropped))
            states = reached
        self.sent.clear()
        del self.roads[:-1]
        return any(done == len(out) and dropped == tuple(drops) for _, done, dropped in states)


def test_witness_can_refuse() -> None:
    one, two = frame(60, 1), frame(60, 2)
    closed = Road(Drop.NO_CARRIER, LIMITS[0])
    none, stale, no_carrier = ([0] * DROPS for _ in range(3))
    stale[Drop.STALE] = no_carrier[Drop.NO_CARRIER] = 1

    def explains(out: list[bytes], drops: list[int]) -> bool:
        """One is sent, the gate is closed, two is sent, the gate is opened."""
        witness = Witness(10)
        witness.send(one)
        witness.change(closed)
        witness.send(two)
        witness.change(closed._replace(gate=None))
        return witness.explains(out, drops)

    assert explains([one], stale)
    assert explains([one], no_carrier)
    assert not explains([one, two], none), "behind a gate that opens it is stale at best"
    assert not explains([two], stale)
    assert not explains([two], no_carrier)
    assert not explains([one], none)
    assert not explains([], no_carrier)


@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changes_meet_frames_under_way(shared: Bench, vnet_hdr_len: int, data: st.DataObject) -> None:
    it = shared
    it.start_over(vnet_hdr_len)
    it.open(68)
    witnesses = [Witness(vnet_hdr_len), Witness(vnet_hdr_len)]
    sent = [0, 0]
    seen: list[tuple[int, ...]] = [(0,) * DROPS, (0,) * DROPS]
    for step in [*data.draw(steps(vnet_hdr_len)), Run()]:
        match step:
            case Queue(side, frame_data):
                it.devices[side][0].send(frame_data)
                witnesses[side].send(frame_data)
                sent[side] += 1
            case Run():
                it.settle(*sent)
                for side, witness in enumerate(witnesses):
                    drops = it.counters(side).drops
                    new = [now - before for now, before in zip(drops, seen[side], strict=True)]
                    assert witness.explains(it.received(1 - side), new)
                    seen[side] = drops
            case Gate(side, gate):
                witnesses[side].change(witnesses[side].roads[-1]._replace(gate=gate))
                it.wire.set_gate(side, gate)
            case Limit(side, limit):
                witnesses[side].change(witnesses[side].roads[-1]._replace(limit=limit))
                it.wire.set_limit(side, limit)
            case Trust(trust):
                for witness in witnesses:
                    witness.change(witness.roads[-1]._replace(trust=trust))
                it.wire.set_trust(trust=trust)
    assert it.died == []


def test_what_waits_when_a_gate_opens_is_stale(engine: str) -> None:
    """More than one batch of it; and what is sent from then on passes."""
    with bench(engine=engine) as it:
        for n in range(200):
            it.devices[0][0].send(frame(60, n))
        it.open()
        it.devices[0][0].send(frame(60, 201))
        it.settle(201)
        assert it.received(1) == [frame(60, 201)]
        assert it.counters(0).drops[Drop.STALE] == 200
