"""The contest: every measure on every line, by turns.

All lines are drawn before the first round. In a round each measure goes from contestant to contestant, in every other
round the other way around: a busy or throttled machine is then busy for all, what is compared are neighbours in time,
and who comes first is not favoured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.data import Entrant, Run, Sample
from tests.benchmarks.line import Contestant, Line, Peer, drawn
from tests.benchmarks.measures import Length, Measure
from tests.benchmarks.traffic import TrafficError
from tests.lib.machine import Ticks

REASON_LEN = 300


class Seat(NamedTuple):
    """A contestant with its line, what takes it down, and how many rounds and which measures it takes part in."""

    contestant: Contestant
    line: Line
    stack: ExitStack
    rounds: int
    measures: Sequence[Measure]


class Plan(NamedTuple):
    """What a contestant is to take part in."""

    contestant: Contestant
    rounds: int
    measures: Sequence[Measure]


def compete(plans: Sequence[Plan], run: Run, length: Length, directory: Path, saved: Callable[[], None]) -> None:
    """Measure into run, calling saved after each round.

    A contestant that cannot take part, or a peer that fails on the way, is noted with its reason. Raises
    AssertionError where the kernel or vethd fails.
    """
    with ExitStack() as stack:
        wanted = [plan for plan in plans if plan.measures]
        seats = [seat for plan in wanted if (seat := _seat(plan, run, directory, stack)) is not None]
        for number in range(max((seat.rounds for seat in seats), default=0)):
            play(number, seats, run, length)
            saved()


def _seat(plan: Plan, run: Run, directory: Path, stack: ExitStack) -> Seat | None:
    contestant = plan.contestant
    entrant = Entrant(name=contestant.name, title=contestant.title)
    run.entrants.append(entrant)
    own = stack.enter_context(ExitStack())
    try:
        where = directory / f"line-{len(run.entrants)}"
        line = own.enter_context(drawn(contestant, directory / "traffic", where))
        own.enter_context(contestant.at_rest(line))
    except (AssertionError, OSError) as error:
        own.close()
        entrant.absent = _reason(error)
        print(f"{contestant.name} takes no part: {entrant.absent}", flush=True)
        return None
    entrant.version = contestant.version()
    return Seat(contestant, line, own, plan.rounds, plan.measures)


def play(number: int, seats: list[Seat], run: Run, length: Length) -> None:
    """Play one round into run; a peer that fails leaves seats."""
    for measure in dict.fromkeys(measure for seat in seats for measure in seat.measures):
        if measure.once and number:
            continue
        taking = [seat for seat in seats if number < seat.rounds and measure in seat.measures]
        told = []
        for seat in reversed(taking) if number % 2 else taking:
            before = Ticks.now()
            try:
                figures = _measure(seat, measure, length)
            except (AssertionError, OSError) as error:
                if not isinstance(seat.contestant, Peer):
                    print(f"{seat.contestant.name} failed: {measure.name}: {error}", flush=True)
                    raise
                _dismiss(seat, seats, run, f"{measure.name}: {_reason(error)}")
                continue
            name = seat.contestant.name
            figures = {key: float(f"{value:.6g}") for key, value in figures.items()}
            stolen = round(Ticks.now().stolen_since(before), 4)
            run.samples.append(
                Sample(round=number, measure=measure.name, contestant=name, figures=figures, stolen=stolen)
            )
            told += [f"{name} {value:.4g}" for value in [*figures.values()][:1]]
        if told:
            print(f"round {number + 1}, {measure.name}: {', '.join(told)}", flush=True)


def _measure(seat: Seat, measure: Measure, length: Length, tries: int = 2) -> dict[str, float]:
    """Measure, and once more where traffic did not pass at all, as on a machine that is busy with something else."""
    try:
        with seat.contestant.turn(seat.line):
            figures = measure.run(seat.line, length)
    except TrafficError as error:
        if tries == 1:
            raise
        print(f"{seat.contestant.name}, again: {measure.name}: {error}", flush=True)
        return _measure(seat, measure, length, tries - 1)
    seat.contestant.prove(seat.line)
    return figures


def _dismiss(seat: Seat, seats: list[Seat], run: Run, reason: str) -> None:
    seats.remove(seat)
    for entrant in run.entrants:
        if entrant.name == seat.contestant.name:
            entrant.absent = reason
    print(f"{seat.contestant.name} takes no further part: {reason}", flush=True)
    with contextlib.suppress(AssertionError):  # it failed already; what it left, its namespaces take with them
        seat.stack.close()


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:REASON_LEN] if lines else repr(error)
