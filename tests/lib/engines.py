"""Engines for tests that make their own: each by its name, on a loop; or the one that VETHD_ENGINE names."""

from __future__ import annotations

import asyncio
import importlib
import os
from types import ModuleType

import pytest

from vethd.datapath.aio import AsyncioEngine
from vethd.datapath.engine import Engine
from vethd.datapath.native import NativeEngine, why_not
from vethd.model.api import FORMER_ENGINES

_NAMED = os.environ.get("VETHD_ENGINE", "auto")
_FORCED = FORMER_ENGINES.get(_NAMED, _NAMED)

ENGINES = ("asyncio", "native") if _FORCED == "auto" else (_FORCED,)
"""What a test of engines runs on: VETHD_ENGINE leaves one of them."""

_AUTO = "native" if why_not() is None else "asyncio"

ENGINE = _AUTO if _FORCED == "auto" else _FORCED
"""The engine of a daemon that a test starts for another reason than its engine: VETHD_ENGINE's, or what "auto" is."""


def need(name: str) -> None:
    """Refuse to go on where an engine cannot run: in CI that is a failure, elsewhere the test is skipped."""
    why = why_not() if name != "asyncio" else None
    if why is not None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"no engine {name}: {why}")


def make(name: str, loop: asyncio.AbstractEventLoop, workers: int = 1, spin_us: int = 50) -> Engine:
    """Make the engine of that name, workers and spin_us are nothing to asyncio."""
    need(name)
    if name == "asyncio":
        return AsyncioEngine(loop)
    return NativeEngine(loop, workers, spin_us)


def native() -> ModuleType:
    """Return vethd.datapath._native, which need not be built everywhere."""
    need("native")
    return importlib.import_module("vethd.datapath._native")
