"""Receives the link events of every namespace that vethd uses, on one socket.

Theory of operation. NETLINK_LISTEN_ALL_NSID lets one rtnetlink socket receive the events of all namespaces that have an
id (nsid) in its own namespace, and no events of the others. So an id is assigned before a device moves there
(Rtnl.nsid). ifindexes repeat across namespaces, so a link is identified by (nsid, ifindex); OWN_NSID stands for the
socket's own namespace, with or without an id. The deletion of a namespace sends no event of its links: it is read from
the tun fd.

Messages are delivered in order, one call each, never collapsed. If the kernel had to drop messages (ENOBUFS), lost() is
called after the last message before the gap, and the state must be read again. ENOBUFS is an error on the socket, and
uvloop stops watching an fd that has an error. So the loop watches an epoll instance instead, which has none.
The socket is read on the loop's thread; nothing here blocks.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Callable

from vethd.kernel import netns
from vethd.kernel.linkstate import LinkState, parse_link, peek
from vethd.kernel.message import split
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.uapi import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_LISTEN_ALL_NSID,
    NETLINK_ROUTE,
    NSID_NOT_ASSIGNED,
    RTM_NEWNSID,
    RTNLGRP_LINK,
    RTNLGRP_NSID,
    SOL_NETLINK,
)
from vethd.model.errors import VethError

OWN_NSID = -1
LinkKey = tuple[int, int]
"""(nsid, ifindex)"""

_RCVBUF = 8 << 20  # a thousand pairs made at once send some 10,000 messages of 1.5 KB; a lost message costs a dump
_SO_RCVBUFFORCE = 33
_BUDGET = 64  # messages per wake-up, so that many events do not block the datapath's loop


class Watcher:
    """The subscription. wanted() is called before a message is decoded: most messages are about other links."""

    def __init__(
        self,
        wanted: Callable[[LinkKey], bool],
        changed: Callable[[LinkKey, LinkState], None],
        lost: Callable[[], None],
    ) -> None:
        """Subscribe, in the calling thread's namespace. Raises VethError."""
        self._wanted = wanted
        self._changed = changed
        self._lost = lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dropped = False
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._epoll = select.epoll()
        try:
            self._sock.setblocking(False)
            self._grow_buffer()
            self._sock.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
            self._sock.bind((0, 0))  # first: bind() sets the groups below 32 to those of its argument
            for group in (RTNLGRP_LINK, RTNLGRP_NSID):
                self._sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            self._own_nsid = _read_own_nsid(NSID_NOT_ASSIGNED)
        except OSError as error:
            self._epoll.close()
            self._sock.close()
            reason = "link events of all namespaces need CAP_NET_BROADCAST" if error.errno == errno.EPERM else ""
            raise VethError(error.errno or errno.EIO, "watch", reason=reason) from error

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start delivering messages on the loop."""
        self._loop = loop
        self._epoll.register(self._sock.fileno(), select.EPOLLIN)
        loop.add_reader(self._epoll.fileno(), self._readable)

    def close(self) -> None:
        """Stop and close. Idempotent."""
        if self._loop is not None and not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._sock.close()

    def catch_up(self) -> None:
        """Deliver all messages that the kernel has sent so far.

        The kernel sends an event before it answers the request that caused it. So after one of our requests, the events
        of our change are delivered when this returns.
        """
        while self._readable():
            pass

    def _grow_buffer(self) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RCVBUF)
        except PermissionError:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RCVBUF)

    def _readable(self) -> bool:
        """Deliver up to _BUDGET messages; return whether there may be more."""
        for _ in range(_BUDGET):
            try:
                data, ancillary, _, _ = self._sock.recvmsg(1 << 16, 64)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    # queued messages are older than the dropped ones, and none is added until they are read: read them
                    self._dropped = True
                    continue
                if self._dropped:
                    self._dropped = False
                    self._lost()
                return False  # nothing more to read, or closed
            nsid = self._nsid(ancillary)
            for kind, message in split(data):
                if kind == RTM_NEWNSID:
                    # our own namespace may have just got an id: its messages carry it from now on
                    self._own_nsid = _read_own_nsid(self._own_nsid)
                    continue
                key = (nsid, peek(message)[1])
                if key[1] and self._wanted(key):
                    state = parse_link(message)
                    if state is not None:
                        self._changed(key, state)
        return True

    def _nsid(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        for level, kind, value in ancillary:
            if (level, kind) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID):
                nsid = struct.unpack_from("=i", value)[0]
                return OWN_NSID if nsid == self._own_nsid else int(nsid)
        return OWN_NSID


def _read_own_nsid(known: int) -> int:
    """Return our own namespace's id in itself, NSID_NOT_ASSIGNED if it has none, known if it cannot be read."""
    try:
        own = netns.open_own()
        try:
            with Rtnl() as rtnl:
                return rtnl.known_nsid(own)
        finally:
            os.close(own)
    except VethError:
        return known
