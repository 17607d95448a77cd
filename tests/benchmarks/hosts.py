"""Kinds of hosts: the ratios are a property of the host, so the file of one run is kept for each kind that was met."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.data import Run
from tests.benchmarks.tables import Cell, cell, markdown
from tests.benchmarks.targets import ASYNCIO, KERNEL, NATIVE

SHOWN = (
    "tcp1", "tcp4", "tcpnogso", "iperf3", "udp64", "udp64_over", "udp64x4", "udp1400", "udpgso", "iperf3udp64", "pinga",
    "rr_p50", "rrload_p50",
)  # fmt: skip
HEADLINE = {"tcp1": "one TCP flow", "udp64": "64-byte datagrams without loss"}


def name(run: Run) -> str:
    """Return a run's kind of host as a file's name without its suffix."""
    words = f"{run.machine['cpu']} {run.machine.get('cpu_numbers', '')} {run.machine['cpus']} cpus"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def title(run: Run) -> str:
    """Return a run's kind of host for people."""
    numbers = run.machine.get("cpu_numbers")
    return f"{run.machine['cpus']} x {run.machine['cpu']}{f' ({numbers})' if numbers else ''}"


def keep(run: Run, directory: Path) -> list[Run]:
    """Store a run in place of an earlier one on the same kind of host, and return those of all kinds."""
    directory.mkdir(parents=True, exist_ok=True)
    run.save(directory / f"{name(run)}.json")
    return [Run.load(path) for path in sorted(directory.glob("*.json"))]


def table(runs: Sequence[Run]) -> str:
    """Return the ratios to the kernel's veth on every kind of host."""
    figures = {figure.key: figure for run in runs for figure in run.figures}
    rows: list[list[Cell]] = []
    for key in SHOWN:
        ratios = [run.ratio(engine, KERNEL, key) for run in runs for engine in (NATIVE, ASYNCIO)]
        if not all(map(math.isnan, ratios)):
            rows.append([figures[key].title.rpartition(", ")[0], *ratios])
    stolen = [cell for run in runs for cell in (f"{run.stolen():.1%}", "")]
    rows.append(["CPU time stolen", *stolen])
    return markdown(["times veth", *(f"{title(run)}, {engine}" for run in runs for engine in (NATIVE, ASYNCIO))], rows)


def headline(runs: Sequence[Run]) -> str:
    """Return the README's sentence: the range of the most telling ratios, and on which hosts."""
    parts = [f"{words} at {_range(runs, NATIVE, key)}" for key, words in HEADLINE.items()]
    python = " and ".join(_range(runs, ASYNCIO, key) for key in HEADLINE)
    return (
        f"Measured beside the kernel's veth in the same run, on {'; '.join(map(title, runs))}: {' and '.join(parts)} "
        f"of veth's rate, in pure Python at {python}."
    )


def _range(runs: Sequence[Run], engine: str, key: str) -> str:
    ratios = sorted(ratio for run in runs if not math.isnan(ratio := run.ratio(engine, KERNEL, key)))
    shown = list(dict.fromkeys(cell(ratio) for ratio in ratios[:1] + ratios[-1:]))
    return " to ".join(shown) or "-"
