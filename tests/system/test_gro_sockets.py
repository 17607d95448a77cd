"""What sockets receive across a pair is the same with coalescing and without it, and with it comes in fewer frames.

a [va 10.9.0.1, fd09::1] ==== vethd ==== [vb 10.9.0.2, fd09::2] b
"""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import ExitStack
from random import Random

import pytest

from tests.lib.frames import ETH_P_IP
from tests.lib.held import Flows, HeldPair, datagrams, pour, tcp_pair, without_gso
from tests.lib.lab import Lab
from tests.lib.packet import SO_RCVBUFFORCE, PacketSocket
from tests.lib.site import Site
from tests.lib.sockets import udp_pair, udp_socket
from tests.lib.turns import families, gro_fixture, site_fixture
from tests.lib.wait import DEADLINE_S, readable, wait_until
from vethd.model.api import LinkStats

__all__ = ["gro_fixture", "site_fixture"]  # pytest knows them as gro and site

A, B = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 10, 0, 2
IPV6_MTU_DISCOVER = 23
SOL_UDP, UDP_GRO = 17, 104
SIOCATMARK = 0x8905
IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP = 35, 20
STREAM = Random(7).randbytes(3 << 20)


@pytest.fixture
def pair(site: Site, lab: Lab) -> HeldPair:
    it = HeldPair(site, lab, lab.netns("a", ipv6=True), lab.netns("b", ipv6=True))
    it.wire.addresses()
    it.wire.a.address("fd09::1/64")
    it.wire.b.address("fd09::2/64")
    return it


@pytest.mark.parametrize("seed", range(3))
def test_datagrams_of_all_sizes_and_kinds(pair: HeldPair, gro: bool, seed: int) -> None:
    """Lengths, contents, order, sender, TTL and TOS of each, on eight flows in turn."""
    random = Random(seed)
    with ExitStack() as stack:
        flows = Flows(stack, pair.wire.a.netns, pair.wire.b.netns, A, B)
        with pair.crossing(gro=gro):
            for _ in range(5):
                burst = datagrams(random, flows, 300)
                with pair.held():
                    flows.send(burst)
                flows.check(burst)


def test_datagrams_as_they_come(pair: HeldPair, gro: bool) -> None:
    """With nobody held: batches are what they are."""
    random = Random(5)
    pair.set_gro(gro=gro)
    with ExitStack() as stack:
        flows = Flows(stack, pair.wire.a.netns, pair.wire.b.netns, A, B)
        for _ in range(20):
            burst = datagrams(random, flows, 300)
            flows.send(burst)
            flows.check(burst)


def test_stream_from_a_sender_without_gso(pair: HeldPair, gro: bool) -> None:
    without_gso(pair.wire.a, pair.wire.b)
    for family in (0, 1):
        with tcp_pair(pair.wire.a.netns, pair.wire.b.netns, B[family]) as (client, server), pair.crossing(gro=gro):
            with pair.held():
                first = client.send(STREAM)
            pour((client, server, STREAM, first))


def test_both_ways_at_once(pair: HeldPair, gro: bool) -> None:
    """Segments whose acknowledgements differ among them."""
    without_gso(pair.wire.a, pair.wire.b)
    pair.set_gro(gro=gro)
    with tcp_pair(pair.wire.a.netns, pair.wire.b.netns, B[0]) as (client, server):
        with pair.held():
            first = client.send(STREAM)
        pour((client, server, STREAM, first), (server, client, STREAM[::-1], 0))


@families
def test_small_writes(pair: HeldPair, gro: bool, family: int) -> None:
    """Each is a segment with PSH: none joins another, and the reader gets a stream."""
    random = Random(family)
    without_gso(pair.wire.a, pair.wire.b)
    pair.set_gro(gro=gro)
    with tcp_pair(pair.wire.a.netns, pair.wire.b.netns, B[family]) as (client, server):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(10):
            parts = [random.randbytes(random.choice((1, 2, 100, 1000))) for _ in range(9)]
            with pair.held():
                for part in parts:
                    client.send(part)
            assert take(server, sum(map(len, parts))) == b"".join(parts)


def test_urgent_byte_stays_where_it_is(pair: HeldPair, gro: bool) -> None:
    without_gso(pair.wire.a, pair.wire.b)
    pair.set_gro(gro=gro)
    with tcp_pair(pair.wire.a.netns, pair.wire.b.netns, B[0]) as (client, server):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        with pair.held():
            client.send(b"x" * 3000)
            client.send(b"!", socket.MSG_OOB)
            client.send(b"y" * 3000)
        before = b""
        while not at_mark(server):
            before += take(server, 1)
        assert before == b"x" * 3000
        assert take(server, 3001) == b"!" + b"y" * 3000


