"""What vethd-ip adds to a command that is not about a veth: `python -m tests.benchmarks.ip`; it judges nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vethd.clients.ip.install import find_real, install

RUNS = 100
COMMAND = ("netns", "list")


def cost_ms(argv: list[str]) -> float:
    """Run a command once and return what it took, in milliseconds."""
    start = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Measure in turns, so that a busy moment meets all alike, and print medians."""
    real = find_real()
    with tempfile.TemporaryDirectory() as directory:
        ours = str(install(Path(directory), real))
        python = str(Path(sys.executable).resolve())
        commands = {
            "the real ip": [real, *COMMAND],
            "vethd-ip": [ours, *COMMAND],
            "Python alone": [python, "-IS", "-c", ""],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, argv in commands.items():
                taken[name].append(cost_ms(argv))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for name, median in medians.items():
        print(f"{name:14}{median:6.1f} ms")
    print(f"{'added':14}{medians['vethd-ip'] - medians['the real ip']:6.1f} ms")


if __name__ == "__main__":
    main()
