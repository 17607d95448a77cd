"""Network namespaces: made, entered by a thread, looked into, and removed.

Nothing here keeps a namespace alive: it is opened by name for each call, by a thread that ends with the call.
What keeps one alive is what a caller opened inside it: sockets, processes, tun descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

RUN_NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int) -> None:
    """Move the calling thread, and it alone, into the network namespace behind fd. os.setns() is Python 3.12's."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def in_netns(path: str | Path, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call func in the namespace at path, in a thread made for it; give its result or raise what it raised."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(fd)
            finally:
                os.close(fd)
            results.append(func(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, name=f"in {path}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Netns:
    """A namespace known by a name of `ip netns`, or the tests' own where name is ""."""

    def __init__(self, name: str) -> None:
        """Refer to the namespace; create() also makes it."""
        self.name = name
        self.path = RUN_NETNS / name if name else Path("/proc/self/ns/net")

    @classmethod
    def create(cls, name: str, *, ipv6: bool = False) -> Netns:
        """Make the namespace name. Without ipv6 no device in it sends a frame that no test asked for."""
        command(["ip", "netns", "add", name])
        netns = cls(name)
        if not ipv6:
            for scope in ("all", "default"):
                netns.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        return netns

    def delete(self) -> None:
        """Take the name away; the namespace dies when nobody holds it any more."""
        command(["ip", "netns", "del", self.name])

    @property
    def exists(self) -> bool:
        """Whether the name is there."""
        return self.path.exists()

    def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call func in this namespace; sockets that it opens stay there."""
        return in_netns(self.path, func, *args, **kwargs)

    def command(self, *argv: str) -> str:
        """Run a program in this namespace and give its output. Raises AssertionError where it fails."""
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

    def names(self) -> set[str]:
        """Give the names of all devices but lo, by one cheap read."""
        return {line.split(":")[0].strip() for line in self.read("dev").splitlines()[2:]} - {"lo"}

    def snmp(self, group: str, counter: str) -> int:
        """Read a counter of /proc/net/snmp, e.g. ("Udp", "InCsumErrors")."""
        rows = [line.split() for line in self.read("snmp").splitlines() if line.startswith(f"{group}:")]
        return int(dict(zip(rows[0], rows[1], strict=True))[counter])

    @contextlib.contextmanager
    def process(self) -> Iterator[int]:
        """Keep a process in this namespace, which does nothing; give its PID."""
        child = self.run(subprocess.Popen, ["cat"], stdin=subprocess.PIPE)
        try:
            yield child.pid
        finally:
            assert child.stdin is not None
            child.stdin.close()  # cat ends at its end of file
            child.wait()


def command(argv: list[str], stdin: str = "") -> str:
    """Run a program and give its output. Raises AssertionError with its words where it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)} {stdin!r}: {done.stderr.strip() or done.returncode}"
    return done.stdout
