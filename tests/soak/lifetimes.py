"""`python -m tests.soak.lifetimes`: make and delete thousands of pairs in every way, and measure how memory grows.

One daemon goes through all ways, one after the other. Its anonymous memory is measured SAMPLES times in each way; a
quarter of the samples is a warm-up. The trend of the rest must be within ROOM_KB, in each way and over all of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.lib.engines import ENGINES, need
from tests.lib.machine import Ticks, describe
from tests.lib.wait import wait_until
from tests.soak.ground import Ground, grounds
from tests.soak.growth import Growth
from tests.soak.lives import WAYS, live

PAIRS = 2000
SAMPLES = 40
WARM_SAMPLES = 10
CLIENTS = 8
ROOM_KB = 512
FILTER = "anon_inode:bpf-map"  # the file of a filter's mapping in /proc/PID/maps
SPARE_THREADS = min(32, (os.cpu_count() or 1) + 4)  # the loop's executor starts its threads one by one


@dataclass(frozen=True)
class Weight:
    """The size of a daemon without pairs."""

    anon_kb: int
    fds: int
    threads: int
    filters: int

    @classmethod
    def of(cls, ground: Ground) -> Weight:
        """Measure the daemon."""
        proc = Path(f"/proc/{ground.daemon.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return cls(
            anon_kb=int(status["RssAnon"].split()[0]),
            fds=ground.daemon.fd_count(),
            threads=int(status["Threads"]),
            filters=(proc / "maps").read_text().count(FILTER),
        )

    def more_than(self, before: Weight) -> list[str]:
        """Return the figures that are larger than before, although only existing pairs should make them larger."""
        figures = {"fds": (before.fds, self.fds), "filters": (before.filters, self.filters)}
        found = [f"{what} {then} -> {now}" for what, (then, now) in figures.items() if now > then]
        if self.threads > before.threads + SPARE_THREADS:
            found.append(f"threads {before.threads} -> {self.threads}")
        return found


@dataclass
class Turn:
    """The figures of one way."""

    name: str
    pairs: int
    seconds: float = 0.0
    growth: Growth = field(default_factory=Growth)

    def row(self) -> str:
        """Return the figures as a row of the table."""
        slope = self.growth.slope()
        each = f"{1000 * self.seconds / self.pairs:7.1f} ms"
        return f"{self.name:<24} {self.pairs:>7,} {each} {slope * self.growth.span:>+7.0f} KB {1024 * slope:>+7.1f} B"


@dataclass
class Course:
    """One daemon, from its start to its end."""

    pairs: int
    names: Sequence[str]
    turns: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the measurements."""
        self.rounds = max(self.pairs // SAMPLES, 1)
        self.whole = Turn("all", 0, growth=self._growth(len(self.names)))
        self.first: Weight | None = None  # after the warm-up of the first way
        self.last: Weight | None = None

    def run(self, ground: Ground, say: Callable[[str], object]) -> None:
        """Go through all ways."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            for name in self.names:
                turn = Turn(name, 0, growth=self._growth(1))
                self.turns.append(turn)
                for sample in range(SAMPLES):
                    self._live(ground, turn, pool)
                    if self.first is None and sample == WARM_SAMPLES:
                        self.first = self.last
                say(f"{turn.row()}  {self.last}")
        self._settle(ground)

    def verdict(self) -> str:
        """Return the faults that were found, "" if there are none."""
        wrong = [f"{turn.name}: {words}" for turn in (*self.turns, self.whole) if (words := turn.growth.verdict())]
        return "; ".join(wrong + self._more())

    def table(self) -> str:
        """Return the table of each way, and of all together."""
        head = f"{'way':<24} {'pairs':>7} {'each':>10} {'growth':>10} {'a pair':>9}"
        rows = [turn.row() for turn in (*self.turns, self.whole)]
        return "\n".join((head, *rows, f"from {self.first}", f"to   {self.last}"))

    def _growth(self, ways: int) -> Growth:
        return Growth(ROOM_KB, ways * WARM_SAMPLES * self.rounds)

    def _live(self, ground: Ground, turn: Turn, pool: ThreadPoolExecutor) -> None:
        began = time.monotonic()
        live(ground, WAYS[turn.name], self.rounds, pool)
        self.last = Weight.of(ground)
        for one in (turn, self.whole):
            one.seconds += time.monotonic() - began
            one.pairs += self.rounds
            one.growth.add(one.pairs, self.last.anon_kb)

    def _more(self) -> list[str]:
        return self.last.more_than(self.first) if self.first and self.last else []

    def _settle(self, ground: Ground) -> None:
        """Wait until the work that the last way left in progress is done, but not for long."""

        def over() -> bool:
            self.last = Weight.of(ground)
            return not self._more()

        with suppress(AssertionError):  # the verdict reports it
            wait_until(over)


def main() -> int:
    """Run the ways of the command line; return 1 if memory is not flat."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.lifetimes", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs of each way, on each engine (default {PAIRS})")
    parser.add_argument("--engine", choices=ENGINES, help="the engine (default: both, one after the other)")
    parser.add_argument("--way", choices=WAYS, action="append", help="a way; can be repeated (default: all)")
    said = parser.parse_args()
    failed = False
    for engine in (said.engine,) if said.engine else ENGINES:
        need(engine)
        before = Ticks.now()
        course = Course(said.pairs, said.way or list(WAYS))
        with (
            tempfile.TemporaryDirectory(prefix="vethd-lives.") as directory,
            grounds(Path(directory), engine) as ground,
        ):
            course.run(ground, lambda line: print(line, file=sys.stderr, flush=True))
        stolen = Ticks.now().stolen_since(before)
        verdict = course.verdict()
        failed = failed or bool(verdict)
        host = describe()
        machine = f"{host['cpus']} x {host['cpu']}, Linux {host['kernel']}"
        print(f"lifetimes: {engine}, {machine}, {stolen:.1%} stolen: {verdict or 'flat'}")
        print(f"{course.table()}\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
