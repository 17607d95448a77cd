"""Engines by name, and the choice that "auto" makes on this machine."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import NamedTuple

from vethd.datapath.aio import AsyncioEngine
from vethd.datapath.engine import Engine, ThreadedEngine
from vethd.model.api import FORMER_ENGINES, MODERATION_US, MODERATION_US_MAX, SPIN_US, SPIN_US_MAX, WORKERS_MAX
from vethd.model.errors import VethError

ENGINES = ("auto", "native", "asyncio")
"""The names for a config or a command line. "auto" chooses the best engine that works on this machine."""


class Asked(NamedTuple):
    """An engine by name, and the settings of its threads, which asyncio does not have.

    workers 0 is a number that suits the machine. spin_us and moderation_us are those of ThreadedEngine.
    """

    name: str = "auto"
    workers: int = 0
    spin_us: int = SPIN_US
    moderation_us: int = MODERATION_US


class Picked(NamedTuple):
    """An engine, and the reason why "auto" did not choose the preferred engine, "" if it is the preferred one."""

    engine: Engine
    fallback: str = ""


def pick_engine(asked: Asked, loop: asyncio.AbstractEventLoop) -> Picked:
    """Make the engine that is asked for.

    Raises ValueError for a name that is neither in ENGINES nor in FORMER_ENGINES and for numbers out of range, and
    VethError EOPNOTSUPP, with the reason, if native is requested and cannot run here.
    """
    asked = checked(asked)
    if asked.name == "asyncio":
        return Picked(AsyncioEngine(loop))
    engine = _native(asked, loop)
    if not isinstance(engine, str):
        return Picked(engine)
    if asked.name == "auto":
        return Picked(AsyncioEngine(loop), engine)
    raise VethError(errno.EOPNOTSUPP, "engine", "native", engine)


def checked(asked: Asked) -> Asked:
    """Return asked with today's name and a number of workers. Raises ValueError as pick_engine() does."""
    name = FORMER_ENGINES.get(asked.name, asked.name)
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: expected one of {', '.join(ENGINES)}")
    limits = {"workers": WORKERS_MAX, "spin_us": SPIN_US_MAX, "moderation_us": MODERATION_US_MAX}
    for key, most in limits.items():
        if not 0 <= (value := getattr(asked, key)) <= most:
            raise ValueError(f"{key} {value} is outside 0..{most}")
    return asked._replace(name=name, workers=asked.workers or automatic_workers())


def keep_or_pick(running: Engine | None, asked: Asked, loop: asyncio.AbstractEventLoop) -> Picked:
    """Like pick_engine(), but return the running engine if it is the one that would be picked.

    Its deaths are reported on loop from then on. If another engine is returned, the caller closes the running one.
    """
    asked = checked(asked)
    if isinstance(running, ThreadedEngine):
        if asked.name in ("auto", running.name) and running.workers == asked.workers:
            running.set_times(asked.spin_us, asked.moderation_us)
            running.attach(loop)
            return Picked(running)
    elif running is not None:
        if asked.name == running.name:
            return Picked(running)
        from vethd.datapath.native import why_not  # noqa: PLC0415  asyncio does not need it

        if asked.name == "auto" and (obstacle := why_not()) is not None:
            return Picked(running, obstacle)
    return pick_engine(asked, loop)


def automatic_workers() -> int:
    """Return how many workers suit this machine: half of our CPUs, because senders and receivers need some."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _native(asked: Asked, loop: asyncio.AbstractEventLoop) -> Engine | str:
    """Make the native engine, or return the reason why it cannot be made."""
    from vethd.datapath.native import NativeEngine, why_not  # noqa: PLC0415  asyncio does not need it

    obstacle = why_not()
    if obstacle is not None:
        return obstacle
    try:
        return NativeEngine(loop, asked.workers, asked.spin_us, asked.moderation_us)
    except OSError as error:  # built, but memory or descriptors are short
        return f"its workers cannot be created ({error.strerror or error})"
