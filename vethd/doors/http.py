"""The control socket: HTTP/1.1 and JSON, so that curl works. Everything that streams is here, too."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from vethd.doors.metrics import CONTENT_TYPE, exposition
from vethd.doors.openapi import schema
from vethd.doors.operations import dispatch
from vethd.doors.routing import BACKLOG, BODY_MAX, Api, Call, Reply
from vethd.model.api import ErrorBody

STREAM_STALL_S = 30.0  # a listener that takes nothing for so long is hung up on
STREAM_END_S = 0.2  # and so is one that does not take the stream's end


class HttpDoor:
    """Serves a listening unix socket. start() on the running loop; close() at the end."""

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

    async def start(self, listener: socket.socket) -> None:
        """Begin to serve; listener is bound and listening, and ours from now on."""
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=BACKLOG).start()

    async def close(self) -> None:
        """Stop serving: streams end, requests under way get a second."""
        for task in list(self._streams):
            task.cancel()
        await self._runner.cleanup()

    async def _operation(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            message = f"the body is over {BODY_MAX} bytes"
            return _response(Reply(413, ErrorBody(code="E2BIG", errno=errno.E2BIG, message=message)))
        except (ConnectionError, web.RequestPayloadError) as error:  # hung up on, or no HTTP
            return _response(Reply(400, ErrorBody(code="EINVAL", errno=errno.EINVAL, message=f"body: {error}")))
        call = Call(self._api, {}, request.query, None, None)
        return _response(await dispatch(call, request.method, request.rel_url.raw_path, body))

    async def _wrong_method(self, request: web.Request) -> web.StreamResponse:
        message = f"{request.path} takes GET, not {request.method}"
        return _response(Reply(405, ErrorBody(code="METHOD", errno=0, message=message)))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        listener = self._api.manager.hub.listen()
        task = asyncio.current_task()
        if task is not None:
            self._streams.add(task)
        try:
            await response.prepare(request)
            async for event in listener:
                async with asyncio.timeout(STREAM_STALL_S):
                    await response.write(msgspec.json.encode(event) + b"\n")
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

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        manager = self._api.manager
        text = exposition(manager.links(), await manager.stats(), self._api)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _openapi(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(schema()), content_type="application/json")


def _our_fault(record: logging.LogRecord) -> bool:
    """Tell whether an error is worth the log: a caller that speaks no HTTP, or hangs up, is no error of ours."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError))


def _response(reply: Reply) -> web.StreamResponse:
    if reply.body is None:
        return web.Response(status=reply.status)
    return web.Response(status=reply.status, body=msgspec.json.encode(reply.body), content_type="application/json")
