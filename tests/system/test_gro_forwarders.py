"""What a receiver sends on is the same with coalescing and without it: a bridge, a router, one with a smaller MTU.

a [va 10.9.0.1] ==== vethd ==== [vb] s, a bridge or a router [so] ---- kernel veth, no offloads ---- [ci] c

What a sent is captured at va, what left s at ci: every packet of a flow, in order, each bit of it, must be what s has
to make of the one that was sent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random

import pytest

from tests.lib.frames import sized
from tests.lib.held import TTL, Flows, HeldPair, datagrams, pour, tcp_pair, without_gso
from tests.lib.lab import End, Lab
from tests.lib.netns import Netns
from tests.lib.packet import Captured, PacketSocket
from tests.lib.passage import bridged, fragmented, is_valid, l4_of, routed
from tests.lib.segments import TCP, UDP, VNET_LEN
from tests.lib.site import Site
from tests.lib.sockets import udp_socket
from tests.lib.traffic import flow, session, what_leaves
from tests.lib.turns import families, gro_fixture, site_fixture
from tests.lib.wait import readable

__all__ = ["gro_fixture", "site_fixture"]  # pytest knows them as gro and site

A = ("10.9.0.1", "fd09::1")
A_PACKED = (socket.inet_aton(A[0]), socket.inet_pton(socket.AF_INET6, A[1]))
BRIDGED = ("10.9.0.3", "fd09::3")
ROUTED = ("10.8.0.3", "fd08::3")
SMALL_MTU = 1280  # the least that IPv6 allows
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
MTU_DISCOVER = ((socket.IPPROTO_IP, 10), (socket.IPPROTO_IPV6, 23))
KNOWN_MTU = ((socket.IPPROTO_IP, 14), (socket.IPPROTO_IPV6, 24))
RECVERR = ((socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25))
TOO_BIG = ((errno.EMSGSIZE, 2, 3, 4, SMALL_MTU), (errno.EMSGSIZE, 3, 2, 0, SMALL_MTU))  # errno, origin, type, code, MTU
OFFLOADS = ("tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off")
END = sized(77, 77)

Made = Callable[[Captured], list[bytes]]


@dataclass
class Passage:
    """The pair and the last hop. macs are between whom s sends, where it routes."""

    pair: HeldPair
    c: Netns
    target: tuple[str, str]
    macs: tuple[str, str] | None = None

    @property
    def a(self) -> Netns:
        """The sender's namespace."""
        return self.pair.wire.a.netns

    @property
    def ttl(self) -> int:
        """What packets from a have left at c."""
        return TTL - 1 if self.macs else TTL

    def made(self, sent: Captured) -> list[bytes]:
        """Return what must leave s for a packet that a sent."""
        return [routed(sent, *self.macs) if self.macs else bridged(sent)]

    @contextmanager
    def captured(self, made: Made | None = None) -> Iterator[None]:
        """See that what a sends to c meanwhile leaves s as made() says, flow by flow."""
        with PacketSocket(self.a, "va", outgoing=True) as at_a, PacketSocket(self.c, "ci") as at_c:
            yield
            # what is behind all else in every queue
            with udp_socket(self.a, A[0]) as left, udp_socket(self.c, self.target[0]) as right:
                left.sendto(b"end", right.getsockname())
                assert right.recv(10) == b"end"
            sent, left_s = at_a.drained(), at_c.drained()
        wanted, found = by_flow(sent, made or self.made), by_flow(left_s, lambda captured: [captured.frame])
        assert len(wanted) > 1
        for key, packets in wanted.items():
            assert found.get(key) == packets, difference(found.get(key, []), packets)
            assert all(map(is_valid, [packet for packet in packets if flow(packet) is not None]))


