"""Benchmarks beside the contest: what they share. Figures go into the run's file, tables are made from them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.benchmarks.tables import Table
from tests.lib.backends import KernelVeth, Vethd
from tests.lib.lab import Lab
from tests.lib.leaks import PREFIX, Traces
from tests.lib.netns import Netns, setns

KERNEL = "kernel"
T = TypeVar("T")


class Setting(NamedTuple):
    """What an extra benchmark is run with: the engines to take, a directory with the compiled traffic in it."""

    engines: Sequence[str]
    directory: Path
    quick: bool


class Extra(NamedTuple):
    """A benchmark: measure() gives what JSON can hold, and tables() shows that, in tables of these titles."""

    name: str
    titles: tuple[str, ...]
    measure: Callable[[Setting], Any]
    tables: Callable[[Any], list[Table]]


@contextlib.contextmanager
def labs(setting: Setting, *engines: str) -> Iterator[dict[str, Lab]]:
    """Yield a bench of the kernel's veth and one of a daemon for each engine, all cleared away whatever happens.

    An engine that cannot run here is left out: the contest has said why.
    """
    with ExitStack() as stack:
        stack.callback(Traces.now().assert_nothing_left)
        found = {KERNEL: _lab(stack, KERNEL, KernelVeth)}
        for engine in engines:
            directory = setting.directory / f"lab-{engine}"
            directory.mkdir(exist_ok=True)

            def start(home: Netns, engine: str = engine, directory: Path = directory) -> Vethd:
                return Vethd(home, directory, engine)

            try:
                found[engine] = _lab(stack, engine, start)
            except AssertionError as error:
                print(f"{engine} cannot run: {str(error).strip().splitlines()[-1]}", flush=True)
        yield found


def _lab(stack: ExitStack, name: str, make: Callable[[Netns], KernelVeth | Vethd]) -> Lab:
    with ExitStack() as own:
        home = Netns.create(f"{PREFIX}{name}-home")
        own.callback(home.delete)
        backend = make(home)
        if isinstance(backend, Vethd):
            own.callback(backend.close)
        lab = Lab(backend)
        own.callback(lab.clear)
        stack.enter_context(own.pop_all())
    return lab


@contextlib.contextmanager
def inside(netns: Netns) -> Iterator[None]:
    """Work in netns, which then is the caller's own, as it is the daemon's."""
    with Path("/proc/self/ns/net").open() as before, netns.path.open() as there:
        setns(there.fileno())
        try:
            yield
        finally:
            setns(before.fileno())


def in_turn(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure every side once a round, each round beginning with the next one."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(sides[name]())
    return found


def span(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile: the value that one in a hundred exceeds; of few values the greatest."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))] if values else float("nan")
