"""What is measured on a line: TCP and UDP rates, round trips, and what they cost the forwarder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from tests.benchmarks.data import Figure, median
from tests.benchmarks.line import Line
from tests.benchmarks.lossless import search
from tests.benchmarks.traffic import UdpResult
from tests.lib import ethtool
from tests.lib.lab import End
from tests.lib.machine import cpu_s
from tests.lib.programs import Iperf3, Pings, ping
from tests.lib.wait import wait_until

GBIT, GB, MILLION, KILO = 1e9, 1e9, 1e6, 1e3
INTERLEAVED = 4
GSO_SEGMENTS = 32
IDLE_S = 5.0
TCP_REPEATS = 2
RR_WARMUP_S = 0.02


class Length(NamedTuple):
    """How long measurements are: seconds, how often what is bimodal is begun anew, and lossless.search()'s narrow."""

    tcp_s: float
    warmup_s: float
    trial_s: float
    rr_s: float
    iperf3_s: float
    idle_s: float
    repeats: int
    pings: int
    narrow: float


FULL = Length(
    tcp_s=0.8, warmup_s=0.3, trial_s=0.25, rr_s=0.1, iperf3_s=1, idle_s=5.0, repeats=6, pings=500, narrow=1.04
)
QUICK = Length(
    tcp_s=0.4, warmup_s=0.2, trial_s=0.1, rr_s=0.1, iperf3_s=1, idle_s=1.0, repeats=1, pings=100, narrow=1.15
)

Run = Callable[[Line, Length], dict[str, float]]


class Measure(NamedTuple):
    """A measurement and the figures that it gives.

    about_gro: it is also of interest with coalescing off. brief: in a short run it is for all, the others are for
    the kernel and vethd alone. once: one round is enough.
    """

    name: str
    figures: tuple[Figure, ...]
    run: Run
    about_gro: bool = False
    brief: bool = False
    once: bool = False


def _tcp(key: str, flows: int, line: Line, length: Length, *, both: bool = False) -> dict[str, float]:
    runs = [
        line.traffic.tcp(length.tcp_s, warmup=length.warmup_s, flows=flows, both=both)
        for _ in range(min(length.repeats, TCP_REPEATS))
    ]
    arrived = sum(each.bytes for each in runs)
    found = {key: arrived * 8 / sum(each.seconds for each in runs) / GBIT}
    if arrived:
        found[f"{key}_busy"] = sum(each.busy_s for each in runs) / (arrived / GB)
        if line.pids:
            found[f"{key}_cpu"] = sum(each.cpu_s for each in runs) / (arrived / GB)
    return found


def _tcp_without_gso(line: Line, length: Length) -> dict[str, float]:
    with _off(line.wire.a, "tso", "gso"):
        return _tcp("tcpnogso", 1, line, length)


class Datagrams(NamedTuple):
    """What a sender of UDP sends: bytes of payload, how many flows, how many datagrams a system call."""

    size: int
    flows: int = 1
    segments: int = 1


def _udp(key: str, what: Datagrams, line: Line, length: Length) -> dict[str, float]:
    def trial(rate: float) -> UdpResult:
        return line.traffic.udp(length.trial_s, what.size, rate, flows=what.flows, segments=what.segments)

    found = search(trial, length.narrow)
    figures = {key: found.best.rate / KILO if found.best else 0.0, f"{key}_over": found.overload.rate / KILO}
    if line.pids and found.best:
        figures[f"{key}_cpu"] = found.best.cpu_s / (found.best.received / MILLION)
    return figures


def _rr(key: str, line: Line, length: Length, *, apart: bool = False) -> dict[str, float]:
    """Begin a few times anew: where the scheduler puts the two, on one CPU or on two, it often leaves them."""
    runs = [line.traffic.rr(length.rr_s, warmup=RR_WARMUP_S, apart=apart) for _ in range(length.repeats)]
    return {f"{key}_p50": median([each.p50_us for each in runs]), f"{key}_p99": median([each.p99_us for each in runs])}


def _rr_under_load(line: Line, length: Length) -> dict[str, float]:
    got = line.traffic.rr(length.tcp_s, warmup=length.warmup_s, load=True)
    return {"rrload_p50": got.p50_us, "rrload_p99": got.p99_us}


def _iperf3(key: str, line: Line, length: Length, *args: str) -> dict[str, float]:
    """Run iperf3 as people do; what counts is what its server received."""
    with Iperf3.serving(line.wire.b.netns, line.far_ip) as iperf3:
        end = iperf3.measure(line.wire.a.netns, "-t", f"{length.iperf3_s:g}", *args)
    if "-u" not in args:
        return {key: end["sum_received"]["bits_per_second"] / GBIT}
    whole = end["sum"]
    return {key: (whole["packets"] - whole["lost_packets"]) / whole["seconds"] / KILO}


def _ping_under_load(line: Line, length: Length) -> dict[str, float]:
    with line.traffic.loaded():
        return _ping("pingload", line, length, "-i", "0.002")


def _ping(key: str, line: Line, length: Length, *args: str) -> dict[str, float]:
    def whole() -> Pings | None:
        """Ping; for the last answers it waits twice as long as any other took, which on a busy machine is too short."""
        got = ping(line.wire.a.netns, *args, "-c", str(length.pings), line.far_ip)
        return got if got.received == got.sent else None

    got = wait_until(whole, what="a ping with all its answers")
    assert got is not None
    return {key: got.rtt_ms * 1e3}


