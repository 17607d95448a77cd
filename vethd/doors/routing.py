"""Requests, replies, routes, and the HTTP status of each errno: common to both sockets."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from vethd.doors.callers import Caller, Policy, Room
from vethd.pairs.declared import Declared
from vethd.pairs.manager import Manager

BODY_MAX = 64 << 10
"""Bytes of a request body; a pair with every attribute set takes less than 4 KiB."""

BACKLOG = 4096
"""Connections that may wait while the daemon is busy; net.core.somaxconn may allow fewer."""

STATUS = {
    errno.EINVAL: 400,
    errno.ERANGE: 400,
    errno.EADDRNOTAVAIL: 400,
    errno.EOPNOTSUPP: 400,
    errno.ENOTCONN: 400,
    errno.EBADF: 400,
    errno.ENAMETOOLONG: 400,
    errno.EPERM: 403,
    errno.EACCES: 403,
    errno.EDQUOT: 403,
    errno.ENOENT: 404,
    errno.ENODEV: 404,
    errno.ESRCH: 404,
    errno.EEXIST: 409,
    errno.EADDRINUSE: 409,
    errno.EBUSY: 409,
    errno.ENOTUNIQ: 409,
    errno.ESTALE: 409,
    errno.E2BIG: 413,
}


@dataclass
class Api:
    """The objects that the operations use. reload is None if there is no config to read again."""

    manager: Manager
    declared: Declared
    reload: Callable[[], Awaitable[dict[str, int]]] | None = None
    policy: Policy = field(default_factory=Policy)
    room: Room = field(default_factory=Room)
    started: float = field(default_factory=time.monotonic)


class Call(NamedTuple):
    """One request; path holds the variables of its path. The door closes fds."""

    api: Api
    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    fds: Sequence[int] | None


class Session(Protocol):
    """What lives as long as a connection of the fd-passing socket, for which it is the reply's second part."""

    ended: asyncio.Future[None]

    @property
    def fds(self) -> Sequence[int]:
        """The descriptors to send with the reply."""

    def end(self) -> None:
        """Set ended. A second call does nothing."""

    def close(self) -> None:
        """Release what it holds, after ended."""


class Reply(NamedTuple):
    """A status, and a body to encode as JSON, or no body; with a session, the connection stays open until it ends."""

    status: int
    body: Any = None
    session: Session | None = None


Handler = Callable[[Call], Awaitable[Any]]


class Route(NamedTuple):
    """One operation: its method and path, its body and reply types, and whether only administrators may use it.

    {name} in the path is a variable. query has the names of the parameters in the query; a link's netns is not listed.
    """

    method: str
    path: str
    handler: Handler
    body: Any
    reply: Any
    status: int = 200
    admin: bool = False
    query: tuple[str, ...] = ()


class NotFoundError(Exception):
    """The path does not exist, or does not allow the method."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


def find_route(routes: Sequence[Route], method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Find a request's route and its path's variables.

    path is still percent-encoded, as names may contain any character but a slash. Raises NotFoundError.
    """
    parts = path.split("/")
    methods = []
    for route in routes:
        pattern = route.path.split("/")
        if len(pattern) != len(parts):
            continue
        pairs = list(zip(pattern, parts, strict=True))
        if all(want == part or want.startswith("{") for want, part in pairs):
            if route.method == method:
                return route, {want[1:-1]: unquote(part) for want, part in pairs if want.startswith("{")}
            methods.append(route.method)
    if methods:
        raise NotFoundError(405, "METHOD", f"{path} allows {' and '.join(methods)}, not {method}")
    raise NotFoundError(404, "PATH", f"no such path: {path}")
