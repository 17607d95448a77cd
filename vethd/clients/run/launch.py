"""Start a program under vethd-run's filter: parse the command line, start the keeper, install the filter, exec.

The program takes this process's place: its PID, its signals, its exit status. Everything imported here delays its
start, so the supervisor's modules are imported by the keeper alone.
"""

from __future__ import annotations

import _socket
import posix
import sys

from vethd.clients.process import environment, restore_signals, say

_USAGE = """\
Usage: vethd-run [OPTIONS] [--] PROGRAM [ARGS...]

  Run a program, and have vethd make the veth links that it asks the kernel for.

Options:
  --log FILE  Append to FILE what was not as usual.
  --install NAME, --uninstall NAME
              Put vethd-run in front of a service: docker, podman, lxc or
              nspawn. --dry-run shows the files and changes nothing.
  --version   Show the version and exit.
  --help      Show this message and exit.
"""
_USAGE_ERROR, _NOT_EXECUTABLE, _NOT_FOUND = 2, 126, 127
_EBUSY, _ENOENT, _ENOTDIR, _ENOSYS = 16, 2, 20, 38
_CAP_SYS_PTRACE = 19
_NOBODY = 3  # YAMA_SCOPE_NO_ATTACH
_AF_NETLINK = 16


class Options:
    """A command line."""

    __slots__ = ("log", "program")

    def __init__(self) -> None:
        self.log: str | None = None
        self.program: list[str] = []


def main() -> int:
    """Run this process's command line; return a status only if no program was started."""
    args = sys.argv[1:]
    options = Options()
    while args and args[0].startswith("-"):
        word = args.pop(0)
        if word == "--":
            break
        if word == "--log" and args:
            options.log = args.pop(0)
        elif word.startswith("--log="):
            options.log = word[6:]
        elif word in ("--install", "--uninstall", "--dry-run"):
            from vethd.clients.run.install import main as install_main  # noqa: PLC0415 - asked for seldom

            return install_main([word, *args])
        elif word in ("--help", "-h"):
            posix.write(1, _USAGE.encode())
            return 0
        elif word == "--version":
            from vethd import __version__  # noqa: PLC0415 - asked for seldom

            posix.write(1, f"vethd-run {__version__}\n".encode())
            return 0
        else:
            return _mistake(f"no such option, or a value is missing: {word}")
    options.program = args
    if not args:
        return _mistake("which program?")
    restore_signals()
    try:
        _watch(options)
    except OSError as error:
        say(f"vethd-run: {args[0]} runs without vethd: {error.strerror or error}\n")
    return _exec(args)


def _mistake(text: str) -> int:
    say(f"vethd-run: {text}\n{_USAGE}")
    return _USAGE_ERROR


def _watch(options: Options) -> None:
    """Start the keeper, and put this process under the filter. Raises OSError if that cannot be done."""
    from vethd.clients.run.calls import ARCHES  # noqa: PLC0415 - takes 8 ms, and a mistake does not need it
    from vethd.clients.run.filter import install  # noqa: PLC0415

    obstacle = _obstacle() if ARCHES else f"the system calls of {posix.uname().machine} are not known"
    if obstacle:
        raise OSError(_ENOSYS, obstacle)
    if options.log is not None:
        posix.close(posix.open(options.log, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o644))
    mine, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    # twice: the program must not find a child that it did not start
    pid = posix.fork()
    if pid == 0:
        if posix.fork() == 0:
            _be_keeper(its, mine, options)
        posix._exit(0)  # noqa: SLF001 - its public name is in os, whose import takes 4 ms
    posix.waitpid(pid, 0)
    its.close()
    try:
        listener, confined = install(_born())
    except OSError as error:
        if error.errno == _EBUSY:  # under another vethd-run, which answers for us as well, or another supervisor
            return
        raise
    mine.sendmsg([b"x"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener.to_bytes(4, sys.byteorder))])
    mine.recv(1)
    posix.close(listener)
    mine.close()
    if confined:
        say("vethd-run: without CAP_SYS_ADMIN: setuid programs, such as sudo, get no rights below this program\n")


def _obstacle() -> str:
    """Return why no supervisor could watch the program on this machine, "" if it can."""
    try:
        with open("/proc/self/status") as file:  # noqa: PTH123 - pathlib costs 5 ms
            status = file.read()
    except OSError:
        return "/proc is not mounted"
    if "\nSeccomp_filters:" not in status:  # of the same release as SECCOMP_IOCTL_NOTIF_ADDFD
        return "this kernel is older than Linux 5.9, or has no CONFIG_SECCOMP_FILTER"
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:  # noqa: PTH123
            scope = int(file.read())
    except OSError:  # no Yama
        return ""
    able = int(status.partition("CapEff:")[2].split()[0], 16) >> _CAP_SYS_PTRACE & 1
    if scope == _NOBODY or (scope and not able):
        return f"kernel.yama.ptrace_scope = {scope} forbids to look at the program"
    return ""


def _be_keeper(its: _socket.socket, mine: _socket.socket, options: Options) -> None:
    """Take the listener, let the program go, and only then import what a keeper needs."""
    mine.close()
    try:
        _, ancillary, _, _ = its.recvmsg(1, 64)
        if not ancillary:  # the launcher could not install the filter
            return
        listener = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        its.send(b"x")
        its.close()
        from vethd.clients.run.keeper import keep  # noqa: PLC0415 - the program does not wait for it

        keep(listener, options.log)
    finally:
        posix._exit(0)  # noqa: SLF001


def _born() -> frozenset[int]:
    """Return the numbers of the rtnetlink sockets that the program inherits, as from a socket unit of systemd."""
    found = set()
    for name in posix.listdir("/proc/self/fd"):
        fd = int(name)
        if fd <= 2:
            continue
        try:
            copy = posix.dup(fd)
        except OSError:
            continue
        try:
            sock = _socket.socket(fileno=copy)
        except OSError:
            posix.close(copy)
            continue
        if (sock.family, sock.proto) == (_AF_NETLINK, 0):
            found.add(fd)
        sock.close()
    return frozenset(found)


def _exec(args: list[str]) -> int:
    """Become the program; return a status only if that fails."""
    env = environment()
    name = args[0]
    if "/" in name:
        paths = [name]
    else:
        path = env.get(b"PATH", b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").decode()
        paths = [f"{directory or '.'}/{name}" for directory in path.split(":")]
    failure: OSError | None = None
    for candidate in paths:
        try:
            posix.execve(candidate, args, env)
        except OSError as error:
            if failure is None or error.errno not in (_ENOENT, _ENOTDIR):
                failure = error
    missing = failure is None or failure.errno in (_ENOENT, _ENOTDIR)
    say(f"vethd-run: {name}: {'no such program' if missing else failure.strerror if failure else ''}\n")
    return _NOT_FOUND if missing else _NOT_EXECUTABLE


if __name__ == "__main__":
    posix._exit(main())  # noqa: SLF001
