"""The first 100 ms of a daemon that takes over: frames flow before the rest of it is imported.

Imports nothing at its head that is not needed for that. See memory/takeover.py for how.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from uvloop import Loop

    from vethd.datapath.engine import Engine
    from vethd.memory.takeover import HeldPair

FIRST_FD = 3  # SD_LISTEN_FDS_START
_SWITCH_S = 0.0005  # how long an import may keep the loop from a frame; Python's own figure is ten times that


@dataclass
class Early:
    """What was inherited, and what forwards already. loop is there where the engine needs one."""

    passed: dict[str, int] = field(default_factory=dict)
    engine: Engine | None = None
    held: dict[str, HeldPair] = field(default_factory=dict)
    loop: Loop | None = None
    after_ms: float = 0.0  # since the process began, when the last wire did

    def loop_factory(self) -> Callable[[], Loop]:
        """Return what makes the daemon's loop, or gives the one that runs the wires."""
        loop = self.loop
        if loop is not None:
            return lambda: loop
        import uvloop  # noqa: PLC0415  as late as can be

        return uvloop.new_event_loop

    def let_go(self) -> None:
        """Stop forwarding: another engine is to go on, or process. Frames wait in the devices meanwhile."""
        if self.engine is not None:
            self.engine.close()
        self.held.clear()


def begin(early: Early, rest: str) -> None:
    """Forward what a predecessor left, then import the module rest; without one, only tell what was passed.

    SIGTERM raises SystemExit from then on, so that what was read is written first.
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
    """Return the fds that systemd passed, by name, close-on-exec, and take the variables out of the environment.

    Sockets come as "control" and "fdpass", what was put into the fd store as it was named then. One without a name,
    or with that of another, is called after its number: nobody takes it, and it is found when the rest is cleared.
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
    """Return the age of this process: exec is some 1 ms younger, and the kernel tells its birth in ticks of 10 ms."""
    with open("/proc/self/stat", encoding="ascii") as stat:  # noqa: PTH123 - pathlib takes 10 ms to import
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return round((time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")) * 1000, 1)
