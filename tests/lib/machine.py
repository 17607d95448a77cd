"""The machine that is measured on: what it is, and what its processes use."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
_STEAL = 7  # of the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal


class Ticks(NamedTuple):
    """Clock ticks of all CPUs since the boot, of which the hypervisor took some away."""

    stolen: int
    all: int

    @classmethod
    def now(cls) -> Ticks:
        """Read /proc/stat."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1 : _STEAL + 2]]
        return cls(ticks[_STEAL], sum(ticks))

    def stolen_since(self, before: Ticks) -> float:
        """Return the share of the CPU time since then that was stolen."""
        return (self.stolen - before.stolen) / max(1, self.all - before.all)


def describe() -> dict[str, str | int | float]:
    """Return what tells one kind of host from another."""
    info = dict(_info(line) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    numbers = [f"{key} {info[key]}" for key in ("cpu family", "model", "stepping") if key in info]
    return {
        "kernel": platform.release(),
        "cpu": info.get("model name") or platform.machine(),
        "cpu_numbers": ", ".join(numbers),  # clouds call many CPUs by one name
        "cpus": len(os.sched_getaffinity(0)),
        "governor": _word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not visible",
        "virtualization": _virtualization(info.get("flags", "").split()),
        "memory_gib": round(memory / MIB, 1),
        "python": platform.python_version(),
    }


def _info(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _word(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _virtualization(flags: list[str]) -> str:
    """Return whether a hypervisor runs this machine and which, as far as the kernel shows it."""
    if "hypervisor" not in flags:
        return "none"
    words = (_word(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    return " ".join(word for word in words if word) or _word("/sys/hypervisor/type") or "a hypervisor"


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def cpu_s(pid: int) -> float:
    """Read the CPU time that a process has used, all threads, dead ones too; clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def rss_mib(pid: int) -> float:
    """Read a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
