"""Carries one request to the daemon and one reply back, over HTTP or with file descriptors attached.

Theory of operation: every request has a connection of its own. On a unix socket that costs a tenth of a
millisecond, and it leaves nothing that a restart of the daemon, a fork or a second thread could break.
Requests that carry namespaces go over the SOCK_SEQPACKET socket, at the control socket's path with ".fd"
appended: one JSON message with SCM_RIGHTS there, one back. HTTP's libraries are imported at first use.
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
REPLY_MAX_BYTES = 1 << 20  # a reply on the fd socket: one pair or one link, a few KiB
FDS_MAX = 16
_BAD_REQUEST = 400

Method = Literal["GET", "POST", "PATCH", "DELETE"]

_MESSAGE = re.compile(r"(?P<op>[a-z_]+)(?: (?P<ifname>[^:]*))?: (?P<reason>.*)", re.DOTALL)


class Request(NamedTuple):
    """One request; body is a struct or None, fds are the caller's, who closes them."""

    method: Method
    path: str
    query: Mapping[str, str] = {}
    body: msgspec.Struct | None = None
    fds: Sequence[int] = ()

    @property
    def target(self) -> str:
        """Path and query as HTTP writes them."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


class _FdReply(msgspec.Struct):
    status: int
    body: msgspec.Raw = msgspec.Raw(b"null")


def segment(text: str) -> str:
    """Quote one part of a path; a device name may hold any character but "/", ":" and space."""
    return quote(text, safe="")


class Transport:
    """Where the daemon listens, and how long to wait for it (timeout_s; both for connecting and for a reply)."""

    def __init__(self, socket: str, timeout_s: float) -> None:
        self.socket = socket
        self.timeout_s = timeout_s

    def send(self, request: Request) -> bytes:
        """Carry the request out and return the reply's body. Blocks.

        Raises VethError as the daemon refuses, DaemonDown where none answers.
        """
        if request.fds:
            return self._send_fds(request)
        with self._http(request) as response:
            return response.read()

    def stream(self, request: Request) -> Iterator[bytes]:
        """Yield the reply's lines as they come; ends when the daemon ends the stream. Closing it hangs up."""
        with self._http(request, endless=True) as response:
            for line in response:
                yield line.rstrip(b"\n")

    @contextlib.contextmanager
    def _http(self, request: Request, *, endless: bool = False) -> Iterator[http.client.HTTPResponse]:
        import http.client  # noqa: PLC0415  40 ms that --help and completion do without

        with self._connect(self.socket, sockets.SOCK_STREAM) as sock, self._mapped():
            connection = http.client.HTTPConnection("localhost")
            connection.sock = sock
            body = None if request.body is None else msgspec.json.encode(request.body)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            try:
                with contextlib.suppress(BrokenPipeError):  # turned away at the door: the answer is there
                    connection.request(request.method, request.target, body, headers)
                with connection.getresponse() as response:
                    if response.status >= _BAD_REQUEST:
                        self._refuse(request, response.read())
                    if endless:
                        sock.settimeout(None)
                    yield response
            except http.client.IncompleteRead as error:
                if not endless:
                    raise DaemonDown(self.socket, "the reply broke off", "is vethd restarting?") from error
            except http.client.HTTPException as error:
                raise DaemonDown(self.socket, f"no HTTP answer ({error!r})", "is it vethd's socket?") from error

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
            if not raw or flags & sockets.MSG_TRUNC:
                raise DaemonDown(self.socket + FD_SUFFIX, "the reply broke off", "is vethd restarting?")
            reply = msgspec.json.decode(raw, type=_FdReply)
        if reply.status >= _BAD_REQUEST:
            self._refuse(request, bytes(reply.body))
        return bytes(reply.body)

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
                return DaemonDown(path, "no permission to talk to vethd", "be root, or in its socket's group")
            case FileNotFoundError() | ConnectionRefusedError():
                return DaemonDown(path, "no vethd listens", "start it, or name its socket with --socket")
            case ConnectionError():
                return DaemonDown(path, "vethd hung up", "is it restarting?")
        return DaemonDown(path, f"cannot talk to vethd ({error.strerror or error})", "is it vethd's socket?")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Map what goes wrong on a connection to DaemonDown, once."""
        try:
            yield
        except OSError as error:
            raise self._down(self.socket, error) from error
        except msgspec.MsgspecError as error:
            raise DaemonDown(
                self.socket, f"a reply that is not vethd's ({error})", "are the versions alike?"
            ) from error

    def _refuse(self, request: Request, body: bytes) -> NoReturn:
        raise refusal(msgspec.json.decode(body, type=ErrorBody), request.path.rpartition("/")[2])


def not_ours(socket: str, error: msgspec.MsgspecError) -> DaemonDown:
    """Report a reply that is not in the API's types."""
    return DaemonDown(socket, f"a reply that is not vethd's ({error})", "do vethd and its client have one version?")


def refusal(body: ErrorBody, op: str) -> VethError:
    """Build the VethError again that the daemon put into words: "newlink va: File exists".

    op is for words that name no operation: a malformed body, a config file that is wrong.
    """
    found = _MESSAGE.fullmatch(body.message)
    if found is None:
        return VethError(body.errno, op, "", body.message)
    return VethError(body.errno, found["op"], found["ifname"] or "", found["reason"])
