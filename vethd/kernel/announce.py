"""Have the kernel announce a link's addresses again, for a worker thread that has entered the link's namespace.

Theory of operation. Where arp_notify or ndisc_notify is set, the kernel announces a link's addresses when the link
comes up (NETDEV_UP). On veth the link has its carrier by then. A TAP gets it a moment later, so the announcement is
lost, and neighbours keep an old MAC. The kernel announces again when the link gets a MAC (NETDEV_CHANGEADDR), even the
one that it already has. It also deletes the link's neighbour entries then. The link came up just now, so it only has
entries that were added since: the permanent ones are added again.

Kernel: inetdev_event(), ndisc_netdev_event(), neigh_changeaddr(). /proc/sys/net shows the namespace of the thread that
opens a file.
"""

from __future__ import annotations

from pathlib import Path

from pyroute2.netlink.rtnl.ndmsg import ndmsg

from vethd.kernel.linkstate import LinkState
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.uapi import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NUD_PERMANENT, RTM_GETNEIGH, RTM_NEWNEIGH
from vethd.model.spec import LinkSpec

_NOTIFY = (("ipv4", "arp_notify"), ("ipv6", "ndisc_notify"))


class Announcer(Rtnl):
    """An rtnetlink socket that has the kernel announce addresses."""

    def announce(self, link: LinkState) -> None:
        """Have the kernel announce a link's addresses, if a setting of its namespace requests it. Raises VethError."""
        if not _wanted(link.name):
            return
        kept = [entry for entry in self._neighbours() if entry["ifindex"] == link.ifindex]
        self.set_link(link.ifindex, LinkSpec(address=link.address))
        for entry in kept:
            self._request(entry, RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE, "newneigh", link.name)

    def _neighbours(self) -> list[ndmsg]:
        """Return the permanent neighbour entries of the namespace, each as a message that adds it again."""
        found = []
        for data in self._request(ndmsg(), RTM_GETNEIGH, NLM_F_DUMP, "getneigh", ""):
            told = ndmsg(data)
            told.decode()
            if told["state"] & NUD_PERMANENT:
                entry = ndmsg()
                entry.update({key: told[key] for key in ("family", "ifindex", "state", "flags")})
                entry["attrs"] = [(key, told.get_attr(key)) for key in ("NDA_DST", "NDA_LLADDR") if told.get_attr(key)]
                found.append(entry)
        return found


def _wanted(ifname: str) -> bool:
    """Return whether a setting of the link, or of all links, requests it. Without /proc or IPv6, none does."""
    scopes = ("all", ifname)
    return any(_is_set(f"/proc/sys/net/{family}/conf/{scope}/{key}") for family, key in _NOTIFY for scope in scopes)


def _is_set(path: str) -> bool:
    try:
        return Path(path).read_bytes().strip() not in (b"", b"0")
    except OSError:
        return False
