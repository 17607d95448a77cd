"""Coalescing: what passes alone, and what closes all that is open."""

from __future__ import annotations

import struct

import pytest

from tests.lib.coalescing import KINDS, T4, U4, U6, counts
from tests.lib.frames import Vnet, csum, ether
from tests.lib.segments import ACK, CWR, ECE, FIN, PSH, RST, SYN, UDP, URG, Segment
from vethd.model.gro import coalesce, flow_of


@pytest.fixture(params=list(KINDS))
def first(request: pytest.FixtureRequest) -> Segment:
    return KINDS[request.param]


# What passes alone, and closes its flow


def alone(first: Segment, odd: Segment | bytes) -> None:
    """See that odd joins nothing, and that nothing of its flow joins across it or it."""
    assert counts(first, first.after(), odd) == [2, 1]
    assert counts(first, odd, first.after(), first.after().after()) == [1, 1, 2]
    assert counts(odd, odd) == [1, 1]


@pytest.mark.parametrize(
    "flags", [0, PSH, SYN, SYN | ACK, ACK | FIN, ACK | PSH | FIN, RST, ACK | RST, ACK | URG, ACK | ECE, ACK | CWR]
)
@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_flags(kind: str, flags: int) -> None:
    alone(KINDS[kind], KINDS[kind].after(flags=flags))


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_urgent_pointer(kind: str) -> None:
    alone(KINDS[kind], KINDS[kind].after(urgent=1))


def test_no_payload(first: Segment) -> None:
    alone(first, first.after(b""))


@pytest.mark.parametrize("dst", ["01:00:5e:00:00:01", "33:33:00:00:00:01", "ff:ff:ff:ff:ff:ff"])
def test_multicast_and_broadcast(first: Segment, dst: str) -> None:
    alone(first, first.after(dst_mac=dst))


def test_finished_checksum(first: Segment) -> None:
    alone(first, first.after(finished=True))


@pytest.mark.parametrize(
    "vnet",
    [
        Vnet(0, 0, 0, 0, 34, 6),
        Vnet(2, 0, 0, 0, 34, 6),
        Vnet(3, 0, 0, 0, 34, 6),
        Vnet(1, 5, 42, 50, 34, 6),
        Vnet(1, 0, 0, 0, 36, 6),
        Vnet(1, 0, 0, 0, 34, 16),
    ],
)
def test_vnet_header(vnet: Vnet) -> None:
    """Anything but NEEDS_CSUM of this very packet, and no super-frame."""
    alone(U4, vnet.pack() + U4.after().frame())


def test_super_frame_of_the_sender_passes(first: Segment) -> None:
    """And what follows joins each other, not it."""
    ((big, _),) = coalesce(first.run(5), 10)
    nexts = first.but(ip_id=5, seq=500)
    assert counts(big, nexts, nexts.after()) == [1, 2]
    assert counts(first, big, nexts) == [1, 1, 1]


def test_ip_checksum_that_is_not_the_kernels() -> None:
    for first in (U4, T4):
        odd = bytearray(first.after().data())
        odd[10 + 24] ^= 1
        alone(first, bytes(odd))


def test_ip_checksum_of_ffff_is_not_the_kernels() -> None:
    """It is as right as 0, and cutting would make it 0."""
    zero = next(n for n in range(1 << 16) if U4.but(ip_id=n).frame()[24:26] == b"\0\0")
    odd = bytearray(U4.but(ip_id=zero).data())
    odd[10 + 24 : 10 + 26] = b"\xff\xff"
    assert csum(bytes(odd[24:44])) == 0xFFFF
    before = U4.but(ip_id=zero - 1)
    assert counts(before, bytes(odd)) == [1, 1]
    assert counts(before, before.after()) == [2]


def test_padding_behind_the_packet(first: Segment) -> None:
    alone(first, first.after(b"x").data() + bytes(3))


def test_packet_longer_than_its_frame(first: Segment) -> None:
    alone(first, first.after().data()[:-1])


@pytest.mark.parametrize("kind", ["udp4", "udp6"])
@pytest.mark.parametrize("length", [0, 8, 107, 109])
def test_udp_length_is_another(kind: str, length: int) -> None:
    first = KINDS[kind]
    odd = bytearray(first.after().data())
    at = 10 + (54 if first.ipv6 else 34) + 4
    odd[at : at + 2] = struct.pack("!H", length)
    alone(first, bytes(odd))


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
@pytest.mark.parametrize("words", [0, 4, 15])
def test_tcp_header_of_no_length(kind: str, words: int) -> None:
    """Shorter than a header, or longer than the frame."""
    first = KINDS[kind].but(payload=b"x" * 8)
    odd = bytearray(first.after().data())
    odd[10 + (54 if first.ipv6 else 34) + 12] = words << 4
    alone(first, bytes(odd))


def test_header_cut_off_behind_the_ports(first: Segment) -> None:
    l4 = 54 if first.ipv6 else 34
    for length in range(4, 8 if first.proto == UDP else 20):
        alone(first, first.after().data()[: 10 + l4 + length])


# What closes all


def barriers() -> dict[str, bytes]:
    """Return frames that have no flow."""
    options = Segment().frame()
    hop_by_hop = bytearray(U6.frame())
    hop_by_hop[20] = 0
    icmp = bytearray(Segment().frame())
    icmp[23] = 1
    return {
        "arp": Vnet().pack() + ether(bytes(28), proto=0x0806),
        "tagged": Vnet().pack() + ether(b"\0\5\x08\0" + Segment().frame()[14:], proto=0x8100),
        "first fragment": Segment(fragment=0x2000).data(),
        "middle fragment": Segment(fragment=0x2001).data(),
        "last fragment": Segment(fragment=0x00FF).data(),
        "options": U4.data()[:10] + options[:14] + b"\x46" + options[15:34] + b"\1\1\1\0" + options[34:],
        "extension header": U6.data()[:10] + bytes(hop_by_hop),
        "icmp": Vnet().pack() + bytes(icmp),
        "version 5": U4.data()[:24] + b"\x55" + U4.data()[25:],
        "version 7": U6.data()[:24] + b"\x70" + U6.data()[25:],
        "ipv4 without ports": U4.data()[: 10 + 37],
        "ipv6 without ports": U6.data()[: 10 + 57],
        "nothing": U4.data()[: 10 + 14],
        "length field": Vnet().pack() + ether(bytes(100), proto=100),
    }


@pytest.mark.parametrize("what", list(barriers()))
def test_what_has_no_flow_closes_all(first: Segment, what: str) -> None:
    barrier = barriers()[what]
    assert flow_of(barrier[10:]) is None
    other = first.but(sport=9)
    assert counts(first, other, barrier, first.after(), other.after()) == [1, 1, 1, 1, 1]
    assert counts(first, first.after(), barrier, other, other.after()) == [2, 1, 2]
    assert counts(barrier, first, first.after(), barrier, barrier) == [1, 2, 1, 1]
