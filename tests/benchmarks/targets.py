"""What vethd is meant to reach, beside what a run reached: a floor that must hold, and an aim."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.data import Run
from tests.benchmarks.peers import PEERS
from tests.benchmarks.tables import Cell, cell

KERNEL, NATIVE, ASYNCIO = "kernel", "native", "asyncio"
TICK_S = 0.01  # a clock tick, the least that the kernel's own accounting shows

Value = Callable[[Run], float]


class Target(NamedTuple):
    """One target: floor and aim are the least values that do, or the greatest."""

    title: str
    value: Value
    floor: float
    aim: float
    more_is_better: bool = True


def targets() -> list[Target]:
    """Return all targets."""
    found = [
        _against_veth(NATIVE, "tcp1", "TCP 1 flow", 0.75, 1.0),
        _against_veth(NATIVE, "tcp4", "TCP 4 flows", 0.45, 0.60),
        _against_veth(NATIVE, "tcpnogso", "TCP, sender without GSO", 0.60, 0.90),
        _against_veth(NATIVE, "udp64", "UDP 64 B lossless", 1.1, 1.5),
        _against_veth(NATIVE, "udp64x4", "UDP 64 B, 4 flows, lossless", 0.85, 1.2),
        _against_veth(NATIVE, "udp1400", "UDP 1400 B lossless", 1.0, 1.3),
        Target("native, ping average, us", _median(NATIVE, "pinga"), 20, 12, more_is_better=False),
        Target(
            "native, UDP request and response, p50, times veth",
            _ratio(NATIVE, KERNEL, "rr_p50"),
            1,
            1,
            more_is_better=False,
        ),
        Target("native, CPU s per GB of TCP", _median(NATIVE, "tcp1_cpu"), 0.38, 0.27, more_is_better=False),
        _against_veth(ASYNCIO, "tcp1", "TCP 1 flow", 0.65, 0.85),
        _against_veth(ASYNCIO, "udp64", "UDP 64 B lossless", 0.9, 1.1),
        _against_peers(NATIVE, "tcp1", "TCP 1 flow", 8),
        _against_peers(NATIVE, "udp64", "UDP 64 B lossless", 3),
        _against_peers(NATIVE, "udp64_over", "UDP 64 B under overload", 3),
        _against_peers(NATIVE, "pinga", "ping average", 1, more_is_better=False),
        _against_peers(NATIVE, "rr_p50", "UDP request and response, p50", 1, more_is_better=False),
        _against_peers(ASYNCIO, "tcp1", "TCP 1 flow", 5),
    ]
    found += [
        Target(f"{name}, CPU s in 5 s of idleness", _median(name, "idle"), TICK_S, TICK_S, more_is_better=False)
        for name in (NATIVE, ASYNCIO)
    ]
    return found


def rows(run: Run) -> list[list[Cell]]:
    """Return a row for every target: what it is, floor, aim, reached, and whether that does."""
    found: list[list[Cell]] = []
    for target in targets():
        sign = "≥" if target.more_is_better else "≤"
        reached = target.value(run)
        bounds = [f"{sign} {cell(float(bound))}" for bound in (target.floor, target.aim)]
        found.append([target.title, *bounds, reached, _verdict(target, reached)])
    return found


def _verdict(target: Target, reached: float) -> str:
    if math.isnan(reached):
        return "not measured"
    sign = 1 if target.more_is_better else -1
    if sign * reached >= sign * target.aim:
        return "goal reached"
    return "floor reached" if sign * reached >= sign * target.floor else "missed"


def _against_veth(who: str, key: str, title: str, floor: float, aim: float) -> Target:
    return Target(f"{who}, {title}, times veth", _ratio(who, KERNEL, key), floor, aim)


def _against_peers(who: str, key: str, title: str, least: float, *, more_is_better: bool = True) -> Target:
    worst = min if more_is_better else max

    def value(run: Run) -> float:
        ratios = [run.ratio(who, peer.name, key) for peer in PEERS]
        there = [ratio for ratio in ratios if not math.isnan(ratio)]
        return worst(there) if there else math.nan

    return Target(f"{who}, {title}, times the best other program", value, least, least, more_is_better=more_is_better)


def _ratio(who: str, other: str, key: str) -> Value:
    return lambda run: run.ratio(who, other, key)


def _median(who: str, key: str) -> Value:
    return lambda run: run.median(who, key)
