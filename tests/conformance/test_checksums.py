"""What becomes of checksums: left to be completed, they stay so; wrong, they are found out.

    a: va ===== ra :r: rb ===== vb :b        r forwards

Kernel: veth_forward_skb() leaves ip_summed alone.
"""

from __future__ import annotations

import pytest

from tests.lib.frames import ETH_P_IP, NEEDS_CSUM, Vnet, ether, l4_checksum_ok, udp
from tests.lib.lab import Lab, Wire
from tests.lib.packet import PacketSocket
from tests.lib.sockets import exchange, tcp_transfer, udp_pair, udp_socket
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec, PairSpec

A, RA, RB, B = "10.9.1.2", "10.9.1.1", "10.9.2.1", "10.9.2.2"


@pytest.fixture
def routed(lab: Lab) -> tuple[Wire, Wire]:
    """Return the two pairs of the drawing, up, with addresses and routes."""
    a, r, b = lab.netns("a"), lab.netns("r"), lab.netns("b")
    r.sysctl("net/ipv4/ip_forward", "1")
    left = lab.pair(a, r, LinkSpec(name="va"), LinkSpec(name="ra"))
    right = lab.pair(r, b, LinkSpec(name="rb"), LinkSpec(name="vb"))
    left.up()
    right.up()
    left.addresses("10.9.1", 2, 1)
    right.addresses("10.9.2", 1, 2)
    a.ip(f"route add default via {RA}")
    b.ip(f"route add default via {RB}")
    return left, right


def captured_ip(receiver: PacketSocket, proto: int) -> bytes:
    """Return the first captured IPv4 frame of that protocol."""
    while True:
        got = receiver.recv_proto(ETH_P_IP)
        if got.frame[23] == proto:
            return got.frame


def test_offloaded_checksum_stays_to_be_completed(live: Wire) -> None:
    """A socket's datagram crosses without anybody having computed its checksum, and is accepted."""
    near, far = live.addresses()
    with live.b.packet(vnet=True) as receiver, udp_pair(live.a.netns, near, live.b.netns, far) as (left, right):
        left.send(b"x" * 100)
        assert right.recv(200) == b"x" * 100
        got = receiver.recv_proto(ETH_P_IP)
    assert got.csum_partial
    assert (got.vnet.flags, got.vnet.csum_start, got.vnet.csum_offset) == (NEEDS_CSUM, 34, 6)
    assert not l4_checksum_ok(got.frame)


def test_udp_checksum_is_completed_where_it_leaves(routed: tuple[Wire, Wire]) -> None:
    """The router's way out cannot offload: it completes the sum, if the first pair told it that one is due."""
    left, right = routed
    right.a.netns.command("ethtool", "-K", right.a.name, "tx", "off")
    with right.b.packet() as receiver, udp_pair(left.a.netns, A, right.b.netns, B) as (near, far):
        exchange(near, far, b"over the hill" * 50)
        frame = captured_ip(receiver, 17)
    assert l4_checksum_ok(frame)


def test_tcp_checksum_is_completed_where_it_leaves(routed: tuple[Wire, Wire]) -> None:
    left, right = routed
    right.a.netns.command("ethtool", "-K", right.a.name, "tx", "off")
    payload = bytes(range(256)) * 4096
    with right.b.packet() as receiver:
        assert tcp_transfer(left.a.netns, right.b.netns, B, payload) == payload
        frames = [got.frame for got in receiver.drained() if got.proto == ETH_P_IP and got.frame[23] == 6]
    assert len(frames) > 10
    assert all(l4_checksum_ok(frame) for frame in frames)


def test_offload_all_the_way(routed: tuple[Wire, Wire]) -> None:
    """Nobody on the way computes anything: what is captured still says that its sum is due."""
    left, right = routed
    with right.b.packet(vnet=True) as receiver, udp_pair(left.a.netns, A, right.b.netns, B) as (near, far):
        exchange(near, far, b"over the hill")
        got = receiver.recv_proto(ETH_P_IP)
    assert got.csum_partial


@pytest.mark.parametrize("rx_checksum", ["verify", "trust"])
def test_bad_checksum_is_dropped(lab: Lab, rx_checksum: str) -> None:
    """A corrupt datagram never reaches its socket, whatever the pair trusts: a TAP's own stack verifies."""
    a, b = lab.netns("a"), lab.netns("b")
    peer = LinkSpec(name="vb", netns=b.name)
    lab.backend.newlink(
        PairSpec(name="va", netns=a.name, peer=peer, rx_checksum="trust" if rx_checksum == "trust" else None)
    )
    wire = lab.wire(a, b)
    wire.up()
    near, far = wire.addresses()
    with udp_socket(b, far, 4000) as sock, wire.a.packet() as sender:
        mac = wire.b.link.address
        for bad in (True, False):
            sender.send(
                ether(udp((near, 4001), (far, 4000), b"bad" if bad else b"good", bad=bad), dst=mac, proto=ETH_P_IP)
            )
        assert sock.recv(100) == b"good"
    wait_until(lambda: b.snmp("Udp", "InCsumErrors") == 1, what="InCsumErrors")
    assert b.snmp("Udp", "InDatagrams") == 1


def test_frame_without_flags_keeps_none(live: Wire) -> None:
    """CHECKSUM_NONE is not made into anything."""
    frame = ether(udp(("10.9.0.1", 1), ("10.9.0.2", 2), b"data"), proto=ETH_P_IP)
    with live.a.packet(vnet=True) as sender, live.b.packet(vnet=True) as receiver:
        sender.send(frame, Vnet())
        got = receiver.recv_proto(ETH_P_IP)
    assert (got.frame, got.vnet, got.csum_partial) == (frame, Vnet(), False)


@pytest.mark.parametrize("size", [1, 1472, 20000])
def test_udp_of_sockets(live: Wire, size: int) -> None:
    """Datagrams in one frame, in a full one, and in fragments."""
    near, far = live.addresses()
    with udp_pair(live.a.netns, near, live.b.netns, far) as (left, right):
        exchange(left, right, bytes(n % 251 for n in range(size)))


def test_tcp_of_sockets(live: Wire) -> None:
    _, far = live.addresses()
    payload = bytes(range(256)) * (4 << 12)
    assert tcp_transfer(live.a.netns, live.b.netns, far, payload) == payload
