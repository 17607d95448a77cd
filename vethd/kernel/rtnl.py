"""rtnetlink requests: pyroute2's codec over a plain socket, one request and its answer at a time.

pyroute2's own sockets are not used: they fail under uvloop, fork to enter a namespace, and create a missing namespace.
An Rtnl belongs to the namespace that its thread was in when it was made, and pins it: make it inside
netns.inside(), use it, close it. Everything here may block on the RTNL lock: for worker threads only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from vethd.kernel.linkstate import LinkState, parse_link
from vethd.kernel.uapi import (
    ADDR_GEN_MODES,
    IFF_ALLMULTI,
    IFF_MULTICAST,
    IFF_NOARP,
    IFF_PROMISC,
    IFF_UP,
    IFNAMSIZ,
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_ECHO,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NSID_NOT_ASSIGNED,
    RTM_DELLINK,
    RTM_DELLINKPROP,
    RTM_GETLINK,
    RTM_GETNSID,
    RTM_GETQDISC,
    RTM_NEWLINK,
    RTM_NEWLINKPROP,
    RTM_NEWNSID,
    RTM_NEWQDISC,
    SIOCGIFINDEX,
    TC_H_ROOT,
)
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec

_HDR = struct.Struct("=IHHII")
RECV = 1 << 20
_TIMEOUT_S = 30.0

_FLAGS = (("arp", IFF_NOARP), ("multicast", IFF_MULTICAST), ("allmulticast", IFF_ALLMULTI), ("promisc", IFF_PROMISC))
_ATTRIBUTES = (
    ("mtu", "IFLA_MTU"),
    ("txqueuelen", "IFLA_TXQLEN"),
    ("group", "IFLA_GROUP"),
    ("alias", "IFLA_IFALIAS"),
    ("gso_max_size", "IFLA_GSO_MAX_SIZE"),
    ("gso_max_segs", "IFLA_GSO_MAX_SEGS"),
    ("gro_max_size", "IFLA_GRO_MAX_SIZE"),
    ("address", "IFLA_ADDRESS"),
)


class Rtnl:
    """One rtnetlink socket in the calling thread's namespace. Methods block; use from one thread."""

    def __init__(self) -> None:
        """Open the socket. Raises VethError."""
        try:
            self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        except OSError as error:
            raise VethError(error.errno or errno.EIO, "rtnetlink") from error
        try:
            self.sock.settimeout(_TIMEOUT_S)
            self.sock.bind((0, 0))
        except OSError as error:
            self.sock.close()
            raise VethError(error.errno or errno.EIO, "rtnetlink") from error
        self._seq = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def set_link(self, ifindex: int, spec: LinkSpec, *, skip: tuple[str, ...] = (), op: str = "changelink") -> None:
        """Set every attribute that spec sets, except those in skip, in one request; altname needs a second one.

        netns, queues and index are not set here. Raises VethError with the kernel's errno.
        """
        attrs: list[tuple[str, Any]] = [
            (nla, getattr(spec, key)) for key, nla in _ATTRIBUTES if key not in skip and getattr(spec, key) is not None
        ]
        if spec.name is not None and "name" not in skip:
            attrs.append(("IFLA_IFNAME", spec.name))
        if spec.master is not None and "master" not in skip:
            attrs.append(("IFLA_MASTER", self._master(spec.master, op) if spec.master else 0))
        if spec.addrgenmode is not None and "addrgenmode" not in skip:
            mode = [("IFLA_INET6_ADDR_GEN_MODE", ADDR_GEN_MODES[spec.addrgenmode])]
            attrs.append(("IFLA_AF_SPEC", {"attrs": [("AF_INET6", {"attrs": mode})]}))
        flags, change = _flags(spec, skip)
        if attrs or change:
            self._newlink(ifindex, attrs, (flags, change), op)
        if spec.altname and "altname" not in skip:
            self.altname(ifindex, add=spec.altname, op=op)

    def move(
        self,
        ifindex: int,
        netns_fd: int,
        *,
        name: str | None = None,
        new_ifindex: int | None = None,
        op: str = "changelink",
    ) -> None:
        """Move the link to another namespace, which brings it down; optionally change its name or ifindex.

        Without a name, the whole move fails (EEXIST) if the present name is taken in the target. With a name, the
        device moves first and is then renamed: on EEXIST it *has moved*. Costs an rcu_barrier, about 14 ms.
        """
        attrs: list[tuple[str, Any]] = [("IFLA_NET_NS_FD", netns_fd)]
        if name is not None:
            attrs.append(("IFLA_IFNAME", name))
        if new_ifindex is not None:
            attrs.append(("IFLA_NEW_IFINDEX", new_ifindex))
        self._newlink(ifindex, attrs, (0, 0), op)

    def altname(self, ifindex: int, *, add: str = "", remove: str = "", op: str = "changelink") -> None:
        """Add or remove one alternative name. Raises VethError EEXIST if it is taken."""
        for kind, altname in ((RTM_DELLINKPROP, remove), (RTM_NEWLINKPROP, add)):
            if altname:
                message = ifinfmsg()
                message["index"] = ifindex
                message["attrs"] = [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", altname)]})]
                flags = NLM_F_CREATE if kind == RTM_NEWLINKPROP else 0
                self._request(message, kind, flags | NLM_F_ACK, op, altname)

    def noqueue(self, ifindex: int) -> None:
        """Set the link's qdisc to noqueue, as on veth. Raises VethError."""
        (message := tcmsg()).update(index=ifindex, parent=TC_H_ROOT, attrs=[("TCA_KIND", "noqueue")])
        self._request(message, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, "noqueue", "")

    def chosen_qdisc(self, ifindex: int) -> bool:
        """Return whether somebody chose the link's qdisc: the kernel's default has no handle."""
        (message := tcmsg()).update(index=ifindex, parent=TC_H_ROOT)
        with suppress(VethError):  # the link was never up and has no qdisc, or is gone
            replies = self._request(message, RTM_GETQDISC, NLM_F_ACK | NLM_F_ECHO, "getqdisc", "")
            return any(struct.unpack_from("=24xI", data)[0] for data in replies)
        return False

    def newlink(self, kind: str, name: str) -> None:
        """Make a link of this kind, as `ip link add NAME type KIND` does. Raises VethError."""
        message = ifinfmsg()
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})]
        self._request(message, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, "newlink", name)

    def dellink(self, ifindex: int) -> None:
        """Delete the link. Raises VethError ENODEV if it does not exist."""
        (message := ifinfmsg()).update(index=ifindex)
        self._request(message, RTM_DELLINK, NLM_F_ACK, "dellink", "")

    def link(self, ifindex: int) -> LinkState:
        """Read one link. Raises VethError ENODEV."""
        (message := ifinfmsg()).update(index=ifindex)
        return self._getlink(message, "getlink", "")

    def ifindex(self, name: str, op: str = "getlink") -> int:
        """Return the ifindex of a name, or of an altname, in the socket's namespace. Raises VethError ENODEV.

        It uses an ioctl: the codec requires names in UTF-8, the kernel does not, and if_nametoindex() opens another fd.
        """
        encoded = os.fsencode(name)
        if len(encoded) >= IFNAMSIZ:  # only an altname can be so long
            message = ifinfmsg()
            message["attrs"] = [("IFLA_ALT_IFNAME", name)]
            return self._getlink(message, op, name).ifindex
        try:
            request = fcntl.ioctl(self.sock, SIOCGIFINDEX, struct.pack("16s24x", encoded))
        except OSError as error:
            raise VethError(error.errno or errno.EIO, op, name) from error
        return int(struct.unpack_from("16xi", request)[0])

    def _master(self, name: str, op: str) -> int:
        try:
            return self.ifindex(name, op)
        except VethError as error:
            raise VethError(error.errno, op, name, f"no master {name!r} in the link's namespace") from error

    def links(self) -> Iterator[LinkState]:
        """Read every link of the namespace."""
        for data in self._request(ifinfmsg(), RTM_GETLINK, NLM_F_DUMP, "getlink", ""):
            state = parse_link(data)
            if state is not None:
                yield state

    def nsid(self, netns_fd: int) -> int:
        """Return the id of netns_fd's namespace in this socket's namespace; assign one if there is none.

        NETLINK_LISTEN_ALL_NSID delivers no events of a namespace without an id. The id ends with either namespace.
        """
        known = self.known_nsid(netns_fd)
        if known != NSID_NOT_ASSIGNED:
            return known
        message = nsidmsg()
        message["attrs"] = [("NETNSA_FD", netns_fd), ("NETNSA_NSID", NSID_NOT_ASSIGNED & 0xFFFFFFFF)]
        try:
            self._request(message, RTM_NEWNSID, NLM_F_ACK, "newnsid", "")
        except VethError as error:
            if error.errno != errno.EEXIST:  # another process assigned one first
                raise
        return self.known_nsid(netns_fd)

    def known_nsid(self, netns_fd: int) -> int:
        """Return the id of netns_fd's namespace in this socket's namespace, or NSID_NOT_ASSIGNED."""
        message = nsidmsg()
        message["attrs"] = [("NETNSA_FD", netns_fd)]
        for data in self._request(message, RTM_GETNSID, 0, "getnsid", ""):
            reply = nsidmsg(data)
            reply.decode()
            value = int(reply.get_attr("NETNSA_NSID"))
            return value - (1 << 32) if value >= 1 << 31 else value
        return NSID_NOT_ASSIGNED

    def _getlink(self, message: nlmsg, op: str, name: str) -> LinkState:
        for data in self._request(message, RTM_GETLINK, 0, op, name):
            state = parse_link(data)
            if state is not None:
                return state
        raise VethError(errno.ENODEV, op, name)

    def _newlink(self, ifindex: int, attrs: list[tuple[str, Any]], flags: tuple[int, int], op: str) -> None:
        message = ifinfmsg()
        message["index"] = ifindex
        message["flags"], message["change"] = flags
        message["attrs"] = attrs
        self._request(message, RTM_NEWLINK, NLM_F_ACK, op, dict(attrs).get("IFLA_IFNAME", ""))

    def _request(self, message: nlmsg, kind: int, flags: int, op: str, name: str) -> list[bytes]:
        """Send one request and return its replies, each a whole message. Raises VethError with the kernel's errno."""
        self._seq += 1
        message["header"].update(type=kind, flags=flags | NLM_F_REQUEST, pid=0, sequence_number=self._seq)
        message.encode()
        dump = flags & NLM_F_DUMP == NLM_F_DUMP
        replies: list[bytes] = []
        try:
            self.sock.send(message.data)
            while True:
                for header_kind, data in split(self.sock.recv(RECV)):
                    if header_kind == NLMSG_ERROR:
                        code = -struct.unpack_from("=i", data, _HDR.size)[0]
                        if code:
                            raise VethError(code, op, name)
                        return replies
                    if header_kind == NLMSG_DONE:
                        return replies
                    replies.append(data)
                if replies and not dump and not flags & NLM_F_ACK:
                    return replies
        except OSError as error:
            raise VethError(error.errno or errno.ETIMEDOUT, op, name) from error


def split(buffer: bytes) -> Iterator[tuple[int, bytes]]:
    """Split a datagram into (message type, whole message); a truncated message is left out."""
    offset = 0
    while offset + _HDR.size <= len(buffer):
        length, kind = struct.unpack_from("=IH", buffer, offset)
        if length < _HDR.size or offset + length > len(buffer):
            return
        yield kind, buffer[offset : offset + length]
        offset += (length + 3) & ~3


def _flags(spec: LinkSpec, skip: tuple[str, ...]) -> tuple[int, int]:
    """Return (flags, mask) for the interface flags that spec sets."""
    flags = change = 0
    if spec.up is not None and "up" not in skip:
        change |= IFF_UP
        flags |= IFF_UP if spec.up else 0
    for key, bit in _FLAGS:
        value = getattr(spec, key)
        if value is not None and key not in skip:
            change |= bit
            # arp is positive, its flag (IFF_NOARP) negative
            flags |= bit if value != (key == "arp") else 0
    return flags, change
