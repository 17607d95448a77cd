"""The machine that is measured on: what it is, and what its processes use."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

MIB = 1 << 20


def describe() -> dict[str, str | int | float]:
    """Say where figures come from."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "kernel": platform.release(),
        "cpu": model[0].partition(": ")[2] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / MIB, 1),
        "python": platform.python_version(),
    }


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def cpu_s(pid: int) -> float:
    """Read the CPU time that a process has used, all threads, dead ones too; clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def rss_mib(pid: int) -> float:
    """Read a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
