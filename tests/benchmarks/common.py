"""What every benchmark does alike: options, the machine's description, rounds in turn, tables, JSON, clearing away.

Two sides are measured in one run and by turns, the order changing from round to round: a busy or throttled machine is
then busy for both. Figures are medians; a ratio is the median of the ratios of the rounds, neighbours in time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from tests.lib.backends import ENGINE, KernelVeth, Vethd
from tests.lib.daemon import Daemon
from tests.lib.lab import Lab
from tests.lib.leaks import PREFIX, Traces
from tests.lib.netns import Netns, setns

T = TypeVar("T")
MIB = 1 << 20


class Options(NamedTuple):
    """What the command line said."""

    rounds: int
    quick: bool


class Result(NamedTuple):
    """What a benchmark found: tables by their titles, and the figures behind them, for JSON."""

    tables: Mapping[str, str]
    figures: Mapping[str, Any]


class Benchmark(NamedTuple):
    """A benchmark: its name, what it is about, how to run it, and how many rounds it has, and has with --quick."""

    name: str
    about: str
    run: Callable[[Options], Result]
    rounds: int
    quick_rounds: int


def main(*benchmarks: Benchmark) -> None:
    """Run benchmarks as the command line says, print their tables, and write their figures."""
    about = benchmarks[0].about if len(benchmarks) == 1 else "All benchmarks, one after the other."
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    said = parser.parse_args()
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        parser.exit(1, "benchmarks make namespaces and TAP devices: run them as root, with /dev/net/tun\n")
    where = machine()
    print(f"Linux {where['kernel']}, {where['cpus']} x {where['cpu']}, {where['memory_gib']} GiB, ", end="")
    print(f"Python {where['python']}, engine {where['engine']}")
    figures = {}
    for each in benchmarks:
        load = round(os.getloadavg()[0], 2)
        rounds = said.rounds or (each.quick_rounds if said.quick else each.rounds)
        result = each.run(Options(rounds, said.quick))
        print(f"\n# {each.name}: {rounds} rounds; load average before them {load}")
        for title, text in result.tables.items():
            print(f"\n## {title}\n{text}" if title else f"\n{text}", flush=True)
        figures[each.name] = {"rounds": rounds, "load_1min": load, **result.figures}
    if said.json is not None:
        said.json.write_text(json.dumps({"machine": where, "figures": figures}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "kernel": platform.release(),
        "cpu": model[0].partition(": ")[2] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / MIB, 1),
        "python": platform.python_version(),
        "engine": ENGINE,
    }


@contextlib.contextmanager
def benches() -> Iterator[tuple[Lab, Lab, Daemon]]:
    """Give a bench of the kernel's veth and one of a daemon of its own, cleared away whatever happens."""
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(vethd())
        before = Traces.now(backend.home)
        stack.callback(before.assert_nothing_left, backend.home)
        kernel, ours = Lab(KernelVeth(backend.home)), Lab(backend)
        stack.callback(kernel.clear)
        stack.callback(ours.clear)
        yield kernel, ours, backend.daemon


@contextlib.contextmanager
def vethd() -> Iterator[Vethd]:
    """Run a daemon in a namespace of its own. SIGTERM unwinds as Ctrl-C does; a second one does not stop that."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_unwinding())
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="vethd-bench-"))
        home = Netns.create(f"{PREFIX}home")
        stack.callback(home.delete)
        backend = Vethd(home, Path(directory))
        stack.callback(backend.close)
        yield backend


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    def interrupt(number: int, _frame: object) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        sys.stderr.write("\nclearing away\n")
        raise SystemExit(128 + number)

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def in_turn(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure every side once a round, each round beginning with the next one."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(sides[name]())
    return found


@contextlib.contextmanager
def inside(netns: Netns) -> Iterator[None]:
    """Work in netns, which then is the caller's own, as it is the daemon's."""
    with Path("/proc/self/ns/net").open() as before, netns.path.open() as there:
        setns(there.fileno())
        try:
            yield
        finally:
            setns(before.fileno())


def median(values: Sequence[float]) -> float:
    """Give the median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def span(call: Callable[[], object]) -> float:
    """Give the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the median of the rounds' ratios."""
    return median([a / b for a, b in zip(ours, theirs, strict=True) if b])


def p99(values: Sequence[float]) -> float:
    """Give the 99th percentile: the value that one in a hundred exceeds; of few values the greatest."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))] if values else float("nan")


def cpu_s(pid: int) -> float:
    """Read the CPU seconds that a process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Read a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


Cell = str | int | float


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Give a table; the first column is text."""
    texts = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    lines = [
        "  ".join(text.ljust(width) if not column else text.rjust(width) for column, (text, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in texts)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"  # noqa: PLR0124 - NaN
    return str(value)
