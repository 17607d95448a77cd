"""Many pairs in one daemon: what a busy one carries beside the idle ones, what they cost, how long they take.

Beside it as many veths of the kernel's, made by rtnetlink. The idle pairs are in the daemon's own namespace, all up.
The last table is of pairs between two other namespaces: there each end has to be moved, an rcu_barrier each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tests.benchmarks.accounts import audit
from tests.benchmarks.crowd import Crowd
from tests.benchmarks.data import median
from tests.benchmarks.extra import KERNEL, Extra, Setting, labs, span
from tests.benchmarks.line import Line
from tests.benchmarks.measures import FULL, IDLE_S, MEASURES, QUICK
from tests.benchmarks.tables import Cell, Table
from tests.benchmarks.traffic import Traffic
from tests.lib.backends import Vethd
from tests.lib.lab import Lab
from tests.lib.machine import cpu_s, rss_mib
from tests.lib.sockets import ping

STAGES, QUICK_STAGES = (1, 10, 100, 1000), (1, 10)
ROUNDS, QUICK_ROUNDS = 3, 1
BUSY = ("tcp1", "udp64", "rr")
KIB_IN_MIB = 1024
TITLES = {"tcp1": "TCP, Gbit/s", "udp64": "UDP 64 B lossless, thousand/s", "rr": "UDP round trip p50, us"}

Stage = dict[str, Any]
Sides = dict[str, list[Stage]]


class Side:
    """One side: a busy line, and a crowd of idle pairs around it."""

    def __init__(self, name: str, lab: Lab, setting: Setting, stack: ExitStack) -> None:
        """Draw the busy line."""
        self.name = name
        self.lab = lab
        self.crowd = Crowd(lab, stack)
        self.idle_s = (QUICK if setting.quick else FULL).idle_s
        near, far = lab.netns("a"), lab.netns("b")
        wire = lab.pair(near, far)
        wire.up()
        ends = wire.addresses()
        self.pid = lab.backend.daemon.pid if isinstance(lab.backend, Vethd) else 0
        self.line = Line(wire, [self.pid] if self.pid else [], *ends)
        self.line.traffic = Traffic(setting.directory / "traffic", near, far, *ends)
        self.line.traffic.pids = self.line.pids
        ping(near, ends[0], far, ends[1])

    def grow(self, pairs: int) -> Stage:
        """Have so many pairs, the busy one counted; tell what that took and what they cost."""
        added = pairs - 1 - self.crowd.count
        took = span(lambda: self.crowd.grow(added)) if added else 0.0
        stage: Stage = {"pairs": pairs, "added": added, "added_s": took, **{key: [] for key in BUSY}}
        if isinstance(self.lab.backend, Vethd):
            self.crowd.settled(self.pid)
            before = cpu_s(self.pid)
            time.sleep(self.idle_s)  # the measurement itself: what it uses while nothing happens
            daemon = self.lab.backend.daemon
            idle = (cpu_s(self.pid) - before) * IDLE_S / self.idle_s
            stage |= {"idle_cpu_s": idle, "rss_mib": rss_mib(self.pid), "fds": daemon.fd_count()}
        return stage


def measure(setting: Setting) -> dict[str, Any]:
    """Measure stage by stage, the sides by turns."""
    found: dict[str, Any] = {"sides": {}, "elsewhere": {}}
    stages = QUICK_STAGES if setting.quick else STAGES
    with labs(setting, *setting.engines) as benches, ExitStack() as stack:
        sides = [Side(name, lab, setting, stack) for name, lab in benches.items()]
        found["sides"] = {side.name: {"stages": []} for side in sides}
        for pairs in stages:
            now = {side.name: side.grow(pairs) for side in sides}
            for number in range(QUICK_ROUNDS if setting.quick else ROUNDS):
                _busy(number, sides, now)
            for side in sides:
                found["sides"][side.name]["stages"].append(now[side.name])
                told = ", ".join(f"{key} {median(now[side.name][key]):.4g}" for key in BUSY)
                print(f"scale, {pairs} pairs, {side.name}: {told}", flush=True)
        for side in sides:
            found["sides"][side.name]["deleted_s"] = span(side.crowd.clear)
    with labs(setting, "auto") as benches, ExitStack() as stack:
        for name, lab in benches.items():
            crowd = Crowd(lab, stack, lab.netns("a"), lab.netns("b"))
            made = span(lambda crowd=crowd: crowd.grow(stages[-1]))  # type: ignore[misc]
            found["elsewhere"][name] = {"pairs": stages[-1], "added_s": made, "deleted_s": span(crowd.clear)}
    return found


def _busy(number: int, sides: Sequence[Side], now: dict[str, Stage]) -> None:
    for measure_ in MEASURES:
        if measure_.name not in BUSY:
            continue
        for side in reversed(sides) if number % 2 else sides:
            now[side.name][measure_.name].append(next(iter(measure_.run(side.line, QUICK).values())))
            if isinstance(side.lab.backend, Vethd):
                audit(side.lab.backend.daemon, side.line.wire)


def tables(found: dict[str, Any]) -> list[Table]:
    """Return what the busy pair carries and what pairs cost, and how long they take."""
    sides: Sides = {name: side["stages"] for name, side in found["sides"].items()}
    head = [
        "pairs",
        "",
        *TITLES.values(),
        "pairs made per second",
        "MiB",
        "KiB per pair",
        f"CPU s in {IDLE_S:.0f} s idle",
        "descriptors",
    ]
    rows = [
        _row(name, stages[number], stages[0]) for number in range(len(sides[KERNEL])) for name, stages in sides.items()
    ]
    took: list[list[Cell]] = []
    for name, stages in sides.items():
        where = f"{name}, {stages[-1]['pairs'] - 1:,} in the daemon's namespace"
        took.append([where, sum(each["added_s"] for each in stages), found["sides"][name]["deleted_s"]])
    for name, each in found["elsewhere"].items():
        took.append([f"{name}, {each['pairs']:,} between two other namespaces", each["added_s"], each["deleted_s"]])
    return [Table("scale", head, rows), Table("scale_time", ["", "made and up, s", "deleted, s"], took)]


def _row(name: str, stage: Stage, first: Stage) -> list[Cell]:
    more = stage["pairs"] - first["pairs"]
    made = stage["added"] / stage["added_s"] if stage["added"] else math.nan
    costs: list[Cell] = [math.nan] * 4
    if name != KERNEL:
        each = (stage["rss_mib"] - first["rss_mib"]) * KIB_IN_MIB / more if more else math.nan
        costs = [stage["rss_mib"], each, stage["idle_cpu_s"], stage["fds"]]
    return [f"{stage['pairs']:,}", name, *(median(stage[key]) for key in BUSY), made, *costs]


EXTRA = Extra("scale", ("scale", "scale_time"), measure, tables)
