"""What the kernel announces when an end comes up: gratuitous ARP (arp_notify), neighbour advertisements (ndisc_notify).

    a: va, which goes down and up ===== vb, which stays up :b

Kernel: inetdev_event(), ndisc_netdev_event(). Only the end that comes up announces; neighbours learn its MAC from it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

import pytest

from tests.lib.frames import ETH_HLEN, sized
from tests.lib.lab import End, Lab, Wire
from tests.lib.packet import PacketSocket
from tests.lib.wait import DEADLINE_S, wait_until

ROUNDS = 20
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
NEIGHBOUR_ADVERTISEMENT = 136
ICMPV6_AT = ETH_HLEN + 40

Matches = Callable[[bytes], bool]


def gratuitous(address: str) -> Matches:
    """Match the ARP packets in which address asks for itself."""
    ip = socket.inet_aton(address)

    def matches(frame: bytes) -> bool:
        arp = frame[ETH_HLEN:]
        return frame[12:14] == ETH_P_ARP.to_bytes(2, "big") and (arp[14:18], arp[24:28]) == (ip, ip)

    return matches


def advertised(address: str) -> Matches:
    """Match the neighbour advertisements of address."""
    ip = socket.inet_pton(socket.AF_INET6, address)

    def matches(frame: bytes) -> bool:
        icmp = frame[ICMPV6_AT:]
        is_ipv6 = frame[12:14] == ETH_P_IPV6.to_bytes(2, "big")
        return is_ipv6 and icmp[:1] == bytes([NEIGHBOUR_ADVERTISEMENT]) and icmp[8:24] == ip

    return matches


def first(there: PacketSocket, matches: Matches) -> bytes:
    """Take frames until one matches, and return it."""
    end = time.monotonic() + DEADLINE_S
    while not matches(frame := there.recv(end - time.monotonic()).frame):
        pass
    return frame


def until_marker(sender: PacketSocket, receiver: PacketSocket) -> list[bytes]:
    """Return all that arrives at receiver before a frame that sender sends now."""
    marker = sized(90, 0xABCD)
    sender.send(marker)
    came: list[bytes] = []
    while (frame := receiver.recv().frame) != marker:
        came.append(frame)
    return came


def neighbours(end: End) -> list[tuple[str, str]]:
    """Return the neighbours of end: address and MAC."""
    rows = json.loads(end.netns.command("ip", "-json", "neigh", "show", "dev", end.name))
    return [(row["dst"], row["lladdr"]) for row in rows]


def down_and_up(live: Wire) -> None:
    """Set va down, see that vb has heard of it, and set va up."""
    live.a.set("down")
    live.b.wait_carrier(False)
    live.a.set("up")


@pytest.mark.parametrize("scope", ["va", "all"])
def test_gratuitous_arp(live: Wire, scope: str) -> None:
    """Once each time, and each time carrier_changes grows by two at both ends."""
    near, far = live.addresses()
    live.a.netns.sysctl(f"net/ipv4/conf/{scope}/arp_notify", "1")
    live.b.netns.sysctl("net/ipv4/conf/all/arp_notify", "1")
    before = [end.link.carrier_changes for end in (live.a, live.b)]
    with live.a.packet() as back, live.b.packet() as there:
        for _ in range(ROUNDS):
            down_and_up(live)
            assert first(there, gratuitous(near))[6:12].hex(":") == live.a.link.address
        live.wait_carrier()
        back.forget_error()
        assert not [frame for frame in until_marker(back, there) if gratuitous(near)(frame)], "once is enough"
        assert not [frame for frame in until_marker(there, back) if gratuitous(far)(frame)], "vb did not come up"
    assert [end.link.carrier_changes for end in (live.a, live.b)] == [count + 2 * ROUNDS for count in before]


@pytest.mark.parametrize("scope", ["va", "all"])
def test_neighbour_advertisement(lab: Lab, scope: str) -> None:
    near, far = lab.netns("a", ipv6=True), lab.netns("b", ipv6=True)
    live = lab.pair(near, far)
    live.up()
    live.a.address("fd00::1/64")
    near.sysctl("net/ipv6/conf/va/keep_addr_on_down", "1")
    near.sysctl(f"net/ipv6/conf/{scope}/ndisc_notify", "1")
    before = [end.link.carrier_changes for end in (live.a, live.b)]
    with live.b.packet() as there:
        for _ in range(ROUNDS):
            down_and_up(live)
            first(there, advertised("fd00::1"))
    live.wait_carrier()
    assert [end.link.carrier_changes for end in (live.a, live.b)] == [count + 2 * ROUNDS for count in before]


def test_group_membership_is_reported(live: Wire) -> None:
    """IGMP tells a switch again, after an up, which groups the host is in."""
    near, _ = live.addresses()
    group = socket.inet_aton("239.1.2.3")
    with live.a.netns.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as member, live.b.packet() as there:
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton(near))
        for _ in range(3):
            down_and_up(live)
            first(there, lambda frame: frame[ETH_HLEN + 9] == socket.IPPROTO_IGMP and group in frame)


def test_permanent_neighbours_stay(live: Wire) -> None:
    """Those that are entered right behind `up`, while the announcement is still to come."""
    near, far = live.addresses()
    live.a.netns.sysctl("net/ipv4/conf/va/arp_notify", "1")
    with live.b.packet() as there:
        for n in range(ROUNDS):
            live.a.set("down")
            live.b.wait_carrier(False)
            entry = f"neigh replace {far} lladdr 02:00:00:00:00:{n:02x} dev va nud permanent"
            live.a.netns.ip("link set dev va up", entry)
            first(there, gratuitous(near))
            wait_until(lambda: neighbours(live.a) == [(far, f"02:00:00:00:00:{n:02x}")], what="the neighbour")  # noqa: B023


def test_nothing_is_announced_unasked(live: Wire) -> None:
    near, _ = live.addresses()
    with live.a.packet() as back, live.b.packet() as there:
        for _ in range(ROUNDS):
            down_and_up(live)
            live.wait_carrier()
        back.forget_error()
        assert not [frame for frame in until_marker(back, there) if gratuitous(near)(frame)]
