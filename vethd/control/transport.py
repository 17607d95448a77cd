"""Send one request to the daemon and receive one reply, over HTTP or with file descriptors attached.

Theory of operation. Every request has a connection of its own. On a unix socket that costs a tenth of a
millisecond, and leaves no state that a restart of the daemon, a fork or a second thread could break.
Requests with namespaces use the SOCK_SEQPACKET socket, whose path is the control socket's with ".fd"
appended: one JSON message with SCM_RIGHTS is sent, one is received. HTTP libraries are imported on first use.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket as sockets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn
from urllib.parse import quote, urlencode

import msgspec

from vethd.control.errors import DaemonDown
from vethd.model.api import ErrorBody
from vethd.model.errors import VethError

if TYPE_CHECKING:
    import http.client

FD_SUFFIX = ".fd"
REPLY_MAX_BYTES = 1 << 20  # a reply on the fd socket describes one pair or one link, in a few KiB
FDS_MAX = 16
_BAD_REQUEST = 400

Method = Literal["GET", "POST", "PATCH", "DELETE"]

_MESSAGE = re.compile(r"(?P<op>[a-z_]+)(?: (?P<ifname>[^:]*))?: (?P<reason>.*)", re.DOTALL)


class Request(NamedTuple):
    """One request; body is a struct or None. The caller closes fds."""

    method: Method
    path: str
    query: Mapping[str, str] = {}
    body: msgspec.Struct | None = None
    fds: Sequence[int] = ()

    @property
    def target(self) -> str:
        """Path and query as in an HTTP request."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


class _FdReply(msgspec.Struct):
    status: int
    body: msgspec.Raw = msgspec.Raw(b"null")


def segment(text: str) -> str:
    """Quote one part of a path; a device name may contain any character but "/", ":" and space."""
    return quote(text, safe="")


