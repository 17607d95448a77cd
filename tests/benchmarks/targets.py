"""What vethd is meant to reach, beside what a run reached: a floor that must hold, and an aim.

How much a program in userspace can reach depends on what it costs to wake another CPU. Kernel veth's own rate of small
datagrams shows that cost: below DEAR_WAKEUPS the targets of a host with dear wake-ups hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.data import Run
from tests.benchmarks.peers import PEERS
from tests.benchmarks.tables import Cell, cell

KERNEL, NATIVE, ASYNCIO = "kernel", "native", "asyncio"
TICK_S = 0.01  # a clock tick, the least that the kernel's own accounting shows
DEAR_WAKEUPS = 350.0  # thousand datagrams a second
AS_FAST = 0.97  # what the native engine must reach of asyncio, on every measure

Value = Callable[[Run], float]


class Target(NamedTuple):
    """One target: floor and aim are the least values that do, or the greatest."""

    title: str
    value: Value
    floor: float
    aim: float
    more_is_better: bool = True


class Aims(NamedTuple):
    """A floor and an aim."""

    floor: float
    aim: float


def dear(run: Run) -> bool:
    """Return whether wake-ups are dear on the run's host."""
    return not run.median(KERNEL, "udp64") >= DEAR_WAKEUPS


def targets(run: Run) -> list[Target]:
    """Return all targets for the run's kind of host."""

    def by_host(cheap: tuple[float, float], dear_: tuple[float, float]) -> Aims:
        return Aims(*(dear_ if dear(run) else cheap))

    found = [
        _against_veth("tcp1", "TCP 1 flow", by_host((0.74, 0.85), (0.85, 1.0))),
        Target("native, TCP 1 flow, share of the bound", _share("tcp1"), 0.95, 0.95),
        _against_veth("tcp4", "TCP 4 flows", by_host((0.62, 0.70), (0.55, 0.62))),
        _against_veth("tcpnogso", "TCP, sender without GSO", by_host((0.65, 0.85), (0.60, 0.90))),
        _time("tcp1_cpu", "CPU s per GB of TCP 1 flow", by_host((0.25, 0.20), (0.30, 0.25))),
        _against_veth("udp64", "UDP 64 B lossless", by_host((1.1, 1.3), (1.3, 1.5))),
        _against_veth("udp64x4", "UDP 64 B, 4 flows, lossless", by_host((1.05, 1.3), (1.2, 1.5))),
        _against_veth("udp1400", "UDP 1400 B lossless", by_host((1.1, 1.3), (1.3, 1.5))),
        _against_veth("iperf3udp64", "iperf3 UDP 64 B, received", by_host((0.75, 0.95), (1.1, 1.5))),
        _against_veth("udpgso", "UDP 1400 B, 32 a send, lossless", Aims(0.65, 0.9)),
        _time("pinga", "ping one after the other, us", by_host((7, 5), (18, 12))),
        _against_veth("rr_p50", "UDP request and response, p50", Aims(0.65, 0.5), more_is_better=False),
        _time("rrload_p50", "UDP request and response beside TCP, p50, us", by_host((60, 30), (80, 40))),
        _time("rrload_p99", "UDP request and response beside TCP, p99, us", by_host((400, 150), (1000, 300))),
        Target("native, times asyncio, the worst of all measures", _worst_against_asyncio, AS_FAST, AS_FAST),
    ]
    found += [
        _against_peers(key, title, 3)
        for key, title in (("udp64", "UDP 64 B lossless"), ("udp64_over", "UDP 64 B under overload"))
    ]
    found += [
        Target(f"{name}, CPU s in 5 s of idleness", _median(name, "idle"), TICK_S, TICK_S, more_is_better=False)
        for name in (NATIVE, ASYNCIO)
    ]
    return found


def rows(run: Run) -> list[list[Cell]]:
    """Return a row for every target: what it is, floor, aim, reached, and whether that does."""
    found: list[list[Cell]] = []
    for target in targets(run):
        sign = "≥" if target.more_is_better else "≤"
        reached = target.value(run)
        bounds = [f"{sign} {cell(float(bound))}" for bound in (target.floor, target.aim)]
        found.append([target.title, *bounds, reached, _verdict(target, reached)])
    return found


def against_asyncio(run: Run) -> dict[str, float]:
    """Return how much better the native engine is than asyncio, by figure: more than 1 is better."""
    ratios = {figure.key: run.ratio(NATIVE, ASYNCIO, figure.key) for figure in run.figures}
    better = {figure.key: figure.more_is_better for figure in run.figures}
    return {key: ratio if better[key] else 1 / ratio for key, ratio in ratios.items() if ratio > 0}


def _verdict(target: Target, reached: float) -> str:
    if math.isnan(reached):
        return "not measured"
    sign = 1 if target.more_is_better else -1
    if sign * reached >= sign * target.aim:
        return "goal reached"
    return "floor reached" if sign * reached >= sign * target.floor else "missed"


def _against_veth(key: str, title: str, aims: Aims, *, more_is_better: bool = True) -> Target:
    return Target(f"native, {title}, times veth", _ratio(NATIVE, KERNEL, key), *aims, more_is_better)


def _time(key: str, title: str, aims: Aims) -> Target:
    return Target(f"native, {title}", _median(NATIVE, key), *aims, more_is_better=False)


def _against_peers(key: str, title: str, least: float) -> Target:
    def value(run: Run) -> float:
        ratios = [run.ratio(NATIVE, peer.name, key) for peer in PEERS]
        return min((ratio for ratio in ratios if not math.isnan(ratio)), default=math.nan)

    return Target(f"native, {title}, times the best other program", value, least, least)


def _worst_against_asyncio(run: Run) -> float:
    return min((ratio for key, ratio in against_asyncio(run).items() if key != "idle"), default=math.nan)


def _share(key: str) -> Value:
    return lambda run: run.median(NATIVE, key) / run.bound(NATIVE, KERNEL, key)


def _ratio(who: str, other: str, key: str) -> Value:
    return lambda run: run.ratio(who, other, key)


def _median(who: str, key: str) -> Value:
    return lambda run: run.median(who, key)
