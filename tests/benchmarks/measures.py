"""What is measured on a line: TCP and UDP rates, round trips, and what they cost the forwarder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from tests.benchmarks.data import Figure
from tests.benchmarks.line import Line
from tests.benchmarks.lossless import search
from tests.benchmarks.machine import cpu_s
from tests.benchmarks.traffic import UdpResult
from tests.lib import ethtool
from tests.lib.lab import End
from tests.lib.programs import ping

GBIT, GB, MILLION, KILO = 1e9, 1e9, 1e6, 1e3
INTERLEAVED = 4
GSO_SEGMENTS = 32
IDLE_S = 5.0


class Length(NamedTuple):
    """How long measurements are."""

    tcp_s: float
    warmup_s: float
    trial_s: float
    rr_s: float
    pings: int


FULL = Length(tcp_s=1.5, warmup_s=0.4, trial_s=0.25, rr_s=0.8, pings=500)
QUICK = Length(tcp_s=0.7, warmup_s=0.2, trial_s=0.12, rr_s=0.3, pings=150)

Run = Callable[[Line, Length], dict[str, float]]


class Measure(NamedTuple):
    """A measurement and the figures that it gives.

    about_gro: it is also of interest with coalescing off. once: one round is enough.
    """

    name: str
    figures: tuple[Figure, ...]
    run: Run
    about_gro: bool = False
    once: bool = False


def _tcp(key: str, flows: int, line: Line, length: Length, *, both: bool = False) -> dict[str, float]:
    got = line.traffic.tcp(length.tcp_s, warmup=length.warmup_s, flows=flows, both=both)
    found = {key: got.bytes * 8 / got.seconds / GBIT}
    if line.pids and got.bytes:
        found[f"{key}_cpu"] = got.cpu_s / (got.bytes / GB)
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

    found = search(trial)
    figures = {key: found.best.rate / KILO if found.best else 0.0, f"{key}_over": found.overload.rate / KILO}
    if line.pids and found.best:
        figures[f"{key}_cpu"] = found.best.cpu_s / (found.best.received / MILLION)
    return figures


def _rr(key: str, line: Line, length: Length, *, load: bool) -> dict[str, float]:
    got = line.traffic.rr(length.rr_s, warmup=length.warmup_s if load else 0.05, load=load)
    return {f"{key}_p50": got.p50_us, f"{key}_p99": got.p99_us}


def _ping(key: str, line: Line, length: Length, *args: str) -> dict[str, float]:
    got = ping(line.wire.a.netns, *args, "-c", str(length.pings), line.far_ip)
    assert got.received == got.sent, got
    return {key: got.rtt_ms * 1e3}


def _idle(line: Line, length: Length) -> dict[str, float]:  # noqa: ARG001 - the same for all
    if not line.pids:
        return {}
    before = sum(map(cpu_s, line.pids))
    time.sleep(IDLE_S)  # the measurement itself: what it uses while nothing happens
    return {"idle": sum(map(cpu_s, line.pids)) - before}


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


def _tcp_measure(name: str, title: str, run: Run, *, about_gro: bool = False) -> Measure:
    cost = Figure(key=f"{name}_cpu", title=f"CPU of the forwarder, s per GB of {title}", more_is_better=False)
    return Measure(name, (Figure(key=name, title=f"{title}, Gbit/s"), cost), run, about_gro)


def _udp_measure(name: str, title: str, what: Datagrams) -> Measure:
    cost = f"CPU of the forwarder, s per million of {title}"
    figures = (
        Figure(key=name, title=f"{title}, lossless, thousand/s"),
        Figure(key=f"{name}_over", title=f"{title}, arriving under overload, thousand/s"),
        Figure(key=f"{name}_cpu", title=cost, more_is_better=False),
    )
    return Measure(name, figures, partial(_udp, name, what), about_gro=True)


def _times(name: str, title: str, run: Run) -> Measure:
    figures = [Figure(key=f"{name}_{key}", title=f"{title}, {key}, us", more_is_better=False) for key in ("p50", "p99")]
    return Measure(name, tuple(figures), run)


def _ping_measure(name: str, title: str, *args: str) -> Measure:
    def run(line: Line, length: Length) -> dict[str, float]:
        return _ping(name, line, length, *args)

    return Measure(name, (Figure(key=name, title=f"{title}, average, us", more_is_better=False),), run)


IDLE = Figure(key="idle", title=f"CPU of the forwarder, s in {IDLE_S:.0f} s of idleness", more_is_better=False)

MEASURES = (
    _tcp_measure("tcp1", "TCP 1 flow", partial(_tcp, "tcp1", 1), about_gro=True),
    _tcp_measure("tcp4", "TCP 4 flows", partial(_tcp, "tcp4", 4)),
    _tcp_measure("tcpboth", "TCP both ways at once", partial(_tcp, "tcpboth", 1, both=True)),
    _tcp_measure("tcpnogso", "TCP, sender without GSO", _tcp_without_gso, about_gro=True),
    _udp_measure("udp64", "UDP 64 B", Datagrams(64)),
    _udp_measure("udp64x4", "UDP 64 B, 4 flows", Datagrams(64, flows=INTERLEAVED)),
    _udp_measure("udp1400", "UDP 1400 B", Datagrams(1400)),
    _udp_measure("udpgso", f"UDP 1400 B, {GSO_SEGMENTS} a send", Datagrams(1400, segments=GSO_SEGMENTS)),
    _ping_measure("ping", "ping, 1,000 a second", "-i", "0.001"),
    _ping_measure("pinga", "ping, one after the other (-A)", "-A"),
    _times("rr", "UDP request and response", partial(_rr, "rr", load=False)),
    _times("rrload", "UDP request and response, beside a TCP flow", partial(_rr, "rrload", load=True)),
    Measure("idle", (IDLE,), _idle, once=True),
)
