"""Engines by name, and the choice that "auto" makes on this machine."""

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
"""The names for a config or a command line. "auto" chooses the best engine that works on this machine."""


class Picked(NamedTuple):
    """An engine, and the reason why "auto" did not choose the preferred engine, "" if it is the preferred one."""

    engine: Engine
    fallback: str = ""


def pick_engine(name: str, loop: asyncio.AbstractEventLoop, workers: int = 0, spin_us: int = SPIN_US) -> Picked:
    """Make the engine of this name; workers 0 is a number that suits the machine.

    asyncio ignores workers and spin_us. Raises ValueError for a name that is not in ENGINES and for numbers out of
    range, and VethError EOPNOTSUPP, with the reason, if native is requested and cannot run here.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: expected one of {', '.join(ENGINES)}")
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
    """Like pick_engine(), without the reason."""
    return pick_engine(name, loop, workers, spin_us).engine


def keep_or_pick(
    running: Engine | None, name: str, loop: asyncio.AbstractEventLoop, workers: int, spin_us: int
) -> Picked:
    """Like pick_engine(), but return the running engine if it is the one that would be picked.

    Its deaths are reported on loop from then on. If another engine is returned, the caller closes the running one.
    """
    if isinstance(running, SpinningEngine):
        if name in ("auto", running.name) and running.workers == (workers or automatic_workers()):
            running.set_spin(spin_us)
            running.attach(loop)
            return Picked(running)
    elif running is not None:
        if name == running.name:
            return Picked(running)
        from vethd.datapath.native import why_not  # noqa: PLC0415  asyncio does not need it

        if name == "auto" and (obstacle := why_not()) is not None:
            return Picked(running, obstacle)
    return pick_engine(name, loop, workers, spin_us)


def automatic_workers() -> int:
    """Return how many workers suit this machine: half of our CPUs, because senders and receivers need some."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _native(loop: asyncio.AbstractEventLoop, workers: int, spin_us: int) -> Engine | str:
    """Make the native engine, or return the reason why it cannot be made."""
    from vethd.datapath.native import NativeEngine, why_not  # noqa: PLC0415  asyncio does not need it

    obstacle = why_not()
    if obstacle is not None:
        return obstacle
    try:
        return NativeEngine(loop, workers, spin_us)
    except OSError as error:  # built, but memory or descriptors are short
        return f"its workers cannot be created ({error.strerror or error})"
