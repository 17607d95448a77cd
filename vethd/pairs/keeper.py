"""Outlive the process: the TAPs' fds are held by somebody else, and a record says which is which.

A device lives as long as anybody holds one of its fds. Where there is a Keeper (systemd's fd store), every fd is
handed to it at creation and taken back at deletion, and with them go two small memfds that hold the Record, written by
turns. The next daemon gets all of them, and goes on forwarding: see Manager.adopt().
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Protocol

from vethd.model.record import Record, encode, newest

WRITE_DELAY_S = 0.05  # changes that come together are written once

_COPIES = ("s0", "s1")


class Keeper(Protocol):
    """Somebody who holds fds for us while we are not there. Never blocks, never raises."""

    def keep(self, name: str, fd: int) -> None:
        """Hold a duplicate of fd under that name."""

    def forget(self, name: str) -> None:
        """Let go of what was kept under that name."""


class Memory:
    """What is kept of one manager. Use on the loop."""

    def __init__(self, keeper: Keeper, inherited: Mapping[str, int]) -> None:
        """Read what a predecessor left; inherited holds its fds by name, and is ours from now on."""
        self._keeper = keeper
        self._inherited = dict(inherited)
        self._copies: list[int] = []
        for name in _COPIES:
            fd = self._inherited.pop(name, -1)
            if fd < 0:
                fd = os.memfd_create(f"vethd-{name}", os.MFD_CLOEXEC)
                keeper.keep(name, fd)
            self._copies.append(fd)
        self.record = newest(os.pread(fd, os.fstat(fd).st_size, 0) for fd in self._copies)
        self._seq = self.record.seq if self.record else 0
        self._last_fd = self.record.last_fd if self.record else 0
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, fds: tuple[int, ...]) -> list[str]:
        """Have fds kept; give the names under which they are."""
        names = []
        for fd in fds:
            self._last_fd += 1
            names.append(f"t{self._last_fd}")
            self._keeper.keep(names[-1], fd)
        return names

    def forget(self, names: list[str]) -> None:
        """Have fds kept no longer."""
        for name in names:
            self._keeper.forget(name)

    def take(self, names: list[str]) -> tuple[int, ...]:
        """Give the inherited fds of those names, the caller's from now on. Raises KeyError where one is missing."""
        found = {name: self._inherited[name] for name in names}
        for name in names:
            del self._inherited[name]
        return tuple(found.values())

    def drop_rest(self) -> int:
        """Close and have forgotten what was inherited and not taken: nobody knows what it was. Gives how many."""
        rest, self._inherited = self._inherited, {}
        for name, fd in rest.items():
            os.close(fd)
            self._keeper.forget(name)
        return len(rest)

    def changed(self, snapshot: Callable[[int, int], Record]) -> None:
        """Write soon; snapshot(seq, last_fd) gives the record then."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_DELAY_S, self.write, snapshot)

    def write(self, snapshot: Callable[[int, int], Record]) -> None:
        """Write now, over the older copy."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._seq += 1
        data = encode(snapshot(self._seq, self._last_fd))
        fd = self._copies[self._seq % len(self._copies)]
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))

    def close(self) -> None:
        """Close our own fds; what is kept stays kept."""
        if self._timer is not None:
            self._timer.cancel()
        for fd in self._copies:
            os.close(fd)
        for fd in self._inherited.values():
            os.close(fd)
