"""Who keeps a network namespace alive.

An open tun file belongs for good to the namespace in which /dev/net/tun was opened, and keeps that one alive,
wherever its device has gone since. A device, on the other hand, keeps nothing alive. So a daemon that opens its
tun files inside its callers' namespaces stops them from dying; one that opens them in a namespace of its own and
moves the devices does not, and learns of the death from the descriptor: POLLERR, and soon EBADFD from everything.
In between, while the device is being unregistered, a read still says EAGAIN: POLLERR alone is the death.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from pathlib import Path

from tests.kernel.lib import House
from tests.kernel.tap import TUNGETDEVNETNS, TUNSETCARRIER, Tap, refusal
from tests.lib.wait import DEADLINE_S, wait_until


def read_errno(tap: Tap) -> int:
    try:
        tap.read()
    except OSError as error:
        return error.errno or 0
    return 0


def test_opened_in_staging_and_moved_does_not_pin(house: House) -> None:
    staging, target = house.net(), house.net()
    tap = house.tap(staging, "a")
    staging.move("a", target)
    target.up("a")

    target.let_go()

    wait_until(lambda: tap.poll() & select.POLLERR)
    assert house.observatory.dead(target)
    wait_until(lambda: read_errno(tap) == errno.EBADFD)
    with refusal(errno.EBADFD):
        tap.write(bytes(60))
    with refusal(errno.EBADFD):
        tap.ioctl_int(TUNSETCARRIER, 1)
    assert not house.observatory.dead(staging)  # held by its descriptor and by the tun file


def test_opened_inside_pins(house: House) -> None:
    target = house.net()
    tap = house.tap(target, "a")
    witness = house.net()  # dies by the same road, so its death says when the other should have happened

    target.let_go()
    witness.let_go()

    wait_until(lambda: house.observatory.dead(witness))
    assert not house.observatory.dead(target)
    tap.carrier(True)  # the device is alive and obeys

    tap.close()
    wait_until(lambda: house.observatory.dead(target))


def test_tun_file_pins_the_namespace_of_its_opening_after_the_move(house: House) -> None:
    staging, target, witness = house.net(), house.net(), house.net()
    tap = house.tap(staging, "a")
    staging.move("a", target)

    staging.let_go()
    witness.let_go()

    wait_until(lambda: house.observatory.dead(witness))
    assert not house.observatory.dead(staging)
    tap.close()
    wait_until(lambda: house.observatory.dead(staging))


def test_death_wakes_those_who_wait_to_read_and_nobody_else(house: House) -> None:
    """POLLERR is always reported to those who look; but only a waiter that asked for POLLIN is made to look."""
    staging, target = house.net(), house.net()
    tap = house.tap(staging, "a")
    staging.move("a", target)
    with select.epoll() as readers, select.epoll() as others:
        readers.register(tap.fd, select.EPOLLIN)
        others.register(tap.fd, 0)
        assert (readers.poll(0), others.poll(0)) == ([], [])
        target.let_go()
        ((_, events),) = readers.poll(DEADLINE_S)
        assert events & select.EPOLLERR
        assert others.poll(0) == []
        others.modify(tap.fd, 0)  # which looks
        assert others.poll(0) == [(tap.fd, select.EPOLLERR)]


def test_deleted_device_says_the_same(house: House) -> None:
    net = house.net()
    tap = house.tap(net, "a")
    net.delete("a")
    assert tap.poll() & select.POLLERR
    with refusal(errno.EBADFD):
        tap.read()


def test_last_close_deletes_the_device(house: House) -> None:
    net = house.net()
    tap = house.tap(net, "a")
    held = os.dup(tap.fd)
    try:
        tap.close()
        assert net.get("a") is not None
    finally:
        os.close(held)
    wait_until(lambda: net.get("a") is None)


def test_tungetdevnetns_follows_the_device(house: House) -> None:
    """TUNGETDEVNETNS opens the namespace in which the device is now, not that of the open()."""
    staging, target = house.net(), house.net()
    tap = house.tap(staging, "a")

    def where() -> int:
        fd = fcntl.ioctl(tap.fd, TUNGETDEVNETNS)
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    assert where() == staging.inode
    staging.move("a", target)
    assert where() == target.inode
    assert where() != Path("/proc/self/ns/net").stat().st_ino
