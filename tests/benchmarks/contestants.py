"""Who takes part: the kernel's veth, vethd with each engine and setting, and the peers.

A contestant of vethd is named ENGINE[:KEY=VALUE[+KEY=VALUE ...]], e.g. "native" or "asyncio:gro=off". The words after
the colon are lines of its daemon's config, or of its pair's table ("native:latency_queue=on").
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tests.benchmarks.accounts import audit
from tests.benchmarks.line import Contestant, Line, Place
from tests.benchmarks.peers import PEERS
from tests.lib.backends import KernelVeth, Vethd
from tests.lib.lab import Lab
from vethd.datapath.engines import ENGINES

OF_PAIR = ("latency_queue",)
REAL_ENGINES = tuple(name for name in ENGINES if name != "auto")


class Kernel(Contestant):
    """drivers/net/veth.c, which all others are measured by."""

    name = "kernel"
    title = "kernel veth"

    def draw(self, place: Place, stack: ExitStack) -> Line:  # noqa: ARG002 - it dies with its namespaces
        """Join the two by a veth."""
        wire = Lab(KernelVeth(place.home)).pair(place.near, place.far)
        wire.up()
        return Line(wire)


class Engine(Contestant):
    """A daemon of vethd with one engine and settings of its own, and one pair."""

    def __init__(self, name: str) -> None:
        """Read a contestant's name. Raises ValueError where it is none."""
        self.name = name
        engine, _, words = name.partition(":")
        if engine not in REAL_ENGINES:
            raise ValueError(f"no contestant {name!r}")
        pairs = [word.partition("=")[::2] for word in words.split("+") if word]
        self.engine = engine
        self.settings = {key: {"on": "true", "off": "false"}.get(value, value) for key, value in pairs}
        self.title = ", ".join([f"vethd {engine}", *(f"{key} {value}" for key, value in pairs)])

    def draw(self, place: Place, stack: ExitStack) -> Line:
        """Start the daemon and make the pair."""
        own: dict[str, Any] = {key: value == "true" for key, value in self.settings.items() if key in OF_PAIR}
        config = {key: value for key, value in self.settings.items() if key not in OF_PAIR}
        self.backend = started(self.engine, place, config)
        stack.callback(self.backend.close)
        wire = Lab(self.backend).pair(place.near, place.far, **own)
        wire.up()
        return Line(wire, [self.backend.daemon.pid])

    def prove(self, line: Line) -> None:
        """Check, from the API's counters, that every frame that was read came to an end that has a name."""
        super().prove(line)
        audit(self.backend.daemon, line.wire)


def started(engine: str, place: Place, settings: dict[str, str]) -> Vethd:
    """Start a daemon in place.home. Raises AssertionError with its log where it does not get well."""
    args = []
    if settings:
        config = place.directory / "vethd.toml"
        config.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        args = ["--config", str(config)]
    return Vethd(place.home, place.directory, engine, *args)


def contestant(name: str) -> Contestant:
    """Return the contestant of that name. Raises ValueError where there is none."""
    peers = {peer.name: peer for peer in PEERS}
    if name in peers:
        return peers[name]()
    return Kernel() if name == Kernel.name else Engine(name)


def everybody() -> list[str]:
    """Name all contestants: with coalescing off, too, each engine is one."""
    coalescing_off = [f"{name}:gro=off" for name in REAL_ENGINES]
    return [Kernel.name, *REAL_ENGINES, *coalescing_off, *(peer.name for peer in PEERS)]
