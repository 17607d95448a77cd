"""The control socket: HTTP/1.1 and JSON, so that curl works. It also serves the event stream and the metrics."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from vethd.doors import rights
from vethd.doors.callers import Caller
from vethd.doors.entrance import FULL, Entrance
from vethd.doors.metrics import CONTENT_TYPE, exposition
from vethd.doors.openapi import schema
from vethd.doors.operations import dispatch
from vethd.doors.routing import BODY_MAX, Api, Call, Reply
from vethd.model.api import ErrorBody
from vethd.model.state import Side

STREAM_STALL_S = 30.0  # the daemon hangs up on a listener that reads nothing for so long,
STREAM_END_S = 0.2  # and on one that does not read the stream's end in this time


class HttpDoor:
    """Serves a listening unix socket. Call start() on the running loop, and close() at the end."""

    def __init__(self, api: Api) -> None:
        """Build the application."""
        self._api = api
        app = web.Application(client_max_size=BODY_MAX)
        for path, handler in (
            ("/v1/events", self._events),
            ("/metrics", self._metrics),
            ("/v1/openapi.json", self._openapi),
        ):
            app.router.add_get(path, handler, allow_head=False)
            app.router.add_route("*", path, self._wrong_method)
        app.router.add_route("*", "/{path:.*}", self._operation)
        logger = logging.getLogger("vethd.http")
        logger.addFilter(_our_fault)
        self._runner = web.AppRunner(app, logger=logger, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._streams: set[asyncio.Task[None]] = set()
        self._entrance: Entrance | None = None
        self._callers: dict[asyncio.BaseProtocol, tuple[Caller, socket.socket]] = {}

    async def start(self, listener: socket.socket) -> None:
        """Start to serve; takes over listener, which is bound and listening."""
        await self._runner.setup()
        self._entrance = Entrance(self._api, listener, self._serve, _refusal())

    async def close(self) -> None:
        """Stop serving: end the streams, and give requests in progress one second."""
        if self._entrance is not None:
            self._entrance.shut()
        for task in list(self._streams):
            task.cancel()
        if self._entrance is not None:
            await self._entrance.hear_out()
        await self._runner.cleanup()
        if self._entrance is not None:
            await self._entrance.clear()

    async def _serve(self, connection: socket.socket, caller: Caller) -> None:
        """Pass a connection to aiohttp, and wait for its end. All requests of a connection have its credentials."""
        if self._runner.server is None:  # the door was closed
            connection.close()
            return
        handler, gone = self._runner.server(), asyncio.get_running_loop().create_future()
        self._callers[handler] = caller, connection
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: _Connection(handler, gone), connection)
            await gone
        finally:
            del self._callers[handler]

    def _caller(self, request: web.Request) -> Caller:
        """Return the caller of a request. Raises ConnectionResetError if the caller has hung up."""
        found = self._callers.get(request.protocol)
        if found is None or self._entrance is None:
            raise ConnectionResetError
        caller, connection = found
        self._entrance.heard(connection)
        return caller

    async def _operation(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            message = f"the body is longer than {BODY_MAX} bytes"
            return _response(Reply(413, ErrorBody(code="E2BIG", errno=errno.E2BIG, message=message)))
        except (ConnectionError, web.RequestPayloadError) as error:  # the caller hung up, or sent no valid HTTP
            return _response(Reply(400, ErrorBody(code="EINVAL", errno=errno.EINVAL, message=f"body: {error}")))
        call = Call(self._api, caller, {}, request.query, None, None)
        return _response(await dispatch(call, request.method, request.rel_url.raw_path, body))

    async def _wrong_method(self, request: web.Request) -> web.StreamResponse:
        message = f"{request.path} allows GET, not {request.method}"
        return _response(Reply(405, ErrorBody(code="METHOD", errno=0, message=message)))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        caller = self._caller(request)
        listener = self._api.manager.hub.listen()
        task = asyncio.current_task()
        if task is not None:
            self._streams.add(task)
        try:
            await response.prepare(request)
            async for event in listener:
                shown = rights.event_shown(self._api, caller, event)
                async with asyncio.timeout(STREAM_STALL_S):
                    await response.write(msgspec.json.encode(shown) + b"\n")
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        except asyncio.CancelledError:
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(STREAM_END_S):
                    await response.write_eof()
        finally:
            listener.close()
            if task is not None:
                self._streams.discard(task)
        return response

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        async with self._api.room.turn(caller):
            entries = [entry for entry in self._api.manager.entries.values() if rights.owned(caller, entry)]
            stats = await self._api.manager.stats([(entry, side) for entry in entries for side in Side])
            links = [link for entry in entries for link in self._api.manager.info(entry).links]
            text = exposition(links, stats, self._api)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _openapi(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(schema()), content_type="application/json")


class _Connection(asyncio.Protocol):
    """Wraps aiohttp's protocol, and completes gone when the connection ends."""

    def __init__(self, handler: asyncio.Protocol, gone: asyncio.Future[None]) -> None:
        self._handler = handler
        self._gone = gone
        # these need no wrapper
        self.data_received = handler.data_received  # type: ignore[method-assign]
        self.eof_received = handler.eof_received  # type: ignore[method-assign]
        self.pause_writing = handler.pause_writing  # type: ignore[method-assign]
        self.resume_writing = handler.resume_writing  # type: ignore[method-assign]
        self.connection_made = handler.connection_made  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward the call to aiohttp's protocol, and complete gone."""
        self._handler.connection_lost(exc)
        if not self._gone.done():
            self._gone.set_result(None)


def _refusal() -> bytes:
    """Return the complete response for a connection beyond the limit, whose request is not read."""
    body = msgspec.json.encode(FULL)
    head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _our_fault(record: logging.LogRecord) -> bool:
    """Return whether to log an error: not if the caller sent no valid HTTP or hung up."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError))


def _response(reply: Reply) -> web.StreamResponse:
    if reply.body is None:
        return web.Response(status=reply.status)
    return web.Response(status=reply.status, body=msgspec.json.encode(reply.body), content_type="application/json")
