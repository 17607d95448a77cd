"""The steering program on a TAP with two queues: which queue it gives to each kind of frame.

Frames are sent by AF_PACKET through the device, and read from the fds of both queues.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lib import bpf
from tests.lib.bpf import insn
from tests.lib.frames import ETH_P_8021AD, ETH_P_8021Q, ether, ipv4, sized, tagged, tcp_partial, udp
from tests.lib.hooks import EGRESS, tc
from tests.lib.lab import End
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from tests.lib.packet import PacketSocket
from tests.lib.rtnl import Rtnl
from tests.lib.wait import wait_until
from vethd.kernel.attach import attach
from vethd.kernel.steering import Steering
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError
from vethd.model.persisted import Spot
from vethd.model.spec import LATENCY_QUEUE, LATENCY_QUEUES

TCP, OTHER = 0, LATENCY_QUEUE
A, B = ("10.0.0.1", 1000), ("10.0.0.2", 2000)
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, NO_NEXT = 0, 43, 44, 60, 59
GRE, VXLAN_PORT = 47, 4789
SKB_VLAN_PUSH = 18  # a helper of eBPF
ETH_P_IPV6, ETH_P_ARP, ETH_P_PPPOE, ETH_P_MPLS = 0x86DD, 0x0806, 0x8864, 0x8847
MORE, LATER = 0x2000, 185  # of IPv4's fragment field: more fragments, an offset

TCP4 = tcp_partial(A, B, b"x" * 40)
UDP4 = udp(A, B, b"x" * 40)
TCP_SEGMENT = TCP4[20:]


def ip4(packet: bytes) -> bytes:
    return ether(packet, proto=0x0800)


def fragment4(packet: bytes, field: int) -> bytes:
    """Return a packet with another fragment field; its checksum is not looked at."""
    return ip4(packet[:6] + field.to_bytes(2, "big") + packet[8:])


def ip6(next_header: int, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::2")
    return ether(struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64) + addresses + payload, proto=ETH_P_IPV6)


def option(next_header: int, blocks: int = 0) -> bytes:
    """Return an extension header of 8 * (blocks + 1) bytes that is padding."""
    room = 8 * (blocks + 1) - 4
    return struct.pack("!BBBB", next_header, blocks, 1, room) + bytes(room)


def fragment6(next_header: int, offset: int) -> bytes:
    return struct.pack("!BBHI", next_header, 0, offset << 3 | 1, 7)


def vxlan(inner: bytes) -> bytes:
    return udp(A, (B[0], VXLAN_PORT), struct.pack("!II", 0x08000000, 5 << 8) + inner)


def twice(frame: bytes, inner: int = 0x8100, outer: int = ETH_P_8021AD) -> bytes:
    return tagged(tagged(frame, 5, inner), 6, outer)


CASES: dict[str, tuple[bytes, int]] = {
    "tcp4": (ip4(TCP4), TCP),
    "tcp4 with ip options": (ip4(b"\x46" + TCP4[1:20] + bytes(4) + TCP_SEGMENT), TCP),
    "tcp4 first fragment": (fragment4(TCP4, MORE), TCP),
    "tcp4 later fragment": (fragment4(TCP4, LATER), TCP),
    "udp4": (ip4(UDP4), OTHER),
    "udp4 first fragment": (fragment4(UDP4, MORE), OTHER),
    "udp4 later fragment": (fragment4(UDP4, LATER), OTHER),
    "udp4 later fragment that looks like tcp": (fragment4(UDP4[:20] + TCP_SEGMENT, LATER), OTHER),
    "icmp4": (ip4(ipv4(A[0], B[0], 1, b"\x08\0" + bytes(40))), OTHER),
    "sctp4": (ip4(ipv4(A[0], B[0], 132, bytes(40))), OTHER),
    "arp": (ether(bytes(28), proto=ETH_P_ARP), OTHER),
    "unknown ethertype": (sized(60), OTHER),
    "stp, a length": (ether(b"\x42\x42\x03" + bytes(40), proto=38), OTHER),
    "pppoe with tcp": (ether(b"\x11\0\0\x01\0\x40\0\x21" + TCP4, proto=ETH_P_PPPOE), OTHER),
    "mpls with tcp": (ether(b"\0\x01\x01\x40" + TCP4, proto=ETH_P_MPLS), OTHER),
    "gre with tcp": (ip4(ipv4(A[0], B[0], GRE, b"\0\0\x08\0" + TCP4)), OTHER),
    "ipip with tcp": (ip4(ipv4(A[0], B[0], 4, TCP4)), OTHER),
    "6in4 with tcp": (ip4(ipv4(A[0], B[0], 41, ip6(6, TCP_SEGMENT)[14:])), OTHER),
    "vxlan with tcp": (ip4(vxlan(ip4(TCP4))), OTHER),
    "tcp6": (ip6(6, TCP_SEGMENT), TCP),
    "tcp6 first fragment": (ip6(FRAGMENT, fragment6(6, 0) + TCP_SEGMENT), TCP),
    "tcp6 later fragment": (ip6(FRAGMENT, fragment6(6, 100) + bytes(40)), TCP),
    "tcp6 behind hop-by-hop": (ip6(HOP_BY_HOP, option(6) + TCP_SEGMENT), TCP),
    "tcp6 behind a long hop-by-hop": (ip6(HOP_BY_HOP, option(6, 3) + TCP_SEGMENT), TCP),
    "tcp6 fragment behind hop-by-hop": (ip6(HOP_BY_HOP, option(FRAGMENT) + fragment6(6, 0) + TCP_SEGMENT), TCP),
    "tcp6 behind destination options": (ip6(DESTINATION, option(6) + TCP_SEGMENT), OTHER),
    "tcp6 behind destination options, first fragment": (
        ip6(FRAGMENT, fragment6(DESTINATION, 0) + option(6) + TCP_SEGMENT),
        OTHER,
    ),
    "tcp6 behind destination options, later fragment": (ip6(FRAGMENT, fragment6(DESTINATION, 9) + bytes(40)), OTHER),
    "tcp6 behind a routing header": (ip6(ROUTING, option(6) + TCP_SEGMENT), OTHER),
    "tcp6 fragment behind a routing header": (
        ip6(ROUTING, option(FRAGMENT) + fragment6(6, 0) + TCP_SEGMENT),
        OTHER,
    ),
    "udp6": (ip6(17, bytes(40)), OTHER),
    "udp6 first fragment": (ip6(FRAGMENT, fragment6(17, 0) + bytes(40)), OTHER),
    "udp6 later fragment": (ip6(FRAGMENT, fragment6(17, 100) + bytes(40)), OTHER),
    "udp6 behind hop-by-hop": (ip6(HOP_BY_HOP, option(17) + bytes(40)), OTHER),
    "icmp6": (ip6(58, bytes(40)), OTHER),
    "mld, icmp6 behind hop-by-hop": (ip6(HOP_BY_HOP, option(58) + bytes(40)), OTHER),
    "no next header": (ip6(NO_NEXT, b""), OTHER),
    "4in6 with tcp": (ip6(4, TCP4), OTHER),
    "vlan tcp4": (tagged(ip4(TCP4), 5), TCP),
    "vlan udp4": (tagged(ip4(UDP4), 5), OTHER),
    "vlan arp": (tagged(ether(bytes(28), proto=ETH_P_ARP), 5), OTHER),
    "802.1ad tcp6": (tagged(ip6(6, TCP_SEGMENT), 5, ETH_P_8021AD), TCP),
    "two tags tcp4": (twice(ip4(TCP4)), TCP),
    "two tags of 802.1Q tcp6 fragment": (
        twice(ip6(FRAGMENT, fragment6(6, 100) + bytes(40)), outer=0x8100),
        TCP,
    ),
    "two tags udp4": (twice(ip4(UDP4)), OTHER),
    "three tags tcp4": (tagged(twice(ip4(TCP4)), 7), OTHER),
    "ends before its protocol": (ip4(TCP4[:9]), TCP),
}


class Bench:
    """A device with two queues and the program, in a namespace."""

    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        self.tap = netns.run(Tap.birth, "q", LATENCY_QUEUES)
        with Steering() as steering:
            steering.attach(self.tap.fds[0])
        self.tap.set_carrier(on=True)
        netns.ip("link set q up")

    def close(self) -> None:
        """Close the device, the one that was attached last."""
        self.tap.close()

    def steered(self, frame: bytes) -> tuple[int, bytes]:
        """Send a frame, and return the number of the queue that got it, and the frame as it was read."""
        with PacketSocket(self.netns, "q") as sock:
            sock.send(frame)

        def found() -> list[tuple[int, bytes]]:
            return [(number, got) for number, fd in enumerate(self.tap.fds) for got in self.drained(fd)]

        (only,) = wait_until(found)
        return only

    def drained(self, fd: int) -> Iterator[bytes]:
        while True:
            try:
                yield os.read(fd, 1 << 17)[self.tap.vnet_hdr_len :]
            except BlockingIOError:
                return


@pytest.fixture(scope="module")
def bench(root: None) -> Iterator[Bench]:  # noqa: ARG001 - the check that we may
    netns = Netns.create(f"{PREFIX}steer")
    with ExitStack() as stack:
        stack.callback(netns.delete)
        it = Bench(netns)
        stack.callback(it.close)
        yield it


@pytest.fixture
def tagging(bench: Bench) -> Iterator[Bench]:
    """Give every frame an accelerated tag, as a VLAN device does, by a program at the device's egress."""
    push = insn(bpf.MOV_K, 2, imm=socket.htons(ETH_P_8021Q)) + insn(bpf.MOV_K, 3, imm=9)
    tc(End(bench.netns, "q"), push + insn(bpf.CALL, imm=SKB_VLAN_PUSH) + bpf.returning(0), EGRESS)
    yield bench
    bench.netns.command("tc", "qdisc", "del", "dev", "q", "clsact")


