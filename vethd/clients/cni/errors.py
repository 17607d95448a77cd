"""The plugin's exception: an error code of the CNI specification, a message, and details."""

from __future__ import annotations

import posix

INCOMPATIBLE_VERSION = 1
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
BAD_CONFIG = 7
NOT_AVAILABLE = 50
# this plugin's own codes
REFUSED = 100  # the daemon, or the kernel through it, refused the request; details has the errno's name
IPAM_FAILED = 101  # the IPAM plugin failed without a CNI error, or its result is invalid
DIFFERS = 102  # CHECK found a difference from the result of ADD
NO_RULES = 103  # the firewall rules could not be made or deleted


class CniError(Exception):
    """A failed operation. main() writes body() to stdout."""

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
    """Write a line to stderr, which the runtime stores."""
    posix.write(2, f"vethd-cni: {message}\n".encode("utf-8", "surrogateescape"))
