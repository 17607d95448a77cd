"""The one error of the plugin: a code of the CNI specification, what is wrong, and more about it."""

from __future__ import annotations

import posix

INCOMPATIBLE_VERSION = 1
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
BAD_CONFIG = 7
NOT_AVAILABLE = 50
# ours
REFUSED = 100  # by the daemon, or by the kernel through it; details name the errno
IPAM_FAILED = 101  # without saying why as it should
DIFFERS = 102  # CHECK found something else than what was made
NO_RULES = 103  # of the firewall


class CniError(Exception):
    """An operation that failed: what is written to stdout."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        self.code = code
        self.msg = msg
        self.details = details
        super().__init__(msg)

    def body(self, version: str) -> dict[str, object]:
        """Return the error's JSON."""
        said: dict[str, object] = {"cniVersion": version, "code": self.code, "msg": self.msg}
        return said | ({"details": self.details} if self.details else {})


def log(message: str) -> None:
    """Write a line to stderr, where the runtime keeps it."""
    posix.write(2, f"vethd-cni: {message}\n".encode("utf-8", "surrogateescape"))
