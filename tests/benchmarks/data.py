"""What a run found, as it stands in its file. Everything that is published is made from such a file alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number of a measure: its key, what it is called with its unit, and whether more is better."""

    key: str
    title: str
    more_is_better: bool = True


class Entrant(msgspec.Struct, kw_only=True):
    """Who took part, and, where not or not to the end, why."""

    name: str
    title: str
    version: str = ""
    absent: str = ""


class Sample(msgspec.Struct, kw_only=True):
    """What one measurement gave: figures by their keys; stolen is the share of CPU time that the hypervisor took."""

    round: int
    measure: str
    contestant: str
    figures: dict[str, float]
    stolen: float = 0.0


class Run(msgspec.Struct, kw_only=True):
    """A whole run. extras are what benchmarks beside the contest found, by their names."""

    command: str
    started: str
    seconds: float = 0.0
    rounds: int
    quick: bool
    load_before: float
    load_after: float = 0.0
    machine: dict[str, str | int | float]
    figures: list[Figure] = []
    entrants: list[Entrant] = []
    samples: list[Sample] = []
    extras: dict[str, Any] = {}

    def values(self, contestant: str, key: str) -> dict[int, float]:
        """Return a contestant's values of a figure, by round."""
        return {
            each.round: each.figures[key]
            for each in self.samples
            if each.contestant == contestant and key in each.figures
        }

    def median(self, contestant: str, key: str) -> float:
        """Return the median of a figure; NaN where there is none."""
        return median(list(self.values(contestant, key).values()))

    def ratio(self, contestant: str, other: str, key: str) -> float:
        """Return the median of the rounds' ratios between two contestants; NaN where there is none."""
        mine, theirs = self.values(contestant, key), self.values(other, key)
        return median([mine[n] / theirs[n] for n in mine if theirs.get(n)])

    def stolen(self) -> float:
        """Return the mean share of CPU time that was stolen during the measurements."""
        return statistics.fmean(each.stolen for each in self.samples) if self.samples else 0.0

    def bound(self, contestant: str, other: str, key: str) -> float:
        """Return the TCP rate, Gbit/s, at which both ends and the forwarder would use up all CPUs; NaN if unknown.

        The ends cost what the whole machine spends per GB with the other, which is to have no forwarder.
        """
        cost = self.median(other, f"{key}_busy") + self.median(contestant, f"{key}_cpu")
        return 8 * float(self.machine["cpus"]) / cost

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        beside = path.with_name(path.name + ".new")
        beside.write_bytes(msgspec.json.encode(self) + b"\n")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read the file. Raises OSError, and msgspec.MsgspecError where it is not one of ours."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


def median(values: Sequence[float]) -> float:
    """Return the median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")
