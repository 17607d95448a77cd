"""The messages that make the kernel say what it would say of a veth: they are sent in place of the caller's.

Theory of operation. The supervisor sends the substitute on a duplicate of the caller's own socket, so the kernel's
acknowledgement, or error, reaches the caller's queue with the right port and sequence number. No substitute changes
anything. Where the kernel has no such answer, or a message belongs to it (NLMSGERR_ATTR_MSG), the supervisor rewrites
the acknowledgement when the caller receives it: worded() has that.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from vethd.clients.run import rtnl
from vethd.clients.run.rtnl import LINK, Message, attribute

_LO = 1
_MSG = 1  # NLMSGERR_ATTR_MSG
_NOBODY = 0x3FFFFFFF  # no process has this id
_CHANGES = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL | rtnl.NLM_F_REPLACE


def done(message: Message, index: int = 0) -> bytes:
    """Return the substitute of a request that was carried out; index is the new link's, for NLM_F_ECHO."""
    if message.flags & rtnl.NLM_F_ECHO and index:
        return message.answered(rtnl.RTM_GETLINK, message.flags & ~_CHANGES, _link(index))
    return message.answered(rtnl.RTM_SETLINK, message.flags & ~_CHANGES & ~rtnl.NLM_F_ECHO, _link(_LO))


def refused(message: Message, code: int) -> bytes:
    """Return the substitute to which the kernel answers the errno code; EINVAL if there is none for it."""
    kind, payload = _REFUSALS.get(code, _REFUSALS[errno.EINVAL])
    flags = message.flags & ~_CHANGES & ~rtnl.NLM_F_ECHO
    if code == errno.EEXIST:
        flags |= rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
    return message.answered(kind, flags, payload)


def needs_words(code: int, text: str) -> bool:
    """Return whether the kernel's answer to refused() is not the whole of the refusal."""
    return bool(text) or code not in _REFUSALS


class Refusal(NamedTuple):
    """What a request is refused with: the errno, a message or "", and the request itself."""

    code: int
    text: str
    request: bytes


def worded(message: Message, refusal: Refusal, *, extended: bool, capped: bool) -> bytes:
    """Return the acknowledgement of a refusal in place of the one that the substitute got.

    extended, capped: the socket has NETLINK_EXT_ACK, NETLINK_CAP_ACK. Kernel: netlink_ack().
    """
    flags = rtnl.NLM_F_CAPPED if capped else 0
    payload = struct.pack("=i", -refusal.code) + (refusal.request[: rtnl.HEAD.size] if capped else refusal.request)
    payload += bytes(-len(payload) % 4)
    if extended and refusal.text:
        flags |= rtnl.NLM_F_ACK_TLVS
        payload += attribute(_MSG, refusal.text.encode("utf-8", "surrogateescape") + b"\0")
    return message.answered(rtnl.NLMSG_ERROR, flags, payload)


def _link(index: int, more: bytes = b"") -> bytes:
    return LINK.pack(0, 0, index, 0, 0) + more


def _word(value: int) -> bytes:
    return struct.pack("=i", value)


_REFUSALS = {
    errno.EEXIST: (rtnl.RTM_NEWLINK, _link(_LO)),
    errno.EINVAL: (rtnl.RTM_SETLINK, _link(0)),
    errno.ENODEV: (rtnl.RTM_SETLINK, _link(_NOBODY)),
    errno.EOPNOTSUPP: (rtnl.RTM_DELLINK, _link(_LO)),
    errno.ESRCH: (rtnl.RTM_SETLINK, _link(_LO, attribute(rtnl.IFLA_NET_NS_PID, _word(_NOBODY)))),
    errno.EBADF: (rtnl.RTM_SETLINK, _link(_LO, attribute(rtnl.IFLA_NET_NS_FD, _word(-1)))),
    errno.EADDRNOTAVAIL: (rtnl.RTM_SETLINK, _link(_LO, attribute(rtnl.IFLA_ADDRESS, b"\1\0\0\0\0\0"))),
    errno.ERANGE: (rtnl.RTM_SETLINK, _link(_LO, attribute(rtnl.IFLA_IFNAME, b"a" * 20 + b"\0"))),
}
