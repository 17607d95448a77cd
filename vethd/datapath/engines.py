"""Engines by name."""

from __future__ import annotations

import asyncio

from vethd.datapath.aio import AsyncioEngine
from vethd.datapath.engine import Engine

ENGINES = ("auto", "asyncio")
"""What a config or a command line may name. "auto" takes the best that this machine has."""


def make_engine(name: str, loop: asyncio.AbstractEventLoop) -> Engine:
    """Make the engine of that name. Raises ValueError for a name that is not in ENGINES."""
    if name not in ENGINES:
        raise ValueError(f"no engine {name!r}: one of {', '.join(ENGINES)}")
    return AsyncioEngine(loop)
