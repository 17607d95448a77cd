"""Client of the daemon's fd-passing socket, by _socket alone: one request with fds, one reply (docs/api.md)."""

from __future__ import annotations

import _socket
import posix
import sys

from vethd.clients.paths import socket_path

DOWN_S = 1.0  # a daemon that is idle and does not answer a health request within this time is down
REPLY_S = 60.0  # the daemon may be busy
REPLY_MAX = 1 << 24

HEALTH = b'{"method":"GET","path":"/v1/health"}'


class DownError(Exception):
    """No daemon answers; the exception's text is the reason."""


class Reply:
    """A reply: status and JSON text, as in the API."""

    __slots__ = ("status", "text")

    def __init__(self, data: bytes) -> None:
        head, _, rest = data.partition(b',"body":')
        self.status = int(head.partition(b'"status":')[2])
        self.text = rest[:-1]


def ask(request: bytes, fds: list[int]) -> Reply:
    """Check that the daemon answers, then make one request. Raises DownError."""
    _call(HEALTH, [], DOWN_S)
    return Reply(_call(request, fds, REPLY_S))


def request(method: str, path: str, body: str = "") -> bytes:
    """Return a request's JSON text; path and body must already be valid JSON."""
    return ('{"method":"' + method + '","path":"' + path + '"' + (',"body":' + body if body else "") + "}").encode()


def quoted(name: str) -> str:
    """Percent-encode a name for a path; the result is also safe in JSON."""
    return "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogateescape"))


def _call(data: bytes, fds: list[int], patience_s: float) -> bytes:
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(DOWN_S)
            sock.connect(socket_path())
            packed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
            sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else [])
            reply = _hear(sock, patience_s)
        finally:
            sock.close()
    except TimeoutError as error:
        raise DownError(f"no answer within {patience_s:g} s") from error
    except OSError as error:
        raise DownError(error.strerror or str(error)) from error
    if not reply:
        raise DownError("it closed the connection")
    return reply


def _hear(sock: _socket.socket, patience_s: float) -> bytes:
    """Wait for the reply, and wait longer while the listener still uses or waits for a CPU, as on a loaded machine."""
    worked, waited_s = _worked(sock), 0.0
    sock.settimeout(patience_s)
    while True:
        try:
            return sock.recv(REPLY_MAX)
        except TimeoutError:
            before, worked, waited_s = worked, _worked(sock), waited_s + patience_s
            if worked == before or waited_s >= REPLY_S:
                raise


def _worked(sock: _socket.socket) -> bytes:
    """Return the CPU time of the listener's main thread so far, and its waiting time for a CPU; b"" if unreadable.

    If systemd listens, it is systemd's; then systemd's watchdog handles a daemon that hangs.
    """
    pid = int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    try:
        fd = posix.open(f"/proc/{pid}/schedstat", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return posix.read(fd, 100)
    finally:
        posix.close(fd)
