"""The keeper: holds the listener, and starts the worker again if it dies.

Theory of operation. The launcher forks the keeper before it installs the filter, so the keeper is not under it, and
passes it the listener. The keeper ignores the signals that end a service, because the program's children may outlive
the program: it ends when the worker ends by itself, which is when nobody is left under the filter.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import posix
import time
from collections.abc import Callable

from vethd.clients.run.calls import libc
from vethd.clients.run.listener import Listener
from vethd.clients.run.supervisor import Supervisor
from vethd.clients.run.table import Table

_PR_SET_CHILD_SUBREAPER, _PR_SET_NAME = 36, 15
_LOG_FLAGS = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC
_TAKEN_TRIES, _TAKEN_POLL_S = 20, 0.01
_AGAIN_S = 0.02  # one that dies at once must not take the machine
_IGNORED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGQUIT, _signal.SIGPIPE)


def keep(fd: int, log_file: str | None) -> None:
    """Serve as the keeper of the listener fd. Returns when nobody is left under the filter."""
    log = logger(log_file)
    _detach(fd, log_file)
    libc.prctl(*map(ctypes.c_ulong, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)))
    libc.prctl(_PR_SET_NAME, b"vethd-run")
    table = Table()
    listener = Listener(fd, table.in_hand)
    while not _serve(listener, table, log):
        log("the supervisor died and is started again")
        time.sleep(_AGAIN_S)


def logger(log_file: str | None) -> Callable[[str], None]:
    """Return a function that appends a line to a file; without a file it does nothing. Raises OSError."""
    if log_file is None:
        return lambda _: None
    fd = posix.open(log_file, _LOG_FLAGS, 0o644)

    def log(text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        posix.write(fd, f"{stamp}Z vethd-run[{posix.getpid()}]: {text}\n".encode("utf-8", "surrogateescape"))

    return log


def _detach(kept: int, log_file: str | None) -> None:
    """Leave the program's session, terminal and output; who reads its output must not wait for the supervisor."""
    posix.setsid()
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    null = posix.open("/dev/null", posix.O_RDWR)
    for fd in (0, 1, 2):
        posix.dup2(null, fd)
    for name in posix.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd != kept and not _is_log(fd, log_file):
            try:
                posix.close(fd)
            except OSError:
                continue


def _is_log(fd: int, log_file: str | None) -> bool:
    if log_file is None:
        return False
    try:
        return posix.fstat(fd)[1:3] == posix.stat(log_file)[1:3]
    except OSError:
        return False


def _serve(listener: Listener, table: Table, log: Callable[[str], None]) -> bool:
    """Run one worker to its end; return whether it ended by itself. What it had in hand goes on."""
    worker = posix.fork()
    if worker == 0:
        try:
            Supervisor(listener, table, log).run()
            posix._exit(0)  # noqa: SLF001 - its public name is in os, whose import takes 4 ms
        except BaseException as error:  # noqa: BLE001 - the keeper starts the next one
            log(f"{error!r}")
        finally:
            posix._exit(1)  # noqa: SLF001
    while True:
        pid, status = posix.waitpid(-1, 0)
        if pid != worker:  # a child of an earlier worker
            left = table.bury(pid)
        elif status:
            left = _left(table)
        else:
            return True
        if left:
            listener.go_on(left)
        if pid == worker:
            table.done()
            return False


def _left(table: Table) -> int:
    """Return the call that the worker left waiting; 0 if there is none, or a child of the worker has it."""
    for _ in range(_TAKEN_TRIES):
        if not table.left() or not _has_children():
            break
        time.sleep(_TAKEN_POLL_S)  # one that was just forked takes it at once
    return table.left()


def _has_children() -> bool:
    try:
        posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
    except ChildProcessError:
        return False
    return True
