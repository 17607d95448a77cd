"""rtnetlink requests over a plain socket, one request and its answer at a time.

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
from typing import Self

from vethd.kernel.linkstate import LinkState, parse_link
from vethd.kernel.message import (
    NLMSGHDR,
    RTGENMSG,
    TCMSG,
    link_body,
    mac,
    nest,
    number,
    read,
    split,
    text,
    u8,
    u32,
)
from vethd.kernel.uapi import (
    ADDR_GEN_MODES,
    IFF_ALLMULTI,
    IFF_MULTICAST,
    IFF_NOARP,
    IFF_PROMISC,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_ALT_IFNAME,
    IFLA_GRO_MAX_SIZE,
    IFLA_GROUP,
    IFLA_GSO_MAX_SEGS,
    IFLA_GSO_MAX_SIZE,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_NEW_IFINDEX,
    IFLA_PROP_LIST,
    IFLA_TXQLEN,
    IFNAMSIZ,
    NETLINK_ROUTE,
    NETNSA_FD,
    NETNSA_NSID,
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
    TCA_KIND,
)
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec

RECV = 1 << 20
_TIMEOUT_S = 30.0

_FLAGS = (("arp", IFF_NOARP), ("multicast", IFF_MULTICAST), ("allmulticast", IFF_ALLMULTI), ("promisc", IFF_PROMISC))
_ATTRIBUTES = (
    ("mtu", IFLA_MTU, u32),
    ("txqueuelen", IFLA_TXQLEN, u32),
    ("group", IFLA_GROUP, u32),
    ("alias", IFLA_IFALIAS, text),
    ("gso_max_size", IFLA_GSO_MAX_SIZE, u32),
    ("gso_max_segs", IFLA_GSO_MAX_SEGS, u32),
    ("gro_max_size", IFLA_GRO_MAX_SIZE, u32),
    ("address", IFLA_ADDRESS, mac),
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
        attrs: list[bytes] = [
            encode(kind, value)
            for key, kind, encode in _ATTRIBUTES
            if key not in skip and (value := getattr(spec, key)) is not None
        ]
        if spec.name is not None and "name" not in skip:
            attrs.append(text(IFLA_IFNAME, spec.name))
        if spec.master is not None and "master" not in skip:
            attrs.append(u32(IFLA_MASTER, self._master(spec.master, op) if spec.master else 0))
        if spec.addrgenmode is not None and "addrgenmode" not in skip:
            mode = u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODES[spec.addrgenmode])
            attrs.append(nest(IFLA_AF_SPEC, nest(socket.AF_INET6, mode)))
        flags, change = _flags(spec, skip)
        if attrs or change:
            self._newlink(ifindex, attrs, (flags, change), op, "" if "name" in skip else spec.name or "")
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
        attrs = [u32(IFLA_NET_NS_FD, netns_fd)]
        if name is not None:
            attrs.append(text(IFLA_IFNAME, name))
        if new_ifindex is not None:
            attrs.append(u32(IFLA_NEW_IFINDEX, new_ifindex))
        self._newlink(ifindex, attrs, (0, 0), op, name or "")

    def altname(self, ifindex: int, *, add: str = "", remove: str = "", op: str = "changelink") -> None:
        """Add or remove one alternative name. Raises VethError EEXIST if it is taken."""
        for kind, altname in ((RTM_DELLINKPROP, remove), (RTM_NEWLINKPROP, add)):
            if altname:
                message = link_body(nest(IFLA_PROP_LIST, text(IFLA_ALT_IFNAME, altname)), ifindex=ifindex)
                flags = NLM_F_CREATE if kind == RTM_NEWLINKPROP else 0
                self._request(message, kind, flags | NLM_F_ACK, op, altname)

    def noqueue(self, ifindex: int) -> None:
        """Set the link's qdisc to noqueue, as on veth. Raises VethError."""
        message = TCMSG.pack(0, ifindex, 0, TC_H_ROOT, 0) + text(TCA_KIND, "noqueue")
        self._request(message, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, "noqueue", "")

    def chosen_qdisc(self, ifindex: int) -> bool:
        """Return whether somebody chose the link's qdisc: the kernel's default has no handle."""
        with suppress(VethError):  # the link was never up and has no qdisc, or is gone
            message = TCMSG.pack(0, ifindex, 0, TC_H_ROOT, 0)
            replies = self._request(message, RTM_GETQDISC, NLM_F_ACK | NLM_F_ECHO, "getqdisc", "")
            return any(read(TCMSG, data)[0][2] for data in replies)
        return False

    def newlink(self, kind: str, name: str) -> None:
        """Make a link of this kind, as `ip link add NAME type KIND` does. Raises VethError."""
        message = link_body(text(IFLA_IFNAME, name), nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind)))
        self._request(message, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, "newlink", name)

    def dellink(self, ifindex: int) -> None:
        """Delete the link. Raises VethError ENODEV if it does not exist."""
        self._request(link_body(ifindex=ifindex), RTM_DELLINK, NLM_F_ACK, "dellink", "")

    def link(self, ifindex: int) -> LinkState:
        """Read one link. Raises VethError ENODEV."""
        return self._getlink(link_body(ifindex=ifindex), "getlink", "")

    def ifindex(self, name: str, op: str = "getlink") -> int:
        """Return the ifindex of a name, or of an altname, in the socket's namespace. Raises VethError ENODEV.

        It uses an ioctl, as if_nametoindex(), which opens another fd.
        """
        encoded = os.fsencode(name)
        if len(encoded) >= IFNAMSIZ:  # only an altname can be so long
            return self._getlink(link_body(text(IFLA_ALT_IFNAME, name)), op, name).ifindex
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
        for data in self._request(link_body(), RTM_GETLINK, NLM_F_DUMP, "getlink", ""):
            if (state := parse_link(data)) is not None:
                yield state

    def nsid(self, netns_fd: int) -> int:
        """Return the id of netns_fd's namespace in this socket's namespace; assign one if there is none.

        NETLINK_LISTEN_ALL_NSID delivers no events of a namespace without an id. The id ends with either namespace.
        """
        known = self.known_nsid(netns_fd)
        if known != NSID_NOT_ASSIGNED:
            return known
        message = RTGENMSG.pack(0) + u32(NETNSA_FD, netns_fd) + u32(NETNSA_NSID, NSID_NOT_ASSIGNED & 0xFFFFFFFF)
        try:
            self._request(message, RTM_NEWNSID, NLM_F_ACK, "newnsid", "")
        except VethError as error:
            if error.errno != errno.EEXIST:  # another process assigned one first
                raise
        return self.known_nsid(netns_fd)

    def known_nsid(self, netns_fd: int) -> int:
        """Return the id of netns_fd's namespace in this socket's namespace, or NSID_NOT_ASSIGNED."""
        for data in self._request(RTGENMSG.pack(0) + u32(NETNSA_FD, netns_fd), RTM_GETNSID, 0, "getnsid", ""):
            value = number(read(RTGENMSG, data)[1][NETNSA_NSID])
            return value - (1 << 32) if value >= 1 << 31 else value
        return NSID_NOT_ASSIGNED

    def _getlink(self, message: bytes, op: str, name: str) -> LinkState:
        for data in self._request(message, RTM_GETLINK, 0, op, name):
            state = parse_link(data)
            if state is not None:
                return state
        raise VethError(errno.ENODEV, op, name)

    def _newlink(self, ifindex: int, attrs: list[bytes], flags: tuple[int, int], op: str, name: str) -> None:
        self._request(link_body(*attrs, ifindex=ifindex, flags=flags), RTM_NEWLINK, NLM_F_ACK, op, name)

    def _request(self, body: bytes, kind: int, flags: int, op: str, name: str) -> list[bytes]:
        """Send one request and return its replies, each a whole message. Raises VethError with the kernel's errno."""
        self._seq += 1
        header = NLMSGHDR.pack(NLMSGHDR.size + len(body), kind, flags | NLM_F_REQUEST, self._seq, 0)
        dump = flags & NLM_F_DUMP == NLM_F_DUMP
        replies: list[bytes] = []
        try:
            self.sock.send(header + body)
            while True:
                for header_kind, data in split(self.sock.recv(RECV)):
                    if header_kind == NLMSG_ERROR:
                        code = -struct.unpack_from("=i", data, NLMSGHDR.size)[0]
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
