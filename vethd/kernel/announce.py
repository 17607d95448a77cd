"""Have the kernel announce a link's addresses again, for a worker thread that has entered the link's namespace.

Theory of operation. Where arp_notify or ndisc_notify is set, the kernel announces a link's addresses when the link
comes up (NETDEV_UP). On veth the link has its carrier by then. A TAP gets it a moment later, so the announcement is
lost, and neighbours keep an old MAC. The kernel announces again when the link gets a MAC (NETDEV_CHANGEADDR), even the
one that it already has. It also deletes the link's neighbour entries then. The link came up just now, so it only has
entries that were added since: the permanent ones are added again. Another program may add one between our look at the
entries and the new MAC. So a second socket receives the kernel's messages about neighbours meanwhile.

Kernel: inetdev_event(), ndisc_netdev_event(), neigh_changeaddr(). /proc/sys/net shows the namespace of the thread that
opens a file.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from socket import AF_INET, AF_INET6

from vethd.kernel.linkstate import LinkState
from vethd.kernel.message import NDMSG, attr, read, split
from vethd.kernel.rtnl import RECV, Rtnl
from vethd.kernel.uapi import (
    NDA_DST,
    NDA_LLADDR,
    NETLINK_ADD_MEMBERSHIP,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NUD_PERMANENT,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
    RTNLGRP_NEIGH,
    SOL_NETLINK,
)
from vethd.model.spec import LinkSpec

_FAMILIES = (AF_INET, AF_INET6)  # a bridge reports the entries of its forwarding table (AF_BRIDGE) in the same group
_NOTIFY = (("ipv4", "arp_notify"), ("ipv6", "ndisc_notify"))


class Announcer(Rtnl):
    """An rtnetlink socket that has the kernel announce addresses."""

    def announce(self, link: LinkState) -> None:
        """Have the kernel announce a link's addresses, if a setting of its namespace requests it. Raises VethError."""
        if not _wanted(link.name):
            return
        with Rtnl() as listener:
            listener.sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NEIGH)
            told = self._request(NDMSG.pack(0, 0, 0, 0, 0), RTM_GETNEIGH, NLM_F_DUMP, "getneigh", "")
            self.set_link(link.ifindex, LinkSpec(address=link.address))
            told += _received(listener)
        for entry in _permanent(told, link.ifindex):
            self._request(entry, RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE, "newneigh", link.name)


def _received(listener: Rtnl) -> list[bytes]:
    """Return the RTM_NEWNEIGH messages that a socket has received."""
    found = []
    listener.sock.setblocking(False)
    with suppress(OSError):  # EAGAIN: no more; ENOBUFS: too many
        while True:
            found += [data for kind, data in split(listener.sock.recv(RECV)) if kind == RTM_NEWNEIGH]
    return found


def _permanent(told: list[bytes], ifindex: int) -> list[bytes]:
    """Return a link's permanent neighbour entries, each as a message that adds it again; the last of a key counts."""
    found: dict[object, bytes] = {}
    for data in told:
        (family, index, state, flags, _), attrs = read(NDMSG, data)
        if family in _FAMILIES and index == ifindex and state & NUD_PERMANENT:
            same = b"".join(attr(kind, attrs[kind]) for kind in (NDA_DST, NDA_LLADDR) if kind in attrs)
            found[family, flags, attrs.get(NDA_DST)] = NDMSG.pack(family, index, state, flags, 0) + same
    return list(found.values())


def _wanted(ifname: str) -> bool:
    """Return whether a setting of the link, or of all links, requests it. Without /proc or IPv6, none does."""
    scopes = ("all", ifname)
    return any(_is_set(f"/proc/sys/net/{family}/conf/{scope}/{key}") for family, key in _NOTIFY for scope in scopes)


def _is_set(path: str) -> bool:
    try:
        return Path(path).read_bytes().strip() not in (b"", b"0")
    except OSError:
        return False
