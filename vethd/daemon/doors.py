"""Open and close both doors together, any number of times; the listening sockets stay."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from vethd.daemon.sockets import Sockets
from vethd.doors.callers import Caller
from vethd.doors.fdpass import FdDoor
from vethd.doors.http import HttpDoor
from vethd.doors.routing import Api


class Doors:
    """The control socket and the fd-passing socket. While they are closed, callers wait in the backlog."""

    def __init__(self, api: Api, sockets: Sockets, special: Callable[[socket.socket, Caller, bytes], bool]) -> None:
        """Begin with both closed; special is passed to FdDoor."""
        self._api = api
        self._sockets = sockets
        self._special = special
        self._open: tuple[HttpDoor, FdDoor] | None = None

    async def open(self) -> None:
        """Start to serve on both sockets."""
        http = HttpDoor(self._api)
        await http.start(self._sockets.control.dup())
        self._open = http, FdDoor(self._api, self._sockets.fdpass.dup(), self._special)

    async def close(self) -> None:
        """Stop serving: end the streams, give requests in progress a second. A second call does nothing."""
        if self._open is not None:
            (http, fd_door), self._open = self._open, None
            await asyncio.gather(http.close(), fd_door.close())
