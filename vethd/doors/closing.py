"""Close what other users' processes have sent, where nobody waits for it.

A close may take as long as the sender likes: a socket that lingers, a file of a FUSE server. That also holds for
descriptors in a message that nobody has received: closing the connection closes them, in the thread that closes it. So
connections and descriptors of callers that are not administrators are closed by threads, a few for each user.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

THREADS = 4
"""The most threads that close things for one user at the same time."""

_SCM_MAX_FD = 253
_SPACE = socket.CMSG_SPACE(_SCM_MAX_FD * struct.calcsize("i"))


def receive(connection: socket.socket, size: int, fds: list[int]) -> tuple[bytes, bool]:
    """Receive one message of at most size bytes; return it, and whether it is whole.

    All its fds, close-on-exec, are added to fds before any error can occur: the kernel would close here, for as long as
    that takes, what has no room.
    """
    data, ancillary, flags, _ = connection.recvmsg(size, _SPACE, socket.MSG_CMSG_CLOEXEC)
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += [number[0] for number in struct.iter_unpack("i", value[: len(value) // 4 * 4])]
    return data, not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)


class Closer:
    """Closes descriptors by threads; those of one user wait for each other, and nobody else's do."""

    def __init__(self) -> None:
        """Begin without threads; call on the loop, as all methods."""
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, deque[tuple[Sequence[int], asyncio.Future[None]]]] = {}
        self._running: dict[int, int] = {}

    def close(self, uid: int, fds: Sequence[int], connection: socket.socket | None = None) -> asyncio.Future[None]:
        """Close fds and a connection of that user; the returned future is done when they are closed.

        The connection is shut down at once: the caller reads its end, and can send no more.
        """
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            fds = [*fds, connection.detach()]
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(uid, deque()).append((fds, done))
        if self._running.get(uid, 0) < THREADS:
            self._running[uid] = self._running.get(uid, 0) + 1
            self._next(uid)
        return done

    def _next(self, uid: int) -> None:
        """Start a thread for what waits next; the thread before it has ended."""
        waiting = self._waiting.get(uid)
        if not waiting:
            self._waiting.pop(uid, None)
            self._running[uid] -= 1
            if not self._running[uid]:
                del self._running[uid]
            return
        fds, done = waiting.popleft()

        def closed() -> None:
            if not done.done():
                done.set_result(None)
            self._next(uid)

        def close() -> None:
            for fd in fds:
                with suppress(OSError):
                    os.close(fd)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(closed)

        threading.Thread(target=close, name="vethd-close", daemon=True).start()
