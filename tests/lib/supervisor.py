"""Be asked about every system call of a process, and have one fail, or kill the process in front of it.

Theory of operation. The process was started by launch.py, whose seccomp filter has the kernel ask us before it does a
call (seccomp_unotify(2)); the calling thread waits meanwhile. We let it be done, or answer in the kernel's place: then
the call is not done at all, and the thread gets the errno. A thread of ours answers, by a rule that the test sets.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lib.meanwhile import meanwhile
from tests.lib.syscalls import Call

SYS_PIDFD_GETFD = 438  # on every architecture
RECV, SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_*
CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
NOTIF = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp
START_S = 20.0

Rule = Callable[[Call], int]
"""Gives the errno that a call is to fail with, 0 to let it be done, DEAD where its process was killed just now.

Called by the supervisor's thread.
"""
DEAD = -1


def let_all_be(_call: Call) -> int:
    """Let every call be done."""
    return 0


class Supervisor:
    """Starts what has the arguments prefix() in front, and answers for it. A context manager.

    With fds (by name) and environ it gets these as systemd would give them; without supervised nobody is asked.
    """

    def __init__(
        self,
        path: Path,
        fds: Mapping[str, int] | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        supervised: bool,
    ) -> None:
        """Listen at path, which is made; fds stay the caller's."""
        self.rule: Rule = let_all_be
        self.asked = 0
        self._path = path
        self._fds = dict(fds or {})
        self._told = {"names": list(self._fds), "environ": dict(environ or {}), "supervised": supervised}
        self._notified = -1
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(START_S)
        self._stack = ExitStack()

    def prefix(self) -> tuple[str, ...]:
        """Return the words that go in front of the program's; its path must be absolute."""
        return (sys.executable, "-m", "tests.lib.launch", str(self._path))

    def __enter__(self) -> Self:
        self._stack.callback(self._close)
        self._stack.enter_context(meanwhile(self._work, "supervisor"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, tb)

    def quiet(self, for_s: float) -> None:
        """Return once nobody has asked for so long."""
        poller = select.poll()
        while True:
            before = self.asked
            poller.poll(for_s * 1000)
            if self.asked == before:
                return

    def _close(self) -> None:
        self._listener.close()
        self._path.unlink()
        if self._notified >= 0:
            os.close(self._notified)

    def _work(self, end: int) -> None:
        self._start()
        if self._told["supervised"]:
            self._answer_all(end)

    def _start(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(START_S)
            socket.send_fds(sock, [json.dumps(self._told).encode()], list(self._fds.values()))
            if self._told["supervised"]:
                pid, number = map(int, sock.recv(100).split())
                self._notified = _fd_of(pid, number)
                sock.send(b"x")

    def _answer_all(self, end: int) -> None:
        poller = select.poll()
        poller.register(self._notified, select.POLLIN)
        poller.register(end, select.POLLIN)
        request = bytearray(NOTIF.size)
        while True:
            ready = dict(poller.poll())
            if end in ready:
                return
            if ready[self._notified] & select.POLLHUP:  # nobody is left who could ask
                poller.unregister(self._notified)
            if not ready[self._notified] & select.POLLIN:  # POLLERR is an interruption
                continue
            request[:] = bytes(NOTIF.size)  # the kernel insists
            try:
                fcntl.ioctl(self._notified, RECV, request)
            except OSError:  # killed, or interrupted, before we could look
                continue
            number, thread, _, call, _, _, *args = NOTIF.unpack(request)
            code = self.rule(Call(thread, call, tuple(args)))
            self.asked += 1
            if code == DEAD:  # an answer might have the call done on the way out
                continue
            answer = RESPONSE.pack(number, 0, -code, 0 if code else CONTINUE)
            try:
                fcntl.ioctl(self._notified, SEND, answer)
            except OSError:  # as above
                continue


def _fd_of(pid: int, number: int) -> int:
    """Return a duplicate of another process's descriptor."""
    pidfd = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        words = (SYS_PIDFD_GETFD, pidfd, number, 0)
        fd = int(libc.syscall(*map(ctypes.c_long, words)))
        if fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return fd
    finally:
        os.close(pidfd)