@pytest.mark.parametrize("case", CASES)
def test_queue(bench: Bench, case: str) -> None:
    frame, queue = CASES[case]
    assert bench.steered(frame) == (queue, frame)


@pytest.mark.parametrize("case", ["tcp4", "udp4", "tcp6 later fragment", "arp", "vlan tcp4", "two tags tcp4"])
def test_a_tag_beside_the_frame_changes_nothing(tagging: Bench, case: str) -> None:
    """The device puts it into the frame when the frame is read."""
    frame, queue = CASES[case]
    assert tagging.steered(frame) == (queue, tagged(frame, 9))


def test_a_persistent_device_keeps_the_program(bench: Bench) -> None:
    """Without any fd meanwhile. Queues are numbered in the order in which fds are attached."""
    with Rtnl(bench.netns) as sock:
        seen = sock.getlink("q")
    assert seen is not None
    spot = Spot(
        name="q",
        netns=bench.netns.name,
        ifindex=seen.ifindex,
        address=seen.address,
        vnet_hdr_len=bench.tap.vnet_hdr_len,
    )
    bench.tap.set_persist(on=True)
    bench.tap.close()
    bench.tap = Tap.adopt(wait_until(lambda: reattached(spot)))
    bench.tap.set_persist(on=False)
    bench.tap.set_carrier(on=True)
    for case in ("tcp4", "udp4", "tcp6 behind hop-by-hop", "arp"):
        frame, queue = CASES[case]
        assert bench.steered(frame) == (queue, frame), case


def reattached(spot: Spot) -> tuple[int, ...]:
    """Attach, or return () while the kernel has not yet released the queues."""
    try:
        return attach(spot, LATENCY_QUEUES)
    except VethError as error:
        assert error.errno == errno.EBUSY  # noqa: PT017 - anything else is a failure
        return ()
