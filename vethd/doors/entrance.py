"""Accept on a listening socket, ask the kernel who is there, and let in whom there is room for."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from vethd.doors.callers import CONNECTIONS, Caller
from vethd.doors.routing import Api
from vethd.kernel.owner import peer
from vethd.model.api import ErrorBody

PAUSE_S = 0.2  # before the next caller is looked at where no fd is left for him

FULL = ErrorBody(
    code="EDQUOT",
    errno=errno.EDQUOT,
    message=f"connect: no room: a user who is no administrator may have {CONNECTIONS} connections at once",
)

HEAR_S = 1.0  # who was let in so short a time ago may still be about to say what he wants

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_AT_ONCE = 16  # callers a wake-up, so that a storm of them does not hold the datapath's loop


class Entrance:
    """One listening socket's accepting, on the running loop."""

    def __init__(
        self,
        api: Api,
        listener: socket.socket,
        serve: Callable[[socket.socket, Caller], Awaitable[None]],
        refusal: bytes,
    ) -> None:
        """Take over listener, bound and listening.

        serve takes a connection over and returns when it has ended; refusal is said to whom there is no room for.
        """
        self._api = api
        self._listener = listener
        self._serve = serve
        self._refusal = refusal
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unheard: dict[socket.socket, tuple[asyncio.Event, float]] = {}  # who has said nothing, since when
        listener.setblocking(False)
        self._listen()

    def shut(self) -> None:
        """Let nobody in any more; who is inside stays. Twice is once."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    def heard(self, connection: socket.socket) -> None:
        """Take note that somebody has said something. Again is once."""
        if connection in self._unheard:
            self._unheard.pop(connection)[0].set()

    async def hear_out(self) -> None:
        """Wait, after shut(), until all have said something who were let in but HEAR_S ago.

        They had a daemon that runs, and their request may be here already: a hang-up is no answer to that.
        """
        now = self._loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAR_S):
                for event in [event for event, since in self._unheard.values() if since > now - HEAR_S]:
                    await event.wait()

    async def clear(self) -> None:
        """Cancel all that goes on inside, and wait for its end."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:  # callers wait in the backlog, and the loop must not spin meanwhile
                    self._loop.remove_reader(self._listener.fileno())
                    self._loop.call_later(PAUSE_S, self._listen)
                return
            connection.setblocking(False)
            self._let_in(connection)

    def _let_in(self, connection: socket.socket) -> None:
        try:
            caller = self._api.policy.caller(peer(connection))
            if not self._api.room.enter(caller):
                connection.send(self._refusal)
                with suppress(BlockingIOError):
                    connection.recv(1)  # closed with his request unread, he would hear ECONNRESET instead
                connection.close()
                return
        except OSError:  # nobody is there any more
            connection.close()
            return
        self._unheard[connection] = asyncio.Event(), self._loop.time()
        task = self._loop.create_task(self._inside(connection, caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _inside(self, connection: socket.socket, caller: Caller) -> None:
        try:
            with suppress(OSError):
                await self._serve(connection, caller)
        finally:
            self.heard(connection)
            self._api.room.leave(caller)
