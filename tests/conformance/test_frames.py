"""What goes in comes out: every length, every content, every order, tags, groups, jumbos.

a: va ----frames----> vb :b
"""

from __future__ import annotations

import random
import socket

import pytest

from tests.lib.frames import BROADCAST, ETH_P_8021AD, ETH_P_8021Q, ether, sized, tagged
from tests.lib.lab import Lab, Wire
from tests.lib.sockets import exchange, udp_pair, udp_socket
from vethd.model.spec import LinkSpec

BATCH = 100  # frames under way at a time, where the test is not about queues
SEED = 20240229


def cross(wire: Wire, frames: list[bytes]) -> list[bytes]:
    """Send frames from a to b, BATCH at a time, and return what arrived."""
    got = []
    with wire.a.packet() as sender, wire.b.packet() as receiver:
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            for frame in batch:
                sender.send(frame)
            got += [receiver.recv().frame for _ in batch]
        assert not receiver.drained()
    return got


def test_every_length(live: Wire) -> None:
    """From a bare header to a full frame, random contents."""
    rng = random.Random(SEED)
    frames = [ether(rng.randbytes(length - 14)) for length in range(14, 1515)]
    assert cross(live, frames) == frames


def test_every_length_back(live: Wire) -> None:
    rng = random.Random(SEED + 1)
    frames = [ether(rng.randbytes(length - 14)) for length in range(14, 1515, 7)]
    assert cross(Wire(live.b, live.a), frames) == frames


def test_random_headers(live: Wire) -> None:
    """Any addresses, any type: an 802.3 length field, unknown types, all bits."""
    rng = random.Random(SEED + 2)
    frames: list[bytes] = []
    while len(frames) < 500:
        frame = rng.randbytes(rng.randrange(14, 1515))
        if frame[12:14] not in (b"\x81\x00", b"\x88\xa8"):  # tags have tests of their own
            frames.append(frame)
    assert cross(live, frames) == frames


@pytest.mark.parametrize("tpid", [ETH_P_8021Q, ETH_P_8021AD], ids=["8021q", "8021ad"])
@pytest.mark.parametrize("vid", [0, 1, 4094, 0xF00F])
def test_tagged(live: Wire, tpid: int, vid: int) -> None:
    """The tag is part of the frame, priority bits included."""
    live.a.set("mtu 1504")  # AF_PACKET adds four bytes to it for 0x8100 alone
    rng = random.Random(SEED + 3)
    frames = [tagged(ether(rng.randbytes(n)), vid, tpid) for n in (42, 46, 500, 1500)]
    assert cross(live, frames) == frames


def test_double_tagged(live: Wire) -> None:
    frames = [tagged(tagged(sized(500), 7), 9, ETH_P_8021AD), tagged(tagged(sized(1510), 7), 9)]
    assert cross(live, frames) == frames


@pytest.mark.parametrize(
    "dst",
    [
        BROADCAST,
        "01:00:5e:00:00:fb",  # IPv4 multicast
        "33:33:00:00:00:01",  # IPv6 multicast
        "01:80:c2:00:00:00",  # STP
        "01:80:c2:00:00:0e",  # LLDP
        "01:80:c2:00:00:02",  # LACP
        "00:00:00:00:00:00",
        "02:12:34:56:78:9a",  # nobody's
    ],
)
def test_any_destination(live: Wire, dst: str) -> None:
    """No filter, no list: every destination passes."""
    frames = [ether(bytes([n]) * 64, dst=dst) for n in range(3)]
    assert cross(live, frames) == frames


def test_jumbo(lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(mtu=9000), LinkSpec(mtu=9000))
    wire.up()
    rng = random.Random(SEED + 4)
    frames = [ether(rng.randbytes(n)) for n in (1501, 4096, 8999, 9000)]
    assert cross(wire, frames) == frames
    near, far = wire.addresses()
    with udp_pair(wire.a.netns, near, wire.b.netns, far) as (left, right):
        exchange(left, right, rng.randbytes(8972))


def test_longest_mtu(lab: Lab) -> None:
    """A TAP's largest MTU, full frames."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(mtu=65521), LinkSpec(mtu=65521))
    wire.up()
    rng = random.Random(SEED + 5)
    frames = [ether(rng.randbytes(n)) for n in (65000, 65520, 65521)]
    assert cross(wire, frames) == frames


def test_order_of_a_burst(lab: Lab) -> None:
    """Five thousand frames in one go, none lost (the queues are long enough), none overtaken."""
    count = 5000
    deep = LinkSpec(txqueuelen=count)
    wire = lab.pair(lab.netns("a"), lab.netns("b"), deep, deep)
    wire.up()
    with wire.a.packet() as sender, wire.b.packet() as receiver:
        for n in range(count):
            sender.send(sized(64, n))
        got = [int.from_bytes(receiver.recv().frame[14:18], "big") for _ in range(count)]
    assert got == list(range(count))


def test_order_both_ways_at_once(live: Wire) -> None:
    with live.a.packet() as left, live.b.packet() as right:
        for start in range(0, 2000, BATCH):
            for n in range(start, start + BATCH):
                left.send(sized(64 + n % 1000, n))
                right.send(sized(64 + n % 900, n))
            for sock in (left, right):
                got = [int.from_bytes(sock.recv().frame[14:18], "big") for _ in range(BATCH)]
                assert got == list(range(start, start + BATCH))


def test_udp_broadcast(live: Wire) -> None:
    """Broadcast reaches a socket."""
    near, _ = live.addresses()
    with udp_socket(live.a.netns, near) as left, udp_socket(live.b.netns, "10.9.0.255", 5000) as right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        left.sendto(b"all of you", ("10.9.0.255", 5000))
        assert right.recv(100) == b"all of you"


def test_ipv6_neighbours(lab: Lab) -> None:
    """Neighbour discovery is multicast: two link-local hosts find each other."""
    wire = lab.pair(lab.netns("a", ipv6=True), lab.netns("b", ipv6=True))
    wire.a.address("fd00::1/64")
    wire.b.address("fd00::2/64")
    wire.up()
    with udp_pair(wire.a.netns, "fd00::1", wire.b.netns, "fd00::2") as (left, right):
        exchange(left, right, b"six")
