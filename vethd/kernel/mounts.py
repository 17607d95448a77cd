"""Notice that a named namespace may have come or gone: `ip netns add` is a mount, and mounts can be polled.

/proc/self/mountinfo says POLLPRI whenever the mount table changes. Event loops listen for readability alone, so an
epoll instance stands between: it is readable when mountinfo is not quiet.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class MountWatch:
    """Call changed() on the loop after every change of the mount table, and once at the beginning."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Begin to watch."""
        self._loop = loop
        self._changed = changed
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._mountinfo, select.EPOLLPRI | select.EPOLLERR)
        loop.add_reader(self._epoll.fileno(), self._readable)
        # uvloop adds our epoll instance to its own no sooner than it polls next, and that takes note of every change
        # until then without a word: so there is one word for all of them, after that poll.
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
        # Whoever asks mountinfo's poll() takes note of the change, and the loop has asked already, through our epoll
        # instance: what that says now is no news. Asked, it is quiet until the next change.
        self._epoll.poll(0)
        self._changed()
