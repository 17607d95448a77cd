"""Hear of every link of every namespace that we have a stake in, on one socket.

Theory of operation. NETLINK_LISTEN_ALL_NSID lets one rtnetlink socket hear all namespaces that have an id (nsid) in
its own, and nothing of the others: an id is assigned before a device goes there (Rtnl.nsid). ifindexes repeat
across namespaces, so a link is known by (nsid, ifindex); OWN_NSID stands for the socket's own namespace, with or
without an id. A namespace that dies says nothing of its links: death is read from the tun fd.

Messages are handed on in order, one call each, never collapsed. When the kernel had to drop some (ENOBUFS), lost()
is called behind the last before the gap: the state must be read anew. ENOBUFS is an error on the socket, and uvloop
stops listening to what has one; so an epoll instance, which has none, stands between.
The socket reads on the loop's thread; nothing here blocks.
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
from vethd.kernel.rtnl import Rtnl, split
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

_RCVBUF = 8 << 20  # a thousand pairs made at once are some 10,000 messages of 1.5 KB; what is lost costs a dump
_SO_RCVBUFFORCE = 33
_BUDGET = 64  # messages a wake-up, so that a storm of news does not hold the datapath's loop


class Watcher:
    """The subscription. wanted() is asked before a message is decoded: most are about other people's links."""

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
            self._sock.bind((0, 0))  # first: bind() sets the groups below 32 to what it is given
            for group in (RTNLGRP_LINK, RTNLGRP_NSID):
                self._sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            self._own_nsid = _read_own_nsid(NSID_NOT_ASSIGNED)
        except OSError as error:
            self._epoll.close()
            self._sock.close()
            raise VethError(error.errno or errno.EIO, "watch") from error

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to deliver on that loop."""
        self._loop = loop
        self._epoll.register(self._sock.fileno(), select.EPOLLIN)
        loop.add_reader(self._epoll.fileno(), self._readable)

    def close(self) -> None:
        """Stop and close. Twice is once."""
        if self._loop is not None and not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._sock.close()

    def catch_up(self) -> None:
        """Deliver all that the kernel has said until now.

        It tells before it answers a request: after one of ours, what we changed is known when this returns.
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
                    # what is queued is older than what was dropped, and nothing is added until it is read: that first
                    self._dropped = True
                    continue
                if self._dropped:
                    self._dropped = False
                    self._lost()
                return False  # nothing more to read, or closed
            nsid = self._nsid(ancillary)
            for kind, message in split(data):
                if kind == RTM_NEWNSID:
                    # somebody may just have given our own namespace an id: its messages carry it from now on
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
    """Return our own namespace's id in itself, NSID_NOT_ASSIGNED where it has none, known where it cannot be read."""
    try:
        own = netns.open_own()
        try:
            with Rtnl() as rtnl:
                return rtnl.known_nsid(own)
        finally:
            os.close(own)
    except VethError:
        return known
