"""A TAP whose reader has stalled: the queue is the bounded backlog of a pair, and it drops its newest.

txqueuelen frames wait, exactly; every further one is the sending device's tx_dropped. The queue can be resized
while frames wait in it. With noqueue above it a sender is told (ENOBUFS), as on a veth; with pfifo_fast it is not.
"""

from __future__ import annotations

import errno
import struct

import pytest

from tests.kernel.lib import House, Net
from tests.kernel.tap import TUNSETSNDBUF, Tap, refusal
from tests.lib import rtnl
from tests.lib.frames import sized
from tests.lib.rtnl import u32

LENGTH = 10


@pytest.fixture
def road(house: House) -> tuple[Net, Tap]:
    """Return a TAP with room for LENGTH frames."""
    net = house.net()
    tap = house.live_tap(net, "a")
    set_length(net, LENGTH)
    return net, tap


def set_length(net: Net, length: int) -> None:
    net.set("a", (rtnl.IFLA_TXQLEN, u32(length)))


def send(net: Net, seeds: range) -> int:
    """Send frames; return how many the sender was told about as refused (ENOBUFS)."""
    refused = 0
    with net.packet("a") as sock:
        for seed in seeds:
            try:
                sock.send(sized(60, seed))
            except OSError as error:
                assert error.errno == errno.ENOBUFS  # noqa: PT017 - some frames pass, some do not
                refused += 1
    return refused


def seeds(tap: Tap) -> list[int]:
    """Read the frames that wait, as the seeds that they were made of."""
    return [struct.unpack_from("!I", frame, 14)[0] for frame in tap.drain()]


@pytest.mark.parametrize(
    ("qdisc", "told"), [pytest.param("pfifo_fast", 0, id="pfifo_fast"), pytest.param("noqueue", 5, id="noqueue")]
)
def test_the_oldest_stay_and_the_newest_are_dropped(road: tuple[Net, Tap], qdisc: str, told: int) -> None:
    net, tap = road
    if qdisc == "noqueue":
        net.noqueue("a")
    assert net.link("a").qdisc == qdisc

    assert send(net, range(LENGTH + 5)) == told

    stats = net.link("a").stats
    assert (stats.tx_packets, stats.tx_dropped) == (0, 5)  # what is not read is not sent
    assert seeds(tap) == list(range(LENGTH))
    stats = net.link("a").stats
    assert (stats.tx_packets, stats.tx_dropped) == (LENGTH, 5)


def test_a_place_read_free_is_taken_again(road: tuple[Net, Tap]) -> None:
    net, tap = road
    send(net, range(LENGTH))
    tap.read()
    send(net, range(100, 102))
    assert seeds(tap) == [*range(1, LENGTH), 100]
    assert net.link("a").stats.tx_dropped == 1


def test_growing_keeps_what_waits(road: tuple[Net, Tap]) -> None:
    net, tap = road
    send(net, range(LENGTH))
    set_length(net, LENGTH + 2)
    send(net, range(LENGTH, LENGTH + 3))
    assert seeds(tap) == list(range(LENGTH + 2))
    assert net.link("a").stats.tx_dropped == 1


def test_shrinking_drops_the_newest_uncounted(road: tuple[Net, Tap]) -> None:
    """Those that no longer fit are freed, and no counter moves."""
    net, tap = road
    send(net, range(LENGTH))
    set_length(net, 4)
    assert net.link("a").stats.tx_dropped == 0
    assert seeds(tap) == list(range(4))


def test_sndbuf_is_no_bound(road: tuple[Net, Tap]) -> None:
    net, tap = road
    tap.ioctl_int(TUNSETSNDBUF, 2048)
    send(net, range(LENGTH))
    assert seeds(tap) == list(range(LENGTH))


def test_no_carrier_no_queue(house: House, road: tuple[Net, Tap]) -> None:
    """A frame sent without a carrier is dropped and counted as well: the counter does not say which it was."""
    net, tap = road
    tap.carrier(False)
    house.wait_silent(net, "a")
    send(net, range(1))
    assert seeds(tap) == []
    assert net.link("a").stats.tx_dropped == 1


def test_admin_down_refuses_the_sender_and_counts_nothing(road: tuple[Net, Tap]) -> None:
    net, _ = road
    net.down("a")
    with net.packet("a") as sock, refusal(errno.ENETDOWN):
        sock.send(sized(60))
    assert net.link("a").stats.tx_dropped == 0