def by_flow(captured: Sequence[Captured], made: Made) -> dict[bytes, list[bytes]]:
    """Sort the TCP and UDP packets from a by flow, fragments by addresses; return what is made of each."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for one in captured:
        frame = one.frame
        ipv4 = frame[12:14] == b"\x08\x00" and frame[26:30] == A_PACKED[0] and frame[23] in (TCP, UDP)
        ipv6 = frame[12:14] == b"\x86\xdd" and frame[22:38] == A_PACKED[1] and frame[20] in (TCP, UDP)
        for each in made(one) if ipv4 or ipv6 else ():
            found[flow(each) or each[26:34]].append(with_one_zero(each) if flow(each) else each)
    return found


def with_one_zero(packet: bytes) -> bytes:
    """Return a packet whose TCP checksum, if it is 0xFFFF, is 0: they mean the same.

    skb_checksum_help() writes 0xFFFF for a sum of 0, and segmentation, gso_make_checksum(), writes 0.
    """
    proto, at = l4_of(packet)
    place = slice(at + 16, at + 18)
    if proto != TCP or packet[place] != b"\xff\xff":
        return packet
    return packet[: place.start] + b"\0\0" + packet[place.stop :]


def difference(found: Sequence[bytes], wanted: Sequence[bytes]) -> str:
    """Say where two lists of packets part."""
    for place, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            return f"packet {place} of {len(wanted)} left as\n{one[:80].hex(' ')} and not\n{other[:80].hex(' ')}"
    return f"{len(found)} packets left and not {len(wanted)}"


def drawn(site: Site, lab: Lab, *, ipv6: bool = True) -> tuple[HeldPair, Netns, Netns]:
    """Make the pair and the last hop; give s and c."""
    a, s, c = (lab.netns(name, ipv6=ipv6) for name in "asc")
    pair = HeldPair(site, lab, a, s)
    s.ip(f"link add so type veth peer name ci netns {c.name}")
    for netns, name in ((s, "so"), (c, "ci")):
        netns.command("ethtool", "-K", name, *OFFLOADS)
        netns.ip(f"link set {name} up")
    return pair, s, c


def make_bridge(s: Netns) -> None:
    """Make s a bridge that floods, so that it remembers nothing."""
    s.ip(
        "link add br0 type bridge ageing_time 0 mcast_snooping 0",
        "link set vb master br0",
        "link set so master br0",
        "link set br0 up",
    )


def bridge(site: Site, lab: Lab) -> Passage:
    """Make s a bridge."""
    pair, s, c = drawn(site, lab)
    make_bridge(s)
    pair.wire.a.address(f"{A[0]}/24")
    pair.wire.a.address(f"{A[1]}/64")
    End(c, "ci").address(f"{BRIDGED[0]}/24")
    End(c, "ci").address(f"{BRIDGED[1]}/64")
    return Passage(pair, c, BRIDGED)


def router(site: Site, lab: Lab, mtu: int = 1500) -> Passage:
    """Make s a router; mtu is the last hop's."""
    pair, s, c = drawn(site, lab)
    so, ci = End(s, "so"), End(c, "ci")
    for end, *addresses in (
        (pair.wire.a, f"{A[0]}/24", f"{A[1]}/64"),
        (pair.wire.b, "10.9.0.2/24", "fd09::2/64"),
        (so, "10.8.0.2/24", "fd08::2/64"),
        (ci, f"{ROUTED[0]}/24", f"{ROUTED[1]}/64"),
    ):
        for address in addresses:
            end.address(address)
    for end in (so, ci):
        end.set(f"mtu {mtu}")
    for version in ("ipv4", "ipv6"):
        s.sysctl(f"net/{version}/conf/all/forwarding", "1")
    s.sysctl("net/ipv6/icmp/ratelimit", "0")  # every packet that is too big is told so
    for netns, via in ((pair.wire.a.netns, 9), (c, 8)):
        netns.ip(f"route add default via 10.{via}.0.2")
        netns.ip(f"-6 route add default via fd0{via}::2")
    return Passage(pair, c, ROUTED, (so.link.address, ci.link.address))


@pytest.fixture(params=[bridge, router], ids=["bridge", "router"])
def passage(site: Site, lab: Lab, request: pytest.FixtureRequest) -> Passage:
    it: Passage = request.param(site, lab)
    return it


@pytest.mark.parametrize("seed", [1, 2])
def test_datagrams(passage: Passage, gro: bool, seed: int) -> None:
    """On eight flows in turn: each packet with its own id, length, TTL, TOS and whole checksum."""
    random = Random(seed)
    with ExitStack() as stack:
        flows = Flows(stack, passage.a, passage.c, A, passage.target)
        with passage.captured(), passage.pair.crossing(gro=gro):
            for _ in range(4):
                burst = datagrams(random, flows, 250)
                with passage.pair.held():
                    flows.send(burst)
                flows.check(burst, passage.ttl)


