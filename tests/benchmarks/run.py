"""What vethd-run costs a program: `python -m tests.benchmarks.run`, as root; it judges nothing.

Calls are measured in C, in turns by itself and under vethd-run, in a namespace whose loopback is up. A pair is made and
deleted by the real ip, on the kernel's veth and under vethd-run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.lib.door import Door
from tests.lib.machine import describe
from tests.lib.netns import Netns
from tests.lib.site import site as make_site

ROUNDS = 5
STARTS = 40
PAIRS = 20
SOURCE = Path(__file__).with_name("calls.c")


def calls(netns: Netns, argv: list[str], env: dict[str, str]) -> dict[str, float]:
    """Run the program, and return nanoseconds a call by name."""
    done = netns.run(subprocess.run, argv, env=env, capture_output=True, text=True, check=True)
    return {name: float(ns) for name, ns in (line.split() for line in done.stdout.splitlines())}


def took_ms(netns: Netns, argv: list[str], env: dict[str, str]) -> float:
    """Run a program once, and return what it took, in milliseconds."""
    start = time.perf_counter()
    netns.run(subprocess.run, argv, env=env, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1e3


def resident_kb(pids: list[int]) -> list[str]:
    """Return resident and own memory of processes, in KB."""
    found = []
    for pid in pids:
        rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        rss, own = (int(rows[key].split()[0]) for key in ("Rss", "Private_Dirty"))
        found.append(f"{rss} KB, {own} KB its own")
    return found


def main() -> None:
    """Measure in turns, and print medians."""
    with tempfile.TemporaryDirectory() as place, make_site(Path(place)) as (site, lab):
        site.start()
        netns = lab.netns("a")
        netns.ip("link set lo up")
        program = Path(place, "calls")
        subprocess.run(["gcc", "-O2", "-o", str(program), str(SOURCE)], check=True)
        door = Door(site, Path(place))
        prefix = [str(Path(sys.executable).with_name("vethd-run"))]
        plain: list[dict[str, float]] = []
        under: list[dict[str, float]] = []
        for _ in range(ROUNDS):
            plain.append(calls(netns, [str(program)], door.env))
            under.append(calls(netns, [*prefix, str(program)], door.env))
        print(describe())
        print(f"{'ns a call':24}{'by itself':>12}{'vethd-run':>12}{'added':>10}")
        for name in plain[0]:
            one, two = (statistics.median(run[name] for run in runs) for runs in (plain, under))
            print(f"{name:24}{one:12.0f}{two:12.0f}{two - one:10.0f}")
        starts = {
            "true": ["true"],
            "vethd-run true": [*prefix, "true"],
            "vethd-run -IS true": [sys.executable, "-IS", "-c", _BARE.format(sys.path), "true"],
        }
        for name, argv in starts.items():
            print(f"{name:24}{statistics.median(took_ms(netns, argv, door.env) for _ in range(STARTS)):12.1f} ms")
        for name, words in {"ip, kernel veth": [], "ip, vethd-run": prefix}.items():
            ip = [*words, "ip", "link"]
            made = [
                took_ms(netns, [*ip, "add", f"a{n}", "type", "veth", "peer", "name", f"b{n}"], door.env)
                for n in range(PAIRS)
            ]
            for n in range(PAIRS):
                took_ms(netns, [*ip, "del", f"a{n}"], door.env)
            print(f"{name:24}{statistics.median(made):12.1f} ms a pair, the start of ip included")
        sleeper = door.start(netns, "sh", "-c", "ip link show >/dev/null; exec sleep 60")
        with suppress(subprocess.TimeoutExpired):
            sleeper.wait(2)
        for line in resident_kb(door.supervisors()):
            print(f"{'supervisor':24}{line}")
        sleeper.kill()
        sleeper.communicate()
        door.wait_over()


_BARE = "import sys; sys.path += {!r}; from vethd.clients.run.launch import main; sys.exit(main())"

if __name__ == "__main__":
    main()
