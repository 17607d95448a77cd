"""The daemon's fd-passing socket, by _socket alone: one request with descriptors, one reply (docs/api.md)."""

from __future__ import annotations

import _socket
import posix
import sys

from vethd.clients.paths import socket_path

DOWN_S = 1.0  # a daemon that does not say within this that it is well, nor has anything else to do, is down
REPLY_S = 60.0  # it may have much to do
REPLY_MAX = 1 << 24

HEALTH = b'{"method":"GET","path":"/v1/health"}'


class DownError(Exception):
    """No daemon answers; its text is the reason."""


class Reply:
    """A reply: the status of the request, and its JSON, both as the API has them."""

    __slots__ = ("status", "text")

    def __init__(self, data: bytes) -> None:
        head, _, rest = data.partition(b',"body":')
        self.status = int(head.partition(b'"status":')[2])
        self.text = rest[:-1]


def ask(request: bytes, fds: list[int]) -> Reply:
    """Make one request of a daemon that was well a moment ago. Raises DownError."""
    _call(HEALTH, [], DOWN_S)
    return Reply(_call(request, fds, REPLY_S))


def request(method: str, path: str, body: str = "") -> bytes:
    """Write a request; path and body are as JSON wants them already."""
    return ('{"method":"' + method + '","path":"' + path + '"' + (',"body":' + body if body else "") + "}").encode()


def quoted(name: str) -> str:
    """Percent-encode a name for a path, and so for JSON, too."""
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
        raise DownError(f"not within {patience_s:g} s") from error
    except OSError as error:
        raise DownError(error.strerror or str(error)) from error
    if not reply:
        raise DownError("it hung up")
    return reply


def _hear(sock: _socket.socket, patience_s: float) -> bytes:
    """Wait for the reply: on, while whoever is to give it is at work, as on a machine that has too much to do."""
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
    """Return what the listener's main thread has had of a CPU so far, and waited for one; b"" where nobody tells.

    Where systemd listens it is systemd's: then a daemon that does nothing is its watchdog's affair.
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
