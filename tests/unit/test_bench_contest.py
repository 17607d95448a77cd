"""The order of the contest, and what becomes of those that fail in it; lines and measures are made up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.benchmarks.contest import Seat, play
from tests.benchmarks.data import Entrant, Figure, Run
from tests.benchmarks.line import Contestant, Line, Peer, Place
from tests.benchmarks.measures import QUICK, Length, Measure
from tests.benchmarks.traffic import TrafficError
from tests.lib.lab import End, Wire
from tests.lib.machine import describe
from tests.lib.netns import Netns


class Stub(Contestant):
    """A contestant without a line."""

    def __init__(self, name: str) -> None:
        """Take a name."""
        self.name = self.title = name
        self.proofs = 0

    def draw(self, place: Place, stack: ExitStack) -> Line:
        """Draw nothing."""
        raise NotImplementedError

    def prove(self, line: Line) -> None:
        """Count how often proof was asked for."""
        assert line.near_ip == self.name
        self.proofs += 1


class StubPeer(Peer, Stub):
    """A peer without processes."""


def seat(who: Stub, measures: list[Measure], rounds: int = 2) -> Seat:
    return Seat(
        who, Line(Wire(End(Netns("a"), "va"), End(Netns("b"), "vb")), (), who.name), ExitStack(), rounds, measures
    )


def run_of(seats: list[Seat]) -> Run:
    names = [each.contestant.name for each in seats]
    run = Run(command="", started="", rounds=2, quick=True, load_before=0, machine=describe())
    run.entrants = [Entrant(name=name, title=name) for name in names]
    return run


def measure(name: str, body: Callable[[str], float], *, once: bool = False) -> Measure:
    def measured(line: Line, length: Length) -> dict[str, float]:
        assert length is QUICK
        return {name: body(line.near_ip)}

    return Measure(name, (Figure(key=name, title=name),), measured, once=once)


def test_every_other_round_goes_the_other_way_and_some_measures_are_of_one_round() -> None:
    measures = [measure("x", lambda _: 1.0), measure("y", lambda _: 2.0, once=True)]
    seats = [seat(Stub("a"), measures), seat(Stub("b"), measures, rounds=1), seat(Stub("c"), measures[:1])]
    run = run_of(seats)
    for number in range(2):
        play(number, seats, run, QUICK)
    order = [(each.round, each.measure, each.contestant) for each in run.samples]
    assert order == [
        *((0, "x", name) for name in "abc"),
        *((0, "y", name) for name in "ab"),
        (1, "x", "c"),
        (1, "x", "a"),
    ]
    assert [each.contestant.proofs for each in seats if isinstance(each.contestant, Stub)] == [3, 2, 2]


def test_a_peer_that_fails_is_out_with_its_reason_and_cleared_away() -> None:
    def fails(name: str) -> float:
        if name == "peer":
            raise AssertionError("its log\nit fell over\n")
        return 1.0

    seats = [seat(StubPeer("peer"), [measure("x", fails)]), seat(Stub("vethd"), [measure("x", fails)])]
    cleared: list[str] = []
    seats[0].stack.callback(cleared.append, "peer")
    run = run_of(seats)
    play(0, seats, run, QUICK)
    assert cleared == ["peer"]
    assert [each.contestant.name for each in seats] == ["vethd"]
    assert [(each.name, each.absent) for each in run.entrants] == [("peer", "x: it fell over"), ("vethd", "")]
    assert [each.contestant for each in run.samples] == ["vethd"]


def test_vethd_that_fails_ends_the_run() -> None:
    def fails(name: str) -> float:
        raise AssertionError(f"{name}: 3 frames read, 2 accounted for")

    seats = [seat(Stub("vethd"), [measure("x", fails)])]
    with pytest.raises(AssertionError, match="2 accounted for"):
        play(0, seats, run_of(seats), QUICK)


@pytest.mark.parametrize(("failures", "samples"), [(1, 1), (2, 0)])
def test_traffic_that_does_not_pass_is_tried_once_more(failures: int, samples: int) -> None:
    left = [TrafficError("no answer")] * failures

    def fails(name: str) -> float:
        assert name == "peer"
        if left:
            raise left.pop()
        return 1.0

    seats = [seat(StubPeer("peer"), [measure("x", fails)])]
    run = run_of(seats)
    play(0, seats, run, QUICK)
    assert len(run.samples) == samples
    assert bool(run.entrants[0].absent) is not bool(samples)
