"""How a device moves to another namespace, and what comes along.

Two ways lead to a device with a wanted name in a wanted namespace. Born under its final name elsewhere and moved
with IFLA_NET_NS_FD alone, it either arrives or, where the name is taken, stays where it was, untouched. Born under
another name, moved and renamed in one request, it has moved by the time that the name is refused: what fails is
the second half. Most attributes survive a move; the qdisc, the admin state and, if taken, the ifindex do not.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.kernel.lib import IFLA_NEW_IFINDEX, IFLA_NEW_NETNSID, House, Net, assign_nsid
from tests.kernel.tap import TUNSETIFINDEX, Tap, checked, libc, refusal
from tests.lib import rtnl
from tests.lib.rtnl import ifinfomsg, messages, nest, parse_attrs, text, u32

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18


def test_move_alone_to_a_taken_name_changes_nothing(house: House) -> None:
    staging, target = house.net(), house.net()
    house.tap(target, "veth0")
    house.tap(staging, "veth0")
    before = staging.link("veth0")

    with refusal(errno.EEXIST):
        staging.move("veth0", target)
    assert staging.link("veth0") == before


def test_move_with_a_taken_name_moves_and_then_fails(house: House) -> None:
    staging, target = house.net(), house.net()
    house.tap(target, "veth0")
    house.tap(staging, "tmp0")

    with refusal(errno.EEXIST):
        staging.move("tmp0", target, (rtnl.IFLA_IFNAME, text("veth0")))
    assert staging.get("tmp0") is None
    assert target.link("tmp0").kind == "tun"


def test_a_name_that_is_taken_as_an_altname_is_taken(house: House) -> None:
    staging, target = house.net(), house.net()
    house.tap(target, "other")
    add_altname(target, "other", "veth0")
    house.tap(staging, "veth0")

    with refusal(errno.EEXIST):
        staging.move("veth0", target)
    assert staging.get("veth0") is not None


def test_an_altname_that_is_taken_stops_the_move_too(house: House) -> None:
    staging, target = house.net(), house.net()
    house.tap(target, "alt0")
    house.tap(staging, "veth0")
    add_altname(staging, "veth0", "alt0")

    with refusal(errno.EEXIST):
        staging.move("veth0", target)
    assert staging.get("veth0") is not None


def test_what_survives_a_move(house: House) -> None:
    staging, target = house.net(), house.net()
    tap = house.tap(staging, "veth0")
    staging.set(
        "veth0",
        (rtnl.IFLA_IFALIAS, b"peer is b"),
        (rtnl.IFLA_ADDRESS, bytes.fromhex("020000000001")),
        (rtnl.IFLA_MTU, u32(9000)),
        (rtnl.IFLA_GROUP, u32(7)),
        (rtnl.IFLA_TXQLEN, u32(333)),
        (rtnl.IFLA_GSO_MAX_SIZE, u32(40000)),
    )
    add_altname(staging, "veth0", "an-altname-longer-than-fifteen")
    staging.noqueue("veth0")
    staging.up("veth0")
    tap.carrier(True)
    before = staging.link("veth0")
    assert (before.qdisc, before.up, before.carrier) == ("noqueue", True, True)

    staging.move("veth0", target)

    after = target.link("veth0")
    kept = ("name", "ifindex", "alias", "address", "mtu", "group", "txqueuelen", "gso_max_size", "altnames", "carrier")
    assert {key: getattr(after, key) for key in kept} == {key: getattr(before, key) for key in kept}
    assert after.altnames == ("an-altname-longer-than-fifteen",)
    assert not after.up
    target.up("veth0")
    assert target.link("veth0").qdisc == "pfifo_fast"  # which hides a full queue from senders
    target.noqueue("veth0")
    assert target.link("veth0").qdisc == "noqueue"


def test_frames_that_wait_survive_a_move(house: House) -> None:
    staging, target = house.net(), house.net()
    tap = house.live_tap(staging, "veth0")
    with staging.packet("veth0") as sock:
        sock.send(b"\xff" * 60)
    staging.move("veth0", target)
    assert tap.drain() == [b"\xff" * 60]


def test_an_explicit_address_is_told_from_a_random_one(house: House) -> None:
    """udev leaves an address alone that somebody has set: addr_assign_type 3, before and after the move."""
    staging, target = house.net(), house.net()
    house.tap(staging, "veth0")
    assert sysfs(staging, "veth0", "addr_assign_type") == "1"  # NET_ADDR_RANDOM
    staging.set("veth0", (rtnl.IFLA_ADDRESS, bytes.fromhex("020000000001")))
    assert sysfs(staging, "veth0", "addr_assign_type") == "3"  # NET_ADDR_SET
    staging.move("veth0", target)
    assert sysfs(target, "veth0", "addr_assign_type") == "3"


def test_ifindex_at_birth(house: House) -> None:
    """TUNSETIFINDEX goes before TUNSETIFF, where pytun leaves no room: it opens and attaches in one step."""
    tap = house.tap(house.net(), "veth0")
    with refusal(errno.EPERM):
        tap.ioctl_int(TUNSETIFINDEX, 4242)


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [pytest.param(4242, 0, id="free"), pytest.param(1, errno.EBUSY, id="taken by lo")],
)
def test_ifindex_on_a_move(house: House, wanted: int, answer: int) -> None:
    """IFLA_NEW_IFINDEX asks for an ifindex in the target; a taken one is refused and the device stays."""
    staging, target = house.net(), house.net()
    house.tap(staging, "veth0")

    def move() -> None:
        staging.move("veth0", target, (IFLA_NEW_IFINDEX, u32(wanted)))

    if answer:
        with refusal(answer):
            move()
        assert staging.get("veth0") is not None
    else:
        move()
        assert target.link("veth0").ifindex == wanted


def test_ifindex_that_is_taken_gives_way_on_a_plain_move(house: House) -> None:
    staging, target = house.net(), house.net()
    first = house.tap(staging, "a")
    second = house.tap(target, "b")
    index = staging.link(first.name).ifindex
    assert target.link(second.name).ifindex == index  # each namespace counts for itself
    staging.move("a", target)
    assert target.link("a").ifindex != index


def test_the_farewell_of_a_moved_device_says_where_it_went(house: House) -> None:
    """RTM_DELLINK of a move carries the new namespace's number and the new ifindex; then comes RTM_NEWLINK there."""
    staging, target = house.net(), house.net()
    house.tap(staging, "veth0")
    here, there = house.listen(staging), house.listen(target)
    assign_nsid(here, target.fd, 77)
    staging.move("veth0", target, (IFLA_NEW_IFINDEX, u32(4242)))

    farewell = next(body for kind, body in _link_messages(here) if kind == rtnl.RTM_DELLINK)
    attrs = parse_attrs(farewell[16:])
    assert (attrs[IFLA_NEW_NETNSID], attrs[IFLA_NEW_IFINDEX]) == (u32(77), u32(4242))
    assert (rtnl.RTM_NEWLINK, 4242) in [(kind, link.ifindex) for kind, link in there.events()]


