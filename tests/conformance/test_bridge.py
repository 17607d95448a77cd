"""Ends as ports of a Linux bridge, and of two.

    h1: e0 ==== p1 \\
    h2: e0 ==== p2  br0 :s
    h3: e0 ==== p3 /
"""

from __future__ import annotations

import itertools
import json

import pytest

from tests.lib.frames import BROADCAST, ether, mac, sized, tagged
from tests.lib.lab import Lab, Wire
from tests.lib.netns import Netns
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec

STP = "01:80:c2:00:00:00"
LLC_BPDU = b"\x42\x42\x03"
ADDRESSES = ("10.9.0.1", "10.9.0.2", "10.9.0.3")


@pytest.fixture
def star(lab: Lab) -> list[Wire]:
    """Return the three pairs of the drawing, host's end first, up, with addresses."""
    switch = lab.netns("s")
    switch.ip("link add name br0 type bridge mcast_snooping 0", "link set br0 up")
    wires = []
    for n, address in enumerate(ADDRESSES, 1):
        host = lab.netns(f"h{n}")
        wire = lab.pair(host, switch, LinkSpec(name="e0"), LinkSpec(name=f"p{n}", master="br0"))
        wire.up()
        wire.a.address(f"{address}/24")
        wires.append(wire)
    wait_until(lambda: port_states(switch) == ["forwarding"] * 3, what="three forwarding ports")
    return wires


def port_states(switch: Netns, *names: str) -> list[str]:
    """Return the states of a namespace's bridge ports, or of some."""
    links = json.loads(switch.command("bridge", "-j", "link", "show"))
    return [link["state"] for link in links if not names or link["ifname"] in names]


def test_every_host_reaches_every_other(star: list[Wire]) -> None:
    hosts = list(zip((wire.a.netns for wire in star), ADDRESSES, strict=True))
    for (here, near), (there, far) in itertools.permutations(hosts, 2):
        ping(here, near, there, far)


def test_known_address_goes_to_its_port_alone(star: list[Wire]) -> None:
    one, two, three = (wire.a for wire in star)
    with one.packet() as first, two.packet() as second, three.packet() as third:
        second.send(ether(b"here I am", src="02:00:00:00:00:22", dst=BROADCAST))
        assert first.recv().frame == third.recv().frame
        first.send(ether(b"for two", src="02:00:00:00:00:11", dst="02:00:00:00:00:22"))
        assert second.recv().frame.endswith(b"for two")
        first.send(ether(b"for all", src="02:00:00:00:00:11", dst=BROADCAST))
        assert third.recv().frame.endswith(b"for all")  # and not "for two" before it


@pytest.mark.parametrize(
    "dst", [BROADCAST, "01:00:5e:01:02:03", "02:00:00:00:00:99"], ids=["broadcast", "multicast", "unknown"]
)
def test_flooded(star: list[Wire], dst: str) -> None:
    one, two, three = (wire.a for wire in star)
    frame = ether(bytes(range(200)), dst=dst)
    with one.packet() as first, two.packet() as second, three.packet() as third:
        first.send(frame)
        assert second.recv().frame == third.recv().frame == frame
        assert not first.drained()


def test_tagged_through_a_bridge(star: list[Wire]) -> None:
    frame = tagged(ether(bytes(1400), dst=BROADCAST), 77)
    with star[0].a.packet() as first, star[1].a.packet() as second:
        first.send(frame)
        assert second.recv().frame == frame


def test_bpdu_passes_a_bridge_without_stp(star: list[Wire]) -> None:
    """802.3 with LLC: the type field is a length."""
    payload = LLC_BPDU + bytes(35)
    frame = mac(STP) + mac("02:00:00:00:00:11") + len(payload).to_bytes(2, "big") + payload.ljust(46, b"\0")
    with star[0].a.packet() as first, star[1].a.packet() as second, star[2].a.packet() as third:
        first.send(frame)
        assert second.recv().frame == third.recv().frame == frame


def test_bridge_sends_bpdus(star: list[Wire]) -> None:
    switch = star[0].b.netns
    with star[0].a.packet() as first:
        switch.ip("link set br0 type bridge stp_state 1")
        while True:
            frame = first.recv().frame
            if frame[:6] == mac(STP):
                break
    assert frame[14:17] == LLC_BPDU


def test_stp_breaks_a_loop(lab: Lab) -> None:
    """Two bridges, two pairs between them: of the four ports one blocks."""
    one, two = lab.netns("s1"), lab.netns("s2")
    for switch in (one, two):
        switch.ip("link add name br0 type bridge stp_state 1 mcast_snooping 0", "link set br0 up")
    for n in (1, 2):
        lab.pair(one, two, LinkSpec(name=f"p{n}", master="br0"), LinkSpec(name=f"q{n}", master="br0")).up()
    wait_until(lambda: (port_states(one) + port_states(two)).count("blocking") == 1, what="one blocking port")


def test_port_follows_the_carrier(star: list[Wire]) -> None:
    """A port whose far end goes down is disabled, and comes back."""
    switch = star[0].b.netns
    star[0].a.down()
    wait_until(lambda: port_states(switch, "p1") == ["disabled"], what="p1 disabled")
    assert port_states(switch, "p2", "p3") == ["forwarding"] * 2
    star[0].a.up()
    wait_until(lambda: port_states(switch, "p1") == ["forwarding"], what="p1 forwarding")
    ping(star[1].a.netns, ADDRESSES[1], star[0].a.netns, ADDRESSES[0])


def test_port_is_promiscuous(star: list[Wire]) -> None:
    assert star[0].b.link.promiscuity == 1


def test_dead_host_leaves_the_bridge(star: list[Wire]) -> None:
    switch = star[0].b.netns
    star[0].a.netns.delete()
    star[0].b.wait_gone()
    assert switch.names() == {"br0", "p2", "p3"}
    ping(star[1].a.netns, ADDRESSES[1], star[2].a.netns, ADDRESSES[2])


def test_bridge_over_long_frames(star: list[Wire]) -> None:
    """Full frames cross two pairs unchanged."""
    with star[0].a.packet() as first, star[1].a.packet() as second:
        first.send(sized(1514))
        assert second.recv().frame == sized(1514)