@families
def test_multicast(pair: HeldPair, gro: bool, family: int) -> None:
    """Two sockets have joined: both get every datagram. Nothing of it coalesces."""
    near, far = pair.wire.a, pair.wire.b
    group = ("239.1.2.3", "ff02::4242")[family]
    pair.set_gro(gro=gro)
    with ExitStack() as stack:
        left = stack.enter_context(udp_socket(near.netns, A[family]))
        rights = [stack.enter_context(member(pair, group, family, 5000)) for _ in range(2)]
        scope = (group, 5000, 0, near.link.ifindex) if family else (group, 5000)
        if not family:
            left.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(A[0]))
        sent = [bytes([n]) * 200 for n in range(50)]
        before = far.link.stats.rx_packets
        with pair.held():
            for payload in sent:
                left.sendto(payload, scope)
        for right in rights:
            assert [right.recv(1000) for _ in sent] == sent
        wait_until(lambda: far.link.stats.rx_packets - before >= len(sent), what="as many frames as datagrams")


def test_broadcast(pair: HeldPair, gro: bool) -> None:
    pair.set_gro(gro=gro)
    with (
        udp_socket(pair.wire.a.netns, A[0]) as left,
        udp_socket(pair.wire.b.netns, "0.0.0.0", 5000) as right,
    ):
        left.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sent = [bytes([n]) * 200 for n in range(50)]
        with pair.held():
            for payload in sent:
                left.sendto(payload, ("10.9.0.255", 5000))
        assert [right.recv(1000) for _ in sent] == sent


@families
def test_receiver_that_asks_for_super_frames(pair: HeldPair, gro: bool, family: int) -> None:
    """UDP_GRO: several datagrams a call and the size to cut them by; cut up they are what was sent."""
    sent = [bytes([n]) * size for size in (500, 1000, 30) for n in range(40)]
    with udp_pair(pair.wire.a.netns, A[family], pair.wire.b.netns, B[family]) as (left, right):
        left.send(b"hello")
        assert right.recv(100) == b"hello"
        right.setsockopt(SOL_UDP, UDP_GRO, 1)
        right.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        with pair.crossing(gro=gro):
            with pair.held():
                for payload in sent:
                    left.send(payload)
            received: list[bytes] = []
            calls = 0
            while len(received) < len(sent):
                data, ancillary, _, _ = right.recvmsg(1 << 16, 64)
                sizes = [struct.unpack("=i", value)[0] for level, kind, value in ancillary if kind == UDP_GRO]
                size = sizes[0] if sizes else len(data)
                received += [data[at : at + size] for at in range(0, len(data), size)]
                calls += 1
        assert received == sent
        assert calls < len(sent) if gro else calls == len(sent)


