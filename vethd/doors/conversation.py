"""One HTTP/1.1 connection: h11 parses and frames, asyncio's streams carry the bytes.

A conversation is idle until the head of a request has arrived, and again after the reply. A reply is whole, or it is a
stream, which lasts until the caller hangs up or end() is called, and then ends the connection.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import h11
import msgspec

from vethd.doors.routing import BODY_MAX
from vethd.model.api import ErrorBody

JSON = "application/json"
KEEP_ALIVE_S = 3600.0  # the daemon hangs up on a caller that says nothing for so long
LINGER_S = 1.0  # how long it reads what a caller is still sending after a reply that ends the connection
STREAM_STALL_S = 30.0  # it hangs up on a listener that reads nothing for so long,
STREAM_END_S = 0.2  # and on one that does not read the stream's end in this time

_READ = 1 << 16
_UNREAD = (h11.SEND_BODY, h11.ERROR)  # the caller has sent, or will send, data that nobody reads


class BodyError(Exception):
    """A request's body is too long (E2BIG) or is not valid HTTP (EINVAL)."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status = status
        self.body = ErrorBody(code=errno.errorcode[code], errno=code, message=message)
        super().__init__(message)


@contextmanager
def hung_up() -> Iterator[None]:
    """Suppress OSError, so TimeoutError, too.

    asyncio's streams keep the error of a connection. Its traceback would keep the connection's objects in a circle.
    """
    try:
        yield
    except OSError as error:
        error.__traceback__ = None


class Conversation:
    """The requests and replies of one connection; its methods raise ConnectionError if the caller has hung up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over an open connection."""
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)
        self._stream: asyncio.Task[None] | None = None
        self._ending = False
        self._method = b""
        self.idle = True

    @classmethod
    async def over(cls, connection: socket.socket) -> Conversation:
        """Take over a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=connection))

    async def request(self) -> h11.Request | None:
        """Return the head of the next request; None if there is none, and the connection is to be closed."""
        self.idle, self._method = True, b""
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                event = None if self._ending else await self._event()
        except h11.RemoteProtocolError as error:
            error.__traceback__ = None  # as in hung_up(): h11's frame holds the error
            self.idle = False
            text = f"not a valid HTTP request: {error}"
            await self.reply(error.error_status_hint, ErrorBody(code="EINVAL", errno=errno.EINVAL, message=text))
            return None
        except TimeoutError:
            return None
        self.idle = False
        return event if isinstance(event, h11.Request) else None

    async def body(self) -> bytes:
        """Return the body of the request. Raises BodyError."""
        body = bytearray()
        try:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            while isinstance(event := await self._event(), h11.Data):
                body += event.data
                if len(body) > BODY_MAX:
                    raise BodyError(413, errno.E2BIG, f"the body is longer than {BODY_MAX} bytes")
        except h11.RemoteProtocolError as error:
            error.__traceback__ = None
            raise BodyError(400, errno.EINVAL, f"body: {error}") from error
        return bytes(body)

    async def reply(self, status: int, body: object = None, kind: str = JSON) -> None:
        """Send a whole reply: body is bytes, or an object to send as JSON, or None."""
        data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        headers = [("Content-Length", str(len(data)))] if status != 204 else []
        if body is not None:
            headers.append(("Content-Type", kind))
        if self._ending or self._http.their_state in _UNREAD:
            headers.append(("Connection", "close"))
        content = [h11.Data(data)] if data and self._method != b"HEAD" else []
        await self._send(h11.Response(status_code=status, headers=headers), *content, h11.EndOfMessage())

    async def stream(self, lines: AsyncIterator[bytes], kind: str) -> None:
        """Reply with lines as they come, until there are no more, the caller hangs up or end() is called."""
        headers = [("Content-Type", kind), ("Cache-Control", "no-store"), ("Connection", "close")]
        await self._send(h11.Response(status_code=200, headers=headers))
        self._stream = asyncio.ensure_future(self._pump(lines))
        silence = asyncio.ensure_future(self._hung_up())
        try:
            if not self._ending:
                await asyncio.wait((self._stream, silence), return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks, self._stream = (self._stream, silence), None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not self._ending:
            raise ConnectionResetError
        with hung_up():
            async with asyncio.timeout(STREAM_END_S):
                await self._send(h11.EndOfMessage())

    def next(self) -> bool:
        """Make ready for the next request; return False if the connection is to be closed."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        return False

    def end(self) -> None:
        """End the conversation: now if it is idle, otherwise after the reply. A stream ends at once."""
        self._ending = True
        if self._stream is not None:
            self._stream.cancel()
        elif self.idle:
            self._writer.close()

    async def close(self) -> None:
        """Close the connection, after the caller has received the last reply or hung up."""
        with hung_up():
            if self._http.their_state in _UNREAD and not self._ending:
                async with asyncio.timeout(LINGER_S):  # a close with data unread would take the reply from the caller
                    self._writer.write_eof()
                    await self._hung_up()
        self._writer.close()
        with hung_up():
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    async def _event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ))
        if isinstance(event, h11.Request):
            self._method = event.method
        return event

    async def _send(self, *events: h11.Event) -> None:
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        await self._writer.drain()

    async def _pump(self, lines: AsyncIterator[bytes]) -> None:
        with hung_up():
            async for line in lines:
                async with asyncio.timeout(STREAM_STALL_S):
                    await self._send(h11.Data(line))

    async def _hung_up(self) -> None:
        """Wait until the caller hangs up; what it sends is discarded."""
        with hung_up():
            while await self._reader.read(_READ):
                pass
