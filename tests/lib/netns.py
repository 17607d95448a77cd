"""Network namespaces: made, entered by a thread, looked into, and removed.

Nothing here keeps a namespace alive: it is opened by name for each call, by a thread that ends with the call.
What keeps one alive is what a caller opened inside it: sockets, processes, tun descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

RUN_NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def setns(fd: int) -> None:
    """Move the calling thread, and it alone, into the network namespace behind fd. os.setns() is Python 3.12's."""
    _checked(_libc.setns(fd, CLONE_NEWNET), "setns")


def _in_thread(func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call func in a thread made for it, which it may move; return its result or raise what it raised."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(func(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, name="in a namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def in_netns(path: str | Path, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call func in the namespace at path, in a thread made for it; return its result or raise what it raised."""

    def body() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(fd)
        finally:
            os.close(fd)
        return func(*args, **kwargs)

    return _in_thread(body)


@functools.cache
def _prepare() -> None:
    """Have `ip netns` make /run/netns, a mount that others see: it does so with the first name."""
    name = f"vt-{os.getpid()}-first"
    command(["ip", "netns", "add", name])
    command(["ip", "netns", "del", name])


def _add(path: Path, ipv6: bool) -> None:
    """Make a namespace for the calling thread and name it, as `ip netns add` does; but its sysctls are set by then."""
    _checked(_libc.unshare(CLONE_NEWNET), "unshare")
    if not ipv6:
        for scope in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1", encoding="ascii")
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    try:
        _checked(_libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", MS_BIND, None), "mount")
    except OSError:
        path.unlink()
        raise


class Netns:
    """A namespace known by a name of `ip netns`, or the tests' own where name is ""."""

    def __init__(self, name: str) -> None:
        """Refer to the namespace; create() also makes it."""
        self.name = name
        self.path = RUN_NETNS / name if name else Path("/proc/self/ns/net")

    @classmethod
    def create(cls, name: str, *, ipv6: bool = False) -> Netns:
        """Make the namespace name. Without ipv6 no device in it sends a frame that no test asked for.

        Raises FileExistsError where there is such a name.
        """
        _prepare()
        netns = cls(name)
        _in_thread(_add, netns.path, ipv6)
        return netns

    def delete(self) -> None:
        """Take the name away; the namespace dies when nobody holds it any more. Raises OSError where there is none."""
        _checked(_libc.umount2(os.fsencode(self.path), MNT_DETACH), "umount2")
        self.path.unlink()

    @property
    def exists(self) -> bool:
        """Whether the name is there."""
        return self.path.exists()

    def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call func in this namespace; sockets that it opens stay there."""
        return in_netns(self.path, func, *args, **kwargs)

    def command(self, *argv: str) -> str:
        """Run a program in this namespace and return its output. Raises AssertionError where it fails."""
        return self.run(command, list(argv))

    def ip(self, *lines: str) -> None:
        """Run `ip` with each line's arguments in this namespace, stopping at the first that fails.

        Raises AssertionError with ip's words.
        """
        if len(lines) == 1:
            self.command("ip", *lines[0].split())
        else:
            self.run(command, ["ip", "-batch", "-"], "\n".join(lines))

    def sysctl(self, key: str, value: str) -> None:
        """Write a sysctl; key has slashes, "net/ipv4/ip_forward"."""
        self.run(Path("/proc/sys", key).write_text, value)

    def read(self, file: str) -> str:
        """Read a file of /proc/net as this namespace sees it, e.g. "snmp"."""
        return self.run(Path("/proc/thread-self/net", file).read_text)

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Callable[[], int]]:
        """Yield what tells how many packets all devices but lo received; that waits for no lock of the kernel's."""
        with self.run(open, "/proc/thread-self/net/dev", encoding="ascii") as file:

            def received() -> int:
                file.seek(0)
                rows = [line.split() for line in file.readlines()[2:]]
                return sum(int(row[2]) for row in rows if row[0] != "lo:")

            yield received

    def names(self) -> set[str]:
        """Return the names of all devices but lo, by one cheap read."""
        return {line.split(":")[0].strip() for line in self.read("dev").splitlines()[2:]} - {"lo"}

    def snmp(self, group: str, counter: str) -> int:
        """Read a counter of /proc/net/snmp, e.g. ("Udp", "InCsumErrors")."""
        rows = [line.split() for line in self.read("snmp").splitlines() if line.startswith(f"{group}:")]
        return int(dict(zip(rows[0], rows[1], strict=True))[counter])

    @contextlib.contextmanager
    def process(self) -> Iterator[int]:
        """Keep a process in this namespace, which does nothing; yield its PID."""
        child = self.run(subprocess.Popen, ["cat"], stdin=subprocess.PIPE)
        try:
            yield child.pid
        finally:
            assert child.stdin is not None
            child.stdin.close()  # cat ends at its end of file
            child.wait()


def command(argv: list[str], stdin: str = "") -> str:
    """Run a program and return its output. Raises AssertionError with its words where it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)} {stdin!r}: {done.stderr.strip() or done.returncode}"
    return done.stdout
