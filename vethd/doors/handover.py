"""The handover protocol: how a running daemon passes its pairs to a new one over the fd-passing socket.

    new  {"method": "POST", "path": "/v1/handover", "body": {"version": 1}}
    old  {"status": 200, "body": {"version": 1, "names": ["control", ...]}} + a file descriptor for each name, at most
         253; as many of these as it takes, the last with no names
    new  {"done": true}, when it serves in place of the old daemon
    old  closes the connection, and ends

A refusal has another status, and code, errno and message, as every reply. The old daemon stops reading from the devices
before it sends the second message. It resumes if the new daemon hangs up, sends anything but the third message, or
sends nothing for PATIENCE_S. The fds are the listening sockets, "control" and "fdpass"; "lock"; and the fds that a
successor would find in an fd store: those of the devices, and the two of the record, which has a version of its own.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any

import msgspec

from vethd.model.errors import VethError

VERSION = 1
PATH = "/v1/handover"
PATIENCE_S = 30.0
ANSWER_S = 120.0  # the old daemon may have to finish a reload first
_FDS_MAX = 253  # SCM_MAX_FD
_MESSAGE_MAX = 1 << 16


class _Version(msgspec.Struct):
    version: Annotated[int, msgspec.Meta(ge=1)]


class _Ask(msgspec.Struct):
    method: str
    path: str
    body: _Version


class _Goods(msgspec.Struct):
    names: list[str] = []
    message: str = ""
    errno: int = 0


class _Answer(msgspec.Struct):
    status: int
    body: _Goods


class _Done(msgspec.Struct):
    done: bool


def is_asked(data: bytes) -> bool:
    """Return whether a request is for a handover, in any version: the messages stay, the record has its own version."""
    try:
        ask = msgspec.json.decode(data, type=_Ask)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return (ask.method, ask.path) == ("POST", PATH)


def ask(path: str) -> tuple[socket.socket, dict[str, int]] | None:
    """Request a handover from the daemon that serves path; return the connection and the fds by name, the caller's.

    Returns None if no daemon runs. Blocks. Raises VethError with the other daemon's message if it refuses, or with the
    reason of the failure.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds: dict[str, int] = {}
    try:
        connection.settimeout(ANSWER_S)
        try:
            connection.connect(f"{path}.fd")
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        connection.send(msgspec.json.encode(_Ask(method="POST", path=PATH, body=_Version(version=VERSION))))
        while names := _received(connection, fds):
            fds |= names
    except BaseException as error:
        connection.close()
        for fd in fds.values():
            os.close(fd)
        if isinstance(error, OSError):
            raise VethError(error.errno or errno.ETIMEDOUT, "replace", reason=f"{path}.fd: {error}") from error
        raise
    return connection, fds


def confirm(connection: socket.socket) -> None:
    """Tell the old daemon to end. It is no error if it has ended already: then only we hold the devices."""
    with connection:
        try:
            connection.send(msgspec.json.encode(_Done(done=True)))
        except OSError:
            return


def refuse(connection: socket.socket, status: int, error: VethError) -> None:
    """Send a refusal with its reason."""
    body = {"code": error.code, "errno": error.errno, "message": str(error)}
    connection.send(msgspec.json.encode({"status": status, "body": body}))


def give(connection: socket.socket, fds: Mapping[str, int]) -> None:
    """Send all fds, and wait until the new daemon confirms. Blocks.

    Raises VethError if it does not confirm: then we still own everything.
    """
    try:
        connection.settimeout(PATIENCE_S)
        left = iter(fds.items())
        names = None
        while names is None or names:
            names = dict(islice(left, _FDS_MAX))
            body: dict[str, Any] = {"version": VERSION, "names": list(names)}
            socket.send_fds(connection, [msgspec.json.encode({"status": 200, "body": body})], list(names.values()))
        said = connection.recv(_MESSAGE_MAX)
    except OSError as error:
        raise VethError(error.errno or errno.ETIMEDOUT, "handover", reason=f"the new daemon: {error}") from error
    if not said:
        raise VethError(errno.ECONNRESET, "handover", reason="the new daemon hung up")
    try:
        done = msgspec.json.decode(said, type=_Done).done
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        done = False
    if not done:
        raise VethError(errno.EPROTO, "handover", reason="the new daemon sent an unknown message")


def _received(connection: socket.socket, have: Mapping[str, int]) -> dict[str, int]:
    """Receive one message's fds by name; none may be in have. Raises OSError, VethError."""
    data, fds, flags, _ = socket.recv_fds(connection, _MESSAGE_MAX, _FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    try:
        names = _names(data)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len({*names, *have}) != len(have) + len(fds):
            raise VethError(errno.EPROTO, "replace", reason="the running daemon's answer is truncated")  # noqa: TRY301
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return dict(zip(names, fds, strict=True))


def _names(data: bytes) -> list[str]:
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "the running daemon hung up")
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VethError(errno.EPROTO, "replace", reason=f"the running daemon's answer is invalid: {error}") from error
    if answer.status != 200:
        raise VethError(answer.body.errno or errno.EPROTO, "replace", reason=answer.body.message)
    return answer.body.names
