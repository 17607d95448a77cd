"""The two errors that leave a room of vethd: a refusal with the kernel's errno, and a bad configuration."""

from __future__ import annotations

import errno as errnos
import os


def symbol(errno: int) -> str:
    """Return an errno's symbol in the kernel's spelling, e.g. "EEXIST"; for EOPNOTSUPP Python's table says ENOTSUP."""
    return "EOPNOTSUPP" if errno == errnos.EOPNOTSUPP else errnos.errorcode.get(errno, f"E{errno}")


class VethError(Exception):
    """Refuse an operation on a link or a pair, in the kernel's terms.

    errno is behaviour, not decoration: callers and scripts compare it with what the kernel's veth answers.
    op is the kernel's name of the operation (newlink, dellink, changelink, ...), ifname the link concerned
    or "" where there is none yet.
    """

    def __init__(self, errno: int, op: str, ifname: str = "", reason: str = "") -> None:
        """Build the refusal; reason, where given, replaces the C library's words for errno."""
        self.errno = errno
        self.op = op
        self.ifname = ifname
        self.reason = reason or os.strerror(errno)
        super().__init__(errno, op, ifname, self.reason)

    @property
    def code(self) -> str:
        """The errno's symbol, e.g. "EEXIST"."""
        return symbol(self.errno)

    def __str__(self) -> str:
        """One plain sentence: operation, link, reason."""
        subject = f"{self.op} {self.ifname}" if self.ifname else self.op
        return f"{subject}: {self.reason}"


class ConfigError(Exception):
    """Refuse a configuration: which file, which key, and why."""

    def __init__(self, file: str, key: str, reason: str) -> None:
        """Name the place; key is dotted, "pair[0].peer.mtu", or "" for the file as a whole."""
        self.file = file
        self.key = key
        self.reason = reason
        super().__init__(file, key, reason)

    def __str__(self) -> str:
        """One plain sentence: file, key, reason."""
        return f"{self.file}: {self.key}: {self.reason}" if self.key else f"{self.file}: {self.reason}"
