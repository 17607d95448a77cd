"""Coalescing: what the kernel's cutting makes of it is what went in; and one test for each rule of who joins whom."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.frames import Vnet, csum, ether
from tests.lib.segments import ACK, CWR, ECE, FIN, PSH, RST, SYN, TCP, UDP, URG, Segment, cut, finished, numbered
from tests.lib.traffic import batches, what_leaves
from vethd.model.gro import FLOWS, SUPER_MAX, UDP_SEGMENTS_MAX, Coalesced, adjusted, coalesce, flow_of, ip_check

U4, U6 = Segment(), Segment(src="fd00::1", dst="fd00::2")
T4, T6 = U4.but(proto=TCP, options=b"\x01\x01\x08\x0a12345678"), U6.but(proto=TCP)
KINDS = {"udp4": U4, "udp6": U6, "tcp4": T4, "tcp6": T6}


@pytest.fixture(params=list(KINDS))
def first(request: pytest.FixtureRequest) -> Segment:
    return KINDS[request.param]


def counts(*segments: Segment | bytes) -> list[int]:
    """Coalesce; give how many frames each thing written holds. What it leaves must be what went in."""
    batch = [segment if isinstance(segment, bytes) else segment.data() for segment in segments]
    out = coalesce(batch, 10)
    assert what_leaves(batch, [data for data, _ in out], 10) == what_leaves(batch, batch, 10)
    assert all(data in batch for data, frames in out if frames == 1)
    return [frames for _, frames in out]


@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_leaves_is_what_went_in(vnet_hdr_len: int, data: st.DataObject) -> None:
    batch = data.draw(batches(vnet_hdr_len))
    out = coalesce(batch, vnet_hdr_len)
    assert sum(frames for _, frames in out) == len(batch)
    assert what_leaves(batch, [one.data for one in out], vnet_hdr_len) == what_leaves(batch, batch, vnet_hdr_len)
    assert all(one.data in batch for one in out if one.frames == 1)


@settings(max_examples=200, deadline=None)
@given(batch=batches())
def test_without_udp_no_datagram_is_in_a_super_frame(batch: list[bytes]) -> None:
    """Nor does one bar the way of another flow, as it is still of its own."""
    out = coalesce(batch, 10, udp=False)
    assert what_leaves(batch, [one.data for one in out], 10) == what_leaves(batch, batch, 10)
    kept = {one.data for one in out if one.frames == 1}
    assert all(data in kept for data in batch if (flow_of(data[10:]) or b" ")[0] == UDP)
    mixed = [data for pair in zip(T4.run(5), U4.run(5), strict=True) for data in pair]
    assert [frames for _, frames in coalesce(mixed, 10, udp=False)] == [5, 1, 1, 1, 1, 1]


@given(st.lists(st.integers(1, 1400), min_size=1, max_size=64), st.sampled_from(list(KINDS)))
def test_any_sizes(sizes: list[int], kind: str) -> None:
    """Sizes that go up and down at random: each thing written has one size, but for a shorter end."""
    segment, segments = KINDS[kind], []
    for n, size in enumerate(sizes):
        segments.append(segment.but(payload=numbered(size, n)))
        segment = segments[-1].after()
    expected, joined, place = [0], 0, 0
    for size in sizes:
        if joined and size <= place and (joined + 1) * place < 60_000:
            expected[-1] += 1
            joined = joined + 1 if size == place else 0
        else:
            expected.append(1)
            joined, place = 1, size
    if sum(sizes) < 60_000:
        assert counts(*segments) == expected[1:]
    else:
        counts(*segments)


# What joins


def test_a_run_becomes_one(first: Segment) -> None:
    batch = first.run(40)
    ((data, frames),) = coalesce(batch, 10)
    assert frames == 40
    assert cut(data) == [finished(one) for one in batch]


@pytest.mark.parametrize("kind", ["udp4", "tcp6"])
def test_bytes_of_a_super_frame(kind: str) -> None:
    """Written out once by hand, for UDP over IPv4 and TCP over IPv6."""
    first = KINDS[kind].but(ip_id=9, seq=100)
    second = first.after(b"yy", **({"flags": ACK | PSH} if kind == "tcp6" else {}))
    ((data, _),) = coalesce([first.data(), second.data()], 10)
    merged = first.but(payload=first.payload + b"yy", flags=second.flags)
    vnet = Vnet(1, 5, 42, 100, 34, 6) if kind == "udp4" else Vnet(1, 4, 74, 100, 54, 16)
    assert data == vnet.pack() + merged.frame()


def test_a_batch_of_one_is_as_it_was(first: Segment) -> None:
    assert coalesce([first.data()], 10) == [Coalesced(first.data(), 1)]
    assert coalesce([], 10) == []


def test_shorter_tail_closes(first: Segment) -> None:
    tail = first.after().after(b"short")
    again = tail.after(first.payload)
    assert counts(first, first.after(), tail, again, again.after()) == [3, 2]
    assert counts(first, tail.but(ip_id=1, seq=100), tail.after(b"short").but(ip_id=2, seq=105)) == [2, 1]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_push_joins_and_closes(kind: str) -> None:
    first = KINDS[kind]
    second = first.after(flags=ACK | PSH)
    third = second.after(flags=ACK)
    assert counts(first, second, third, third.after()) == [2, 2]
    ((data, _),) = coalesce([first.data(), second.data()], 10)
    assert Vnet.parse(data).csum_start == 34 + 20 * (kind == "tcp6")
    assert cut(data) == [finished(first.data()), finished(second.data())]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_push_on_the_first_leaves_it_closed(kind: str) -> None:
    first = KINDS[kind].but(flags=ACK | PSH)
    second = first.after(flags=ACK)
    assert counts(first, second, second.after()) == [1, 2]


def test_interleaved_flows(first: Segment) -> None:
    """Each is one, in the order of their first frames."""
    flows = [first.but(sport=1000 + n) for n in range(5)]
    batch = []
    for _ in range(10):
        batch += flows
        flows = [flow.after() for flow in flows]
    out = coalesce([segment.data() for segment in batch], 10)
    assert [frames for _, frames in out] == [10] * 5
    l4 = 54 if first.ipv6 else 34
    assert [int.from_bytes(data[10 + l4 : 12 + l4], "big") for data, _ in out] == [1000 + n for n in range(5)]
    assert counts(*batch) == [10] * 5


def test_ids_and_sequence_numbers_wrap() -> None:
    assert counts(*U4.but(ip_id=0xFFFE).run(5)) == [5]
    assert counts(*T4.but(ip_id=0xFFFF, seq=0xFFFFFFFF - 150).run(5)) == [5]
    assert counts(*T6.but(seq=0xFFFFFFFF - 99).run(2)) == [2]


@pytest.mark.parametrize("length", [1, 2, 3, 1399, 1400])
def test_odd_and_tiny_payloads(first: Segment, length: int) -> None:
    assert counts(*first.but(payload=bytes(length)).run(3)) == [3]


def test_same_place_on_the_wire_is_no_matter_for_ipv6() -> None:
    """It has no id; nothing counts up in UDP at all."""
    assert counts(U6, U6, U6) == [3]


# What does not join, but may open


def second_of(first: Segment, **changes: object) -> list[int]:
    """Coalesce first, its next with changes, and one more like that."""
    second = first.after().but(**changes)
    return counts(first, second, second.after())


def test_size_grows(first: Segment) -> None:
    assert second_of(first, payload=first.payload + b"x") == [1, 2]


@pytest.mark.parametrize("change", [{"ttl": 63}, {"tos": 1}, {"src_mac": "02:00:00:00:aa:09"}])
def test_header_differs(first: Segment, change: dict[str, object]) -> None:
    """Ttl and hop limit, tos and traffic class, a MAC."""
    assert second_of(first, **change) == [1, 2]
    assert second_of(first, dst_mac="02:00:00:00:aa:07") == [1, 2]


def test_flow_label_differs() -> None:
    assert second_of(U6, flow_label=1) == [1, 2]
    assert second_of(T6, flow_label=0xFFFFF) == [1, 2]


@pytest.mark.parametrize("change", [{"sport": 1001}, {"dport": 2001}])
def test_another_flow_neither_joins_nor_closes(first: Segment, change: dict[str, object]) -> None:
    assert counts(first, first.but(**change), first.after()) == [2, 1]


def test_address_is_of_the_flow() -> None:
    for first, other in ((U4, "10.0.0.3"), (T4, "10.0.0.3"), (U6, "fd00::3"), (T6, "fd00::3")):
        assert counts(first, first.but(src=other), first.after()) == [2, 1]
        assert counts(first, first.but(dst=other), first.after()) == [2, 1]
    assert counts(U4, U4.but(proto=TCP), U4.after()) == [2, 1]


@pytest.mark.parametrize("fragment", [0x0000, 0x8000, 0xC000])
def test_fragment_bits_differ(fragment: int) -> None:
    """DF and the reserved bit; what is the same in all is no matter."""
    for first in (U4, T4):
        assert second_of(first, fragment=fragment) == [1, 2]
        assert counts(*first.but(fragment=fragment).run(3)) == [3]


def test_ids_that_do_not_count_up() -> None:
    """A gap, the same again (0 is what Linux gives to an unconnected socket that forbids fragments), backwards."""
    for first in (U4.but(ip_id=5), T4.but(ip_id=5)):
        for ip_id in (5, 7, 4, 0x605):
            assert second_of(first, ip_id=ip_id) == [1, 2]
        assert counts(first, first.after(), first.after().but(seq=200)) == [2, 1]
    assert counts(U4, U4, U4) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
@pytest.mark.parametrize("change", [{"ack": 78}, {"window": 499}, {"reserved": 1}, {"options": b"\x01" * 12}])
def test_tcp_header_differs(kind: str, change: dict[str, object]) -> None:
    assert second_of(KINDS[kind], **change) == [1, 2]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
@pytest.mark.parametrize("offset", [-1, 1, 100, 1 << 16, -100])
def test_sequence_number_is_another(kind: str, offset: int) -> None:
    first = KINDS[kind].but(seq=100_000)
    assert counts(first, first.after(seq=100_100 + offset)) == [1, 1]
    assert counts(first, first.after(), first.after().after(seq=100_200 + offset)) == [2, 1]


def test_pseudo_header_sum_differs(first: Segment) -> None:
    assert second_of(first, check_error=1) == [1, 2]
    assert counts(first, first.after(b"x", check_error=1)) == [1, 1]
    wrong = first.but(check_error=77)  # the same error in all comes out as it went in
    assert counts(wrong, wrong.after(), wrong.after().after(b"x")) == [3]


@pytest.mark.parametrize("at", [10, 23])
def test_vnet_tail_differs(first: Segment, at: int) -> None:
    tail = bytes(at - 10) + b"\1" + bytes(23 - at)
    one, other = first.data(bytes(14)), first.after().data(tail)
    last = first.after().after().data(tail)
    out = coalesce([one, other, last], 24)
    assert [frames for _, frames in out] == [1, 2]
    assert out[1].data[10:24] == tail
    assert cut(out[1].data, 24) == [finished(other, 24), finished(last, 24)]


def test_super_frame_of_65535_and_not_one_more() -> None:
    for first in (U4.but(payload=bytes(1400)), T6.but(payload=bytes(1400))):
        head = len(first.frame()) - 1400
        full = first.run((65535 - head) // 1400)
        room = 65535 - head - 1400 * len(full)
        last = first.but(ip_id=len(full), seq=1400 * len(full))
        assert counts(*full, last.but(payload=bytes(room))) == [len(full) + 1]
        assert counts(*full, last.but(payload=bytes(room + 1))) == [len(full), 1]
    assert SUPER_MAX == 65535


def test_64_datagrams_and_not_one_more() -> None:
    assert counts(*U4.run(130)) == [64, 64, 2]
    assert counts(*U6.run(65)) == [64, 1]
    assert counts(*T4.run(130)) == [130]
    assert UDP_SEGMENTS_MAX == 64


def test_the_flow_opened_first_makes_room(first: Segment) -> None:
    flows = [first.but(sport=n) for n in range(FLOWS + 1)]
    nexts = [flow.after() for flow in flows]
    assert counts(*flows[:FLOWS], *nexts[:FLOWS]) == [2] * FLOWS
    # the 17th closes flow 0, whose next closes flow 1
    assert counts(*flows, nexts[FLOWS], nexts[1]) == [1, 2, *[1] * (FLOWS - 2), 2]
    assert counts(*flows, nexts[0], nexts[2], nexts[1]) == [1, 1, 2, *[1] * (FLOWS - 2), 1, 1]


def test_a_flow_that_opens_anew_is_the_youngest(first: Segment) -> None:
    """It closes its own entry first, and so nobody else's."""
    flows = [first.but(sport=n) for n in range(FLOWS + 1)]
    anew = flows[0].but(payload=first.payload + b"longer")
    out = counts(*flows[:FLOWS], anew, flows[FLOWS], anew.after(), flows[1].after())
    assert out == [1, 1, *[1] * (FLOWS - 2), 2, 1, 1]


