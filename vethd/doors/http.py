"""The control socket: HTTP/1.1 and JSON, so that curl works. It also serves the event stream and the metrics."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from urllib.parse import parse_qsl, urlsplit

import msgspec
import structlog

from vethd.doors import rights
from vethd.doors.callers import Caller
from vethd.doors.conversation import BodyError, Conversation, hung_up
from vethd.doors.entrance import FULL, Entrance
from vethd.doors.openapi import schema
from vethd.doors.operations import dispatch
from vethd.doors.routing import Api, Call
from vethd.model.api import ErrorBody
from vethd.model.state import Side
from vethd.pairs.insight import link_latency

GRACE_S = 1.0  # for requests in progress when the door closes

_SO_PASSRIGHTS = 83

log = structlog.get_logger()


class HttpDoor:
    """Serves a listening unix socket. Call start() on the running loop, and close() at the end."""

    def __init__(self, api: Api) -> None:
        """Begin without a socket."""
        self._api = api
        self._entrance: Entrance | None = None
        self._talks: dict[Conversation, asyncio.Task[None]] = {}
        self._own: dict[str, Callable[[Conversation, Caller], Awaitable[None]]] = {
            "/v1/events": self._events,
            "/metrics": self._metrics,
            "/v1/openapi.json": self._openapi,
        }

    async def start(self, listener: socket.socket) -> None:
        """Start to serve; takes over listener, which is bound and listening.

        A descriptor that a caller sends would be closed by the read of the message, on the loop, for as long as that
        takes (closing.py). Since Linux 6.16 the kernel can refuse to pass them.
        """
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        self._entrance = Entrance(self._api, listener, self._serve, _refusal())

    async def close(self) -> None:
        """Stop serving: end the streams, and give requests in progress GRACE_S to finish."""
        if self._entrance is None:
            return
        self._entrance.shut()
        for talk in [talk for talk in self._talks if not talk.idle]:
            talk.end()
        await self._entrance.hear_out()
        for talk in list(self._talks):
            talk.end()
        if self._talks:
            await asyncio.wait(list(self._talks.values()), timeout=GRACE_S)
        await self._entrance.clear()

    async def _serve(self, connection: socket.socket, caller: Caller) -> None:
        """Serve a connection until it ends. All its requests have the credentials of the connection."""
        talk = await Conversation.over(connection)
        task = asyncio.current_task()
        if task is not None:
            self._talks[talk] = task
        try:
            with hung_up():
                while (request := await talk.request()) is not None:
                    if self._entrance is not None:
                        self._entrance.heard(connection)
                    await self._answer(talk, caller, request.method.decode(), request.target.decode())
                    if not talk.next():
                        break
                await talk.close()
        finally:
            self._talks.pop(talk, None)
            talk.abort()

    async def _answer(self, talk: Conversation, caller: Caller, method: str, target: str) -> None:
        try:
            body = await talk.body()
        except BodyError as error:
            await talk.reply(error.status, error.body)
            return
        url = urlsplit(target)
        own = self._own.get(url.path)
        if own is None:
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            reply = await dispatch(Call(self._api, caller, {}, query, None, None), method, url.path, body)
            await talk.reply(reply.status, reply.body)
        elif method == "GET":
            try:
                await own(talk, caller)
            except OSError:
                raise
            except Exception:
                log.exception("request failed", method=method, path=url.path)
                message = "internal error in vethd; see its log"
                await talk.reply(500, ErrorBody(code="EIO", errno=errno.EIO, message=message))
        else:
            message = f"{url.path} allows GET, not {method}"
            await talk.reply(405, ErrorBody(code="METHOD", errno=0, message=message))

    async def _events(self, talk: Conversation, caller: Caller) -> None:
        with closing(self._api.manager.hub.listen()) as listener:

            async def lines() -> AsyncIterator[bytes]:
                async for event in listener:
                    yield msgspec.json.encode(rights.event_shown(self._api, caller, event)) + b"\n"

            await talk.stream(lines(), "application/x-ndjson")

    async def _metrics(self, talk: Conversation, caller: Caller) -> None:
        from vethd.doors.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415  2 MB that many daemons never need

        async with self._api.room.turn(caller):
            entries = [entry for entry in self._api.manager.entries.values() if rights.owned(caller, entry)]
            stats = await self._api.manager.stats([(entry, side) for entry in entries for side in Side])
            links = [link for entry in entries for link in self._api.manager.info(entry).links]
            pairs = [entry.live for entry in entries if entry.live is not None]
            latencies = [link_latency(pair, side) for pair in pairs for side in Side]
            text = exposition(links, stats, latencies, self._api)
        await talk.reply(200, text, CONTENT_TYPE)

    async def _openapi(self, talk: Conversation, _caller: Caller) -> None:
        await talk.reply(200, schema())


def _refusal() -> bytes:
    """Return the complete response for a connection beyond the limit, whose request is not read."""
    body = msgspec.json.encode(FULL)
    head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
