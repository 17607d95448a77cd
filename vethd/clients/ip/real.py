"""Run the real ip as a child process, and have it check a line without the capability to change anything."""

from __future__ import annotations

import posix

from vethd.clients.process import become, environment, restore_signals, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CAP_NET_ADMIN = 12
REFUSED = 2
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS = 38
_DENIED = b"Operation not permitted"


class Ran:
    """The result of a program: its status, and its output if it was captured."""

    __slots__ = ("err", "out", "status")

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out
        self.err = err


def run(
    real: str,
    args: list[str],
    *,
    catch: str = "",
    stdin: bytes | None = None,
    first: Callable[[], None] | None = None,
) -> Ran:
    """Run the real ip to its end; catch ("o", "e" or "oe") selects which of stdout and stderr to capture.

    The child process calls first before it executes the real ip.
    """
    caught = {1: _file() if "o" in catch else -1, 2: _file() if "e" in catch else -1}
    said = _file(stdin) if stdin is not None else -1
    pid = posix.fork()
    if pid == 0:
        try:
            for fd, file in ((0, said), *caught.items()):
                if file >= 0:
                    posix.dup2(file, fd)
            if first is not None:
                first()
            restore_signals()
            posix.execve(real, [real, *args], environment())
        except OSError as error:
            say(f"vethd-ip: {real}: {error.strerror}\n")
        finally:
            posix._exit(127)  # noqa: SLF001 - its public name is in os, whose import takes 4 ms
    status = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    if said >= 0:
        posix.close(said)
    return Ran(status if status >= 0 else 128 - status, _take(caught[1]), _take(caught[2]))


def objection(real: str, args: list[str]) -> Ran | None:
    """Run the real ip without CAP_NET_ADMIN to check a line; return its result if it rejects the line, else None."""
    ran = run(real, args, catch="oe", first=give_up_rights)
    return None if ran.status == REFUSED and _DENIED in ran.err else ran


def complain(real: str, args: list[str]) -> int:
    """Exec the real ip without CAP_NET_ADMIN, for a line that it rejects."""
    give_up_rights()
    return become(real, args)


def replay(ran: Ran) -> int:
    """Write a program's captured output, and return its status."""
    write(1, ran.out)
    write(2, ran.err)
    return ran.status


def write(fd: int, data: bytes) -> None:
    """Write all of data."""
    while data:
        data = data[posix.write(fd, data) :]


def _file(content: bytes = b"") -> int:
    fd = posix.memfd_create("vethd-ip")
    write(fd, content)
    posix.lseek(fd, 0, 0)
    return fd


def _take(fd: int) -> bytes:
    if fd < 0:
        return b""
    data = b""
    posix.lseek(fd, 0, 0)
    while more := posix.read(fd, 1 << 20):
        data += more
    posix.close(fd)
    return data


def give_up_rights() -> None:
    """Drop CAP_NET_ADMIN permanently; sets no_new_privs, as exec would give it back to root. Raises OSError."""
    import ctypes  # noqa: PLC0415 - takes 8 ms, and only mistakes and rare options need it

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for number in range(3):
        sets[number] &= ~(1 << CAP_NET_ADMIN)
    if libc.capset(header, sets) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "capset")
