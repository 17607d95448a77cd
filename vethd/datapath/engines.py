"""Engines by name, and which of them "auto" is here."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import NamedTuple

from vethd.datapath.aio import AsyncioEngine
from vethd.datapath.engine import Engine, SpinningEngine
from vethd.model.api import SPIN_US, SPIN_US_MAX, WORKERS_MAX
from vethd.model.errors import VethError

ENGINES = ("auto", "native", "asyncio")
"""What a config or a command line may name. "auto" takes the best that this machine has."""


class Picked(NamedTuple):
    """An engine, and why it is not the one that "auto" would rather have taken, "" where it is."""

    engine: Engine
    fallback: str = ""


def pick_engine(name: str, loop: asyncio.AbstractEventLoop, workers: int = 0, spin_us: int = SPIN_US) -> Picked:
    """Make the engine of that name; workers 0 is as many as suit the machine.

    workers and spin_us are nothing to asyncio. Raises ValueError for a name that is not in ENGINES and for figures out
    of their range, and VethError EOPNOTSUPP, with the reason, where native is asked for and cannot run here.
    """
    if name not in ENGINES:
        raise ValueError(f"no engine {name!r}: one of {', '.join(ENGINES)}")
    for key, value, most in (("workers", workers, WORKERS_MAX), ("spin_us", spin_us, SPIN_US_MAX)):
        if not 0 <= value <= most:
            raise ValueError(f"{key} {value} is outside 0..{most}")
    if name == "asyncio":
        return Picked(AsyncioEngine(loop))
    engine = _native(loop, workers or automatic_workers(), spin_us)
    if not isinstance(engine, str):
        return Picked(engine)
    if name == "auto":
        return Picked(AsyncioEngine(loop), engine)
    raise VethError(errno.EOPNOTSUPP, "engine", "native", engine)


def make_engine(name: str, loop: asyncio.AbstractEventLoop, workers: int = 0, spin_us: int = SPIN_US) -> Engine:
    """As pick_engine(), for who does not ask why."""
    return pick_engine(name, loop, workers, spin_us).engine


def keep_or_pick(
    running: Engine | None, name: str, loop: asyncio.AbstractEventLoop, workers: int, spin_us: int
) -> Picked:
    """As pick_engine(), but give the engine that runs already where it is what would be picked.

    It hears of deaths on loop from then on. Another one is for the caller to close.
    """
    if isinstance(running, SpinningEngine):
        if name in ("auto", running.name) and running.workers == (workers or automatic_workers()):
            running.set_spin(spin_us)
            running.attach(loop)
            return Picked(running)
    elif running is not None:
        if name == running.name:
            return Picked(running)
        from vethd.datapath.native import why_not  # noqa: PLC0415  asyncio does without

        if name == "auto" and (obstacle := why_not()) is not None:
            return Picked(running, obstacle)
    return pick_engine(name, loop, workers, spin_us)


def automatic_workers() -> int:
    """Return how many workers suit this machine: half the CPUs that we may use, for senders and receivers need some."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _native(loop: asyncio.AbstractEventLoop, workers: int, spin_us: int) -> Engine | str:
    """Make the native engine, or say why it cannot be."""
    from vethd.datapath.native import NativeEngine, why_not  # noqa: PLC0415  asyncio does without

    obstacle = why_not()
    if obstacle is not None:
        return obstacle
    try:
        return NativeEngine(loop, workers, spin_us)
    except OSError as error:  # allowed, and yet no room for it: memory, locked memory, descriptors
        return f"its rings cannot be made ({error.strerror or error})"