def _idle(line: Line, length: Length) -> dict[str, float]:
    if not line.pids:
        return {}
    before = sum(map(cpu_s, line.pids))
    time.sleep(length.idle_s)  # the measurement itself: what it uses while nothing happens
    return {"idle": (sum(map(cpu_s, line.pids)) - before) * IDLE_S / length.idle_s}


@contextlib.contextmanager
def _off(end: End, *features: str) -> Iterator[None]:
    """Turn offloads of a device off, and on again those that were on."""
    asked = {"tso": ethtool.GTSO, "gso": ethtool.GGSO}
    had = [name for name in features if ethtool.value(end.netns, end.name, asked[name])]
    for name in had:
        end.netns.command("ethtool", "-K", end.name, name, "off")
    try:
        yield
    finally:
        for name in reversed(had):
            end.netns.command("ethtool", "-K", end.name, name, "on")


def _tcp_measure(name: str, title: str, run: Run, *, about_gro: bool = False, brief: bool = False) -> Measure:
    figures = (
        Figure(key=name, title=f"{title}, Gbit/s"),
        Figure(key=f"{name}_cpu", title=f"CPU of the forwarder, s per GB of {title}", more_is_better=False),
        Figure(key=f"{name}_busy", title=f"CPU of the whole machine, s per GB of {title}", more_is_better=False),
    )
    return Measure(name, figures, run, about_gro, brief)


def _udp_measure(name: str, title: str, what: Datagrams, *, brief: bool = False) -> Measure:
    cost = f"CPU of the forwarder, s per million of {title}"
    figures = (
        Figure(key=name, title=f"{title}, lossless, thousand/s"),
        Figure(key=f"{name}_over", title=f"{title}, arriving under overload, thousand/s"),
        Figure(key=f"{name}_cpu", title=cost, more_is_better=False),
    )
    return Measure(name, figures, partial(_udp, name, what), about_gro=True, brief=brief)


def _rr_measure(name: str, title: str, run: Run, *, brief: bool = False) -> Measure:
    figures = [Figure(key=f"{name}_{key}", title=f"{title}, {key}, us", more_is_better=False) for key in ("p50", "p99")]
    return Measure(name, tuple(figures), run, brief=brief)


def _iperf3_measure(name: str, title: str, unit: str, *args: str) -> Measure:
    def run(line: Line, length: Length) -> dict[str, float]:
        return _iperf3(name, line, length, *args)

    return Measure(name, (Figure(key=name, title=f"{title}, received, {unit}"),), run)


def _ping_measure(name: str, title: str, *args: str) -> Measure:
    def run(line: Line, length: Length) -> dict[str, float]:
        return _ping(name, line, length, *args)

    return Measure(name, (Figure(key=name, title=f"{title}, average, us", more_is_better=False),), run)


PING_LOAD = Figure(key="pingload", title="ping, 500 a second, beside TCP, average, us", more_is_better=False)
IDLE = Figure(key="idle", title=f"CPU of the forwarder, s in {IDLE_S:.0f} s of idleness", more_is_better=False)

MEASURES = (
    _tcp_measure("tcp1", "TCP 1 flow", partial(_tcp, "tcp1", 1), about_gro=True, brief=True),
    _tcp_measure("tcp4", "TCP 4 flows", partial(_tcp, "tcp4", 4)),
    _tcp_measure("tcpboth", "TCP both ways at once", partial(_tcp, "tcpboth", 1, both=True)),
    _tcp_measure("tcpnogso", "TCP, sender without GSO", _tcp_without_gso, about_gro=True),
    _udp_measure("udp64", "UDP 64 B", Datagrams(64), brief=True),
    _udp_measure("udp64x4", "UDP 64 B, 4 flows", Datagrams(64, flows=INTERLEAVED)),
    _udp_measure("udp1400", "UDP 1400 B", Datagrams(1400)),
    _udp_measure("udpgso", f"UDP 1400 B, {GSO_SEGMENTS} a send", Datagrams(1400, segments=GSO_SEGMENTS)),
    _iperf3_measure("iperf3", "iperf3, TCP", "Gbit/s"),
    _iperf3_measure("iperf3udp64", "iperf3 -u -b 0 -l 64", "thousand/s", "-u", "-b", "0", "-l", "64"),
    _iperf3_measure("iperf3udp1400", "iperf3 -u -b 0 -l 1400", "thousand/s", "-u", "-b", "0", "-l", "1400"),
    _ping_measure("ping", "ping, 1,000 a second", "-i", "0.001"),
    _ping_measure("pinga", "ping, one after the other", "-A"),
    _rr_measure("rr", "UDP request and response", partial(_rr, "rr"), brief=True),
    _rr_measure("rrapart", "UDP request and response, on two CPUs", partial(_rr, "rrapart", apart=True)),
    _rr_measure("rrload", "UDP request and response, beside TCP", _rr_under_load),
    Measure("pingload", (PING_LOAD,), _ping_under_load),
    Measure("idle", (IDLE,), _idle, brief=True, once=True),
)
