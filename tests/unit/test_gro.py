"""Coalescing: what the kernel's cutting makes of it is what went in; and one test for each rule of who joins whom."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.coalescing import KINDS, T4, T6, U4, U6, counts
from tests.lib.frames import Vnet
from tests.lib.segments import ACK, PSH, UDP, Segment, cut, finished, numbered
from tests.lib.traffic import batches, what_leaves
from vethd.model.gro import Coalesced, adjusted, coalesce, flow_of, ip_check


@pytest.fixture(params=list(KINDS))
def first(request: pytest.FixtureRequest) -> Segment:
    return KINDS[request.param]


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
