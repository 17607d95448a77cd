"""What a pair carries, and what it costs: iperf3 and ping over the kernel's veth and over vethd, by turns.

TCP is one flow, or four; UDP is offered without a limit, and what arrives counts. cpu_s/GB is what the daemon alone
spends, by /proc/PID/stat; sender and receiver pay for themselves on both sides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tests.benchmarks.common import (
    Benchmark,
    Options,
    Result,
    benches,
    cpu_s,
    in_turn,
    main,
    median,
    ratio,
    table,
)
from tests.lib.lab import Lab, Wire
from tests.lib.programs import Iperf3, ping

GBIT = 1e9
LOSSLESS = 0.001  # iperf3's server itself loses a datagram now and then


class Bench(NamedTuple):
    """One side: a live pair with a server behind it. pid is the daemon's, 0 for the kernel."""

    wire: Wire
    iperf3: Iperf3
    pid: int


class Case(NamedTuple):
    """What is measured: a name with its unit, one measurement, and whether more is better."""

    name: str
    measure: Callable[[Bench], float]


def tcp(seconds: int, *args: str) -> Callable[[Bench], float]:
    """Give a measurement of TCP, in Gbit/s of payload received."""

    def measure(bench: Bench) -> float:
        end = bench.iperf3.measure(bench.wire.a.netns, "-t", str(seconds), *args)
        return float(end["sum_received"]["bits_per_second"]) / GBIT

    return measure


def cpu_per_gb(seconds: int) -> Callable[[Bench], float]:
    """Give a measurement of the daemon's CPU seconds a gigabyte of TCP; 0 for the kernel."""

    def measure(bench: Bench) -> float:
        if not bench.pid:
            return 0.0
        before = cpu_s(bench.pid)
        end = bench.iperf3.measure(bench.wire.a.netns, "-t", str(seconds))
        return (cpu_s(bench.pid) - before) / (float(end["sum_received"]["bytes"]) / GBIT)

    return measure


def udp(seconds: int, size: int) -> Callable[[Bench], float]:
    """Give a measurement of UDP without a limit: thousands of datagrams a second that arrive."""

    def measure(bench: Bench) -> float:
        return _udp(bench, seconds, size, "0")[0] / 1e3

    return measure


def udp_lossless(seconds: int, size: int) -> Callable[[Bench], float]:
    """Give a search for the highest rate, in thousands of datagrams a second, at which none is lost."""

    def measure(bench: Bench) -> float:
        low, high = 0.0, _udp(bench, seconds, size, "0")[0]
        for _ in range(6):
            rate = (low + high) / 2
            arrived, lost = _udp(bench, seconds, size, str(int(rate * size * 8)))
            low, high = (max(low, arrived), high) if lost < LOSSLESS else (low, rate)
        return low / 1e3

    return measure


def rtt(count: int) -> Callable[[Bench], float]:
    """Give a measurement of ping's average, in us."""

    def measure(bench: Bench) -> float:
        return ping(bench.wire.a.netns, "-c", str(count), "-i", "0.002", bench.iperf3.address).rtt_ms * 1e3

    return measure


def _udp(bench: Bench, seconds: int, size: int, rate: str) -> tuple[float, float]:
    """Give datagrams a second that arrived, and the share that was lost."""
    end = bench.iperf3.measure(bench.wire.a.netns, "-u", "-l", str(size), "-b", rate, "-t", str(seconds))
    total = end["sum"]
    arrived = total["packets"] - total["lost_packets"]
    return arrived / total["seconds"], total["lost_packets"] / max(total["packets"], 1)


def cases(*, quick: bool) -> list[Case]:
    """Give what is measured."""
    seconds = 1 if quick else 3
    found = [
        Case("TCP 1 flow, Gbit/s", tcp(seconds)),
        Case("TCP 1 flow, other way, Gbit/s", tcp(seconds, "-R")),
        Case("TCP 4 flows, Gbit/s", tcp(seconds, "-P", "4")),
        Case("UDP 64 B arriving, k/s", udp(seconds, 64)),
        Case("UDP 1400 B arriving, k/s", udp(seconds, 1400)),
        Case("ping average, us", rtt(200 if quick else 1000)),
        Case("daemon, cpu_s/GB of TCP", cpu_per_gb(seconds)),
    ]
    if not quick:
        found += [Case(f"UDP {size} B lossless, k/s", udp_lossless(1, size)) for size in (64, 1400)]
    return found


def bench(stack: contextlib.ExitStack, lab: Lab, pid: int) -> Bench:
    """Set up one side."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    _, far = wire.addresses()
    iperf3 = stack.enter_context(Iperf3.serving(wire.b.netns, far))
    return Bench(wire, iperf3, pid)


def run(said: Options) -> Result:
    """Measure."""
    rows: list[list[str | float]] = []
    figures: dict[str, dict[str, list[float]]] = {}
    with benches() as (kernel, ours, daemon), contextlib.ExitStack() as stack:
        sides = {"kernel": bench(stack, kernel, 0), "vethd": bench(stack, ours, daemon.pid)}
        for name, measure in cases(quick=said.quick):
            found = in_turn(said.rounds, {side: partial(measure, at) for side, at in sides.items()})
            figures[name] = found
            rows.append([name, median(found["kernel"]), median(found["vethd"]), ratio(found["vethd"], found["kernel"])])
    return Result({"": table(["medians", "kernel veth", "vethd", "ratio"], rows)}, figures)


BENCHMARK = Benchmark("throughput", __doc__ or "", run, rounds=5, quick_rounds=2)

if __name__ == "__main__":
    main(BENCHMARK)
