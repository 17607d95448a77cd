"""What the daemon's process holds: descriptors, threads, memory. And what it should hold, exactly, at a standstill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.lib.rtnl import Link
from tests.soak.growth import Growth

THREADS_MAX = 16  # pairs/workers.py makes up to 11 by and by; the loop's, an engine's
BUSY_FDS = 48  # beside its own and the devices': requests, births, what is looked at; at any moment
IDLE_FDS = 6  # the same with nobody asking: a connection that is just being closed, threads' sockets
TUN = "tun"


def descriptors(pid: int) -> list[str]:
    """Say what each descriptor of a process is; "tun" for a TAP's queue. Raises OSError where it is gone.

    What /dev/net/tun is called in /proc/PID/fd depends on whose /dev that was, and whether it is still mounted.
    """
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            is_tap = "\niff:" in Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
            found.append(TUN if is_tap else str(fd.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


@dataclass(frozen=True)
class Process:
    """One look at a process."""

    pid: int
    fds: tuple[str, ...]
    threads: int
    rss_kb: int

    @classmethod
    def look(cls, pid: int) -> Self | None:
        """Look; None where it is going or gone."""
        try:
            fds = descriptors(pid)
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            return cls(pid, tuple(fds), int(status["Threads"]), int(status["VmRSS"].split()[0]))
        except (OSError, KeyError):
            return None

    @property
    def taps(self) -> int:
        """How many of its descriptors are TAP queues."""
        return self.fds.count(TUN)


@dataclass
class Weigher:
    """Weighs every daemon of a run, one life after the other. own_fds is what a daemon without a pair has."""

    own_fds: int
    most_fds: int = 0
    most_rss_kb: int = 0
    most_threads: int = 0
    life: Growth = field(default_factory=Growth)
    _pid: int = 0
    _born: int = 0

    def look(self, process: Process, work: int) -> Iterator[str]:
        """Take a sample of the daemon as it is, at work; say what is too much. work is pairs made in the whole run."""
        if process.pid != self._pid:
            self._pid, self._born, self.life = process.pid, work, Growth()
        self.most_fds = max(self.most_fds, len(process.fds))
        self.most_rss_kb = max(self.most_rss_kb, process.rss_kb)
        self.most_threads = max(self.most_threads, process.threads)
        self.life.add(work - self._born, process.rss_kb)
        if process.threads > THREADS_MAX:
            yield f"{process.threads} threads"
        if len(process.fds) - process.taps > self.own_fds + BUSY_FDS:
            yield f"{len(process.fds)} descriptors, {process.taps} of them TAPs': {_kinds(process)}"
        if verdict := self.life.verdict():
            yield verdict

    def idle(self, process: Process, queues: int) -> Iterator[str]:
        """Say what is not exact of a daemon that nobody asks for anything, with so many queues of living pairs."""
        if process.taps != queues:
            yield f"the daemon has {process.taps} descriptors of TAPs, the living pairs have {queues} queues"
        if len(process.fds) - process.taps > self.own_fds + IDLE_FDS:
            yield f"{len(process.fds)} descriptors, {self.own_fds} of them its own at first: {_kinds(process)}"


def _kinds(process: Process) -> dict[str, int]:
    """Count descriptors by what they are: "socket", "net", "tun"."""
    kinds = [name.partition(":")[0] for name in process.fds]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def link_faults(told: Mapping[str, Any], link: Link | None) -> Iterator[str]:
    """Say where the API and the kernel disagree about a link, at a standstill."""
    name = told["name"]
    if link is None:
        yield f"{name} of {told['pair']} is not in {told['netns']}"
        return
    same = {
        "ifindex": (told["ifindex"], link.ifindex),
        "mtu": (told["mtu"], link.mtu),
        "ring": (told["ring"], link.txqueuelen),
        "up": (told["up"], link.up),
        "address": (told["address"], link.address),
        "carrier": (told["carrier"], link.carrier),
        "qdisc": ("noqueue", link.qdisc),
        "altnames": ((), link.altnames),
    }
    for what, (api, kernel) in same.items():
        if api != kernel:
            yield f"{name} in {told['netns']}: {what} should be {api}, is {kernel}"
