"""Engines for tests that make their own: each by its name, on a loop; or the one that VETHD_ENGINE names."""

from __future__ import annotations

import asyncio
import importlib
import os
from types import ModuleType
from unittest.mock import patch

import pytest

from vethd.datapath import uring
from vethd.datapath.aio import AsyncioEngine
from vethd.datapath.engine import Engine

_FORCED = os.environ.get("VETHD_ENGINE", "auto")

ENGINES = ("asyncio", "uring") if _FORCED == "auto" else (_FORCED,)
"""What a test of engines runs on: VETHD_ENGINE leaves one of them."""

PLAIN = "uring-plain"
"""The native engine as it is where the tun driver takes no RWF_NOWAIT: docs/datapath.md."""

FLAVOURS = (*ENGINES, PLAIN) if "uring" in ENGINES else ENGINES

_AUTO = "uring" if uring.why_not() is None else "asyncio"

ENGINE = _AUTO if _FORCED == "auto" else _FORCED
"""The engine of a daemon that a test starts for another reason than its engine: VETHD_ENGINE's, or what "auto" is."""


def need(name: str) -> None:
    """Refuse to go on where an engine cannot run: in CI that is a failure, elsewhere the test is skipped."""
    why = uring.why_not() if name != "asyncio" else None
    if why is not None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"no engine {name}: {why}")


def make(name: str, loop: asyncio.AbstractEventLoop, workers: int = 1, spin_us: int = 50) -> Engine:
    """Make the engine of that name, one of FLAVOURS; workers and spin_us are nothing to asyncio."""
    need(name)
    if name == "asyncio":
        return AsyncioEngine(loop)
    if name == PLAIN:
        with patch.object(uring, "plain", return_value=True):
            return uring.UringEngine(loop, workers, spin_us)
    return uring.UringEngine(loop, workers, spin_us)


def native() -> ModuleType:
    """Return vethd.datapath._uring, which need not be built everywhere."""
    need("uring")
    return importlib.import_module("vethd.datapath._uring")
