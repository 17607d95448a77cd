"""The socket that takes file descriptors: SOCK_SEQPACKET, one JSON request with fds, one reply.

    {"method": "POST", "path": "/v1/links/va?netns=fd:0", "body": {...}}    + up to FDS_MAX fds (SCM_RIGHTS)
    {"status": 200, "body": {...}}

For callers that hold a namespace rather than its name, and for scripts that should not speak HTTP. One request a
connection; a caller that says nothing is hung up on after PATIENCE_S. The fds are closed when the reply is sent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import suppress
from urllib.parse import parse_qsl

import msgspec

from vethd.doors.operations import dispatch
from vethd.doors.routing import BODY_MAX, Api, Call, Reply
from vethd.model.api import ErrorBody

FDS_MAX = 16
PATIENCE_S = 30.0
PAUSE_S = 0.2  # before the next caller is looked at where no fd is left for him

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SO_SNDBUFFORCE = 32


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    method: str
    path: str
    body: msgspec.Raw = msgspec.Raw(b"")


class FdDoor:
    """Serves a listening socket on the running loop."""

    def __init__(self, api: Api, listener: socket.socket) -> None:
        """Take over listener, SOCK_SEQPACKET, bound and listening."""
        self._api = api
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._listen()

    async def close(self) -> None:
        """Stop serving, what is under way included."""
        self._loop.remove_reader(self._listener.fileno())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:  # callers wait in the backlog, and the loop must not spin meanwhile
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(PAUSE_S, self._listen)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        fds: list[int] = []
        with connection:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._readable(connection)
                data = _receive(connection, fds)
                if data:
                    reply = await self._answer(data, fds)
                    _send(connection, msgspec.json.encode({"status": reply.status, "body": reply.body}))
            except (TimeoutError, OSError):
                return  # nothing said, or nobody there
            finally:
                for fd in fds:
                    os.close(fd)

    async def _answer(self, data: bytes, fds: list[int]) -> Reply:
        try:
            request = msgspec.json.decode(data, type=_Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Reply(400, ErrorBody(code="EINVAL", errno=errno.EINVAL, message=f"request: {error}"))
        path, _, query = request.path.partition("?")
        call = Call(self._api, {}, dict(parse_qsl(query, keep_blank_values=True)), None, fds)
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


def _receive(connection: socket.socket, fds: list[int]) -> bytes:
    """Receive one message; its fds are added to fds, close-on-exec, before anything can fail."""
    space = socket.CMSG_SPACE(FDS_MAX * struct.calcsize("i"))
    flags = socket.MSG_CMSG_CLOEXEC
    data, ancillary, message_flags, _ = connection.recvmsg(BODY_MAX, space, flags)
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += [number[0] for number in struct.iter_unpack("i", value[: len(value) // 4 * 4])]
    if message_flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        connection.send(_too_big(f"a request has at most {BODY_MAX} bytes and {FDS_MAX} file descriptors"))
        return b""
    return data


def _send(connection: socket.socket, reply: bytes) -> None:
    """Send the reply as one message, which the send buffer must hold whole. Raises OSError where nobody is there."""
    for option in (socket.SO_SNDBUF, _SO_SNDBUFFORCE):  # as far as anybody may, then as far as we may
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
        connection.send(_too_big(f"the reply has {len(reply)} bytes, too many here: ask the control socket"))


def _too_big(message: str) -> bytes:
    body = ErrorBody(code="E2BIG", errno=errno.E2BIG, message=message)
    return msgspec.json.encode({"status": 413, "body": body})
