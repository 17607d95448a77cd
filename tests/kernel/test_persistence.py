"""What a persistent TAP keeps when its last fd is closed, what it loses, and who may attach to it again.

The carrier goes with the last close, and comes back with an attach, unless that says IFF_NO_CARRIER. What waited in
the queue is gone, and no counter tells. Header size and offloads are not set back: a successor finds those of the
last who set them, which is "stale" only for one who takes the default of 10 for granted. Setting and clearing
TUNSETPERSIST itself moves nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

import pytest

from tests.kernel.lib import House, Net
from tests.kernel.tap import BASE, IFF_NO_CARRIER, IFF_TUN_EXCL, TUNSETOFFLOAD, TUNSETVNETHDRSZ, Tap, refusal
from tests.lib.wait import wait_until

TUNSETPERSIST = 0x400454CB
TUNGETVNETHDRSZ = 0x800454D7
SIOCGSKNS = 0x894C
IFF_MULTI_QUEUE = 0x100
AGAIN = (BASE & ~IFF_TUN_EXCL) | IFF_NO_CARRIER
FRAME = bytes(12) + b"\x08\x00" + bytes(50)


def header_size(tap: Tap) -> int:
    return int(struct.unpack("i", fcntl.ioctl(tap.fd, TUNGETVNETHDRSZ, bytes(4)))[0])


def pinned(tap: Tap) -> int:
    fd = fcntl.ioctl(tap.fd, SIOCGSKNS)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


@pytest.fixture
def left(house: House) -> Net:
    """Return a namespace with a TAP "a" in it that was up, had its carrier and five frames queued, and lost its fd."""
    net = house.net()
    tap = house.live_tap(net, "a")
    tap.ioctl_int(TUNSETVNETHDRSZ, 24)
    tap.ioctl(TUNSETOFFLOAD, 0x1FF)
    changes = net.link("a").carrier_changes
    tap.ioctl(TUNSETPERSIST, 1)
    assert net.link("a").carrier_changes == changes
    with net.packet("a") as sock:
        for _ in range(5):
            sock.send(FRAME)
    tap.close()
    wait_until(lambda: not net.link("a").carrier)
    assert net.link("a").carrier_changes == changes + 1
    return net


def test_carrier_goes_with_the_last_close_and_its_queue_too(house: House, left: Net) -> None:
    tap = house.tap(left, "a", AGAIN)
    assert not left.link("a").carrier
    assert tap.drain(24) == []
    stats = left.link("a").stats
    assert (stats.tx_packets, stats.tx_dropped) == (0, 0)
    assert header_size(tap) == 24
    tap.close()
    with_carrier = house.tap(left, "a", AGAIN & ~IFF_NO_CARRIER)
    assert left.link("a").carrier
    with_carrier.ioctl_int(TUNSETVNETHDRSZ, 12)
    with_carrier.close()
    assert header_size(house.tap(left, "a", AGAIN)) == 12
    left.delete("a")


def test_attached_from_elsewhere_is_another_device(house: House, left: Net) -> None:
    elsewhere = house.net()
    other = house.tap(elsewhere, "a", AGAIN)
    assert elsewhere.link("a").address != left.link("a").address
    assert pinned(other) == elsewhere.inode
    tap = house.tap(left, "a", AGAIN)
    assert pinned(tap) == left.inode
    left.move("a", elsewhere, (3, b"b\0"))  # IFLA_IFNAME
    assert pinned(tap) == left.inode
    elsewhere.delete("b")


def test_attached_by_one_at_a_time_unless_it_has_queues(house: House, left: Net) -> None:
    house.tap(left, "a", AGAIN)
    with refusal(errno.EBUSY):
        house.tap(left, "a", AGAIN)
    many = house.tap(left, "m", BASE | IFF_MULTI_QUEUE | IFF_NO_CARRIER)
    many.ioctl(TUNSETPERSIST, 1)
    house.tap(left, "m", AGAIN | IFF_MULTI_QUEUE)  # whoever was there already
    left.delete("m")
    left.delete("a")


def test_cleared_it_goes_with_the_last_close(house: House, left: Net) -> None:
    tap = house.tap(left, "a", AGAIN)
    tap.ioctl(TUNSETPERSIST, 0)
    assert left.get("a") is not None
    tap.close()
    wait_until(lambda: left.get("a") is None)


def test_keeps_no_namespace_alive(house: House, left: Net) -> None:
    left.let_go()
    wait_until(lambda: house.observatory.dead(left))
