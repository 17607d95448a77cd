"""Where a receiver can tell that frames were coalesced, and that its sockets cannot.

    a: va ----a burst that waited----> vb :b
    a: va ----a burst that waited----> vb :s: so ----> ci :c     s is a router or a bridge, so has a smaller MTU

vethd is held while the burst is sent, so that it reads it at once; veth delivers every frame as it is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.lib.frames import ETH_P_IP
from tests.lib.lab import End, Lab, Wire
from tests.lib.netns import Netns
from tests.lib.rtnl import Stats
from tests.lib.sockets import udp_pair
from tests.lib.wait import wait_until

BURST = 40
SMALL_MTU = 1280
SOL_UDP, UDP_GRO = 17, 104
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3  # DF, and nothing learned


@contextmanager
def flow(a: Netns, a_ip: str, b: Netns, b_ip: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the two sockets of a UDP flow that has been used once."""
    with udp_pair(a, a_ip, b, b_ip) as (left, right):
        left.send(b"hello")
        assert right.recv(10) == b"hello"
        yield left, right


def test_device_and_captures_count_what_was_written(lab: Lab, live: Wire) -> None:
    """The socket gets every datagram; the device, whoever captures on it, tc, XDP and netfilter get fewer frames."""
    near, far = live.addresses()
    with flow(live.a.netns, near, live.b.netns, far) as (left, right), live.b.packet() as capture:
        sent = [bytes([n]) * 100 for n in range(BURST)]
        live.wait_balanced()
        before = live.b.link.stats
        capture.drained()
        with lab.backend.held():
            for payload in sent:
                left.send(payload)
        assert [right.recv(1000) for _ in sent] == sent
        captured = [one.frame for one in capture.drained() if one.proto == ETH_P_IP]
    live.b.wait_stats(Stats(rx_packets=len(captured), rx_bytes=sum(map(len, captured))), before)
    assert live.a.link.stats.tx_packets >= BURST
    if lab.backend.differs("gro-super-frames"):
        assert len(captured) < BURST
    else:
        assert [len(frame) for frame in captured] == [142] * BURST


def test_socket_that_takes_several_datagrams_at_once(lab: Lab, live: Wire) -> None:
    """UDP_GRO: whoever asked for it gets with one call what was coalesced."""
    near, far = live.addresses()
    with flow(live.a.netns, near, live.b.netns, far) as (left, right):
        right.setsockopt(SOL_UDP, UDP_GRO, 1)
        with lab.backend.held():
            for n in range(BURST):
                left.send(bytes([n]) * 100)
        got, calls = b"", 0
        while len(got) < BURST * 100:
            got += right.recv(1 << 16)
            calls += 1
    assert got == b"".join(bytes([n]) * 100 for n in range(BURST))
    assert calls < BURST if lab.backend.differs("gro-udp-gro-socket") else calls == BURST


def test_icmp_error_for_each_datagram(lab: Lab, live: Wire) -> None:
    """Nobody listens at the port: what is coalesced is answered once, and quoted as it was coalesced."""
    near, far = live.addresses()
    live.b.netns.sysctl("net/ipv4/icmp_ratemask", "0")
    with flow(live.a.netns, near, live.b.netns, far) as (left, right):
        right.close()
        with lab.backend.held():
            for n in range(BURST):
                send(left, bytes([n]) * 100)
        wait_until(lambda: live.b.netns.snmp("Udp", "NoPorts") > 0, what="the burst at its closed port")
        fewer = lab.backend.differs("gro-icmp-once")
        wait_until(lambda: fewer or live.b.netns.snmp("Icmp", "OutDestUnreachs") == BURST, what="every error")
        wait_until(lambda: live.a.netns.snmp("Icmp", "InDestUnreachs") > 0, what="an error at the sender")
        assert live.b.netns.snmp("Icmp", "OutDestUnreachs") < BURST or not fewer


def send(sock: socket.socket, payload: bytes) -> None:
    """Send, after the errors that came meanwhile were told, at most one for each datagram before."""
    for _ in range(BURST):
        with suppress(OSError):
            sock.send(payload)
            return
    sock.send(payload)


# A smaller MTU behind the receiver


def last_hop(lab: Lab, s: Netns) -> tuple[End, End]:
    """Return a veth so in s with a small MTU, and its peer ci in another namespace, both up."""
    c = lab.netns("c")
    s.ip(f"link add so mtu {SMALL_MTU} type veth peer name ci mtu 1500 netns {c.name}", "link set so up")
    c.ip("link set ci up")
    return End(s, "so"), End(c, "ci")


def test_router_measures_what_it_sends_on(lab: Lab, live: Wire) -> None:
    """A super-frame is too big where its full segments are; a shorter last datagram, which fits, goes with them."""
    s = live.b.netns
    so, ci = last_hop(lab, s)
    live.addresses()
    so.address("10.8.0.2/24")
    ci.address("10.8.0.3/24")
    s.sysctl("net/ipv4/ip_forward", "1")
    live.a.netns.ip("route add default via 10.9.0.2")
    ci.netns.ip("route add default via 10.8.0.2")
    with flow(live.a.netns, "10.9.0.1", ci.netns, "10.8.0.3") as (left, right):
        left.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        with lab.backend.held():
            for size in (*[1400] * BURST, 901, 902):
                send(left, bytes(size))
        fit = (902,) if lab.backend.differs("gro-smaller-mtu-behind") else (901, 902)
        assert tuple(len(right.recv(2000)) for _ in fit) == fit


def test_bridge_measures_what_it_sends_on(lab: Lab, live: Wire) -> None:
    """A bridge drops what is longer than its port's MTU; of what is yet to be cut it lets the longest pieces pass."""
    s = live.b.netns
    _, ci = last_hop(lab, s)
    s.ip("link add br0 type bridge", "link set vb master br0", "link set so master br0", "link set br0 up")
    live.a.address("10.9.0.1/24")
    ci.address("10.9.0.3/24")
    with flow(live.a.netns, "10.9.0.1", ci.netns, "10.9.0.3") as (left, right):
        with lab.backend.held():
            for size in (*[1400] * BURST, 901, 902):
                send(left, bytes(size))
        came = []
        while 902 not in came:
            came.append(len(right.recv(2000)))
    assert 1400 in came if lab.backend.differs("gro-smaller-mtu-behind") else came == [901, 902]
