"""The highest rate at which nothing is lost, searched for after RFC 2544, section 26.1: trials of a fixed length.

A shared machine has hiccups: a rate holds where two of three trials have it. What counts is what arrived within the
time that the slower side took; what a trial offered is the rate that its sender kept, whatever was asked of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.traffic import UdpResult

LOSS = 0.001
STEPS = 9
LEAST = 500.0  # datagrams a second

Trial = Callable[[float], UdpResult]


class Found(NamedTuple):
    """The best trial without loss, None where there was none, and the one that sent as much as it could."""

    best: UdpResult | None
    overload: UdpResult


def search(trial: Trial, narrow: float) -> Found:
    """Search; trial(rate) sends at rate, trial(0) as fast as it goes.

    It ends between a rate that holds and one that does not, where their ratio is narrow.
    """
    overload = trial(0)
    best = _holds(trial, 0, overload)
    if best is not None:
        return Found(best, overload)
    low, high = 0.0, overload.offered
    rate = min(overload.rate, high * 0.9)  # what arrives under overload is a good first guess
    for _ in range(STEPS):
        held = _holds(trial, rate)
        if held is None:
            high = rate
        else:
            low = rate
            if best is None or held.rate > best.rate:
                best = held
        if high < low * narrow or high < LEAST:
            break
        rate = (low + high) / 2
    return Found(best, overload)


def _holds(trial: Trial, rate: float, first: UdpResult | None = None) -> UdpResult | None:
    """Return the slower of two trials without loss, where there are two among three."""
    held: list[UdpResult] = []
    lost = 0
    while len(held) < 2 and lost < 2:
        result = trial(rate) if first is None else first
        first = None
        if result.loss <= LOSS:
            held.append(result)
        else:
            lost += 1
    return min(held, key=lambda each: each.rate) if len(held) == 2 else None