class Transport:
    """The daemon's socket, and how long to wait for it: timeout_s, for a connection and for a reply."""

    def __init__(self, socket: str, timeout_s: float) -> None:
        self.socket = socket
        self.timeout_s = timeout_s

    def send(self, request: Request) -> bytes:
        """Send the request and return the reply's body. Blocks.

        Raises VethError if the daemon refuses, DaemonDown if no daemon answers.
        """
        if request.fds:
            return self._send_fds(request)
        with self._http(request) as response:
            return response.read()

    def stream(self, request: Request) -> Iterator[bytes]:
        """Yield the reply's lines as they arrive, until the daemon ends the stream. close() closes the connection."""
        with self._http(request, endless=True) as response:
            for line in response:
                yield line.rstrip(b"\n")

    @contextlib.contextmanager
    def _http(self, request: Request, *, endless: bool = False) -> Iterator[http.client.HTTPResponse]:
        import http.client  # noqa: PLC0415  it takes 40 ms, and --help and completion do not need it

        with self._connect(self.socket, sockets.SOCK_STREAM) as sock, self._mapped():
            connection = http.client.HTTPConnection("localhost")
            connection.sock = sock
            body = None if request.body is None else msgspec.json.encode(request.body)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            try:
                with contextlib.suppress(BrokenPipeError):  # refused at accept; the answer is already there
                    connection.request(request.method, request.target, body, headers)
                with connection.getresponse() as response:
                    if response.status >= _BAD_REQUEST:
                        self._refuse(request, response.read())
                    if endless:
                        sock.settimeout(None)
                    yield response
            except http.client.IncompleteRead as error:
                if not endless:
                    raise DaemonDown(self.socket, "incomplete reply", "is vethd restarting?") from error
            except http.client.HTTPException as error:
                raise DaemonDown(self.socket, f"no valid HTTP reply ({error!r})", "is it vethd's socket?") from error

    def session(self, request: Request) -> tuple[bytes, list[int], sockets.socket]:
        """Send a request that begins a session; return the reply's body, its fds, and the connection, which is held.

        The caller closes all of them. Raises VethError, DaemonDown as send().
        """
        message = {"method": request.method, "path": request.target, "body": request.body}
        with contextlib.ExitStack() as held, self._mapped():
            sock = held.enter_context(self._connect(self.socket + FD_SUFFIX, sockets.SOCK_SEQPACKET))
            with contextlib.suppress(BrokenPipeError):  # as above
                sock.send(msgspec.json.encode(message))
            raw, fds, flags, _address = sockets.recv_fds(sock, REPLY_MAX_BYTES, FDS_MAX)
            reply = self._fd_reply(raw, flags)
            if reply.status >= _BAD_REQUEST:
                self._refuse(request, bytes(reply.body))
            held.pop_all()
        return bytes(reply.body), fds, sock

    def _send_fds(self, request: Request) -> bytes:
        if len(request.fds) > FDS_MAX:
            raise VethError(errno.E2BIG, "sendmsg", "", f"more than {FDS_MAX} file descriptors")
        message: dict[str, Any] = {"method": request.method, "path": request.target}
        if request.body is not None:
            message["body"] = request.body
        with self._connect(self.socket + FD_SUFFIX, sockets.SOCK_SEQPACKET) as sock, self._mapped():
            with contextlib.suppress(BrokenPipeError):  # as above
                sockets.send_fds(sock, [msgspec.json.encode(message)], list(request.fds))
            raw, _ancillary, flags, _address = sock.recvmsg(REPLY_MAX_BYTES)
            reply = self._fd_reply(raw, flags)
        if reply.status >= _BAD_REQUEST:
            self._refuse(request, bytes(reply.body))
        return bytes(reply.body)

    def _fd_reply(self, raw: bytes, flags: int) -> _FdReply:
        if not raw or flags & sockets.MSG_TRUNC:
            raise DaemonDown(self.socket + FD_SUFFIX, "incomplete reply", "is vethd restarting?")
        return msgspec.json.decode(raw, type=_FdReply)

    def _connect(self, path: str, kind: sockets.SocketKind) -> sockets.socket:
        sock = sockets.socket(sockets.AF_UNIX, kind)
        sock.settimeout(self.timeout_s)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise self._down(path, error) from error
        return sock

    def _down(self, path: str, error: OSError) -> DaemonDown:
        match error:
            case TimeoutError():
                return DaemonDown(path, f"no answer within {self.timeout_s:g} s", "is vethd stuck?")
            case PermissionError():
                return DaemonDown(path, "no permission to connect to vethd", "be root, or join its socket's group")
            case FileNotFoundError() | ConnectionRefusedError():
                return DaemonDown(path, "no vethd listens", "start it, or give its socket with --socket")
            case ConnectionError():
                return DaemonDown(path, "vethd closed the connection", "is it restarting?")
        return DaemonDown(path, f"cannot connect to vethd ({error.strerror or error})", "is it vethd's socket?")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Map the errors of a connection to DaemonDown, in one place."""
        try:
            yield
        except OSError as error:
            raise self._down(self.socket, error) from error
        except msgspec.MsgspecError as error:
            raise DaemonDown(
                self.socket, f"a reply that is not vethd's ({error})", "do its version and vethctl's differ?"
            ) from error

    def _refuse(self, request: Request, body: bytes) -> NoReturn:
        raise refusal(msgspec.json.decode(body, type=ErrorBody), request.path.rpartition("/")[2])


def not_ours(socket: str, error: msgspec.MsgspecError) -> DaemonDown:
    """Return the error for a reply that is not of the API's types."""
    return DaemonDown(socket, f"a reply that is not vethd's ({error})", "do its version and the client's differ?")


def refusal(body: ErrorBody, op: str) -> VethError:
    """Rebuild the VethError from the daemon's message, such as "newlink va: File exists".

    op is used if the message names no operation: for a malformed body, or an error in a config file.
    """
    found = _MESSAGE.fullmatch(body.message)
    if found is None:
        return VethError(body.errno, op, "", body.message)
    return VethError(body.errno, found["op"], found["ifname"] or "", found["reason"])