@families
def test_stream_from_a_sender_without_gso(passage: Passage, gro: bool, family: int) -> None:
    """Each segment with its own id and number, PSH and FIN where they were."""
    without_gso(passage.pair.wire.a)
    payload = Random(family).randbytes(400_000)
    with (
        tcp_pair(passage.a, passage.c, passage.target[family]) as (client, server),
        passage.captured(),
        passage.pair.crossing(gro=gro),
    ):
        with passage.pair.held():
            first = client.send(payload)
        pour((client, server, payload, first))
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""


def test_whatever_a_bridge_is_given(site: Site, lab: Lab) -> None:
    """Frames right and wrong, by a packet socket: with coalescing the same leave, and in their order."""
    pair, s, c = drawn(site, lab, ipv6=False)
    make_bridge(s)
    for seed in range(6):
        left, frames = {}, {}
        for gro in (False, True):
            pair.set_gro(gro=gro)
            before = pair.wire.b.link.stats.rx_packets
            with PacketSocket(pair.wire.a.netns, "va", vnet=True) as out, PacketSocket(c, "ci") as at_c:
                for batch in session(Random(seed), 12):
                    with pair.held():
                        for data in batch:
                            with contextlib.suppress(OSError):  # the kernel's opinion of it: the same both times
                                out.sock.send(data)
                out.send(END)
                came = []
                while (frame := at_c.recv().frame) != END:
                    came.append(bytes(VNET_LEN) + frame)
            left[gro] = what_leaves(came, came, VNET_LEN)
            frames[gro] = pair.wire.b.link.stats.rx_packets - before
        assert left[True] == left[False]
        assert frames[True] < frames[False]


# A router whose last hop has a smaller MTU


def test_fragments_for_a_smaller_mtu(site: Site, lab: Lab, gro: bool) -> None:
    """A router cuts a super-frame up first, and then what is still too long: every fragment has its packet's id."""
    passage = router(site, lab, SMALL_MTU)
    with udp_socket(passage.a, A[0]) as left, udp_socket(passage.c, ROUTED[0]) as right:
        left.setsockopt(*MTU_DISCOVER[0], PMTUDISC_DONT)
        left.connect(right.getsockname())
        left.send(b"hello")
        assert right.recv(10) == b"hello"
        sent = [bytes([n]) * size for size in (1400, 1252, 1253, 500) for n in range(20)]
        with (
            passage.captured(lambda one: fragmented(passage.made(one)[0], SMALL_MTU)),
            passage.pair.crossing(gro=gro),
        ):
            with passage.pair.held():
                for payload in sent:
                    left.send(payload)
            assert [right.recv(2000) for _ in sent] == sent


@families
def test_too_big_for_a_smaller_mtu(site: Site, lab: Lab, gro: bool, family: int) -> None:
    """The sender hears the same, once for each super-frame, and what fits arrives."""
    passage = router(site, lab, SMALL_MTU)
    with ExitStack() as stack:
        lefts = [stack.enter_context(udp_socket(passage.a, A[family])) for _ in range(2)]
        right = stack.enter_context(udp_socket(passage.c, ROUTED[family]))
        for left in lefts:
            left.setsockopt(*MTU_DISCOVER[family], PMTUDISC_DO)
            left.setsockopt(*RECVERR[family], 1)
            left.connect(right.getsockname())
            left.send(b"hello")
            assert right.recv(10) == b"hello"
        long, fits = lefts
        with passage.pair.crossing(gro=gro):
            with passage.pair.held():
                for _ in range(10):
                    long.send(bytes(1400))
                    fits.send(bytes(900))
            assert [right.recv(2000) for _ in range(10)] == [bytes(900)] * 10
            found = errors(long, 1 if gro else 10)
        assert set(found) == {TOO_BIG[family]}
        assert len(found) < 10 if gro else len(found) == 10
        assert long.getsockopt(*KNOWN_MTU[family]) == SMALL_MTU
        with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)):
            long.send(bytes(1400))


def errors(sock: socket.socket, least: int) -> list[tuple[int, int, int, int, int]]:
    """Take what a socket was told, at least so often: errno, origin, ICMP's type and code, and its MTU."""
    sock.setblocking(False)
    found: list[tuple[int, int, int, int, int]] = []
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(2000, 512, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            if len(found) >= least:
                return found
            assert readable(sock.fileno()), f"told {len(found)} times"
            continue
        for _, _, value in ancillary:
            code, origin, kind, detail, info = struct.unpack_from("=IBBBxI", value)
            found.append((code, origin, kind, detail, info))