def test_a_push_that_opens_nothing_closes_nobody() -> None:
    flows = [T4.but(sport=n) for n in range(FLOWS)]
    pushed = T4.but(sport=FLOWS, flags=ACK | PSH)
    assert counts(*flows, pushed, *[flow.after() for flow in flows]) == [*[2] * FLOWS, 1]


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
    """Give frames that have no flow."""
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


# Arithmetic


def test_ip_check_is_the_senders() -> None:
    for ip_id in range(0, 1 << 16, 97):
        header = U4.but(ip_id=ip_id).frame()[14:34]
        assert ip_check(header) == int.from_bytes(header[10:12], "big")
        assert ip_check(header[:10] + b"\x12\x34" + header[12:]) == ip_check(header)


@given(st.integers(1, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_adjusted_sum(check: int, old: int, new: int) -> None:
    """It is the sum with the one length taken out and the other put in, never 0, and there is a way back."""
    there = adjusted(check, old, new)
    assert 0 < there <= 0xFFFF
    assert (there - check) % 0xFFFF == (new - old) % 0xFFFF
    assert adjusted(there, new, old) == check


@pytest.mark.parametrize(
    ("check", "old", "new", "result"),
    [
        (0xFFFF, 8, 9, 1),
        (1, 9, 8, 0xFFFF),
        (5, 8, 8, 5),
        (0, 8, 8, 0),
        (0, 8, 9, 1),
        (0, 9, 8, 0xFFFE),
        (1, 1, 0, 0xFFFF),
    ],
)
def test_adjusted_sum_at_its_ends(check: int, old: int, new: int, result: int) -> None:
    assert adjusted(check, old, new) == result
