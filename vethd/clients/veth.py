"""What the doors know of the kernel's veth beyond the API: how its refusals are worded, what a peer inherits.

vethd-ip speaks as iproute2 does, vethd-run as the kernel does by an extended acknowledgement (NLMSGERR_ATTR_MSG); both
say the same words.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME_MAX = 15
INHERITED = ("mtu", "txqueuelen", "queues", "group", "gso_max_size", "gso_max_segs", "gro_max_size")
"""Attributes that a peer without a description of its own inherits, in the API's words."""
QUEUES = ("numtxqueues", "numrxqueues")
"""The numbers of queues that a request has; a TAP gets the larger one for both."""

UNKNOWN_NSID = "Unknown network namespace id"
_KERNELS = (
    ("numtxqueues", 1, 4096, "Invalid number of transmit queues"),
    ("numrxqueues", 1, 4096, "Invalid number of receive queues"),
    ("gso_max_size", 0, 65536, "too big gso_max_size"),
    ("gro_max_size", 0, 524280, "too big gro_max_size"),
)
"""Attributes for which the kernel has messages of its own: attribute, minimum, maximum, message."""
_OURS = (("mtu", 65522, 65535), ("numtxqueues", 257, 4096), ("numrxqueues", 257, 4096))
"""Ranges of values that a veth supports and a TAP does not."""
_ANSWERS = frozenset(
    {
        errno.EADDRNOTAVAIL,
        errno.EBUSY,
        errno.EEXIST,
        errno.EINVAL,
        errno.ENOMEM,
        errno.ENOTCONN,
        errno.EOPNOTSUPP,
        errno.EPERM,
    }
)
"""Errnos that the kernel also answers; for all others the daemon's message is clearer."""


def refusal(
    number: int, message: str, ends: Sequence[Mapping[str, object]], name: str | None, *, replace: bool
) -> tuple[int, str]:
    """Return the errno and the message with which the kernel refuses a pair that the daemon refused; "" is no message.

    number and message are the daemon's. ends are the requested attributes of each end, by the API's words and QUEUES.
    name is the near end's; replace: the request would replace a link of that name. If a veth supports the request and
    vethd does not, the message says so.
    """
    if number == errno.ERANGE:
        named = any(len(str(end.get("name", "")).encode("utf-8", "surrogateescape")) > NAME_MAX for end in ends)
        return number, "Attribute failed policy validation" if named else "integer out of range"
    if number == errno.EEXIST and replace and message.startswith(f"newlink {name}:"):
        return errno.EOPNOTSUPP, ""
    for key, low, high, words in _KERNELS if number == errno.EINVAL else ():
        if any(not low <= _number(end, key, low) <= high for end in ends):
            return number, words
    if number == errno.ENODEV:  # the master does not exist in the end's namespace
        return errno.EINVAL, ""
    ours = any(low <= _number(end, key, 0) <= high for key, low, high in _OURS for end in ends)
    return number, "" if number in _ANSWERS and not ours else f"vethd: {message}"


def queues_of(said: dict[str, object]) -> None:
    """Replace QUEUES in an end's attributes by the number that a TAP gets."""
    queues = [number for key in QUEUES if isinstance(number := said.pop(key, None), int)]
    if queues:
        said["queues"] = max(queues) if min(queues) > 0 else 0


def _number(end: Mapping[str, object], key: str, unsaid: int) -> int:
    said = end.get(key)
    return said if isinstance(said, int) else unsaid
