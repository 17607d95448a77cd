"""The two exceptions that vethd's packages raise: VethError, with the kernel's errno, and ConfigError."""

from __future__ import annotations

import errno as errnos
import os


def symbol(errno: int) -> str:
    """Return an errno's symbol in the kernel's spelling, e.g. "EEXIST". Python's table has ENOTSUP for EOPNOTSUPP."""
    return "EOPNOTSUPP" if errno == errnos.EOPNOTSUPP else errnos.errorcode.get(errno, f"E{errno}")


class VethError(Exception):
    """An operation on a link or a pair failed, with the errno that the kernel uses for this failure.

    errno is part of the interface: callers and scripts rely on the errnos of the kernel's veth. op is the kernel's
    name of the operation (newlink, dellink, changelink, ...). ifname is the link concerned, "" if there is none yet.
    """

    def __init__(self, errno: int, op: str, ifname: str = "", reason: str = "") -> None:
        """Build the error; reason, if given, replaces the C library's text for errno."""
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
    """A configuration is invalid: the file, the key and the reason."""

    def __init__(self, file: str, key: str, reason: str) -> None:
        """Build the error; key is dotted, e.g. "pair[0].peer.mtu", or "" for the whole file."""
        self.file = file
        self.key = key
        self.reason = reason
        super().__init__(file, key, reason)

    def __str__(self) -> str:
        """One plain sentence: file, key, reason."""
        return f"{self.file}: {self.key}: {self.reason}" if self.key else f"{self.file}: {self.reason}"
