"""The fd-passing socket: SOCK_SEQPACKET, one JSON request with file descriptors, one reply.

    {"method": "POST", "path": "/v1/links/va?netns=fd:0", "body": {...}}    + up to FDS_MAX fds (SCM_RIGHTS)
    {"status": 200, "body": {...}}

It serves callers that hold a namespace's fd rather than its name, and scripts without HTTP. A connection carries one
request; if the reply begins a session (a capture), it carries fds as well, and the session lasts as long as the
connection. The daemon closes a connection that sends no request within PATIENCE_S. It closes the fds when the reply is
sent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import parse_qsl

import msgspec

from vethd.doors.callers import Caller
from vethd.doors.closing import receive
from vethd.doors.entrance import FULL, Entrance
from vethd.doors.operations import dispatch
from vethd.doors.routing import BODY_MAX, Api, Call, Reply
from vethd.kernel.netns import is_namespace
from vethd.model.api import ErrorBody

FDS_MAX = 16
PATIENCE_S = 30.0
GRACE_S = 1.0  # for requests in progress when the door closes

_SO_SNDBUFFORCE = 32


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    method: str
    path: str
    body: msgspec.Raw = msgspec.Raw(b"")


class FdDoor:
    """Serves a listening socket on the running loop."""

    def __init__(
        self,
        api: Api,
        listener: socket.socket,
        special: Callable[[socket.socket, Caller, bytes], bool] = lambda *_: False,
    ) -> None:
        """Take over listener, SOCK_SEQPACKET, bound and listening.

        special gets each request first and returns True if it handled it; the connection is closed after that.
        """
        self._api = api
        self._special = special
        self._loop = asyncio.get_running_loop()
        self._entrance = Entrance(api, listener, self._serve, _reply(Reply(403, FULL)))
        self._answers: set[asyncio.Task[Reply]] = set()

    async def close(self) -> None:
        """Stop serving; requests in progress get GRACE_S to finish."""
        self._entrance.shut()
        await self._entrance.hear_out()
        if self._answers:
            await asyncio.wait(self._answers, timeout=GRACE_S)
        await self._entrance.clear()

    async def _serve(self, connection: socket.socket, caller: Caller) -> None:
        fds: list[int] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._readable(connection)
            data = _receive(connection, fds)
            if data and not self._special(connection, caller, data):
                answer = self._loop.create_task(self._answer(data, fds, caller))
                self._answers.add(answer)
                answer.add_done_callback(self._answers.discard)
                self._entrance.heard(connection)
                await self._finish(connection, await answer)
        except (TimeoutError, OSError):
            pass  # no request came, or the caller has hung up
        finally:
            self._entrance.heard(connection)
            strange = _close_namespaces(fds)
            if caller.admin and not strange:
                connection.close()
                closed = None
            else:
                closed = self._entrance.closer.close(caller.uid, strange, connection)
        if closed is not None:
            await closed  # it counts as one of the caller's connections until then

    async def _finish(self, connection: socket.socket, reply: Reply) -> None:
        """Send the reply; if it begins a session, keep the connection open until either side ends it."""
        if reply.session is None:
            _send(connection, _reply(reply))
            return
        try:
            socket.send_fds(connection, [_reply(reply)], reply.session.fds)
            self._loop.add_reader(connection.fileno(), reply.session.end)
            try:
                await reply.session.ended
            finally:
                self._loop.remove_reader(connection.fileno())
        finally:
            reply.session.close()

    async def _answer(self, data: bytes, fds: list[int], caller: Caller) -> Reply:
        try:
            request = msgspec.json.decode(data, type=_Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Reply(400, ErrorBody(code="EINVAL", errno=errno.EINVAL, message=f"request: {error}"))
        path, _, query = request.path.partition("?")
        call = Call(self._api, caller, {}, dict(parse_qsl(query, keep_blank_values=True)), None, fds)
        return await dispatch(call, request.method, path, bytes(request.body))

    async def _readable(self, connection: socket.socket) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(connection.fileno(), wake)
        try:
            await ready
        finally:
            self._loop.remove_reader(connection.fileno())


def _close_namespaces(fds: list[int]) -> list[int]:
    """Close the fds that are namespaces, which never blocks; return the others."""
    strange = [fd for fd in fds if not is_namespace(fd)]
    for fd in set(fds).difference(strange):
        os.close(fd)
    return strange


def _reply(reply: Reply) -> bytes:
    return msgspec.json.encode({"status": reply.status, "body": reply.body})


def _receive(connection: socket.socket, fds: list[int]) -> bytes:
    """Receive a request and its fds; refuse one that is too big, and return b""."""
    data, whole = receive(connection, BODY_MAX, fds)
    if whole and len(fds) <= FDS_MAX:
        return data
    connection.send(_too_big(f"a request may have at most {BODY_MAX} bytes and {FDS_MAX} file descriptors"))
    return b""


def _send(connection: socket.socket, reply: bytes) -> None:
    """Send the reply as one message, which must fit into the send buffer. Raises OSError if the caller has hung up."""
    for option in (socket.SO_SNDBUF, _SO_SNDBUFFORCE):  # up to the limit of every user, then beyond it if we may
        try:
            connection.send(reply)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        else:
            return
        with suppress(PermissionError):
            connection.setsockopt(socket.SOL_SOCKET, option, 2 * len(reply))
    try:
        connection.send(reply)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        connection.send(_too_big(f"the reply of {len(reply)} bytes is too long here: use the control socket"))


def _too_big(message: str) -> bytes:
    return _reply(Reply(413, ErrorBody(code="E2BIG", errno=errno.E2BIG, message=message)))
