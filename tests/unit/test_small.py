"""What a program does not import, for the sake of small machines (docs/small.md)."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("aiohttp", "pyroute2", "rich", "pygments", "prometheus_client", "xml", "sqlite3", "unittest", "http.client")
PROGRAMS = {
    "vethd.daemon.cli": HEAVY,
    "vethd.control.main": ("asyncio", "structlog", "uvloop", *HEAVY[:-1]),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_imports_nothing_heavy(program: str) -> None:
    code = f"import sys, {program}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60.0)
    assert sorted(set(done.stdout.split()) & set(PROGRAMS[program])) == []
