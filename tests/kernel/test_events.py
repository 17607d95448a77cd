"""What rtnetlink tells, and what it keeps quiet.

NETLINK_LISTEN_ALL_NSID makes one socket hear the events of every namespace that has a number (nsid) in the
socket's own, each tagged with that number; a namespace without one is not heard at all. A namespace that dies says
RTM_DELNSID and not one RTM_DELLINK. A socket whose buffer overflows says ENOBUFS, once, and goes on.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import NamedTuple

import pytest

from tests.kernel.lib import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_LISTEN_ALL_NSID,
    NETNSA_NSID,
    RTM_DELNSID,
    RTM_NEWNSID,
    RTNLGRP_NSID,
    SOL_NETLINK,
    House,
    Net,
    assign_nsid,
)
from tests.kernel.tap import refusal
from tests.lib import rtnl
from tests.lib.rtnl import Rtnl, messages, parse_attrs, text, u32
from tests.lib.wait import wait_until

HERE = -1  # the listener's own namespace has no tag


class Heard(NamedTuple):
    nsid: int
    kind: int
    body: bytes

    @property
    def name(self) -> str:
        return rtnl.Link.parse(self.body).name


class Listener:
    """A socket with NETLINK_LISTEN_ALL_NSID that keeps all it has heard; another one assigns numbers."""

    def __init__(self, sock: Rtnl, asking: Rtnl) -> None:
        self.asking = asking
        self.sock = sock.sock
        self.sock.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        self.sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NSID)
        self.heard: list[Heard] = []

    def number(self, net: Net, nsid: int) -> None:
        """Give a namespace its number here."""
        assign_nsid(self.asking, net.fd, nsid)

    def listen(self) -> list[Heard]:
        """Take what has come, without waiting; return all so far."""
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(1 << 16, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return self.heard
            tags = [
                struct.unpack("=i", value)[0]
                for level, kind, value in ancillary
                if (level, kind) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID)
            ]
            self.heard += [Heard(tags[0] if tags else HERE, kind, body) for kind, body in messages(data)]

    def links(self) -> list[tuple[int, int, str]]:
        """Return the link events so far as (nsid, kind, name)."""
        kinds = (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK)
        return [(it.nsid, it.kind, it.name) for it in self.listen() if it.kind in kinds]

    def nsids(self) -> list[tuple[int, int]]:
        """Return the events about numbers so far as (kind, number)."""
        kinds = (RTM_NEWNSID, RTM_DELNSID)
        return [
            (it.kind, struct.unpack("=i", parse_attrs(it.body[4:])[NETNSA_NSID])[0])
            for it in self.listen()
            if it.kind in kinds
        ]


def listener(house: House, net: Net) -> Listener:
    return Listener(house.listen(net), house.listen(net, 0))


def test_a_namespace_with_a_number_is_heard_and_one_without_is_not(house: House) -> None:
    root, known, unknown = house.net(), house.net(), house.net()
    ears = listener(house, root)
    ears.number(known, 7)
    house.tap(unknown, "quiet")
    house.tap(known, "loud")
    house.tap(root, "own")
    assert {(nsid, name) for nsid, _, name in ears.links()} == {(7, "loud"), (HERE, "own")}


def test_a_number_is_told_and_works_from_its_assignment_on(house: House) -> None:
    """What happened before the number came is lost: whoever listens dumps after he has assigned it."""
    root, other = house.net(), house.net()
    ears = listener(house, root)
    house.tap(other, "before")
    ears.number(other, 7)
    house.tap(other, "after")
    assert ears.nsids() == [(RTM_NEWNSID, 7)]
    assert {name for _, _, name in ears.links()} == {"after"}


def test_a_number_is_given_once(house: House) -> None:
    root, first, second = house.net(), house.net(), house.net()
    sock = house.listen(root)
    assign_nsid(sock, first.fd, 7)
    for fd, number in ((first.fd, 8), (second.fd, 7)):
        with refusal(errno.EEXIST):
            assign_nsid(sock, fd, number)


def test_ifindexes_repeat_so_the_number_belongs_to_the_key(house: House) -> None:
    root, one, two = house.net(), house.net(), house.net()
    ears = listener(house, root)
    ears.number(one, 1)
    ears.number(two, 2)
    house.tap(one, "a")
    house.tap(two, "a")
    assert one.link("a").ifindex == two.link("a").ifindex
    assert {nsid for nsid, _, _ in ears.links()} == {1, 2}


def test_a_namespace_dies_without_a_dellink(house: House) -> None:
    root, staging, target = house.net(), house.net(), house.net()
    ears = listener(house, root)
    ears.number(target, 7)
    tap = house.tap(staging, "a")
    staging.move("a", target)
    assert (7, rtnl.RTM_NEWLINK, "a") in ears.links()

    target.let_go()

    wait_until(lambda: (RTM_DELNSID, 7) in ears.nsids())
    wait_until(lambda: tap.poll() & select.POLLERR)  # the device is gone for good now
    assert [it for it in ears.links() if it[1] == rtnl.RTM_DELLINK] == []


def test_a_device_deleted_or_moved_in_a_living_namespace_says_dellink(house: House) -> None:
    root, one, two = house.net(), house.net(), house.net()
    ears = listener(house, root)
    ears.number(one, 1)
    ears.number(two, 2)
    house.tap(one, "a")
    one.move("a", two)
    two.delete("a")
    short = [(nsid, kind) for nsid, kind, _ in ears.links() if (nsid, kind) != (1, rtnl.RTM_NEWLINK)]
    assert short[0] == (1, rtnl.RTM_DELLINK)
    assert short[-1] == (2, rtnl.RTM_DELLINK)
    assert set(short[1:-1]) == {(2, rtnl.RTM_NEWLINK)}


CHANGES = {
    "mtu": (rtnl.IFLA_MTU, u32(1400)),
    "address": (rtnl.IFLA_ADDRESS, bytes.fromhex("020000000001")),
    "name": (rtnl.IFLA_IFNAME, text("b")),
    "txqueuelen": (rtnl.IFLA_TXQLEN, u32(10)),
    "alias": (rtnl.IFLA_IFALIAS, b"alias"),
    "group": (rtnl.IFLA_GROUP, u32(10)),
}
SILENT_WHILE_DOWN = ("alias", "group")  # netdev_state_change() speaks for devices that are up


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_told_by_the_time_that_it_is_answered(house: House, change: str, up: bool) -> None:
    net = house.net()
    house.tap(net, "a")
    if up:
        net.up("a")
    events = house.listen(net)
    net.set("a", CHANGES[change])
    told = events.events()
    if not up and change in SILENT_WHILE_DOWN:
        assert told == []
        return
    assert {kind for kind, _ in told} == {rtnl.RTM_NEWLINK}
    final = told[-1][1]
    assert final == net.link(final.name)


def test_up_and_down_are_told_one_by_one(house: House) -> None:
    """Nothing of it is merged: a watcher can follow each."""
    net = house.net()
    house.tap(net, "a")
    events = house.listen(net)
    for _ in range(5):
        net.up("a")
        net.down("a")
    states = [link.up for _, link in events.events()]
    changes = [now for now, before in zip(states, [False, *states], strict=False) if now != before]
    assert changes == [True, False] * 5


def test_overflow_is_enobufs_and_then_a_dump_tells_all(house: House) -> None:
    net = house.net()
    house.tap(net, "a")
    events = house.listen(net)
    events.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the kernel's least
    for mtu in range(1000, 1050):
        net.set("a", (rtnl.IFLA_MTU, u32(mtu)))

    with refusal(errno.ENOBUFS):
        for _ in range(60):
            events.sock.recv(1 << 16, socket.MSG_DONTWAIT)

    stale = events.events()  # what was queued before the overflow is still there, and old
    assert [link.mtu for _, link in stale] != list(range(1000, 1050))
    assert net.link("a").mtu == 1049
    net.set("a", (rtnl.IFLA_MTU, u32(1500)))
    assert [link.mtu for _, link in events.events()] == [1500]  # said once; the socket works again
