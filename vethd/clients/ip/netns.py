"""Open and enter network namespaces by the names that ip(8) uses."""

from __future__ import annotations

import posix

NETNS_NAMES = "/var/run/netns/"
CLONE_NEWNET = 0x40000000


def open_netns(word: str) -> int:
    """Open the namespace that the argument of `-netns` or `netns` refers to: a name or a path. Raises OSError."""
    return posix.open(word if "/" in word else NETNS_NAMES + word, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)


def own_netns(switched: str | None) -> int:
    """Open the namespace that a command line applies to: this process's, or that of -netns. Raises OSError."""
    if switched is None:
        return posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    return posix.open(NETNS_NAMES + switched, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)


def enter(netns: int) -> None:
    """Move this process into a namespace. Raises OSError."""
    if posix.fstat(netns).st_ino == posix.stat("/proc/self/ns/net").st_ino:
        return
    import ctypes  # noqa: PLC0415 - os.setns() exists since Python 3.12

    if ctypes.CDLL(None, use_errno=True).setns(netns, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, posix.strerror(number))
