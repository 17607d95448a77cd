"""The messages that make the kernel say what it would say of a veth: they are sent in place of the caller's.

Theory of operation. The supervisor sends the substitute on a duplicate of the caller's own socket, so the kernel's
acknowledgement, or error, reaches the caller's queue with the right port and sequence number. No substitute changes
anything. An errno for which there is none fails the caller's send itself.
"""

from __future__ import annotations

import errno
import struct

from vethd.clients.run import rtnl
from vethd.clients.run.rtnl import LINK, Message, attribute

_LO = 1
_NOBODY = 0x3FFFFFFF  # no process has this id
_CHANGES = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL | rtnl.NLM_F_REPLACE


def done(message: Message, index: int = 0) -> bytes:
    """Return the substitute of a request that was carried out; index is the new link's, for NLM_F_ECHO."""
    if message.flags & rtnl.NLM_F_ECHO and index:
        return message.answered(rtnl.RTM_GETLINK, message.flags & ~_CHANGES, _link(index))
    return message.answered(rtnl.RTM_SETLINK, message.flags & ~_CHANGES & ~rtnl.NLM_F_ECHO, _link(_LO))


def refused(message: Message, code: int) -> bytes | None:
    """Return the substitute to which the kernel answers the errno code; None if there is none."""
    made = _REFUSALS.get(code)
    if made is None:
        return None
    kind, payload = made
    flags = message.flags & ~_CHANGES & ~rtnl.NLM_F_ECHO
    if code == errno.EEXIST:
        flags |= rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
    return message.answered(kind, flags, payload)


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
