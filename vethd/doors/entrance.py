"""Accept connections on a listening socket, get the caller's identity from the kernel, and apply connection limits."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from vethd.doors.callers import CONNECTIONS, Caller
from vethd.doors.closing import Closer, receive
from vethd.doors.routing import Api
from vethd.kernel.owner import peer
from vethd.model.api import ErrorBody

log = structlog.get_logger()

PAUSE_S = 0.2  # before the next accept if no fd is left for a connection

FULL = ErrorBody(
    code="EDQUOT",
    errno=errno.EDQUOT,
    message=f"connect: too many connections: a user that is not an administrator may have {CONNECTIONS} at once",
)

HEAR_S = 1.0  # how long after its accept a connection may still be about to send its request

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_HUNG_UP = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
_NOBODY = -1  # the user of a connection that is not identified
_AT_ONCE = 16  # accepts for each wake-up, so that many callers at once do not block the datapath's loop


class Entrance:
    """Accepts connections on one listening socket, on the running loop."""

    def __init__(
        self,
        api: Api,
        listener: socket.socket,
        serve: Callable[[socket.socket, Caller], Awaitable[None]],
        refusal: bytes,
    ) -> None:
        """Take over listener, bound and listening.

        serve takes a connection over and returns when it has ended. refusal is sent on a connection beyond the limit.
        """
        self._api = api
        self._listener = listener
        self._serve = serve
        self._refusal = refusal
        self._loop = asyncio.get_running_loop()
        self.closer = Closer()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unheard: dict[socket.socket, tuple[asyncio.Event, float]] = {}  # no request yet, and time of the accept
        listener.setblocking(False)
        self._listen()

    def shut(self) -> None:
        """Stop accepting; open connections stay. A second call does nothing."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    def heard(self, connection: socket.socket) -> None:
        """Note that a connection's request has arrived. A second call does nothing."""
        if connection in self._unheard:
            self._unheard.pop(connection)[0].set()

    async def hear_out(self) -> None:
        """Wait, after shut(), for the requests of connections accepted within the last HEAR_S.

        They connected to a running daemon and may have sent their request already, so it must be answered.
        """
        now = self._loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAR_S):
                for event in [event for event, since in self._unheard.values() if since > now - HEAR_S]:
                    await event.wait()

    async def clear(self) -> None:
        """Cancel the tasks of all connections, and wait for their end."""
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
                if error.errno in _EXHAUSTED:  # callers wait in the backlog; the loop must not spin meanwhile
                    self._loop.remove_reader(self._listener.fileno())
                    self._loop.call_later(PAUSE_S, self._listen)
                return
            connection.setblocking(False)
            self._let_in(connection)

    def _let_in(self, connection: socket.socket) -> None:
        try:
            caller = self._api.policy.caller(peer(connection))
        except OSError as error:
            if error.errno not in _HUNG_UP:
                log.exception("client not identified")
            self.closer.close(_NOBODY, [], connection)
            return
        if not self._api.room.enter(caller):
            fds: list[int] = []
            with suppress(OSError):
                connection.send(self._refusal)
            with suppress(OSError):
                receive(connection, 1, fds)  # a close with the request unread would give the caller ECONNRESET
            self.closer.close(caller.uid, fds, connection)
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