def test_ifindex_at_birth_by_ioctl(house: House) -> None:
    """Without pytun, an ifindex can be asked for before the device is attached."""
    net = house.net()
    fd = net.run(os.open, "/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        Tap.int_ioctl(fd, TUNSETIFINDEX, 4242)
        Tap.attach(fd, "veth0")
        assert net.link("veth0").ifindex == 4242
    finally:
        os.close(fd)


def add_altname(net: Net, name: str, altname: str) -> None:
    prop = nest([(rtnl.IFLA_ALT_IFNAME, text(altname))])
    body = ifinfomsg(net.link(name).ifindex) + nest([(rtnl.IFLA_PROP_LIST | rtnl.NLA_F_NESTED, prop)])
    net.request(rtnl.RTM_NEWLINKPROP, rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL | rtnl.NLM_F_APPEND, body)


def sysfs(net: Net, name: str, key: str) -> str:
    """Read /sys/class/net as net sees it, through a sysfs mounted in a mount namespace of the thread's own."""

    def read() -> str:
        checked(libc.unshare(CLONE_NEWNS), "unshare")
        checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make private")
        checked(libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "mount sysfs")
        return Path("/sys/class/net", name, key).read_text(encoding="ascii").strip()

    return net.run(read)


def _link_messages(sock: rtnl.Rtnl) -> list[tuple[int, bytes]]:
    seen = []
    while True:
        try:
            seen += list(messages(sock.sock.recv(1 << 16, 0x40)))  # MSG_DONTWAIT
        except BlockingIOError:
            return seen
