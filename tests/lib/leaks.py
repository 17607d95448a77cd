"""Proof that a test left nothing: descriptors, threads, children, devices and namespaces, before and after."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.lib.netns import RUN_NETNS, Netns
from tests.lib.wait import wait_until

PREFIX = f"vt-{os.getpid()}-"


@dataclass(frozen=True)
class Traces:
    """What a test may leave behind."""

    descriptors: frozenset[str]
    threads: frozenset[str]
    children: frozenset[str]
    devices: frozenset[str]
    namespaces: frozenset[str]

    @classmethod
    def now(cls, home: Netns | None = None) -> Traces:
        """Look at this process, at the devices of home (default: its own namespace), and at its namespaces."""
        return cls(
            frozenset(_entries("/proc/self/fd")),
            frozenset(thread.name for thread in threading.enumerate()),
            frozenset(_children()),
            frozenset((home or Netns("")).names()),
            frozenset(name for name in _entries(RUN_NETNS) if name.startswith(PREFIX)),
        )

    def more_than(self, before: Traces) -> list[str]:
        """Name what is here now and was not before."""
        found = []
        for kind, now in vars(self).items():
            found += [f"{kind}: {what}" for what in sorted(now - vars(before)[kind])]
        return found

    def assert_nothing_left(self, home: Netns | None = None) -> None:
        """Wait until nothing is here that was not here before. Raises AssertionError with its names."""
        left: list[str] = []

        def clean() -> bool:
            left[:] = Traces.now(home).more_than(self)
            return not left

        try:
            wait_until(clean)
        except AssertionError as error:
            raise AssertionError(f"left behind: {left}") from error


def _entries(directory: str | Path) -> list[str]:
    """List a directory; one that is not there is empty."""
    try:
        return [path.name for path in Path(directory).iterdir()]
    except FileNotFoundError:
        return []


def _children() -> list[str]:
    """Return the PIDs of this process's children, whichever thread started them."""
    out: list[str] = []
    for task in _entries("/proc/self/task"):
        try:
            out += Path(f"/proc/self/task/{task}/children").read_text().split()
        except FileNotFoundError:  # the thread ended meanwhile
            continue
    return out
