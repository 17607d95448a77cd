"""The first 100 ms of a daemon that takes over: start to forward before the rest of the daemon is imported.

The module imports only what this needs. See memory/takeover.py for the method.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from vethd.daemon.loop import LoopFactory, new_event_loop

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from vethd.datapath.engine import Engine
    from vethd.memory.takeover import HeldPair

FIRST_FD = 3  # SD_LISTEN_FDS_START
_SWITCH_S = 0.0005  # how long an import may delay the loop's next frame; Python's default is ten times that


@dataclass
class Early:
    """The inherited fds, and the pairs that already forward. loop is set if the engine needs one."""

    passed: dict[str, int] = field(default_factory=dict)
    engine: Engine | None = None
    held: dict[str, HeldPair] = field(default_factory=dict)
    loop: AbstractEventLoop | None = None
    after_ms: float = 0.0  # from the start of the process until the last wire ran

    def loop_factory(self) -> LoopFactory:
        """Return a function that makes the daemon's loop, or returns the one that already runs the wires."""
        loop = self.loop
        if loop is not None:
            return lambda: loop
        return new_event_loop

    def let_go(self) -> None:
        """Stop forwarding, before another engine or process continues. Frames wait in the devices meanwhile."""
        if self.engine is not None:
            self.engine.close()
        self.held.clear()


def begin(early: Early, rest: str) -> None:
    """Forward the pairs that a predecessor left, then import the module rest. Without a record, only note passed fds.

    From then on SIGTERM raises SystemExit, so that frames that were read are written before the exit.
    """
    early.passed = passed_fds()
    if not any(name in early.passed for name in ("s0", "s1")):
        return
    signal.signal(signal.SIGTERM, _end)
    _forward(early)
    if early.loop is None:
        return
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        early.loop.run_until_complete(early.loop.run_in_executor(None, import_module, rest))
    finally:
        sys.setswitchinterval(interval)


def _end(_number: int, _frame: object) -> None:
    sys.exit(0)


def _forward(early: Early) -> None:
    from vethd.memory.takeover import hold, read_record, same_engine  # noqa: PLC0415  only where there is a record

    def loop() -> AbstractEventLoop:
        early.loop = Early().loop_factory()()
        return early.loop

    record, _ = read_record(early.passed)
    if record is None or not record.pairs:
        return
    early.engine = same_engine(record, loop)
    if early.engine is not None:
        hold(record, early.passed, early.engine, early.held, gro=record.engine is None or record.engine.gro)
        early.after_ms = since_start_ms()


def passed_fds() -> dict[str, int]:
    """Return the fds that systemd passed, by name, as close-on-exec, and remove the variables from the environment.

    The sockets have the names "control" and "fdpass"; fds from the fd store have the names under which they were
    stored. An fd without a name, or with a name that is already in use, gets a name from its number: no code takes it,
    and Memory.drop_rest() closes it.
    """
    pid, count, names = (os.environ.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    passed: dict[str, int] = {}
    if pid != str(os.getpid()) or not count.isdigit():
        return passed
    given = names.split(":")
    for number in range(int(count)):
        fd = FIRST_FD + number
        try:
            os.set_inheritable(fd, False)
        except OSError:  # nothing is open there
            continue
        name = given[number] if number < len(given) else ""
        passed[name if name and name not in passed else f"fd {fd}"] = fd
    return passed


def since_start_ms() -> float:
    """Return the age of this process in ms: since fork, about 1 ms before exec; the kernel counts ticks of 10 ms."""
    with open("/proc/self/stat", encoding="ascii") as stat:  # noqa: PTH123 - pathlib takes 10 ms to import
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return round((time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")) * 1000, 1)
