"""Detects that a named namespace may have been added or deleted: `ip netns add` is a mount, and mounts can be polled.

/proc/self/mountinfo reports POLLPRI whenever the mount table changes. Event loops wait only for readability, so they
wait for an epoll instance: it is readable when mountinfo reports a change.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class MountWatch:
    """Calls changed() on the loop after every change of the mount table, and once at the beginning."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Start watching."""
        self._loop = loop
        self._changed = changed
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._mountinfo, select.EPOLLPRI | select.EPOLLERR)
        loop.add_reader(self._epoll.fileno(), self._readable)
        # uvloop adds our epoll instance to its own only when it polls next. This marks every change until then as seen
        # without reporting it. So changed() is called once for all of them, after that poll.
        self._first = loop.call_soon(self._polling)

    def close(self) -> None:
        """Stop watching."""
        self._first.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._mountinfo)

    def _polling(self) -> None:
        self._first = self._loop.call_soon(self._changed)

    def _readable(self) -> None:
        # mountinfo's poll() marks the change as seen, and the loop has already called it through our epoll instance.
        # So the result of this poll is ignored; after it, the epoll instance is not readable until the next change.
        self._epoll.poll(0)
        self._changed()