@families
def test_fragments_among_whole_packets(pair: HeldPair, gro: bool, family: int) -> None:
    """Datagrams above the MTU, with whole ones between them that coalesce."""
    random = Random(family)
    with udp_pair(pair.wire.a.netns, A[family], pair.wire.b.netns, B[family]) as (left, right):
        level, option = ((socket.IPPROTO_IP, IP_MTU_DISCOVER), (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER))[family]
        left.setsockopt(level, option, IP_PMTUDISC_DONT)
        right.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        left.send(b"hello")
        assert right.recv(100) == b"hello"
        sent = []
        for _ in range(20):
            sent += [random.randbytes(300) for _ in range(random.randint(0, 15))]
            sent += [random.randbytes(random.randint(1473, 9000)) for _ in range(random.randint(1, 2))]
        pair.set_gro(gro=gro)
        before = pair.wire.b.link.stats.rx_packets
        with pair.held():
            for payload in sent:
                left.send(payload)
        assert [right.recv(1 << 16) for _ in sent] == sent
        whole = sum(len(payload) == 300 for payload in sent)
        room = (1480, 1448)[family]  # of a fragment
        parts = sum(-(-(len(payload) + 8) // room) for payload in sent if len(payload) != 300)

        def came() -> int:
            return pair.wire.b.link.stats.rx_packets - before

        wait_until(lambda: came() > parts if gro else came() >= parts + whole, what="the last of them is counted")
        assert not gro or came() < parts + whole // 2


def test_datagrams_of_one_id_stay_alone(pair: HeldPair) -> None:
    """IPv4 from a socket that is not connected and forbids fragments: every id is 0, and would not be so any more."""
    with (
        udp_socket(pair.wire.a.netns, A[0]) as left,
        udp_socket(pair.wire.b.netns, B[0]) as right,
        PacketSocket(pair.wire.b.netns, "vb") as capture,
    ):
        left.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sent = [bytes([n]) * 100 for n in range(40)]
        pair.set_gro(gro=True)
        with pair.held():
            for payload in sent:
                left.sendto(payload, right.getsockname())
        assert [right.recv(1000) for _ in sent] == sent
        ids = [one.frame[18:20] for one in capture.drained() if one.proto == ETH_P_IP]
    assert ids == [b"\0\0"] * len(sent)


@families
def test_port_that_nobody_listens_at(pair: HeldPair, gro: bool, family: int) -> None:
    """The sender hears of it."""
    pair.set_gro(gro=gro)
    with udp_socket(pair.wire.b.netns, B[family]) as closed:
        target = closed.getsockname()
    with udp_socket(pair.wire.a.netns, A[family]) as left:
        left.connect(target)
        with pair.held():
            for _ in range(20):
                left.send(b"x" * 100)
        assert readable(left.fileno())
        with pytest.raises(ConnectionRefusedError):
            left.recv(100)


def test_switched_in_midstream(pair: HeldPair) -> None:
    """On and off again and again, and a stream and datagrams never notice."""
    without_gso(pair.wire.a, pair.wire.b)
    with ExitStack() as stack:
        flows = Flows(stack, pair.wire.a.netns, pair.wire.b.netns, A, B)
        client, server = stack.enter_context(tcp_pair(pair.wire.a.netns, pair.wire.b.netns, B[0]))
        random = Random(1)
        for turn in range(20):
            part = STREAM[turn * 100_000 : turn * 100_000 + 100_000]
            first = client.send(part)
            pair.set_gro(gro=turn % 2 == 0)
            burst = datagrams(random, flows, 100)
            flows.send(burst)
            pair.set_gro(gro=turn % 3 == 0)
            flows.check(burst)
            pour((client, server, part, first))


def test_receiver_that_goes_down_under_a_burst(pair: HeldPair, gro: bool) -> None:
    """Every frame that was read is either forwarded or dropped for a reason, in frames, not in super-frames."""
    pair.set_gro(gro=gro)
    with udp_pair(pair.wire.a.netns, A[0], pair.wire.b.netns, B[0]) as (left, right):
        left.send(b"hello")
        assert right.recv(100) == b"hello"
        before = at_rest(pair, 1)
        with pair.held():
            for n in range(200):
                left.send(bytes([n]) * 100)
            pair.wire.b.down()
        now = at_rest(pair, before.read + 200)
        reasons = ("peer_down", "no_carrier", "stale")
        dropped = sum(now.drops[reason] - before.drops[reason] for reason in reasons)
        assert (now.forwarded - before.forwarded) + dropped == now.read - before.read
        assert dropped > 0


# What the above is made of


def at_rest(pair: HeldPair, read: int) -> LinkStats:
    """Wait until so many of va's frames are read and none is in flight, and return the counters."""

    def look() -> list[LinkStats]:
        stats = pair.stats()
        return [stats] if stats.read >= read and stats.in_flight == 0 else []

    return wait_until(look, what=f"{read} frames read and none in flight")[0]


def take(server: socket.socket, size: int) -> bytes:
    """Receive exactly so many bytes."""
    data = b""
    while len(data) < size:
        data += server.recv(size - len(data))
    return data


def at_mark(sock: socket.socket) -> bool:
    """Return whether the urgent byte is the next one; waits for something to read (SIOCATMARK)."""
    assert readable(sock.fileno())
    return bool(struct.unpack("=i", fcntl.ioctl(sock, SIOCATMARK, bytes(4)))[0])


def member(pair: HeldPair, group: str, family: int, port: int) -> socket.socket:
    """Return a socket in b that has joined a group."""
    far = pair.wire.b
    sock = far.netns.run(socket.socket, (socket.AF_INET, socket.AF_INET6)[family], socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE_S)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((group, port, 0, far.link.ifindex) if family else (group, port))
    if family:
        where = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", far.link.ifindex)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_JOIN_GROUP, where)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(B[0]))
    return sock
